"""Tells other bridges what tenants have used in this one, and learns what they have used there: on a thread of its own.

While Redis is away the bridge goes on with what it knows, and tells it later.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import redis

from celeray.scheduler.bridge.tenant_books import SLICES_MOST, TenantBooks
from celeray.scheduler.tenant_store import TenantStore

logger = logging.getLogger(__name__)

EXCHANGE_EVERY_S = 2.0
BACKOFF_S = 5.0
"""After an error of Redis."""
NEWEST = 2
"""Slices that are read each time. The others, which only a bridge changes that was away, are read once a slice."""


class TenantExchange(threading.Thread):
    """Start it, `stop` it. As long as no message has named a tenant it does nothing."""

    def __init__(
        self,
        open_store: Callable[[], TenantStore],
        books: TenantBooks,
        *,
        interval_s: float = EXCHANGE_EVERY_S,
    ) -> None:
        """
        Args:
            open_store: opens a store with a connection of its own; called once, on the thread.
        """
        super().__init__(name="celeray-tenants", daemon=True)
        self._open_store = open_store
        self._books = books
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._store: TenantStore | None = None
        self._read_at: int | None = None
        """The slice in which all of them were read."""
        self._failed = False

    def stop(self, timeout_s: float = 2.0) -> None:
        """Tell what is not told yet, and end; give up after `timeout_s` seconds."""
        self._stopping.set()
        if self.is_alive():
            self.join(timeout_s)

    def run(self) -> None:
        while not self._stopping.wait(BACKOFF_S if self._failed else self._interval_s):
            self.exchange_once(time.time())
        self.exchange_once(time.time())
        if self._store is not None:
            self._store.close()

    def exchange_once(self, now: float) -> None:
        """Write and read. `now`: seconds since the epoch."""
        if not self._books.named:
            return
        try:
            self._exchange(now)
            self._failed = False
        except redis.RedisError as error:
            if not self._failed:
                logger.warning("use by tenants is not exchanged, Redis does not take it: %s; retrying", error)
            self._failed = True
        except Exception:
            # A thread that ends here would keep for ever what was true once.
            logger.exception("use by tenants is not exchanged")
            self._failed = True

    def _exchange(self, now: float) -> None:
        if self._store is None:
            self._store = self._open_store()
        self._store.add(self._books.take())
        self._books.told()
        current = int(now * 1000) // self._books.slice_ms
        count = NEWEST if current == self._read_at else SLICES_MOST
        self._books.heard(self._store.read(range(current - count + 1, current + 1)))
        self._read_at = current
