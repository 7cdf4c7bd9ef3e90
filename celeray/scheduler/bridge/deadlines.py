"""What is due at a time: time limits of runs, and the end of patience with an executor that was told to stop."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import StrEnum
from itertools import count


class Due(StrEnum):
    """What a deadline is for."""

    SOFT_LIMIT = "soft_limit"
    HARD_LIMIT = "hard_limit"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Deadline:
    """Something due."""

    due: Due
    subject: int | str
    """Number of the run, or id of the executor."""
    seconds: float = 0.0
    """The limit itself, for the message."""


class Deadlines:
    """A heap by time. What was forgotten stays in it until it is due or makes up more than half of it."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Deadline]] = []
        self._live: dict[int | str, set[int]] = {}
        self._size = 0
        self._order = count()

    def __len__(self) -> int:
        return self._size

    def add(self, at: float, deadline: Deadline) -> None:
        """Due at the monotonic time `at`."""
        number = next(self._order)
        heapq.heappush(self._heap, (at, number, deadline))
        self._live.setdefault(deadline.subject, set()).add(number)
        self._size += 1

    def forget(self, subject: int | str) -> None:
        """Nothing of this run or executor is due any more."""
        self._size -= len(self._live.pop(subject, ()))
        if len(self._heap) > 2 * self._size + 64:
            self._heap = [entry for entry in self._heap if self._is_live(entry)]
            heapq.heapify(self._heap)

    def next_at(self) -> float | None:
        """When the next one is due; None: nothing is."""
        while self._heap and not self._is_live(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> list[Deadline]:
        """Take all that are due, in order."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            if self._is_live(entry):
                self._live[entry[2].subject].discard(entry[1])
                self._size -= 1
                due.append(entry[2])
        return due

    def _is_live(self, entry: tuple[float, int, Deadline]) -> bool:
        return entry[1] in self._live.get(entry[2].subject, ())
