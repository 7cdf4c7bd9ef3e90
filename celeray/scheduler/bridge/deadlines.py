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
    """Something due. Whoever handles it checks that its subject is still as it was."""

    due: Due
    run_id: int | None = None
    executor_id: str | None = None
    seconds: float = 0.0
    """The limit itself, for the message."""


class Deadlines:
    """A heap by time. Entries are never removed before they are due; a stale one is recognised by its subject."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Deadline]] = []
        self._order = count()

    def add(self, at: float, deadline: Deadline) -> None:
        """Due at the monotonic time `at`."""
        heapq.heappush(self._heap, (at, next(self._order), deadline))

    def next_at(self) -> float | None:
        """When the next one is due; None: nothing is."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> list[Deadline]:
        """Take all that are due, in order."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        return due
