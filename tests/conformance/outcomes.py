"""What pytest's reports say of a test: one word, and which of several words decides."""

from __future__ import annotations

import pytest

FAILURES = frozenset({"failed", "error"})
PASSES = frozenset({"passed", "xpassed"})


def outcome_of(report: pytest.TestReport) -> str | None:
    """passed, failed, error, skipped, xfailed or xpassed; None for a phase that decides nothing."""
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    if report.failed:
        return "failed" if report.when == "call" else "error"
    if report.skipped:
        return "skipped"
    return "passed" if report.when == "call" else None


def worse(known: str | None, new: str) -> str:
    """A test has several reports (its phases, its subtests): one that failed decides."""
    return known if known is not None and known in FAILURES else new
