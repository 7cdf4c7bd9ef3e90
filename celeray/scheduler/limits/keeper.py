"""The thread that tells Redis which room has become free, and looks at the gates that are due.

A thread of its own, so that the event loop does not wait for Redis when a run ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import redis

from celeray.scheduler.limits.store import LimitStore, Room
from celeray.scheduler.transport.leases import LeaseBook

logger = logging.getLogger(__name__)

POLL_S = 1.0
"""Between two rounds: for gates that a dead worker would have looked at, and for room that was left silently."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A message of this worker that has passed gates."""

    delivery_tag: str
    book: LeaseBook
    rooms: tuple[Room, ...]

    @property
    def is_over(self) -> bool:
        """Its lease is settled, given back or lost."""
        return self.book.get(self.delivery_tag) is None


class LimitKeeper:
    """Thread-safe. Runs until it is stopped and nothing is held any more."""

    def __init__(self, poll_s: float = POLL_S, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            poll_s: at most so long between two rounds.
        """
        self._poll_s = poll_s
        self._clock = clock
        self._store: LimitStore | None = None
        self._holds: dict[str, Hold] = {}
        self._free: deque[Room] = deque()
        self._due_at = 0.0
        self._wake = threading.Event()
        self._stopping = False
        self._failing = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        """Of the thread's begin and end."""

    def start(self, store: LimitStore) -> None:
        """Work on this Redis from now on."""
        self._store, self._stopping = store, False
        self._due_at = self._clock()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="celeray-limits", daemon=True)
                self._thread.start()
        self._wake.set()

    def stop(self) -> None:
        """End when the last run has ended."""
        self._stopping = True
        self._wake.set()

    def hold(self, hold: Hold) -> None:
        """A message has passed."""
        self._holds[hold.delivery_tag] = hold

    def end(self, delivery_tag: str) -> None:
        """It is done with, in whatever way. Again changes nothing."""
        if (hold := self._holds.pop(delivery_tag, None)) is not None:
            self.free(hold.rooms)

    def free(self, rooms: tuple[Room, ...]) -> None:
        """Give room back."""
        self._free.extend(rooms)
        self._wake.set()

    def expect(self, due_s: float | None) -> None:
        """A gate is due in so many seconds. None: none is."""
        if due_s is not None and self._clock() + due_s < self._due_at:
            self._due_at = self._clock() + due_s
            self._wake.set()

    def _run(self) -> None:
        while not self._is_done():
            self._wake.wait(self.run_once())
            self._wake.clear()

    def _is_done(self) -> bool:
        with self._lock:
            done = self._stopping and not self._holds and not self._free
            if done:
                self._thread = None
            return done

    def run_once(self) -> float:
        """One round; returns seconds until the next. What fails is tried again then."""
        for hold in list(self._holds.values()):
            if hold.is_over:
                self.end(hold.delivery_tag)
        try:
            self._release()
            self._sweep()
        except (redis.RedisError, OSError) as error:
            if not self._failing:
                logger.warning("limits can't be kept up, trying on: %r", error)
            self._failing = True
            return self._poll_s
        except Exception:
            logger.exception("a round of keeping limits failed")
            return self._poll_s
        self._failing = False
        return min(self._poll_s, max(0.0, self._due_at - self._clock()))

    def _release(self) -> None:
        rooms = [self._free.popleft() for _ in range(len(self._free))]
        if not rooms or self._store is None:
            return
        try:
            due_s = self._store.release(rooms)
        except BaseException:
            self._free.extendleft(reversed(rooms))
            raise
        self.expect(due_s)

    def _sweep(self) -> None:
        if self._store is None or self._clock() < self._due_at:
            return
        self._due_at = self._clock() + self._poll_s
        self.expect(self._store.sweep().due_s)
