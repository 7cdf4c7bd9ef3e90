"""The tasks that wait in a simulation, and those of them that a placement cycle has to see.

Tasks of one request and priority differ in their arrival and their expected run only. Once a cycle refuses one, it
refuses every later one that is expected to run as long or longer. So of each such line the cycle needs a task only if
fewer than `depth` earlier ones run as short or shorter, as long as it places fewer than `depth` of the line: a cycle
with all tasks decides the same. The bridge chooses its heads by the same thought.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from celeray.scheduler.model import Placement, ResourceRequest, WaitingTask

Line = tuple[ResourceRequest, int]
"""Request and priority."""
DEPTH_LEAST = 2


@dataclass(slots=True)
class _Entry:
    """A waiting task, with how often its line had been overtaken when it came."""

    task: WaitingTask
    overtaken_before: int


class Backlog:
    """Waiting tasks in lines, each in the order of arrival."""

    def __init__(self) -> None:
        self._lines: dict[Line, list[_Entry]] = {}
        self._line_of: dict[int, Line] = {}
        self._heads: dict[Line, list[_Entry]] = {}
        """Of lines that have not changed since they were looked for, at `DEPTH_LEAST`."""
        self._overtaken: Counter[Line] = Counter()

    def __len__(self) -> int:
        return len(self._line_of)

    def add(self, task: WaitingTask) -> None:
        """A task arrived, after all others."""
        line = (task.request, task.priority)
        self._lines.setdefault(line, []).append(_Entry(task, self._overtaken[line]))
        self._line_of[task.sequence] = line
        self._heads.pop(line, None)

    def remove(self, sequence: int) -> WaitingTask:
        """A task waits no more."""
        line = self._line_of.pop(sequence)
        entries = self._lines[line]
        index = next(at for at, entry in enumerate(entries) if entry.task.sequence == sequence)
        entry = entries.pop(index)
        self._heads.pop(line, None)
        if not entries:
            del self._lines[line]
        return entry.task

    def heads(self, depth: int | None) -> list[WaitingTask]:
        """What a cycle has to see that places fewer than `depth` tasks of each line; None: all tasks."""
        chosen: list[WaitingTask] = []
        for line, entries in self._lines.items():
            overtaken = self._overtaken[line]
            needed = entries if depth is None else self._heads_of(line, depth)
            chosen += [_as_of_now(entry, overtaken) for entry in needed]
        return chosen

    def exhausted(self, placements: Iterable[Placement], depth: int) -> bool:
        """Whether a cycle with those heads placed so many of a line that tasks behind them might have a place too."""
        counts = Counter(self._line_of[placement.sequence] for placement in placements)
        return any(count >= depth and len(self._lines[line]) > depth for line, count in counts.items())

    def overtaken(self, counts: Mapping[Line, int]) -> None:
        """What a cycle decided has overtaken tasks of these lines so often."""
        self._overtaken.update(counts)

    def _heads_of(self, line: Line, depth: int) -> list[_Entry]:
        if depth != DEPTH_LEAST:
            return _shortest_so_far(self._lines[line], depth)
        if (found := self._heads.get(line)) is None:
            found = self._heads[line] = _shortest_so_far(self._lines[line], depth)
        return found


def _shortest_so_far(entries: list[_Entry], depth: int) -> list[_Entry]:
    """Entries with fewer than `depth` earlier ones that are expected to run as short or shorter."""
    chosen: list[_Entry] = []
    shortest: list[float] = []
    for entry in entries:
        expected = _expected(entry.task)
        if len(shortest) < depth or expected < shortest[-1]:
            chosen.append(entry)
            insort(shortest, expected)
            del shortest[depth:]
    return chosen


def _expected(task: WaitingTask) -> float:
    return float("inf") if task.expected_ms is None else task.expected_ms


def _as_of_now(entry: _Entry, overtaken: int) -> WaitingTask:
    since = overtaken - entry.overtaken_before
    return replace(entry.task, overtaken=since) if since else entry.task
