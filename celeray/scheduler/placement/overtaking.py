"""A bound on how often a waiting task is overtaken.

A task is overtaken when one of lower priority is placed on a node where it could run too, be it since that one is older
and has aged, or since it fits where the other does not. After `overtaken_most` times no task of lower priority is
placed on such a node any more until the task has its own place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from celeray.scheduler.model import ResourceRequest, WaitingTask
from celeray.scheduler.placement.board import Board
from celeray.scheduler.placement.filters import could_fit_idle
from celeray.scheduler.placement.policy import Policy
from celeray.scheduler.placement.rooms import Bools


@dataclass(slots=True)
class _Alike:
    """The waiting tasks of one request and priority."""

    request: ResourceRequest
    priority: int
    waiting: int = 0
    overtaken: int = 0
    """Of the one that was overtaken most, before this cycle."""
    more: int = 0
    """How often in this cycle, as last counted."""


class Overtaking:
    """Counts who is overtaken within a cycle, and says where a task may not go for that."""

    def __init__(self, waiting: Iterable[WaitingTask], board: Board, policy: Policy) -> None:
        self._board = board
        self._policy = policy
        self._where: dict[ResourceRequest, Bools] = {}
        self._alike: dict[tuple[ResourceRequest, int], _Alike] = {}
        for task in waiting:
            key = (task.request, task.priority)
            alike = self._alike.get(key)
            if alike is None:
                alike = self._alike[key] = _Alike(*key)
            alike.waiting += 1
            alike.overtaken = max(alike.overtaken, task.overtaken)
        self._lowest = min((alike.priority for alike in self._alike.values()), default=0)
        self._placed: list[tuple[int, int]] = []
        """Priority and row of each placement of this cycle."""
        self.bars = 0
        """Changes whenever it changes where tasks may not go."""
        self._count_at = (
            self._next_count() if len({alike.priority for alike in self._alike.values()}) > 1 else None
        )
        self._bounded = self._count_at == 0

    def placed(self, task: WaitingTask, row: int) -> None:
        """A task was placed on a node."""
        self._alike[task.request, task.priority].waiting -= 1
        self._placed.append((task.priority, row))
        # Counting costs more than placing, so it waits until somebody may have come to the bound.
        if self._count_at is not None and len(self._placed) >= self._count_at:
            self._count()
            self.bars += 1
            self._bounded = True
            self._count_at = len(self._placed) + max(1, self._next_count())

    def barred(self, priority: int) -> Bools | None:
        """By node, where a task of this priority may not go; None: everywhere it may."""
        if not self._bounded:
            return None
        over = [a for a in self._alike.values() if a.priority > priority and self._bars(a)]
        bars = [self._could(alike.request) for alike in over]
        return np.logical_or.reduce(bars) if bars else None

    def counts(self) -> Mapping[tuple[ResourceRequest, int], int]:
        """How often in this cycle, by request and priority, of those that still wait."""
        self._count()
        return {key: alike.more for key, alike in self._alike.items() if alike.more and alike.waiting}

    def _count(self) -> None:
        if not self._placed:
            return
        placed = np.array(self._placed, dtype=np.int64)
        for alike in self._alike.values():
            rows = placed[placed[:, 0] < alike.priority, 1] if alike.priority > self._lowest else ()
            alike.more = int(self._could(alike.request)[rows].sum()) if len(rows) else 0

    def _next_count(self) -> int:
        """After how many more placements somebody may have come to the bound."""
        most = max(
            alike.overtaken + alike.more for alike in self._alike.values() if alike.priority > self._lowest
        )
        return max(0, self._policy.order.overtaken_most - most)

    def _bars(self, alike: _Alike) -> bool:
        return alike.waiting > 0 and alike.overtaken + alike.more >= self._policy.order.overtaken_most

    def _could(self, request: ResourceRequest) -> Bools:
        found = self._where.get(request)
        if found is None:
            alike, builds = self._board.builds()
            fits = [could_fit_idle(request, build, self._policy) for build in builds]
            found = self._where[request] = np.array(fits, dtype=np.bool_)[alike]
        return found
