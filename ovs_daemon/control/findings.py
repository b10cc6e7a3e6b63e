"""The shape of a finding of `vstorage status`; `status.py` describes it."""

from __future__ import annotations

from typing import Any


def finding(code: str, severity: str, subject: str, why: str, fix: str) -> dict[str, Any]:
    """One finding."""
    return {"code": code, "severity": severity, "object": subject, "why": why, "fix": fix}
