"""Writes the bridge's status to Redis on a thread of its own, with a connection of its own.

The consumer thread offers a status, its next placement cycle and the runs that changed; the newest status and cycle
win, the runs are kept until they are written. While Redis is away the runs are kept up to a bound; then the oldest are
dropped and counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from redis import RedisError

from celeray.scheduler.bridge.recorder import TaskFacts
from celeray.scheduler.explanations.published import PublishedCycle, PublishedCycles
from celeray.scheduler.status import BridgeStatus
from celeray.scheduler.status_store import StatusStore

logger = logging.getLogger(__name__)

BACKLOG_LIMIT = 10_000
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0


class StatusPublisher(threading.Thread):
    """Start it, `offer` to it, `stop` it."""

    def __init__(self, open_store: Callable[[], StatusStore], *, backlog_limit: int = BACKLOG_LIMIT) -> None:
        """
        Args:
            open_store: called once, on the thread, to open a store with a connection of its own.
            backlog_limit: most runs that wait to be written.
        """
        super().__init__(name="celeray-status", daemon=True)
        self._open_store = open_store
        self._limit = backlog_limit
        self._condition = threading.Condition()
        self._status: BridgeStatus | None = None
        self._cycle: PublishedCycle | None = None
        self._backlog: deque[TaskFacts] = deque()
        self._dropped = 0
        self._stopping = False

    @property
    def dropped(self) -> int:
        """Runs that were never written."""
        return self._dropped

    def offer(
        self, status: BridgeStatus, facts: Iterable[TaskFacts], cycle: PublishedCycle | None = None
    ) -> None:
        """Hand over the newest status, and the runs that changed since the last offer. Never blocks for IO.

        Args:
            cycle: the newest placement cycle. None: none that is worth writing came since the last offer.
        """
        with self._condition:
            self._status = status
            self._cycle = cycle or self._cycle
            self._backlog.extend(facts)
            self._bound()
            self._condition.notify()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Write what was offered, take the bridge off the list, and end; give up after `timeout_s` seconds."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self.is_alive():
            self.join(timeout_s)

    def run(self) -> None:
        store = self._open_store()
        last: BridgeStatus | None = None
        failures = 0
        tidied = False
        while (offered := self._next(failures)) is not None:
            last, facts = offered
            try:
                self._write(store, last, facts)
                self._write_cycle(store)
                if not tidied:
                    store.forget_gone(last.written_at)
                    tidied = True
            except RedisError as error:
                failures += 1
                if failures == 1:
                    logger.warning("status is not written, Redis does not take it: %s; retrying", error)
            else:
                if failures:
                    logger.info("status is written again after %d failed attempts", failures)
                failures = 0
        if last is not None:
            _retire(store, last.bridge_id)
        store.close()

    def _next(self, failures: int) -> tuple[BridgeStatus, Sequence[TaskFacts]] | None:
        """The next status and runs to write, after the backoff; None when all is written or given up on stop."""
        pause = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (failures - 1)) if failures else 0.0
        resume_at = time.monotonic() + pause
        with self._condition:
            while not self._stopping and (self._status is None or time.monotonic() < resume_at):
                left = resume_at - time.monotonic()
                self._condition.wait(left if left > 0 and self._status is not None else None)
            if self._status is None or (self._stopping and failures):
                return None
            status, self._status = self._status, None
            facts = tuple(self._backlog)
            self._backlog.clear()
            return status.model_copy(update={"records_dropped": self._dropped}), facts

    def _write(self, store: StatusStore, status: BridgeStatus, facts: Sequence[TaskFacts]) -> None:
        try:
            store.publish(status, [item.stored(status.bridge_id, status.hostname) for item in facts])
        except RedisError:
            # Written or not, writing them again changes nothing.
            self._put_back(status, facts)
            raise

    def _write_cycle(self, store: StatusStore) -> None:
        """One that is not written is not kept: the next one says more."""
        with self._condition:
            cycle, self._cycle = self._cycle, None
        if cycle is not None:
            PublishedCycles(store.client, store.keys).write(cycle, store.bridge_ttl_ms)

    def _put_back(self, status: BridgeStatus, facts: Sequence[TaskFacts]) -> None:
        with self._condition:
            self._backlog.extendleft(reversed(facts))
            self._bound()
            self._status = self._status or status

    def _bound(self) -> None:
        while len(self._backlog) > self._limit:
            self._backlog.popleft()
            self._dropped += 1


def _retire(store: StatusStore, bridge_id: str) -> None:
    try:
        store.retire(bridge_id)
    except RedisError as error:
        logger.warning("bridge %s stays listed until its document expires: %s", bridge_id, error)
