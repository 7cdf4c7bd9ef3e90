"""Revokes that outlive whoever was told of them: kept in the broker's Redis, so a worker that was down honours them.

Celery tells living workers only, by publish and subscribe, which is at most once. Here the app's `control` and every
worker that is told write them down, and each worker reads them at its start and every few seconds.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import redis
from celery import bootsteps
from celery.worker import state
from celery.worker.consumer.tasks import Tasks
from kombu.exceptions import OperationalError

from celeray.scheduler.broker import broker_keys, broker_redis
from celeray.scheduler.keys import Keys
from celeray.scheduler.topology import BrokerKind
from celeray.scheduler.transport.scripts import Argument, script

logger = logging.getLogger(__name__)

REVOKE_TTL_S = 3 * 3600.0
"""As long as a worker remembers one (`CELERY_WORKER_REVOKE_EXPIRES` in celery/worker/state.py)."""
REVOKES_MAX = 100_000
"""About 10 MB of Redis. A worker remembers 50,000; the oldest are forgotten first."""
READ_EVERY_S = 5.0
OVERLAP_S = 30.0
"""Read again each time, since clocks of a master and its successor differ. Twice the same changes nothing."""

never_published: ContextVar[frozenset[str]] = ContextVar("celeray_never_published", default=frozenset())
"""Tasks whose revoke tells nobody, while Celery fails the body of a chord: no message of theirs was ever published, and
the chord may be opened again."""


@dataclass(frozen=True, slots=True)
class Revokes:
    """What was revoked since a time, oldest first."""

    task_ids: tuple[str, ...]
    stamps: tuple[tuple[str, Any], ...]
    """Pairs of header and stamp."""
    read_at: float
    """By the server's clock: where the next reading goes on."""


class RevokeBook:
    """The durable revokes of one broker. Thread-safe. Every method raises `redis.RedisError`."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client: Any = client
        self._keys = keys

    def add(
        self,
        task_ids: Iterable[str],
        stamps: Mapping[str, Any] | None = None,
        *,
        now: float | None = None,
    ) -> int:
        """Write revokes down. Again starts their time anew.

        Args:
            stamps: header by name, with one stamp or a list of them.
            now: seconds since the epoch. None: by the server's clock.

        Returns:
            Messages with a far eta that go back to their queues now, for a worker to end them.
        """
        ids, pairs = list(dict.fromkeys(task_ids)), list(_pairs(stamps or {}))
        if not ids and not pairs:
            return 0
        due, _, _, names, _ = self._keys.schedule()
        keys = [self._keys.revoked(), self._keys.revoked_stamps(), due, names]
        args: list[Argument] = ["" if now is None else now, REVOKE_TTL_S, REVOKES_MAX, len(ids), *ids, *pairs]
        return int(script("revoke")(self._client, keys, args))

    def read(self, since: float = 0.0) -> Revokes:
        """What was revoked since, and shortly before."""
        seconds, micros = self._client.time()
        now = seconds + micros / 1e6
        first = max(min(since, now) - OVERLAP_S, now - REVOKE_TTL_S)
        with self._client.pipeline(transaction=False) as pipe:
            pipe.zrangebyscore(self._keys.revoked(), first, "+inf")
            pipe.zrangebyscore(self._keys.revoked_stamps(), first, "+inf")
            ids, stamps = pipe.execute()
        pairs = (json.loads(item) for item in stamps)
        return Revokes(
            tuple(item.decode() for item in ids), tuple((name, stamp) for name, stamp in pairs), now
        )

    def trim(self, now: float) -> int:
        """Forget what is older than three hours at `now`, in seconds since the epoch. Returns how many."""
        with self._client.pipeline(transaction=False) as pipe:
            for key in (self._keys.revoked(), self._keys.revoked_stamps()):
                pipe.zremrangebyscore(key, "-inf", now - REVOKE_TTL_S)
            return sum(pipe.execute())


def _pairs(stamps: Mapping[str, Any]) -> Iterable[str]:
    for header, value in stamps.items():
        for stamp in value if isinstance(value, list | tuple | set | frozenset) else [value]:
            yield json.dumps([header, stamp])


def merge(revokes: Revokes) -> None:
    """Add revokes to what this worker knows. In the consumer's thread."""
    state.revoked.update([task_id for task_id in revokes.task_ids if task_id not in state.revoked])
    for header, stamp in revokes.stamps:
        known = state.revoked_stamps.get(header) or []
        known = known if isinstance(known, list) else [known]
        if stamp not in known:
            state.revoked_stamps[header] = [*known, stamp]


