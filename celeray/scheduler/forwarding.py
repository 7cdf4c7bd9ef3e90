"""In every worker of an installed app: gives a request its API priority, and moves on what this worker can't run.

The `priority` queue holds any task, and both the bridge and plain workers consume it. A plain worker moves on what
needs Ray, the bridge what does not, each to the queue where it belongs and at the highest priority.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import bootsteps

from celeray.scheduler import moving, priorities
from celeray.scheduler.errors import RequirementError
from celeray.scheduler.installed import settings_of
from celeray.scheduler.limits.step import LimitRuns
from celeray.scheduler.receiving import Received, priority_of, receive
from celeray.scheduler.settings import Settings

logger = logging.getLogger(__name__)


def runs_on_ray(pool: Any) -> bool:
    """Whether a worker's pool, or its class, is the bridge's."""
    return bool(getattr(pool, "runs_on_ray", False))


class Forwarder:
    """Stands before a consumer's `on_task_request`; called once a request, when its eta has come."""

    def __init__(self, settings: Settings, handle: Callable[[Any], Any], *, on_ray: bool) -> None:
        self._settings = settings
        self._handle = handle
        self._on_ray = on_ray
        self._warned: set[str] = set()
        """Tasks that were said to run without their device."""

    def __call__(self, request: Any) -> Any:
        # What retry(), replace() and inherited priority send again is what delivery_info says: so it says the API's.
        request.delivery_info["priority"] = priority_of(request)
        received = receive(request, self._settings)
        if isinstance(received, RequirementError):
            # The bridge's pool ends such a task by itself, in order with the others.
            return self._handle(request) if self._on_ray else _fail(request, received)
        if received.request.gpus and not self._on_ray and received.queue != self._settings.priority_queue:
            self._warn_of_no_device(request.name, received)
        if self._belongs_elsewhere(received):
            logger.info(
                "Task %s[%s] moved from %s to %s",
                request.name,
                request.id,
                received.queue,
                received.own_queue,
            )
            return moving.move(request, received.own_queue, priorities.MOST)
        return self._handle(request)

    def _warn_of_no_device(self, name: str, received: Received) -> None:
        """Once a task: somebody chose a plain worker's queue for it, and an explicit `queue=` always wins."""
        if name not in self._warned:
            self._warned.add(name)
            logger.warning(
                "Task %s asks for gpu=%d but came on queue %s: it runs on this worker without a device",
                name,
                received.request.gpus,
                received.queue,
            )

    def _belongs_elsewhere(self, received: Received) -> bool:
        if received.queue != self._settings.priority_queue:
            return False
        needs_ray = received.request.gpus > 0 or self._settings.is_gpu_queue(received.own_queue)
        return needs_ray != self._on_ray


def _fail(request: Any, error: RequirementError) -> None:
    if not request.task.acks_late:
        # With early acks on_failure counts on the pool to have done it.
        request.acknowledge()
    try:
        raise error
    except RequirementError:
        request.on_failure(ExceptionInfo())


class ForwardStep(bootsteps.Step):
    """Consumer step. Strategies take `on_task_request` when the consumer starts, which is after every step is made."""

    # What is moved on passes no gate here, so this stands before the limits.
    requires = (LimitRuns,)

    def create(self, parent: Any) -> None:
        parent.on_task_request = Forwarder(
            settings_of(parent.app), parent.on_task_request, on_ray=runs_on_ray(parent.pool)
        )
