"""What a channel sends and reads in one turn of the poller: settlements, a claim, and the delivery of what was claimed.

Nothing here waits for Redis inside an event loop: the settlements of one turn and the next claim travel in one packet,
and their replies are read when they are there.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import redis

from celeray.scheduler.transport.claiming import Claim, read_reply
from celeray.scheduler.transport.lease import Settlements
from celeray.scheduler.transport.leases import LeaseBook
from celeray.scheduler.transport.looking import Looking
from celeray.scheduler.transport.message import Payload
from celeray.scheduler.transport.scripts import refused_as_replica
from celeray.scheduler.transport.wire import Wire

logger = logging.getLogger(__name__)

CLOSE_WAIT_S = 1.0
"""At close: how long the reply to a claim that is under way is waited for. After that its leases end by themselves."""


class Turns:
    """State of one channel's consuming. Belongs to the thread that polls."""

    def __init__(self, channel: Any, deliver: Callable[[Payload, str], None]) -> None:
        """
        Args:
            deliver: hands one claimed message of a queue to its consumer.
        """
        self._channel = channel
        self._deliver = deliver
        self._book: LeaseBook = channel.leases
        self._idle_check_s = channel.lease_options.idle_check_s
        self._wire = Wire(channel.demand.level_of_list)
        self._claim: Claim | None = None
        self._told: Settlements | None = None
        self._claimed: deque[tuple[Payload, str]] = deque()
        self._looked_at = float("-inf")
        self._looking = Looking()
        self._deep_ring_at: float | None = None
        """When the timer for the next deep look goes off."""
        self.loop_thread: int | None = None
        """Where the event loop runs. None: there is none."""

    # Before the poll

    def ring(self) -> None:
        """The queues have changed, or what is wanted of them: look into them."""
        self._wire.ring()

    def wanted(self) -> bool:
        """Whether there is something to send or to deliver."""
        if self._wire.due:
            return False
        return bool(self._claimed) or self._book.has_settlements or self._may_claim()

    def settles_later(self, thread: int) -> bool:
        """Whether what is noted in `thread` will be sent by the next turn at once."""
        return thread == self.loop_thread and "nap" not in self._wire.due

    def _may_claim(self) -> bool:
        channel, now = self._channel, monotonic()
        if not channel._active_queues or self._claimed or now < self._looking.looks_again_at:
            return False
        if now - self._looked_at >= self._idle_check_s:
            return True
        if channel.demand.credit() > 0:
            return self._wire.rung
        # Without credit a claim serves to see what changes places with a less urgent message, and what is paused.
        return self._wire.rung_from < channel.demand.choice.urgent_levels

    def start(self, connection: Any) -> bool:
        """Send what there is to send. Returns whether a reply is due. Raises the connection's errors."""
        self.deliver()
        wire = self._wire
        wire.begin(connection)
        self._told = self._book.take_settlements()
        if self._told:
            wire.add_script(connection, "settle", self._book.book_keys, self._told.arguments())
        depth = self._looking.depth(monotonic())
        if self._may_claim() and (claim := self._channel.next_claim(depth)) is not None:
            self._claim = claim
            self._looked_at = monotonic()
            wire.looked()
            wire.add_script(connection, "claim", claim.keys(self._book), claim.arguments(self._book))
        return self._send(connection)

    def _send(self, connection: Any) -> bool:
        try:
            return self._wire.send(connection)
        except BaseException:
            self.lost_connection()
            raise

    # After the poll

    def read(self, connection: Any) -> bool:
        """Read all replies that are due, then what the server tells by itself. Returns whether a reply is due again.

        Raises:
            redis.ConnectionError: the connection is gone, or its server is a master no more.
            redis.ResponseError: the server refused; what was to be settled will be sent again.
        """
        wire, errors = self._wire, []
        while wire.due:
            kind, reply = wire.read(connection)
            if isinstance(reply, Exception) and refused_as_replica(reply):
                # A demoted master: the next connection finds the new one.
                raise redis.ConnectionError(str(reply))
            if not isinstance(reply, redis.exceptions.ResponseError):
                self._accept(kind, reply)
                continue
            self._refused(kind)
            if not isinstance(reply, redis.exceptions.NoScriptError) and kind != "tracking":
                errors.append(reply)
        if errors:
            raise errors[0]
        wire.read_pushes(connection)
        return self._nap_if_deaf(connection)

    def _accept(self, kind: str, reply: Any) -> None:
        if kind == "settle" and self._told is not None:
            told, self._told = self._told, None
            self._book.settled(told, reply)
        elif kind == "claim":
            self._on_claimed(reply)

    def _refused(self, kind: str) -> None:
        """The server did not do it, for want of the script or otherwise: it is due again."""
        self._wire.ring()
        if kind == "settle" and self._told is not None:
            told, self._told = self._told, None
            self._book.unsent(told)

    def _on_claimed(self, reply: Sequence[Any]) -> None:
        assert self._claim is not None
        claimed = read_reply(reply, self._claim, self._book)
        self._claimed.extend(claimed.messages)
        if claimed.left_from * len(self._claim.queues) < len(self._claim.lists):
            self._wire.ring(claimed.left_from)
        if self._claim.choice.limits:
            self._looking.looked(
                monotonic(),
                self._claim.depth,
                skipped=claimed.skipped,
                cut=claimed.cut,
                found=claimed.behind,
            )
        if claimed.skipped:
            self._turn_again()
        self._channel.demand.note_paused(claimed.paused)

    def _turn_again(self) -> None:
        """After the pause, and when a deep look is due."""
        now, loop = monotonic(), self._channel.connection.cycle.loop
        if loop is None:
            if self._looking.deep_at is not None:
                self._wire.ring()
            return
        loop.call_later(max(0.0, self._looking.looks_again_at - now), _nothing)
        due = self._looking.deep_at
        if due is not None and due != self._deep_ring_at:
            self._deep_ring_at = due
            loop.call_later(max(0.0, due - now), self._wire.ring)

    def _nap_if_deaf(self, connection: Any) -> bool:
        """Without tracking, and with nothing found: sleep in the server, and look again."""
        wire, channel = self._wire, self._channel
        if wire.tracks or wire.rung or channel._closing or not channel._active_queues:
            return False
        wire.begin(connection)
        wire.add_nap(connection, self._book.keys.nap())
        sent = self._send(connection)
        wire.ring()
        return sent

    def deliver(self) -> bool:
        """Hand claimed messages to their consumers: all in an event loop, else one a call. Whether any was."""
        delivered = False
        while self._claimed and (self.loop_thread is not None or not delivered):
            if self._claimed[0][1] not in self._channel.connection._callbacks:
                self._return_cancelled()
                continue
            self._deliver(*self._claimed.popleft())
            delivered = True
        return delivered

    def _return_cancelled(self) -> None:
        """Nobody consumes these queues any more: what was claimed of them goes back, in order."""
        consumed = self._channel.connection._callbacks
        back = [payload.lease for payload, queue in self._claimed if queue not in consumed]
        self._claimed = deque(item for item in self._claimed if item[1] in consumed)
        self._book.give_back(back)

    # End

    def lost_connection(self) -> None:
        """Nothing is due any more; settlements under way are sent again."""
        told, self._told = self._told, None
        self._wire.reset()
        if told:
            self._book.untold(told)

    def close(self, connection: Any, errors: tuple[type[Exception], ...]) -> None:
        """Wait for a claim that is under way, and give back what was claimed and not delivered."""
        if self._wire.due and "nap" not in self._wire.due:
            try:
                if connection.can_read(timeout=CLOSE_WAIT_S):
                    self.read(connection)
            except errors + (redis.RedisError,) as error:  # noqa: RUF005 - mypy can't read it otherwise
                logger.debug("a claim was under way when the channel closed: %r", error)
        self.lost_connection()
        claimed, self._claimed = [payload.lease for payload, _ in self._claimed], deque()
        try:
            if claimed:
                self._book.give_back(claimed)
        except (redis.RedisError, OSError) as error:
            logger.warning("%d claimed messages could not be given back: %r", len(claimed), error)


def _nothing() -> None:
    """For a timer, only to turn the loop."""
