"""Which fact is the worst: the order of `vstorage status`.

First what is wrong now, by severity, and within one severity what takes more from users; then by
name, so that the order does not change from one look to the next.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any


class Severity(enum.IntEnum):
    """Smaller is worse. Unknown severities count as the worst: nobody overlooks them."""

    CRITICAL = 0
    WARNING = 1
    INFO = 2

    @classmethod
    def of(cls, name: object) -> Severity:
        """By its name in a finding."""
        known = {severity.name.lower(): severity for severity in cls}
        return known.get(str(name), cls.CRITICAL)


# Of two facts of one severity the one whose code stands first is worse: data that cannot be read,
# volumes that are down, nodes, writes that wait; everything else follows.
_ORDER = (
    "data_unreadable",
    "volume_down",
    "node_dead",
    "dtl_degraded",
    "buffer_full",
    "buffer_error",
    "buffer_sync_failed",
    "edge_unavailable",
)


def rank(finding: Mapping[str, Any]) -> tuple[int, int, str, str]:
    """Where a finding stands; sort by it."""
    code = str(finding.get("code"))
    place = _ORDER.index(code) if code in _ORDER else len(_ORDER)
    return (Severity.of(finding.get("severity")), place, str(finding.get("object")), code)
