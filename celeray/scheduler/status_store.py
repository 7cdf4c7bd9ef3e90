"""Reads and writes the status in the broker's Redis database. The bridge writes, the API and the CLI read."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import msgpack  # type: ignore[import-untyped]
import redis
from pydantic import ValidationError

from celeray.scheduler.counters import Counters
from celeray.scheduler.errors import CelerayError
from celeray.scheduler.keys import BROKER_PRIORITIES, Keys
from celeray.scheduler.metrics import BOUNDS
from celeray.scheduler.series import from_series, to_series
from celeray.scheduler.status import (
    UNFINISHED,
    BridgeStatus,
    BridgeSummary,
    StoredRecord,
    TaskRecord,
    TaskState,
)

BRIDGE_TTL_MIN_S = 10.0
BRIDGE_TTL_INTERVALS = 10
GONE_BRIDGE_S = 3_600
"""How long a bridge that stopped writing is still shown as down."""
BRIDGE_COUNTERS_TTL_S = 86_400
"""A bridge that was stopped for longer and then goes on counts its totals twice; a new bridge has a new id."""
ENDED_TASKS_MAX = 10_000
"""About 10 MB of Redis; a fast queue would fill it with an hour of records otherwise."""
OPEN_TASKS_TTL_S = 86_400
"""How long a task that a vanished bridge had open is still listed."""
RECORDS_A_SCRIPT = 500
"""Redis serves nobody else during a script: about 2 ms for so many."""
SCAN_PAGE = 200


class UnreadableStatusError(CelerayError):
    """A document in Redis is not what this version of celeray writes."""


class StatusStore:
    """All access to `celeray:` status keys. Thread-safe as far as the client is.

    Every method raises `redis.RedisError` when Redis does not answer.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        keys: Keys | None = None,
        interval_s: float = 0.5,
        result_ttl_s: int = 3600,
    ) -> None:
        """
        Args:
            client: of the broker's database.
            interval_s: how often a bridge publishes; its document lives ten times as long, at least 10 s.
            result_ttl_s: how long task records live.
        """
        # Typed loosely: redis-py's own annotations are unions over both protocols and sync and async clients.
        self._client: Any = client
        self.keys = keys or Keys()
        self.bridge_ttl_ms = int(1000 * max(BRIDGE_TTL_MIN_S, BRIDGE_TTL_INTERVALS * interval_s))
        self._result_ttl_s = result_ttl_s
        self._tasks_ttl_s = max(OPEN_TASKS_TTL_S, result_ttl_s)
        self._task_keys = [self.keys.tasks(), self.keys.open_tasks(), self.keys.ended_tasks()]
        self._write_records = client.register_script(_script("write_task_records"))
        self._add_counters = client.register_script(_script("add_counters"))
        self._last_series: tuple[str, Mapping[str, float]] = ("", {})

    @property
    def client(self) -> redis.Redis:
        """For others that keep state in the same database."""
        return self._client

    def ping(self) -> None:
        """Return if Redis answers."""
        self._client.ping()

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    # Writing

    def publish(self, bridge: BridgeStatus, records: Sequence[StoredRecord]) -> None:
        """Write a bridge's status, the records of runs that changed, and what its counters grew by.

        One pipeline; writing the same again changes nothing, so a caller may repeat it after an error.
        """
        keys, series = self.keys, to_series(bridge.counters)
        now = bridge.written_at
        limits = [now - self._result_ttl_s, ENDED_TASKS_MAX, now - OPEN_TASKS_TTL_S, self._tasks_ttl_s]
        with self._client.pipeline(transaction=False) as pipe:
            pipe.set(keys.bridge(bridge.bridge_id), bridge.model_dump_json(), px=self.bridge_ttl_ms)
            pipe.zadd(keys.bridges(), {bridge.bridge_id: bridge.written_at})
            pipe.hset(keys.bridge_names(), bridge.bridge_id, bridge.hostname)
            for start in range(0, len(records), RECORDS_A_SCRIPT):
                batch = msgpack.packb(records[start : start + RECORDS_A_SCRIPT])
                self._write_records(keys=self._task_keys, args=[batch, *limits], client=pipe)
            if grown := self._grown(bridge.bridge_id, series):
                counters = [keys.counters(), keys.bridge_counters(bridge.bridge_id)]
                self._add_counters(keys=counters, args=[BRIDGE_COUNTERS_TTL_S, *grown], client=pipe)
            pipe.execute()
        self._last_series = bridge.bridge_id, series

    def retire(self, bridge_id: str) -> None:
        """Take a bridge that ends as planned off the list; its counters stay in the sums."""
        self._forget([bridge_id])

    def forget_gone(self, now: float) -> None:
        """Take bridges off the list that have not written for an hour."""
        gone = self._client.zrangebyscore(self.keys.bridges(), "-inf", now - GONE_BRIDGE_S)
        self._forget([_text(item) for item in gone])

    # Reading

    def read_bridges(self) -> list[BridgeStatus]:
        """The newest status of every bridge that still writes, in the order of their names.

        Raises:
            UnreadableStatusError: a document is of an incompatible version.
        """
        ids = [_text(item) for item in self._client.zrange(self.keys.bridges(), 0, -1)]
        if not ids:
            return []
        documents = self._client.mget([self.keys.bridge(bridge_id) for bridge_id in ids])
        statuses = [_parse(BridgeStatus, document) for document in documents if document is not None]
        return sorted(statuses, key=lambda status: (status.hostname, status.bridge_id))

    def summaries(self, bridges: Sequence[BridgeStatus], now: float) -> list[BridgeSummary]:
        """One line a bridge: those of `bridges`, and those that stopped writing within the last hour.

        A bridge that was replaced by another one of the same name is not listed as gone.
        """
        up = [_summary(bridge, now) for bridge in bridges]
        known = {bridge.bridge_id for bridge in bridges}
        names = {bridge.hostname for bridge in bridges}
        listed = self._client.zrangebyscore(self.keys.bridges(), now - GONE_BRIDGE_S, "+inf", withscores=True)
        seen = {_text(bridge_id): score for bridge_id, score in listed}
        hostnames = self._client.hgetall(self.keys.bridge_names())
        gone: dict[str, BridgeSummary] = {}
        for raw_id, raw_name in hostnames.items():
            bridge_id, hostname = _text(raw_id), _text(raw_name)
            if bridge_id in seen and bridge_id not in known and hostname not in names:
                age_s = max(0.0, now - seen[bridge_id])
                gone[hostname] = BridgeSummary(bridge_id=bridge_id, hostname=hostname, up=False, age_s=age_s)
        return up + sorted(gone.values(), key=lambda item: item.hostname)

    def read_totals(self) -> Counters:
        """Counters summed over all bridges that ever were."""
        raw = self._client.hgetall(self.keys.counters())
        return from_series({_text(key): float(value) for key, value in raw.items()}, BOUNDS)

    def read_task(self, task_id: str) -> TaskRecord | None:
        """The record of a run in a bridge. None: no bridge had it lately."""
        document = self._client.hget(self.keys.tasks(), task_id)
        return None if document is None else _parse(TaskRecord, document)

    def recent_tasks(
        self,
        *,
        limit: int = 50,
        state: TaskState | None = None,
        queue: str | None = None,
        after: tuple[float, str] | None = None,
    ) -> list[TaskRecord]:
        """Records that changed last, newest first.

        Args:
            after: time of change and id of the last record of the page before.
        """
        found: list[TaskRecord] = []
        indexes = [self.keys.open_tasks()] if state is None or state in UNFINISHED else []
        indexes += [self.keys.ended_tasks()] if state not in UNFINISHED else []
        newest = [self._newest(index, after) for index in indexes]
        for record in heapq.merge(*newest, key=lambda item: (item.changed_at, item.task_id), reverse=True):
            if (state is None or record.state is state) and (queue is None or record.queue == queue):
                found.append(record)
                if len(found) >= limit:
                    break
        return found

    def ended_since(self, since: float) -> Iterator[TaskRecord]:
        """Records of runs that ended then or later, in seconds since the epoch, oldest first."""
        index = self.keys.ended_tasks()
        for start in range(0, ENDED_TASKS_MAX, SCAN_PAGE):
            page = self._client.zrangebyscore(index, since, "+inf", start=start, num=SCAN_PAGE)
            documents = self._client.hmget(self.keys.tasks(), page) if page else ()
            yield from (_parse(TaskRecord, item) for item in documents if item is not None)
            if len(page) < SCAN_PAGE:
                return

    def queue_depths(self, queues: Iterable[str]) -> dict[str, dict[int, int]]:
        """Messages on the broker by queue and API priority (1 to 10); empty lists are left out."""
        names = list(dict.fromkeys(queues))
        with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                for key in self.keys.queue_lists(name):
                    pipe.llen(key)
            lengths = iter(pipe.execute())
        depths: dict[str, dict[int, int]] = {}
        for name in names:
            by_priority = {10 - step: int(next(lengths)) for step in BROKER_PRIORITIES}
            depths[name] = {priority: count for priority, count in by_priority.items() if count}
        return depths

    def unacked(self) -> int:
        """Messages that a consumer has taken and not yet acknowledged."""
        return int(self._client.hlen(self.keys.unacked()))

    def dead_letters(self) -> int:
        """Messages that are parked."""
        return int(self._client.hlen(self.keys.parked()))

    # Parts

    def _grown(self, bridge_id: str, series: Mapping[str, float]) -> list[str]:
        """Pairs of series and total that changed since this store's last write for the bridge."""
        last_id, last = self._last_series
        before = last if last_id == bridge_id else {}
        return [
            text
            for key, total in series.items()
            if before.get(key) != total
            for text in (key, repr(float(total)))
        ]

    def _forget(self, bridge_ids: Sequence[str]) -> None:
        if not bridge_ids:
            return
        with self._client.pipeline() as pipe:
            pipe.delete(*(self.keys.bridge(bridge_id) for bridge_id in bridge_ids))
            pipe.delete(*(self.keys.bridge_cycle(bridge_id) for bridge_id in bridge_ids))
            pipe.zrem(self.keys.bridges(), *bridge_ids)
            pipe.hdel(self.keys.bridge_names(), *bridge_ids)
            pipe.execute()

    def _newest(self, index: str, after: tuple[float, str] | None) -> Iterator[TaskRecord]:
        """Records of one index: time of change, then id, both falling."""
        top = "+inf" if after is None else repr(after[0])
        for start in range(0, ENDED_TASKS_MAX, SCAN_PAGE):
            page = self._client.zrevrangebyscore(
                index, top, "-inf", start=start, num=SCAN_PAGE, withscores=True
            )
            ids = [_text(item) for item, score in page if after is None or (score, _text(item)) < after]
            if ids:
                documents = self._client.hmget(self.keys.tasks(), ids)
                yield from (_parse(TaskRecord, item) for item in documents if item is not None)
            if len(page) < SCAN_PAGE:
                return


def _summary(bridge: BridgeStatus, now: float) -> BridgeSummary:
    return BridgeSummary(
        bridge_id=bridge.bridge_id,
        hostname=bridge.hostname,
        up=True,
        version=bridge.version,
        pid=bridge.pid,
        cluster_up=bridge.cluster_up,
        cluster_address=bridge.cluster_address,
        cluster_detail=bridge.cluster_detail,
        age_s=max(0.0, now - bridge.written_at),
        waiting=bridge.waiting,
        running=bridge.running,
        window=bridge.window,
    )


def _script(name: str) -> str:
    return (files("celeray.scheduler") / "lua" / f"{name}.lua").read_text("utf-8")


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _parse(model: type[Any], document: bytes | str) -> Any:
    try:
        return model.model_validate_json(document)
    except ValidationError as error:
        raise UnreadableStatusError(
            f"a {model.__name__} in Redis can't be read by this version of celeray: {error}"
        ) from error
