"""What the consumer of a channel wants to have claimed: how many messages, which ones, and of which queues none."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from celeray.scheduler.transport.claiming import ANY, Choice


class Demand:
    """Of one channel. Belongs to the thread that consumes."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self.choice = ANY
        """See `choose`."""
        self.free_slots: Callable[[], int] | None = None
        """How many runs could begin at once, where no more than that is to be claimed."""
        self.paused: frozenset[str] = frozenset()
        """Consumed queues that are paused, as seen last."""
        self.on_paused: list[Callable[[frozenset[str]], object]] = []
        """Called with `paused` when that changes."""

    def credit(self) -> int:
        """How many messages may be claimed now."""
        channel = self._channel
        most: int = channel.lease_options.claim_max_messages
        if self.free_slots is not None:
            most = max(0, min(most, self.free_slots()))
        qos = channel.qos
        if "can_consume" in vars(qos):
            # Celery replaces it where workers must not prefetch: it is asked before every single message.
            return min(1, most) if qos.can_consume() else 0
        free = qos.can_consume_max_estimate()
        if free is None:
            # Without an event loop messages are delivered one a call, and a more urgent one may come in between.
            return most if channel.turns.loop_thread is not None else min(1, most)
        return min(most, int(free))

    @property
    def most(self) -> int:
        """The prefetch count. 0: no bound."""
        return int(self._channel.qos.prefetch_count)

    @property
    def free(self) -> int:
        """How many messages more may be held; below 0 where there are too many. Without a bound it means nothing."""
        qos = self._channel.qos
        return self.most - len(qos._delivered) + len(qos._dirty)

    def choose(self, choice: Choice) -> None:
        """Set what is wanted of the messages from the next claim on."""
        before, self.choice = self.choice.limits, choice
        if any(
            name not in choice.limits or choice.limits[name].room > max(0, limit.room)
            for name, limit in before.items()
        ):
            # What was looked past may be wanted now.
            self._channel.turns.ring()

    def note_paused(self, paused: frozenset[str]) -> None:
        """What a claim has seen."""
        if paused == self.paused:
            return
        self.paused = paused
        for callback in self.on_paused:
            callback(paused)

    def level_of_list(self, key: bytes) -> int:
        """The level of a list by its key; below 0 for any other key."""
        _, separator, step = key.rpartition(self._channel.sep.encode())
        if not separator:
            return -1 if key == self._paused_key else 0
        return self._levels.get(step, -1)

    @cached_property
    def _paused_key(self) -> bytes:
        return str(self._channel.keys.paused()).encode()

    @cached_property
    def _levels(self) -> dict[bytes, int]:
        return {str(step).encode(): level for level, step in enumerate(self._channel.priority_steps)}
