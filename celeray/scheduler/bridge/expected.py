"""How long runs of a task are expected to take: the 95th percentile of those that ended in this bridge."""

from __future__ import annotations

from celeray.scheduler.learned.histogram import bucket, quantile

RUNS_MIN = 5
"""Of fewer runs nothing is concluded."""
RUNS_MAX = 1_000
"""With more, each bucket is halved, so that what is new counts more."""
NAMES_MAX = 10_000
"""Task names of which times are kept; beyond, the one that was first seen is forgotten."""
PERCENT = 95


class ExpectedTimes:
    """By task name, in milliseconds."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[int, int]] = {}
        self._runs: dict[str, int] = {}
        self._expected: dict[str, int] = {}

    def learn(self, name: str, seconds: float) -> None:
        """A run took so long."""
        counts = self._counts.setdefault(name, {})
        if len(self._counts) > NAMES_MAX:
            self._forget(next(iter(self._counts)))
        upper = bucket(max(1, round(seconds * 1000)))
        counts[upper] = counts.get(upper, 0) + 1
        runs = self._runs[name] = self._runs.get(name, 0) + 1
        if runs >= RUNS_MAX:
            self._counts[name] = counts = {at: count // 2 for at, count in counts.items() if count > 1}
            self._runs[name] = runs = sum(counts.values())
        # A quantile of a thousand runs does not move with each of them.
        if RUNS_MIN <= runs < 32 or runs % 16 == 0:
            self._expected[name] = quantile(counts, PERCENT)

    def expected_ms(self, name: str) -> int | None:
        """None: too few runs of the task were seen."""
        return self._expected.get(name)

    def _forget(self, name: str) -> None:
        self._counts.pop(name, None)
        self._runs.pop(name, None)
        self._expected.pop(name, None)
