"""Time as a value that tests can set."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the scheduler reads time from."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; comparable between processes of one host."""
        ...

    def time(self) -> float:
        """Seconds since the epoch."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()


class ManualClock:
    """A clock that moves only when told, for tests and simulation."""

    def __init__(self, now: float = 1_000.0) -> None:
        self._now = now

    def monotonic(self) -> float:
        return self._now

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> float:
        """Move forward by `seconds` (>= 0) and return the new time.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"a clock can't go back: advance({seconds!r})")
        self._now += seconds
        return self._now
