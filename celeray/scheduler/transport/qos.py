"""Acks under leases. Nothing is written when a message comes, since the claim has done so."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from multiprocessing.util import Finalize
from typing import Any

import redis
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from celeray.scheduler.transport.ending import end_leased, give_back_changed
from celeray.scheduler.transport.lease import Lease
from celeray.scheduler.transport.leases import BACK, FRONT, LeaseBook

logger = logging.getLogger(__name__)


class QoS(kombu_redis.QoS):
    """Fanout messages are not claimed, so where they are acked that is done kombu's way."""

    def __init__(self, channel: Any, prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        self.leases: LeaseBook = channel.leases
        self._unclaimed: set[str] = set()
        self._on_collect: Any
        self._on_collect.cancel()
        self._on_collect = Finalize(self, self._at_exit, exitpriority=1)

    @property
    def on_lost(self) -> list[Any]:
        """Callbacks for delivery tags whose lease was lost while the message was held. See `LeaseBook`."""
        return self.leases.on_lost

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a delivered message."""
        if self.leases.get(delivery_tag) is None:
            self._unclaimed.add(delivery_tag)
            super().append(message, delivery_tag)
        else:
            virtual.QoS.append(self, message, delivery_tag)

    def begun(self, delivery_tag: str) -> None:
        """A run of the message begins; what is only claimed, swapped or given back does not count."""
        self.leases.note_begun(delivery_tag)
        self.settle()

    def handed_over(self, delivery_tag: str) -> None:
        """The pool has the message, and will run it."""
        if (lease := self.leases.get(delivery_tag)) is not None:
            lease.with_pool = True

    def ended(self, delivery_tag: str) -> None:
        """The run ended on purpose, though its message is not settled: it is no sign of poison."""
        self.leases.note_ended(delivery_tag)
        self.settle()

    def begun_in_vain(self, delivery_tag: str) -> None:
        """What `begun` told is taken back: the run was no attempt, and another one may begin."""
        self.leases.note_in_vain(delivery_tag)
        self.settle()

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge; of a lost lease it changes nothing."""
        if delivery_tag in self._unclaimed:
            self._unclaimed.discard(delivery_tag)
            super().ack(delivery_tag)
            return
        self._quick_ack(delivery_tag)
        lease = self.leases.get(delivery_tag)
        if lease is not None and lease.ending is not None:
            end_leased(self.leases, lease)
        elif self.leases.note_ack(delivery_tag):
            self.settle()

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop the message, or put it back behind the others of its priority, as kombu does."""
        if delivery_tag in self._unclaimed:
            self._unclaimed.discard(delivery_tag)
            super().reject(delivery_tag, requeue=requeue)
        elif requeue:
            lease = self.leases.get(delivery_tag)
            if lease is not None and lease.returned_as is not None:
                self._quick_ack(delivery_tag)
                give_back_changed(self.leases, lease, lease.returned_as)
            else:
                self._give_back([delivery_tag], push=BACK)
        else:
            self.ack(delivery_tag)

    def park(self, delivery_tag: str, reason: str, detail: str) -> None:
        """Keep the message as a dead letter; of a lost lease it changes nothing.

        Where Redis does not answer, the message comes again when its lease ends.
        """
        self._quick_ack(delivery_tag)
        if (lease := self.leases.get(delivery_tag)) is None:
            return
        try:
            self.leases.park(lease, reason, detail)
        except (redis.RedisError, OSError) as error:
            logger.warning("message %s could not be parked, it will come again: %r", lease.tag, error)
            self.leases.abandon(delivery_tag)

    def give_back(self, delivery_tag: str) -> bool:
        """Put the message back at the front, uncounted. False where it was not held any more."""
        return self._give_back([delivery_tag]) == 1

    def give_back_all(self, delivery_tags: Sequence[str]) -> int:
        """As `give_back`, of several in the order in which they were taken. Returns how many were still held."""
        leases = [lease for tag in delivery_tags if (lease := self.leases.get(tag)) is not None]
        leases.sort(key=lambda lease: lease.fence)
        back = self._give_back([lease.delivery_tag for lease in leases])
        for tag in delivery_tags:
            self._quick_ack(tag)
        return back

    def put_back(self, delivery_tag: str, message: bytes) -> None:
        """Put another version of a message whose run has begun at the front of its list. It was delivered, it says."""
        if (lease := self.leases.get(delivery_tag)) is not None:
            give_back_changed(self.leases, lease, message, push=FRONT)
        self._quick_ack(delivery_tag)

    def forget(self, delivery_tag: str) -> None:
        """The message was settled by other means."""
        self._quick_ack(delivery_tag)

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """Restore what has expired, of any worker. The keeper thread does so by itself."""
        self.channel.restore_expired()

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put back what this channel holds, or by kombu's way what no lease is for. `leftmost`: behind the others."""
        if (lease := self.leases.get(tag)) is not None:
            self.leases.give_back([lease], push=BACK if leftmost else FRONT)
        else:
            super().restore_by_tag(tag, client=client, leftmost=leftmost)

    def restore_unacked(self, client: Any = None) -> list[Any]:
        """Put everything back that this channel was given and has not settled."""
        self._flush()
        for tag in list(self._unclaimed):
            self.restore_by_tag(tag, client=client)
        self._unclaimed.clear()
        self._give_back(list(self._delivered))
        self._delivered.clear()
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """The channel closes: what has not begun goes back; what runs is kept, and acked later from its end."""
        if getattr(self._delivered, "restored", None) or not self._ours():
            return
        self._flush()
        self._delivered.restored = True
        for prepare in self.leases.before_return:
            prepare()
        try:
            if self.restore_at_shutdown and self.channel.do_restore:
                self._restore_waiting()
            self.leases.flush()
        except (redis.RedisError, OSError) as error:
            logger.warning("held messages could not be given back, their leases will end: %r", error)
        if not self.leases.held():
            self._on_collect.cancel()

    def _restore_waiting(self) -> None:
        for tag in list(self._unclaimed):
            self.restore_by_tag(tag)
        self._unclaimed.clear()
        self._give_back([lease.delivery_tag for lease in self.leases.take_unbegun()])

    def _at_exit(self) -> None:
        if not self._ours():
            return
        self.restore_unacked_once()
        try:
            self.leases.give_back(self.leases.held())
        except (redis.RedisError, OSError) as error:
            logger.warning("held messages could not be given back, their leases will end: %r", error)

    def _ours(self) -> bool:
        """Not in a child that was forked."""
        return self.leases.pid == os.getpid()

    def _give_back(self, delivery_tags: Sequence[str], **options: Any) -> int:
        leases: list[Lease] = [lease for tag in delivery_tags if (lease := self.leases.get(tag)) is not None]
        back = self.leases.give_back(leases, **options) if leases else 0
        for tag in delivery_tags:
            self._quick_ack(tag)
        return back

    def settle(self) -> None:
        """At the end of this turn of the event loop; at once where none runs, or where it is not in this thread."""
        if not self.channel.settles_later(threading.get_ident()):
            self.flush()

    def flush(self) -> None:
        """Tell Redis now. Where it does not answer, the next turn or the keeper tells it."""
        try:
            self.leases.flush()
        except (redis.RedisError, OSError) as error:
            logger.warning("an ack could not be sent, trying on: %r", error)
