"""What a verb that is refused says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ovs_daemon.errors import VStorageError


def refused(call: Callable[[], object], code: str, *words: str) -> None:
    """The call fails with this code, and with these words in its message."""
    with pytest.raises(VStorageError) as caught:
        call()
    assert caught.value.code == code
    for word in words:
        assert word in str(caught.value)
