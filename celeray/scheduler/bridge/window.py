"""The messages that the bridge holds to choose from: bounded as a whole, bounded a shape, and the most urgent ones.

After each placement cycle it gives back what is too much, and tells the transport what to claim next. Claims fetch what
is more urgent than the least urgent waiting message also into a full window; then that one goes back in its stead. What
goes back is uncounted, goes to the front of its list, and keeps its order.

Urgency here is that of the broker's lists, since claims can go by nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from heapq import nlargest
from typing import Any

from celeray.scheduler.bridge.dispatcher import Dispatcher
from celeray.scheduler.bridge.run import Run
from celeray.scheduler.bridge.shares import NEARLY_FULL, Shares
from celeray.scheduler.bridge.waiting import Shape
from celeray.scheduler.clock import Clock
from celeray.scheduler.transport.claiming import ANY, Choice, Limit
from celeray.scheduler.transport.demand import Demand

logger = logging.getLogger(__name__)

OVER_MOST = 64
"""Messages that change places in one go."""
BACK_MOST = 500
"""Messages that go back in one go, so that the broker takes them all or none."""


def least_urgent(runs: Iterable[Run], most: int) -> list[Run]:
    """At most `most` of the runs, from the last level and the youngest.

    What ran out of GPU memory is left out: elsewhere it would begin anew with too little.
    """
    return nlargest(
        most, (run for run in runs if not run.ran_out), key=lambda run: (run.level, run.task.sequence)
    )


class Window:
    """Of one bridge. Belongs to the consumer thread."""

    def __init__(self, dispatcher: Dispatcher, clock: Clock, wake_in: Callable[[float], Any]) -> None:
        """
        Args:
            wake_in: after so many seconds a cycle and `balance` are due.
        """
        self.shares = Shares()
        self._dispatcher = dispatcher
        self._clock = clock
        self._wake_in = wake_in
        self._demand: Demand | None = None
        self._classes: dict[Shape, set[str]] = {}

    def attach(self, demand: Demand | None) -> None:
        """Messages come over a new channel. None: of a transport that can't choose."""
        self._demand = demand
        if demand is not None:
            demand.on_paused.append(lambda _: self._wake_in(0))

    def return_paused(self) -> None:
        """Give back what waits of paused queues. Called before each cycle."""
        if self._demand is not None and self._demand.paused:
            self._dispatcher.give_back_unbegun(self._demand.paused)

    def balance(self) -> None:
        """Give back what is too much, and tell what to claim. Called after each cycle.

        A window without bound is let be.

        Raises:
            redis.RedisError: nothing was given back.
        """
        demand = self._demand
        if demand is None or not demand.most:
            return
        self._limit_shapes(demand)
        if surplus := self._surplus(demand):
            logger.debug("%d waiting messages go back, to make room for others", len(surplus))
            self._dispatcher.runs.give_back_all(surplus)
            self.shares.watch(self._clock.monotonic(), self._dispatcher.waiting)
        choice = self._choice(demand)
        if choice != demand.choice:
            demand.choose(choice)

    def _limit_shapes(self, demand: Demand) -> None:
        waiting, shares = self._dispatcher.waiting, self.shares
        again_in = shares.update(
            self._clock.monotonic(),
            waiting,
            room=demand.most - len(self._dispatcher.running),
            full=demand.free <= demand.most // NEARLY_FULL,
        )
        if again_in is not None:
            self._wake_in(again_in)
        self._classes = {
            shape: self._classes.get(shape, set()) | {run.message_class for run in waiting.of(shape)}
            for shape in shares.quotas
        }

    def _surplus(self, demand: Demand) -> list[Run]:
        waiting, found = self._dispatcher.waiting, list[Run]()
        for shape, quota in self.shares.quotas.items():
            runs = waiting.of(shape)
            if len(runs) > quota:
                found += least_urgent(runs, len(runs) - quota)
        over = -demand.free - len(found)
        if over > 0:
            found += least_urgent(_without(waiting, found), over)
        return found[:BACK_MOST]

    def _choice(self, demand: Demand) -> Choice:
        limits = {name: limit for shape in self.shares.quotas for name, limit in self._limits(shape)}
        level, there = self._dispatcher.waiting.at_least_urgent_level() if demand.free <= 0 else (0, 0)
        if not level and not limits:
            return ANY
        return Choice(min(there, OVER_MOST) if level else 0, level, limits)

    def _limits(self, shape: Shape) -> Iterable[tuple[str, Limit]]:
        runs = self._dispatcher.waiting.of(shape)
        room = max(0, self.shares.quotas[shape] - len(runs))
        limit = Limit(room, max((run.level for run in runs), default=0))
        return ((name, limit) for name in self._classes[shape])


def _without(runs: Iterable[Run], others: Collection[Run]) -> Iterable[Run]:
    left_out = {run.run_id for run in others}
    return (run for run in runs if run.run_id not in left_out)
