"""The shape of a duty."""

from __future__ import annotations

from typing import Protocol


class Duty(Protocol):
    """Doing it twice, or in two places at once, changes nothing more."""

    name: str
    """In the log, and in the key that tells other keepers that it was done."""
    every_s: float

    def run_once(self, now: float) -> str:
        """Do what is due at `now`, in seconds since the epoch by the clock of Redis.

        Returns:
            What was done, in words; empty for nothing.

        Raises:
            redis.RedisError: Redis does not answer.
        """
        ...
