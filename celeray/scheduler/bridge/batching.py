"""How many waiting runs go to an executor in one call. Pure.

A call costs the bridge, Ray and the executor more than a short task itself. So where a class has a backlog of tasks
that were short so far, one call carries several: as many as fit into twice the time of the longest one that counts as
short. A more urgent message waits for that long at the most before an executor is free for it.
"""

from __future__ import annotations

from collections.abc import Iterable

from celeray.scheduler.bridge.expected import ExpectedTimes

BUDGET = 2
"""Predicted work in one call, in times of the longest run that counts as short."""
WEIGHT = 0.1
"""Of the newest run in the mean. One run of a minute among short ones keeps the task out of batches for 80 runs."""
SHORT_IN_A_ROW = 20
"""Runs that were all short before a task is taken for a short one. A task that shares a call waits for those before it,
so a time that varies from call to call must not be guessed from a few."""


class RunTimes:
    """The mean time that an executor was busy with a run, by executor class and task name."""

    def __init__(self, short_s: float) -> None:
        """
        Args:
            short_s: seconds; what takes as long or longer is not short.
        """
        self.short_s = short_s
        self._means: dict[tuple[str, str], float] = {}
        self._short: dict[tuple[str, str], int] = {}
        """How many of the last runs were short, one after the other."""
        self.expected = ExpectedTimes()

    def learn(self, executor_class: str, name: str, seconds: float) -> None:
        """A run took so long. The newer it is the more it counts."""
        self.expected.learn(name, seconds)
        key = (executor_class, name)
        known = self._means.get(key)
        self._means[key] = seconds if known is None else known + WEIGHT * (seconds - known)
        self._short[key] = self._short.get(key, 0) + 1 if seconds < self.short_s else 0

    def predicted(self, executor_class: str, name: str) -> float | None:
        """Seconds, the mean. None: too few runs in a row were short, so nothing is predicted."""
        key = (executor_class, name)
        return self._means[key] if self._short.get(key, 0) >= SHORT_IN_A_ROW else None


def batch_length(means: Iterable[float | None], most: int, short_s: float) -> int:
    """How many of the waiting runs go together, from the first on; at least 1.

    Args:
        means: predicted seconds of each waiting run, in their order; None: not known, or it has to run alone.
        most: the bound of the count, at least 1.
        short_s: as `RunTimes` has it.
    """
    length, work = 0, 0.0
    for mean in means:
        if length >= most or mean is None or mean >= short_s:
            break
        work += mean
        if length and work > BUDGET * short_s:
            break
        length += 1
    return max(1, length)


def fair_share(waiting: int, executors: int) -> int:
    """How many of `waiting` runs one of the executors takes that are free for them, so that none stays idle."""
    return -(-waiting // max(1, executors))
