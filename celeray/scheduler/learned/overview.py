"""What was learned, beside what is asked, for REST, the command line and /metrics. Reads only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict

from celeray.scheduler.keys import Keys
from celeray.scheduler.learned.figures import LearnedPolicy, figure, need_of
from celeray.scheduler.learned.store import Kept, LearnedStore, Series
from celeray.scheduler.settings import Settings


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class ObservedVram(_Frozen):
    """What runs were seen to use at their peak, on each device. Never below the exact figure, at most 1.6 % above."""

    runs: int
    """Observations in the last one to two weeks: runs that succeeded and whose peak could be told."""
    p50_mib: int
    p95_mib: int
    max_mib: int


class LearnedTask(_Frozen):
    """One task name on one device model."""

    task: str
    gpu_type: str
    asked_mib: int | None
    """What the last of the runs asked for on each device. None: whole devices."""
    observed: ObservedVram
    learned_mib: int | None
    """What a request of `learned` gets on this model. None: too few runs yet."""
    seen_at: float
    """When a run was last observed, in seconds since the epoch."""


class LearnedList(_Frozen):
    """The answer of `/v1/learned`, by task name and device model."""

    tasks: tuple[LearnedTask, ...]


class LearnedReset(_Frozen):
    """What a reset forgot."""

    task: str
    gpu_types: tuple[str, ...]


def policy_of(settings: Settings) -> LearnedPolicy:
    """What the settings say of learned requests."""
    return LearnedPolicy(headroom_pct=settings.learned_headroom_pct, runs_min=settings.learned_runs_min)


def read_learned(client: Any, keys: Keys, settings: Settings, now: float) -> LearnedList:
    """What all bridges together have learned.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    kept = LearnedStore(client, keys).read(now)
    return LearnedList(tasks=tuple(_tasks(kept.items(), policy_of(settings))))


def reset_of(task: str, forgotten: Iterable[Series]) -> LearnedReset:
    """What `LearnedStore.reset` returned, to show."""
    return LearnedReset(task=task, gpu_types=tuple(sorted(series.gpu_type for series in forgotten)))


def _tasks(kept: Iterable[tuple[Series, Kept]], policy: LearnedPolicy) -> Iterable[LearnedTask]:
    for series, item in sorted(kept, key=lambda pair: pair[0]):
        summary, need = item.observed.summary, need_of(item.observed, policy)
        yield LearnedTask(
            task=series.task,
            gpu_type=series.gpu_type,
            asked_mib=item.observed.asked_mib,
            observed=ObservedVram(
                runs=summary.count,
                p50_mib=summary.p50_mib,
                p95_mib=summary.p95_mib,
                max_mib=summary.max_mib,
            ),
            learned_mib=None if need is None else figure(need),
            seen_at=item.seen_at,
        )
