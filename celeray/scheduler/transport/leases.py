"""The leases that one channel holds, and everything that is done under them.

A lease outlives its channel: after a lost connection the runs that have begun go on, so their leases are renewed and
their acks sent over a connection pool of the book's own, until the last one is settled.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis

from celeray.scheduler.keys import Keys
from celeray.scheduler.transport.lease import Lease, Settlements, as_text, pairs
from celeray.scheduler.transport.options import LeaseOptions
from celeray.scheduler.transport.scripts import Argument, script

logger = logging.getLogger(__name__)

TAGS_A_SCRIPT = 500
"""Redis serves nobody else during a script."""
FRONT, BACK = "RPUSH", "LPUSH"
"""Consumers pop from the right end of a list."""


class LeaseBook:
    """Thread-safe. Every method that talks to Redis raises `redis.RedisError` when that does not answer."""

    def __init__(self, pool: redis.ConnectionPool, keys: Keys, options: LeaseOptions) -> None:
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        self.pid = os.getpid()
        self.options = options
        self.on_lost: list[Callable[[Sequence[str]], None]] = []
        """Called with delivery tags whose lease is somebody else's now. From any thread."""
        self.on_refused: list[Callable[[Sequence[str]], None]] = []
        """Called with delivery tags of which an ack changed nothing, for that reason. From any thread."""
        self.on_renewed: list[Callable[[], None]] = []
        """Called when all leases were renewed. From any thread."""
        self.renewed_at = time.monotonic()
        """No lease of this book ends before this plus the lease time."""
        self.client: Any = redis.Redis(connection_pool=pool)
        self.keys = keys
        self.book_keys = keys.lease_book()
        self.before_return: list[Callable[[], None]] = []
        """Called when the channel closes, before it gives back what has not begun. In the consumer's thread."""
        self.pool_forgets = False
        """The worker's pool drops what it has not begun when the connection is lost, as Celery's prefork does."""
        self._lock = threading.Lock()
        self._held: dict[str, Lease] = {}
        self._settlements = Settlements()
        self._telling = 0
        """Calls under way."""
        self._handing: set[str] = set()
        """Delivery tags whose lease a script may be ending just now."""

    # Book

    def add(self, tag: str, token: str) -> Lease:
        """Note a lease that the claim script has written."""
        fence = token.rpartition(":")[2]
        lease = Lease(f"{fence}:{tag}", tag, token)
        with self._lock:
            self._held[lease.delivery_tag] = lease
        return lease

    def get(self, delivery_tag: str) -> Lease | None:
        """None where it was never held here, or is settled or lost."""
        return self._held.get(delivery_tag)

    def held(self) -> list[Lease]:
        """Oldest first."""
        with self._lock:
            return list(self._held.values())

    def take_unbegun(self) -> list[Lease]:
        """What has not begun, to be given back since its consumer is gone; oldest first.

        What a pool has it will run, whatever becomes of the connection, unless it is one that forgets. A child of such
        a pool may run a message all the same that it could not tell the begin of, so that counts as begun, and the next
        run asks first whether this one completed it.
        """
        waiting = [
            lease
            for lease in self.held()
            if not lease.has_begun and (self.pool_forgets or not lease.with_pool)
        ]
        for lease in waiting:
            if lease.with_pool:
                self.note_begun(lease.delivery_tag)
        return waiting

    def _take(self, delivery_tag: str) -> Lease | None:
        with self._lock:
            return self._held.pop(delivery_tag, None)

    @property
    def idle(self) -> bool:
        """Nothing held, nothing left to tell."""
        return not self._held and not self._settlements and not self._telling

    @property
    def has_settlements(self) -> bool:
        """Whether something is left to tell."""
        return bool(self._settlements)

    # Settling

    def note_begun(self, delivery_tag: str) -> None:
        """A run begins: from now on it counts."""
        if (lease := self.get(delivery_tag)) is not None and not lease.has_begun:
            lease.has_begun = True
            with self._lock:
                self._settlements.begin(lease)

    def note_ended(self, delivery_tag: str) -> None:
        """The run ended without settling its message: no begun run counts any more."""
        if (lease := self.get(delivery_tag)) is not None:
            with self._lock:
                self._settlements.ended.append(lease)

    def note_in_vain(self, delivery_tag: str) -> None:
        """The run that has begun is no attempt: it does not count. Another one may begin under the same lease."""
        if (lease := self.get(delivery_tag)) is not None and lease.has_begun:
            lease.has_begun = False
            with self._lock:
                self._settlements.take_back(lease)

    def note_ack(self, delivery_tag: str) -> bool:
        """The message is done with. False: no lease of ours, which was reported when it was lost."""
        if (lease := self._take(delivery_tag)) is None:
            return False
        with self._lock:
            self._settlements.acked.append(lease)
        return True

    def forget_begun(self, lease: Lease) -> bool:
        """A script that ends the lease tells all of it. Whether Redis counts a begun run that this takes back."""
        with self._lock:
            counted = lease.has_begun or lease in self._settlements.in_vain
            return not self._settlements.forget(lease) and counted

    def take_settlements(self) -> Settlements:
        """What is to be told, to be handed to `settled` or back to `untold`. Of what is acked, only that."""
        with self._lock:
            taken, self._settlements = self._settlements, Settlements()
            self._telling += bool(taken)
        return taken.shortened()

    def unsent(self, taken: Settlements) -> None:
        """`taken` was not done: it is told again."""
        with self._lock:
            self._telling -= 1
            self._settlements = taken.followed_by(self._settlements)

    def untold(self, taken: Settlements) -> None:
        """The reply to `taken` was lost: it is told again, and what is refused then may have been done."""
        for lease in taken.all():
            lease.uncertain = True
        # A run that may be counted already is not counted twice, nor taken back twice.
        self.unsent(Settlements([], taken.ended, taken.acked))

    def settled(self, taken: Settlements, refused: Iterable[bytes | str]) -> None:
        """Redis has answered."""
        with self._lock:
            self._telling -= 1
        tags = {as_text(tag) for tag in refused}
        if not tags:
            return
        leases = [lease for lease in taken.all() if lease.tag in tags]
        for lease in leases:
            self._take(lease.delivery_tag)
        self._report(self.on_refused, [lease for lease in leases if not lease.uncertain], "settled too late")

    def flush(self) -> None:
        """Tell Redis now, and wait."""
        while taken := self.take_settlements():
            try:
                refused = script("settle")(self.client, self.book_keys, taken.arguments())
            except BaseException:
                self.untold(taken)
                raise
            self.settled(taken, refused)

    # Giving up a lease

    def give_back(self, leases: Sequence[Lease], *, push: str = FRONT) -> int:
        """Put messages back where they were taken from, as if they had never been. Returns how many were still held."""
        self.flush()
        back = 0
        # The front is filled from the last part on, so that the oldest message is the next one.
        starts = range(0, len(leases), TAGS_A_SCRIPT)
        for start in reversed(starts) if push == FRONT else starts:
            part = leases[start : start + TAGS_A_SCRIPT]
            args: list[Argument] = [push, self.options.poison_after, *pairs(part)]
            with self._giving_up(part):
                poisoned, refused = script("give_back")(self.client, self.book_keys, args)
            back += len(part) - len(refused)
            log_poison(poisoned)
        return back

    def move(self, delivery_tag: str, key: str, message: str, *, push: str) -> bool:
        """Put another version of a message on a list. False where it was not held any more."""
        if (lease := self.get(delivery_tag)) is None:
            return False
        args = [lease.tag, lease.token, push, message]
        with self._giving_up([lease]):
            return bool(script("move")(self.client, [*self.book_keys, key], args))

    def give_up(
        self, leases: Sequence[Lease], name: str, keys: Sequence[str], args: Sequence[Argument]
    ) -> Any:
        """Run a script that ends leases, and return its reply. Where it raises they are still on the book."""
        with self._giving_up(leases):
            return script(name)(self.client, keys, args)

    def keep(self, lease: Lease) -> None:
        """Back on the book: the script has left it held."""
        with self._lock:
            self._held[lease.delivery_tag] = lease

    def hand_over(self, lease: Lease, attempt: Callable[[], bool]) -> bool:
        """Call what may end the lease and says whether it did. Meanwhile a renewal does not take it for lost."""
        self._handing.add(lease.delivery_tag)
        try:
            if ended := attempt():
                self._take(lease.delivery_tag)
        finally:
            self._handing.discard(lease.delivery_tag)
        return ended

    def park(self, lease: Lease, reason: str, detail: str) -> None:
        """Keep a message that can't be delivered, with why."""
        with self._giving_up([lease]):
            parked = script("park")(self.client, self.book_keys, [lease.tag, lease.token, reason, detail])
        what = "is parked" if parked else "is not parked, its lease is lost"
        logger.error("message %s %s: %s: %s", lease.tag, what, reason, detail)

    def abandon(self, delivery_tag: str) -> None:
        """Its run was ended from outside: renew it no more, so that it is restored when its lease ends, uncounted."""
        self.note_ended(delivery_tag)
        self._take(delivery_tag)

    @contextmanager
    def _giving_up(self, leases: Sequence[Lease]) -> Iterator[None]:
        """Off the book before the script runs, or a renewal in another thread would take them for lost."""
        for lease in leases:
            self._take(lease.delivery_tag)
        try:
            yield
        except BaseException:
            with self._lock:
                self._held.update((lease.delivery_tag, lease) for lease in leases)
            raise

    # Keeping

    def renew(self) -> list[str]:
        """Extend every lease. Returns the delivery tags of those that are lost, after reporting them."""
        # Before it is sent: what the server counts from is later, and so is every claim that is not in the list yet.
        begun_at = time.monotonic()
        with self._lock:
            leases = [*self._held.values(), *self._settlements.acked]
        lost: list[Lease] = []
        for start in range(0, len(leases), TAGS_A_SCRIPT):
            part = leases[start : start + TAGS_A_SCRIPT]
            args: list[Argument] = [self.options.lease_s, *pairs(part)]
            gone = {as_text(token) for token in script("renew")(self.client, self.book_keys, args)}
            # What was settled while the script ran is gone for that reason.
            lost += [
                lease
                for lease in part
                if lease.token in gone
                and lease.delivery_tag not in self._handing
                and self._take(lease.delivery_tag)
            ]
        self._report(self.on_lost, lost, "lost")
        self.renewed_at = begun_at
        for callback in self.on_renewed:
            callback()
        return [lease.delivery_tag for lease in lost]

    def _report(
        self, callbacks: Iterable[Callable[[Sequence[str]], None]], leases: Sequence[Lease], what: str
    ) -> None:
        if not leases:
            return
        logger.warning("%d leases %s: %s", len(leases), what, ", ".join(lease.tag for lease in leases[:10]))
        for callback in callbacks:
            callback([lease.delivery_tag for lease in leases])


def log_poison(tags: Iterable[bytes | str]) -> None:
    """Say which messages were parked, since as many runs of them have begun as may, and none has ended."""
    for tag in tags:
        logger.error("message %s is parked as poison: its runs begin and never end", as_text(tag))
