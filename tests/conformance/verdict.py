"""What the outcomes mean: which tests the bridge owes, and whether the documents say why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.conformance.outcomes import FAILURES, PASSES
from tests.conformance.run import SuiteRun
from tests.conformance.sdist import REPOSITORY

EXCEPTIONS_PAGE = REPOSITORY / "docs" / "conformance.md"
_ROW = re.compile(r"^\|\s*`(?P<test>[^`]+)`\s*\|\s*(?P<reason>[^|]+?)\s*\|\s*$")


def documented_exceptions(heading: str = "Exceptions") -> dict[str, str]:
    """The table under a heading: test (without `t/integration/`) -> reason."""
    _, _, section = EXCEPTIONS_PAGE.read_text().partition(f"\n## {heading}\n")
    rows = (_ROW.match(line) for line in section.partition("\n## ")[0].splitlines())
    return {row["test"]: row["reason"] for row in rows if row}


def owed(bridge: Mapping[str, str], prefork: Mapping[str, str] | None) -> list[str]:
    """Tests that pass on prefork and not on the bridge; without a prefork run, those that fail on the bridge."""
    if prefork is None:
        return sorted(test for test, outcome in bridge.items() if outcome in FAILURES)
    return sorted(
        test for test, outcome in prefork.items() if outcome in PASSES and bridge.get(test) not in PASSES
    )


def judge(runs: Sequence[SuiteRun], exceptions: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The report's comparison, and the reasons for which the whole is not good (none: it is)."""
    by_worker = {run.worker: run for run in runs}
    bridge, prefork = by_worker.get("bridge"), by_worker.get("prefork")
    faults = [f"{run.worker}: pytest ended with code {run.pytest_exit}" for run in runs if run.unfinished]
    faults += [f"{run.worker}: no test passed" for run in runs if "passed" not in run.outcomes.values()]
    faults += [f"{run.worker}: relay: {fault}" for run in runs for fault in run.relay_faults]
    if bridge is None:
        assert prefork is not None
        faults += [f"prefork: {test} failed" for test in owed(prefork.outcomes, None)]
        return {}, faults
    missing = owed(bridge.outcomes, prefork.outcomes if prefork else None)
    undocumented = [test for test in missing if test.removeprefix("t/integration/") not in exceptions]
    faults += [f"bridge: {test} is owed and not documented" for test in undocumented]
    if bridge.tasks_in_worker_process:
        faults.append(f"bridge: {bridge.tasks_in_worker_process} tasks ran in the bridge's own process")
    if not any(site.actor_id for site in bridge.sites):
        faults.append("bridge: no task ran in a Ray actor")
    return {"not_on_bridge": missing, "undocumented": undocumented}, faults
