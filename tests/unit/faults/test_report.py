"""The fault suite's table."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults.checker import Findings
from tests.faults.report import Report


def filled() -> Report:
    report = Report()
    report.add(
        "worker killed", "kombu", Findings(acknowledged=10, lost=("a",), doubled={"effect": ("b", "c")})
    )
    report.add("worker killed", "kombu", Findings(acknowledged=5), hung=True)
    report.add("worker killed", "leased", Findings(acknowledged=7, repeated={"d": 2}))
    report.add("bridge killed", "leased", Findings(acknowledged=1))
    return report


def test_repetitions_are_summed_and_a_missing_side_is_a_dash() -> None:
    title, _rule, killed, bridge = filled().lines()
    assert title.startswith("| fault | stock: acknowledged | stock: lost |")
    assert killed == "| worker killed | 15 | 1; hangs | 2 | 0 | 7 | 0 | 0 | 2 |"
    assert bridge == "| bridge killed | - | - | - | - | 1 | 0 | 0 | 0 |"


def test_it_is_written_as_a_table_or_as_json(tmp_path: Path) -> None:
    filled().write(tmp_path / "faults.md")
    filled().write(tmp_path / "faults.json")
    assert (tmp_path / "faults.md").read_text().splitlines() == list(filled().lines())
    rows = json.loads((tmp_path / "faults.json").read_text())
    assert rows["worker killed"]["kombu"]["lost"] == 1
    assert set(rows["bridge killed"]) == {"leased"}
