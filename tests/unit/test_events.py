"""Notifications: what is sent, and that nothing depends on it."""

from __future__ import annotations

from pathlib import Path

import oslo_messaging
import pytest
from oslo_messaging.notify import _impl_test as sent

from ovs_daemon import options
from ovs_daemon.rpc.events import Events, make_events


def test_what_is_told(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("[DEFAULT]\nhost = n1\n[rpc]\ntransport_url = fake://\n")
    conf = options.load(["--config-file", str(tmp_path / "conf")])
    sent.reset()
    events = make_events(conf, driver="test")
    assert events is not None
    events.tell("volume.taken_over", {"volume": "v"})
    events.tell("dtl.in_sync", {"volume": "v"})
    events.stop()
    found = [(one[1], one[2]) for one in sent.NOTIFICATIONS]
    assert [(one["publisher_id"], one["event_type"], level) for one, level in found] == [
        ("vstorage.n1", "volume.taken_over", "WARN"),
        ("vstorage.n1", "dtl.in_sync", "INFO"),
    ]
    assert found[0][0]["payload"] == {"volume": "v"}


def test_without_a_bus_nobody_is_told(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("[DEFAULT]\nhost = n1\n")
    assert make_events(options.load(["--config-file", str(tmp_path / "conf")])) is None


def test_a_bus_that_fails_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def info(self, *_: object) -> None:
            raise oslo_messaging.MessageDeliveryFailure("the bus is away")

    events = Events(Broken())
    events.tell("dtl.in_sync", {"volume": "v"})
    events.stop()
    assert "the bus is away" in caplog.text
