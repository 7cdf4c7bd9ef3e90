"""The table of a run: each fault, what it did to the stock transport and what to celeray's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.checker import Findings

SIDES = {"stock": "kombu", "celeray": "leased"}
"""Transport by the name of its columns."""


@dataclass
class Cell:
    """Sums over the repetitions of one fault on one side."""

    runs: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    zombies: int = 0
    starts: int = 0
    repeated: int = 0
    hung: int = 0
    """Runs in which workers lived and did nothing any more, so that others had to be started."""

    def add(self, found: Findings, *, hung: bool) -> None:
        self.runs += 1
        self.hung += hung
        self.acknowledged += found.acknowledged
        self.lost += len(found.lost)
        self.doubled += found.doubled_count
        self.zombies += len(found.zombies)
        self.starts += found.starts
        self.repeated += found.repeated_starts


class Report:
    """Filled by the tests in the order in which they run."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Cell]] = {}

    def add(self, fault: str, side: str, found: Findings, *, hung: bool = False) -> None:
        self.rows.setdefault(fault, {}).setdefault(side, Cell()).add(found, hung=hung)

    def lines(self) -> Iterable[str]:
        """As a markdown table."""
        columns = ("acknowledged", "lost", "doubled", "repeated starts")
        titles = ["fault", *(f"{side}: {column}" for side in SIDES for column in columns)]
        yield "| " + " | ".join(titles) + " |"
        yield "|---" * len(titles) + "|"
        for fault, cells in self.rows.items():
            yield (
                "| "
                + " | ".join([fault, *(text for side in SIDES.values() for text in _cell(cells.get(side)))])
                + " |"
            )

    def write(self, path: Path) -> None:
        """As `.md` the table, else JSON."""
        if path.suffix == ".md":
            path.write_text("\n".join(self.lines()) + "\n")
        else:
            rows = {
                fault: {side: vars(cell) for side, cell in cells.items()}
                for fault, cells in self.rows.items()
            }
            path.write_text(json.dumps(rows, indent=2) + "\n")


def _cell(cell: Cell | None) -> list[str]:
    if cell is None:
        return ["-"] * 4
    lost = f"{cell.lost}; hangs" if cell.hung else str(cell.lost)
    return [str(cell.acknowledged), lost, str(cell.doubled), str(cell.repeated)]
