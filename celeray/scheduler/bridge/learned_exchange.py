"""Takes what the bridge has noted to Redis, and brings back what all bridges have: on a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping

import redis

from celeray.scheduler.bridge.learner import Learner
from celeray.scheduler.learned.figures import Observed
from celeray.scheduler.learned.store import SERIES_MAX, Kept, LearnedStore, Noted, Series

logger = logging.getLogger(__name__)

BACKOFF_S = 5.0
"""After an error of Redis. What was noted meanwhile is kept."""


class LearnedExchange(threading.Thread):
    """Start it, `offer` to it, `stop` it."""

    def __init__(
        self, open_store: Callable[[], LearnedStore], learner: Learner, *, interval_s: float
    ) -> None:
        """
        Args:
            open_store: opens a store with a connection of its own; called once, by `start`.
            interval_s: how often it writes and reads.
        """
        super().__init__(name="celeray-learned", daemon=True)
        self._open_store = open_store
        self._learner = learner
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._unsaid: dict[Series, Noted] = {}
        self._kept: dict[Series, Kept] = {}
        self._stopping = threading.Event()
        self._store: LearnedStore | None = None
        self._failed = False

    def start(self) -> None:
        """Read once, so that the bridge's first messages find what others have learned, and then begin."""
        self._store = self._open_store()
        self.exchange_once(time.time())
        super().start()

    def offer(self, noted: Mapping[Series, Noted]) -> None:
        """Hand over what was noted since the last offer. Never blocks for IO."""
        if noted:
            with self._lock:
                _take_in(self._unsaid, noted)

    def stop(self, timeout_s: float = 2.0) -> None:
        """Write what was offered, and end; give up after `timeout_s` seconds."""
        self._stopping.set()
        if self.is_alive():
            self.join(timeout_s)

    def run(self) -> None:
        assert self._store is not None
        while not self._stopping.wait(BACKOFF_S if self._failed else self._interval_s):
            self.exchange_once(time.time())
        self.exchange_once(time.time())
        self._store.close()

    def exchange_once(self, now: float) -> None:
        """Write and read. What can't be written is kept for the next time. `now`: seconds since the epoch."""
        assert self._store is not None
        with self._lock:
            noted, self._unsaid = self._unsaid, {}
        try:
            self._store.add(noted, now)
            noted = {}
            self._kept = self._store.read(now, self._kept)
            self._learner.observed = _by_task(self._kept.items())
            self._failed = False
        except redis.RedisError as error:
            if not self._failed:
                logger.warning("learned VRAM is not exchanged, Redis does not take it: %s; retrying", error)
            self._failed = True
        except Exception:
            # A thread that ends here would keep for ever what was true once.
            logger.exception("learned VRAM is not exchanged")
            self._failed = True
        if noted:
            with self._lock:
                later, self._unsaid = self._unsaid, noted
                _take_in(self._unsaid, later)


def _take_in(total: dict[Series, Noted], noted: Mapping[Series, Noted]) -> None:
    for series, entry in noted.items():
        if series in total:
            total[series].add(entry)
        elif len(total) < SERIES_MAX:
            total[series] = entry


def _by_task(kept: Iterable[tuple[Series, Kept]]) -> dict[str, tuple[Observed, ...]]:
    found: dict[str, list[Observed]] = {}
    for series, item in kept:
        found.setdefault(series.task, []).append(item.observed)
    return {task: tuple(items) for task, items in found.items()}