# Client side


class ControlMixin:
    """Goes before a `celery.app.control.Control`: writes revokes down before it tells the workers."""

    app: Any

    @cached_property
    def revokes(self) -> RevokeBook | None:
        """None: the broker is no Redis, and a revoke is Celery's alone."""
        if self.app.amqp.broker_kind is not BrokerKind.REDIS:
            return None
        return RevokeBook(broker_redis(self.app), broker_keys(self.app))

    def revoke(self, task_id: Any, *args: Any, **kwargs: Any) -> Any:
        """As Celery's.

        Raises:
            kombu.exceptions.OperationalError: the broker does not answer; nobody was told.
        """
        ids = _listed(task_id)
        if ids and never_published.get().issuperset(ids):
            return None
        self._write(ids, {})
        return super().revoke(task_id, *args, **kwargs)  # type: ignore[misc]

    def revoke_by_stamped_headers(self, headers: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As Celery's. Raises as `revoke`."""
        self._write([], headers)
        return super().revoke_by_stamped_headers(headers, *args, **kwargs)  # type: ignore[misc]

    def _write(self, task_ids: Sequence[str], stamps: Mapping[str, Any]) -> None:
        if self.revokes is None:
            return
        try:
            self.revokes.add(task_ids, stamps)
        except redis.RedisError as error:
            raise OperationalError(f"a revoke could not be written down: {error}") from error


@lru_cache(maxsize=16)
def control_class(base: Any) -> Any:
    """`base`, a subclass of `celery.app.control.Control`, with durable revokes."""
    return type(f"Celeray{base.__name__}", (ControlMixin, base), {"__doc__": base.__doc__})


def _listed(task_id: Any) -> list[str]:
    many = isinstance(task_id, list | tuple | set | frozenset)
    return [str(item) for item in (task_id if many else [task_id]) if item]


# Worker side


def write_down(app: Any, task_id: Any, stamps: Mapping[str, Any] | None = None) -> None:
    """A worker was told of a revoke, maybe by a client that knows nothing of celeray. Here it counts anyway."""
    book = getattr(app.control, "revokes", None)
    if book is None:
        return
    try:
        book.add(_listed(task_id), stamps)
    except redis.RedisError as error:
        logger.warning("a revoke is known to the workers that were told, but could not be kept: %r", error)


class HonourRevokes(bootsteps.StartStopStep):
    """Consumer step: reads revokes before the first message is taken, and what is newer every few seconds.

    The reading has a thread of its own, so that the event loop never waits for Redis.
    """

    requires = (Tasks,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._stopping = threading.Event()

    def start(self, consumer: Any) -> None:
        """Raises the broker's connection errors, after which Celery connects again."""
        book = getattr(consumer.app.control, "revokes", None)
        if book is None:
            return
        found = book.read()
        merge(found)
        self._stopping = stopping = threading.Event()
        read_on = partial(_read_on, book, consumer, found.read_at, stopping)
        threading.Thread(target=read_on, name="celeray-revokes", daemon=True).start()

    def stop(self, consumer: Any) -> None:
        del consumer
        self._stopping.set()


def _read_on(book: RevokeBook, consumer: Any, since: float, stopping: threading.Event) -> None:
    failing = False
    while not stopping.wait(READ_EVERY_S):
        try:
            found = book.read(since)
        except redis.RedisError as error:
            if not failing:
                logger.warning("revokes can't be read, trying on: %r", error)
            failing = True
            continue
        failing, since = False, found.read_at
        if found.task_ids or found.stamps:
            consumer.call_soon(merge, found)
