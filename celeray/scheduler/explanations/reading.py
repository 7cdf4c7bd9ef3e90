"""Reads from Redis what the answers are made of. `celeray.api` and `celeray.cli` call it, so that both say the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from celeray.scheduler.capacity import read_capacity
from celeray.scheduler.errors import CelerayError, OperatorInputError, RequirementError
from celeray.scheduler.explanations.answers import DryRun, WaitingAnswer
from celeray.scheduler.explanations.dry_run import Asked, DryRunner, Queued, understood
from celeray.scheduler.explanations.published import PublishedCycles
from celeray.scheduler.explanations.verdicts import Picture
from celeray.scheduler.explanations.waiting import explain_waiting
from celeray.scheduler.pausing import read_paused
from celeray.scheduler.routing import TaskRouter
from celeray.scheduler.settings import Settings
from celeray.scheduler.status import BridgeStatus, TaskRecord
from celeray.scheduler.status_store import StatusStore

TASKS_MOST = 1_000
NAME_MAX = 500


class NothingPublishedError(CelerayError):
    """No bridge has published a placement cycle lately, so nothing is known of the cluster."""

    def __str__(self) -> str:
        return (
            "no bridge has published a placement cycle lately, so nothing can be said of the cluster; "
            "is `celeray bridge` running, and of this version?"
        )


class AskedRequest(BaseModel):
    """One request, as somebody would submit it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resource_requirements: dict[str, Any] | None = None
    queue: str | None = Field(default=None, min_length=1, max_length=NAME_MAX)
    """None: the one that it is routed to."""
    task: str | None = Field(default=None, min_length=1, max_length=NAME_MAX)
    """Full name, by which it may find a warm executor. What its code declares is not known here."""
    priority: int | None = None
    """1 to 10, 10 most urgent. None: 5."""


class DryRunBody(AskedRequest):
    """One request, or `tasks`: those of a batch."""

    tasks: tuple[AskedRequest, ...] | None = None

    def asked(self) -> tuple[AskedRequest, ...]:
        """The requests.

        Raises:
            OperatorInputError: both are given, or `tasks` is empty or too long.
        """
        if self.tasks is None:
            return (self,)
        given = [name for name in AskedRequest.model_fields if getattr(self, name) is not None]
        if given:
            raise OperatorInputError(given[0], repr(getattr(self, given[0])), "nothing beside tasks")
        if not 1 <= len(self.tasks) <= TASKS_MOST:
            raise OperatorInputError("tasks", f"{len(self.tasks)} requests", f"1 to {TASKS_MOST} requests")
        return self.tasks


def explain_task(
    store: StatusStore, bridges: Sequence[BridgeStatus], record: TaskRecord, now: float
) -> WaitingAnswer | None:
    """Why a task waits that a bridge holds. None: its bridge has published no cycle lately.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    pictures = _pictures(store, [bridge for bridge in bridges if bridge.bridge_id == record.bridge_id])
    return explain_waiting(record, pictures[0], now) if pictures else None


def dry_run(
    store: StatusStore,
    bridges: Sequence[BridgeStatus],
    settings: Settings,
    body: DryRunBody,
    now: float,
) -> DryRun:
    """What would become of the requests of a body.

    Raises:
        RequirementError, OperatorInputError: one of them can't be understood; names key, value and bound.
        NothingPublishedError: there is no bridge to ask.
        redis.RedisError: Redis does not answer.
    """
    asked = _understood(body, TaskRouter(settings))
    pictures = _pictures(store, bridges)
    if not pictures:
        raise NothingPublishedError
    queues = list(dict.fromkeys(one.queue for one in asked))
    depths, paused = store.queue_depths(queues), read_paused(store.client, store.keys)
    queued = {name: Queued(depths.get(name, {}), paused.get(name)) for name in queues}
    capacity = read_capacity(store.client, store.keys)
    runner = DryRunner(pictures, capacity, may_grow=settings.cluster_may_grow)
    ages = [picture.age_s(now) for picture in pictures]
    return DryRun(tasks=runner.answer(asked, queued), bridges=len(pictures), age_s=max(ages))


def _understood(body: DryRunBody, router: TaskRouter) -> list[Asked]:
    found = []
    for at, one in enumerate(body.asked()):
        try:
            found.append(understood(router, **one.model_dump(include=set(AskedRequest.model_fields))))
        except RequirementError as error:
            if body.tasks is None:
                raise
            raise RequirementError(f"tasks.{at}.{error.key}", error.value, error.bound) from error
    return found


def _pictures(store: StatusStore, bridges: Sequence[BridgeStatus]) -> list[Picture]:
    by_id = {bridge.bridge_id: bridge for bridge in bridges}
    found = PublishedCycles(store.client, store.keys).read(list(by_id))
    return [Picture(published, by_id[bridge_id]) for bridge_id, published in found.items()]
