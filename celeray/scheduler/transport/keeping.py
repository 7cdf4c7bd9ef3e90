"""The thread that keeps leases: renews them, tells what is left to tell, restores what others let expire.

It brings messages with a far eta back too, so that a team without a keeper gets its etas.

A thread of its own with connections of its own, since leases must be renewed while the event loop is busy.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import redis

from celeray.scheduler.transport.leases import LeaseBook
from celeray.scheduler.transport.scheduling import bring_back

logger = logging.getLogger(__name__)

RESTORE_EVERY_S = 5.0
"""Messages of a dead worker run again within one lease time plus this."""


class LeaseKeeper:
    """Runs from the first consumer or claim until it is stopped and every lease is settled."""

    def __init__(self, book: LeaseBook, restore: Callable[[], object]) -> None:
        """
        Args:
            restore: restores expired messages; called as long as the keeper is not stopped.
        """
        self._book = book
        self._restore = restore
        self.interval_s = min(book.options.lease_s / 3, RESTORE_EVERY_S)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start if it is not running. Safe to call again."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="celeray-leases", daemon=True)
            self._thread.start()

    def look_every(self, seconds: float) -> None:
        """Do rounds at least so often from the next one on."""
        self.interval_s = min(self.interval_s, seconds)

    def stop(self) -> None:
        """No more restoring; the thread ends when nothing is held any more."""
        self._stopping.set()

    def join(self, timeout_s: float) -> None:
        """Wait for its end."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        wake = threading.Event()
        while not (self._stopping.is_set() and self._book.idle):
            self.run_once()
            # While it is stopping its event is set, and leases are still to be renewed at the same pace.
            (wake if self._stopping.is_set() else self._stopping).wait(self.interval_s)
        self._book.client.connection_pool.disconnect(inuse_connections=False)

    def _return_unbegun(self) -> None:
        """Nobody will begin these any more. The channel gives them back when it closes, if the broker answers then."""
        if waiting := self._book.take_unbegun():
            self._book.give_back(waiting)

    def run_once(self) -> None:
        """One round. What fails is tried again in the next one."""
        try:
            self._book.renew()
            if self._stopping.is_set():
                self._book.flush()
                self._return_unbegun()
            else:
                self._restore()
                bring_back(self._book.client, self._book.keys)
        except (redis.RedisError, OSError) as error:
            if isinstance(error, redis.exceptions.ReadOnlyError):
                # A demoted master; the next connection may find the new one.
                self._book.client.connection_pool.disconnect(inuse_connections=False)
            if not self._failing:
                logger.warning("leases can't be renewed, trying on: %r", error)
            self._failing = True
        except Exception:
            logger.exception("a round of keeping leases failed")
        else:
            self._failing = False
