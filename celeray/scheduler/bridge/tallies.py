"""What a bridge counts for each queue and task name. Belongs to the recorder; nothing here knows single runs."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection

from celeray.scheduler.counters import Counters, FinishedCount, TaskCount, TaskHistogram
from celeray.scheduler.metrics import EXECUTION_BOUNDS, PLACEMENT_BOUNDS


class Distribution:
    """Observations by bucket."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        # Clocks are set back now and then; a negative duration would make the sum shrink.
        if seconds < 0.0:
            seconds = 0.0
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds


class Tally:
    """What is counted for one queue and task name."""

    __slots__ = (
        "execution",
        "finished",
        "name",
        "out_of_memory",
        "placement",
        "preempted",
        "queue",
        "running",
    )

    def __init__(self, queue: str, name: str) -> None:
        self.queue = queue
        self.name = name
        self.running = 0
        self.out_of_memory = 0
        self.preempted = 0
        self.finished: Counter[str] = Counter()
        self.placement = Distribution(PLACEMENT_BOUNDS)
        self.execution = Distribution(EXECUTION_BOUNDS)


def counters_of(tallies: Collection[Tally]) -> Counters:
    """All of them as the status shows them."""
    return Counters(
        finished=tuple(
            FinishedCount(queue=tally.queue, name=tally.name, outcome=outcome, count=count)
            for tally in tallies
            for outcome, count in tally.finished.items()
        ),
        out_of_memory=tuple(
            TaskCount(queue=tally.queue, name=tally.name, count=tally.out_of_memory)
            for tally in tallies
            if tally.out_of_memory
        ),
        preempted=tuple(
            TaskCount(queue=tally.queue, name=tally.name, count=tally.preempted)
            for tally in tallies
            if tally.preempted
        ),
        placement=tuple(
            _histogram(tally, tally.placement) for tally in tallies if any(tally.placement.counts)
        ),
        execution=tuple(
            _histogram(tally, tally.execution) for tally in tallies if any(tally.execution.counts)
        ),
    )


def _histogram(tally: Tally, distribution: Distribution) -> TaskHistogram:
    return TaskHistogram(
        queue=tally.queue,
        name=tally.name,
        bounds=distribution.bounds,
        counts=tuple(distribution.counts),
        sum=distribution.sum,
    )
