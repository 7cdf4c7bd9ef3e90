"""The bridge's next placement cycle, for others. Taken on the consumer thread: references, and one snapshot."""

from __future__ import annotations

import time

from celeray.scheduler.bridge.dispatcher import Dispatcher
from celeray.scheduler.explanations.published import PublishedCycle
from celeray.scheduler.model import Snapshot
from celeray.scheduler.placement import CycleInput

EVERY_S = 1.0
"""At most so often."""


class CycleReport:
    """Of one bridge."""

    def __init__(self, bridge_id: str, dispatcher: Dispatcher) -> None:
        self._bridge_id = bridge_id
        self._dispatcher = dispatcher
        self._taken_at: float | None = None

    def take(self, now: float) -> PublishedCycle | None:
        """What a cycle would get now. None: one was taken less than `EVERY_S` seconds ago.

        The last cycle's own input shows what it has placed as free, and where nothing waits there is no cycle. So its
        snapshot serves where it changed nothing, and another one is taken where it did.

        Args:
            now: monotonic seconds of the dispatcher's clock.
        """
        if self._taken_at is not None and now - self._taken_at < EVERY_S:
            return None
        self._taken_at = now
        dispatcher = self._dispatcher
        taken_at, snapshot = self._snapshot(now)
        runs = {run.task.sequence: run for run in dispatcher.waiting}
        reserved = dispatcher.reserved
        return PublishedCycle(
            bridge_id=self._bridge_id,
            at=time.time() - (now - taken_at),
            now_ms=round(taken_at * 1000),
            cycle=CycleInput(dispatcher.waiting.tasks(runs), snapshot, dispatcher.policy),
            reasons={sequence: run.reason for sequence, run in runs.items() if run.reason is not None},
            reserved=reserved if reserved is not None and reserved.sequence in runs else None,
        )

    def _snapshot(self, now: float) -> tuple[float, Snapshot]:
        """The cluster as it is, and when that was read."""
        dispatcher = self._dispatcher
        last, stood_at = dispatcher.last_cycle, dispatcher.stood_at
        if last is None or stood_at is None or dispatcher.dirty:
            return now, dispatcher.snapshot(now)
        return stood_at, last.snapshot
