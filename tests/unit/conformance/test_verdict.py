"""Which tests the bridge owes, and when a conformance run is good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conformance import verdict
from tests.conformance.run import SuiteRun
from tests.conformance.runs import RunSite
from tests.conformance.suite import DESELECTED, read_selection
from tests.conformance.verdict import documented_exceptions, judge, owed

GOOD = "t/integration/test_tasks.py::test_tasks::test_basic_task"
OTHER = "t/integration/test_inspect.py::test_Inspect::test_active"
BRIDGE_PID = 10


def run_of(worker: str, outcomes: dict[str, str], **changed: Any) -> SuiteRun:
    fields: dict[str, Any] = {
        "reruns": {},
        "durations": {},
        "sites": [RunSite(pid=11, actor_id="aa", tasks=3)],
        "worker_pid": BRIDGE_PID,
        "relay_faults": [],
        "pytest_exit": 0,
        "seconds": 1.0,
    }
    return SuiteRun(worker=worker, outcomes=outcomes, **{**fields, **changed})


def test_the_bridge_owes_what_passes_on_prefork_only() -> None:
    prefork = {GOOD: "passed", OTHER: "passed", "a": "failed", "b": "skipped", "c": "xfailed"}
    bridge = {GOOD: "passed", OTHER: "failed", "a": "failed", "b": "failed", "c": "failed"}
    assert owed(bridge, prefork) == [OTHER]


def test_a_test_that_did_not_run_on_the_bridge_is_owed() -> None:
    assert owed({}, {GOOD: "passed"}) == [GOOD]


def test_without_a_prefork_run_every_failure_is_owed() -> None:
    assert owed({GOOD: "error", OTHER: "skipped"}, None) == [GOOD]


def test_a_documented_exception_is_no_fault() -> None:
    runs = [run_of("prefork", {GOOD: "passed", OTHER: "passed"})]
    runs.append(run_of("bridge", {GOOD: "passed", OTHER: "failed"}, pytest_exit=1))
    comparison, faults = judge(runs, {OTHER.removeprefix("t/integration/"): "because"})
    assert comparison == {"not_on_bridge": [OTHER], "undocumented": []}
    assert faults == []


def test_an_undocumented_one_is() -> None:
    comparison, faults = judge([run_of("bridge", {GOOD: "passed", OTHER: "failed"})], {})
    assert comparison["undocumented"] == [OTHER]
    assert len(faults) == 1


def test_a_task_in_the_bridges_own_process_is_a_fault() -> None:
    sites = [RunSite(BRIDGE_PID, None, 2), RunSite(11, "aa", 1)]
    _, faults = judge([run_of("bridge", {GOOD: "passed"}, sites=sites)], {})
    assert faults == ["bridge: 2 tasks ran in the bridge's own process"]


def test_a_bridge_that_ran_nothing_on_ray_is_a_fault() -> None:
    _, faults = judge([run_of("bridge", {GOOD: "passed"}, sites=[])], {})
    assert faults == ["bridge: no task ran in a Ray actor"]


def test_a_run_that_broke_off_is_a_fault_on_prefork_too() -> None:
    _, faults = judge([run_of("prefork", {}, pytest_exit=3, relay_faults=["lost"])], {})
    assert faults == ["prefork: pytest ended with code 3", "prefork: no test passed", "prefork: relay: lost"]


def test_exceptions_are_read_from_their_own_table_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(verdict, "EXCEPTIONS_PAGE", page)
    table = "| test | reason |\n|---|---|\n| `a::b` | why |\n"
    page.write_text(f"| `x` | not here |\n\n## Exceptions\n\n{table}\n## Next\n| `c` | no |\n")
    assert documented_exceptions() == {"a::b": "why"}
    assert documented_exceptions("Next") == {"c": "no"}


def test_the_documents_exceptions_have_reasons_and_are_not_deselected() -> None:
    exceptions = documented_exceptions()
    assert all(exceptions.values())
    assert not {f"t/integration/{test}" for test in exceptions} & DESELECTED.keys()


def test_a_selection_has_comments_and_blank_lines(tmp_path: Path) -> None:
    listed = tmp_path / "some.txt"
    listed.write_text("# why\n\na::b  # this one\nc::d\n")
    assert read_selection(listed) == ["a::b", "c::d"]
