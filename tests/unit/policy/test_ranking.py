"""The order of findings."""

from __future__ import annotations

from ovs_daemon.policy.ranking import rank


def finding(code: str, severity: str, subject: str = "x") -> dict[str, str]:
    return {"code": code, "severity": severity, "object": subject}


def test_worst_first() -> None:
    expected = [
        finding("data_unreadable", "critical"),
        finding("volume_down", "critical", "volume a"),
        finding("volume_down", "critical", "volume b"),
        finding("node_dead", "critical"),
        finding("something_new", "critical"),
        finding("dtl_degraded", "warning"),
        finding("anything", "warning", "a"),
        finding("data_unreadable", "info"),
    ]
    found = list(expected)
    found.reverse()
    found.sort(key=rank)
    assert found == expected


def test_an_unknown_severity_is_not_overlooked() -> None:
    assert rank(finding("x", "disastrous")) < rank(finding("node_dead", "warning"))
