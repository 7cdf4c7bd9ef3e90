"""One picture of the cluster for all requests of a moment, so that many readers cost Redis no more than one."""

from __future__ import annotations

import threading

from celeray.scheduler.clock import Clock, SystemClock
from celeray.scheduler.overview import Overview, read_overview
from celeray.scheduler.settings import Settings
from celeray.scheduler.status_store import StatusStore

MAX_AGE_S = 0.25


class Snapshots:
    """Thread-safe. Nothing is kept of a read that failed."""

    def __init__(self, store: StatusStore, settings: Settings, clock: Clock | None = None) -> None:
        self.store = store
        self.settings = settings
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._taken: tuple[float, Overview] | None = None

    def newest(self) -> Overview:
        """A picture at most a quarter of a second old.

        Raises:
            redis.RedisError: Redis does not answer.
        """
        with self._lock:
            now = self._clock.monotonic()
            if self._taken is None or now - self._taken[0] > MAX_AGE_S:
                self._taken = now, read_overview(self.store, self.settings, self._clock.time())
            return self._taken[1]

    def forget(self) -> None:
        """After a write, so that who wrote sees it."""
        with self._lock:
            self._taken = None
