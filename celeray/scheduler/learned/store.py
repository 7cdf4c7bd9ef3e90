"""Observations in the broker's Redis: any number of bridges add to them, and each reads what all have seen.

An observation counts for one to two periods of `PERIOD_S`: each period has a hash of its own for each task name and
device model, the newest two are read, and Redis lets the others expire. All writes are increments, so the order in
which bridges write does not count. A write whose reply was lost is repeated: a few observations then count twice, and
none is lost.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from celeray.scheduler.audit import AuditTrail, checked_by, checked_why
from celeray.scheduler.errors import NothingLearnedError
from celeray.scheduler.keys import Keys
from celeray.scheduler.learned.figures import Observed
from celeray.scheduler.learned.histogram import merged, summarize

PERIOD_S = 7 * 24 * 3600
SERIES_MAX = 1_000
"""Pairs of task name and device model that are kept, those seen last. About 1 MB of Redis at the most."""
ASKED, DEVICE = "asked", "device"
"""Fields of a hash beside its buckets, which are numbers: what the last run asked for, and what the device has."""


@dataclass(frozen=True, slots=True, order=True)
class Series:
    """What observations belong to."""

    task: str
    gpu_type: str

    @property
    def member(self) -> str:
        """As the index has it."""
        return json.dumps([self.task, self.gpu_type], ensure_ascii=False)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.member.encode()).hexdigest()[:16]


@dataclass(slots=True)
class Noted:
    """Observations of one series that are not in Redis yet."""

    counts: dict[int, int] = field(default_factory=dict)
    """By bucket."""
    asked_mib: int | None = None
    device_mib: int | None = None

    def add(self, later: Noted) -> None:
        """Take in what was noted after this."""
        self.counts = merged((self.counts, later.counts))
        self.asked_mib, self.device_mib = later.asked_mib, later.device_mib


@dataclass(frozen=True, slots=True)
class Kept:
    """A series as it was read."""

    seen_at: float
    """Seconds since the epoch, by the clock of the bridge that wrote last; another value means that it was written."""
    period: int
    """In which it was read; in a later one less of it counts."""
    observed: Observed


class LearnedStore:
    """Every method raises `redis.RedisError` when Redis does not answer."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        # Typed loosely: redis-py's own annotations are unions over both protocols and sync and async clients.
        self._client: Any = client
        self._keys = keys

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def add(self, noted: Mapping[Series, Noted], now: float) -> None:
        """Add observations, in one pipeline. `now`: seconds since the epoch, as everywhere here."""
        if not noted:
            return
        index = self._keys.learned()
        # Not a transaction: Redis goes on with others in between, and each command stands for itself.
        with self._client.pipeline(transaction=False) as pipe:
            for series, entry in noted.items():
                self._add_series(pipe, self._keys.learned_series(_period(now), series.digest), entry)
                pipe.zadd(index, {series.member: now})
            pipe.zremrangebyscore(index, "-inf", now - 2 * PERIOD_S)
            pipe.zremrangebyrank(index, 0, -SERIES_MAX - 1)
            pipe.execute()

    def read(self, now: float, known: Mapping[Series, Kept] | None = None) -> dict[Series, Kept]:
        """All series. Those that nobody has written since they were read in this period are taken from `known`."""
        listed = {
            Series(*json.loads(member)): float(score)
            for member, score in self._client.zrange(self._keys.learned(), 0, -1, withscores=True)
        }
        before = known or {}
        period = _period(now)
        found = {
            series: kept
            for series, seen_at in listed.items()
            if (kept := before.get(series)) and (kept.seen_at, kept.period) == (seen_at, period)
        }
        changed = [series for series in listed if series not in found]
        with self._client.pipeline(transaction=False) as pipe:
            for series in changed:
                for key in self._series_keys(series, now):
                    pipe.hgetall(key)
            replies = pipe.execute() if changed else []
        for place, series in enumerate(changed):
            observed = _observed(series.gpu_type, replies[2 * place], replies[2 * place + 1])
            if observed is not None:
                found[series] = Kept(listed[series], period, observed)
        return found

    def reset(
        self, task: str, *, by: str, why: str, now: float, gpu_type: str | None = None
    ) -> tuple[Series, ...]:
        """Forget what was learned of a task, with a record in the audit trail in the same transaction.

        What a bridge noted in the last half second may come after it.

        Args:
            gpu_type: of one device model only. None: of all.

        Returns:
            The series that are forgotten.

        Raises:
            NothingLearnedError: there is nothing to forget.
            OperatorInputError: `by` or `why` can't be kept.
        """
        by, why = checked_by(by), checked_why(why)
        members = self._client.zrange(self._keys.learned(), 0, -1)
        chosen = tuple(
            series
            for series in (Series(*json.loads(member)) for member in members)
            if series.task == task and gpu_type in (None, series.gpu_type)
        )
        if not chosen:
            raise NothingLearnedError(task, gpu_type)
        target = f"learned VRAM of {task}{'' if gpu_type is None else f' on {gpu_type}'}"
        with self._client.pipeline() as pipe:
            for series in chosen:
                pipe.delete(*self._series_keys(series, now))
                pipe.zrem(self._keys.learned(), series.member)
            AuditTrail(self._client, self._keys).add(
                pipe, at=now, by=by, action="reset-learned", target=target, why=why
            )
            pipe.execute()
        return chosen

    def _add_series(self, pipe: Any, key: str, entry: Noted) -> None:
        for bucket, count in entry.counts.items():
            pipe.hincrby(key, bucket, count)
        given = {ASKED: entry.asked_mib, DEVICE: entry.device_mib}
        if told := {name: mib for name, mib in given.items() if mib is not None}:
            pipe.hset(key, mapping=told)
        if gone := [name for name, mib in given.items() if mib is None]:
            pipe.hdel(key, *gone)
        pipe.expire(key, 2 * PERIOD_S)

    def _series_keys(self, series: Series, now: float) -> list[str]:
        """Of the period before and of this one."""
        period = _period(now)
        return [self._keys.learned_series(number, series.digest) for number in (period - 1, period)]


def _period(now: float) -> int:
    return int(now // PERIOD_S)


def _observed(gpu_type: str, before: Mapping[Any, Any], newest: Mapping[Any, Any]) -> Observed | None:
    """None: both hashes are gone, or hold no observation."""
    older, newer = _parsed(before), _parsed(newest)
    summary = summarize(merged(_buckets(fields) for fields in (older, newer)))
    if summary is None:
        return None
    last = newer or older
    return Observed(gpu_type, summary, last.get(ASKED), last.get(DEVICE))


def _parsed(fields: Mapping[Any, Any]) -> dict[str, int]:
    return {
        (name.decode() if isinstance(name, bytes) else name): int(value) for name, value in fields.items()
    }


def _buckets(fields: Mapping[str, int]) -> dict[int, int]:
    return {int(name): count for name, count in fields.items() if name.isdecimal() and count > 0}
