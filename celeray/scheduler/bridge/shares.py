"""Which shapes have to leave room for others in the window. Pure: decided from counts and the time.

While messages flow, nobody is limited. Once the window has been as good as full for a moment, each shape that holds
more than its share of it, and of which less than that has begun meanwhile, is limited to its share: what it holds more
goes back, and claims look past it. It is limited no more when half of its share is left, which means that the queues
have no more of it, or when it flows.

share = (window - running) / (shapes that wait + 1): so there is always room for a shape that is not there yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from celeray.scheduler.bridge.waiting import Shape

PATIENCE_S = 0.1
"""How long a full window is watched. A task behind tasks that can't be placed waits so long for being seen."""
NEARLY_FULL = 8
"""A window of which less than one part in so many is free counts as full: each end of a task frees a place."""


class Counted(Protocol):
    """What is asked of the waiting runs."""

    def counts(self) -> Mapping[Shape, int]: ...

    def departed(self, shape: Shape) -> int: ...


class Shares:
    """The quotas of limited shapes."""

    def __init__(self) -> None:
        self.quotas: dict[Shape, int] = {}
        """Runs of it that may wait in the window."""
        self._departed: dict[Shape, int] = {}
        self._watched_since: float | None = None

    def update(self, now: float, waiting: Counted, *, room: int, full: bool) -> float | None:
        """Decide anew.

        Args:
            now: monotonic seconds.
            room: of the window, for what waits.
            full: whether the window is nearly full.

        Returns:
            In how many seconds it is to be decided again, if nothing happens before. None: not before that.
        """
        if self.quotas:
            counts = waiting.counts()
            self.quotas = {
                shape: quota for shape, quota in self.quotas.items() if counts.get(shape, 0) > quota // 2
            }
        if not full:
            self._watched_since = None
            return None
        if self._watched_since is None:
            self.watch(now, waiting)
            return PATIENCE_S
        if now - self._watched_since >= PATIENCE_S:
            self._judge(waiting, room)
            self.watch(now, waiting)
        return None

    def watch(self, now: float, waiting: Counted) -> None:
        """Begin to count anew what begins."""
        self._watched_since = now
        self._departed = {shape: waiting.departed(shape) for shape in waiting.counts()}

    def _judge(self, waiting: Counted, room: int) -> None:
        counts = waiting.counts()
        share = max(1, room // (len(counts) + 1))
        for shape, count in counts.items():
            # What has come meanwhile was not watched long enough.
            watched = shape in self._departed
            if not watched or waiting.departed(shape) - self._departed[shape] >= share:
                self.quotas.pop(shape, None)
            elif count > share:
                self.quotas[shape] = share
