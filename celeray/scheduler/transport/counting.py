"""In every worker of an installed app: tells the transport when a run of a message begins, so that it counts."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery import bootsteps
from celery.concurrency.solo import TaskPool as SoloPool
from celery.exceptions import Reject

from celeray.scheduler.transport.qos import QoS


class RunCounter:
    """Stands before a consumer's `on_task_request`."""

    def __init__(self, handle: Callable[[Any], Any], *, runs_in_loop: bool) -> None:
        """
        Args:
            runs_in_loop: the event loop stands still while a task runs, so what is to be told is told before.
        """
        self._handle = handle
        self._runs_in_loop = runs_in_loop

    def __call__(self, request: Any) -> Any:
        qos = getattr(request.message.channel, "qos", None)
        if isinstance(qos, QoS):
            self._watch(request, qos)
        return self._handle(request)

    def _watch(self, request: Any, qos: QoS) -> None:
        # On the request, since Celery takes its methods as the pool's callbacks; weakly, since it would hold itself.
        tag, made_by, weak, flushes = (
            request.message.delivery_tag,
            type(request),
            weakref.ref(request),
            self._runs_in_loop,
        )

        def on_accepted(pid: int, time_accepted: float) -> Any:
            qos.begun(tag)
            accepted = made_by.on_accepted(weak(), pid, time_accepted)
            if flushes:
                qos.flush()
            return accepted

        def on_failure(exc_info: Any, *args: Any, **kwargs: Any) -> Any:
            error = exc_info.exception
            if isinstance(error.exc if isinstance(error, ExceptionWithTraceback) else error, Reject):
                qos.ended(tag)
            return made_by.on_failure(weak(), exc_info, *args, **kwargs)

        request.on_accepted, request.on_failure = on_accepted, on_failure


class CountRuns(bootsteps.Step):
    """Consumer step. Strategies take `on_task_request` when the consumer starts, which is after every step is made."""

    def create(self, parent: Any) -> None:
        parent.on_task_request = RunCounter(
            parent.on_task_request, runs_in_loop=isinstance(parent.pool, SoloPool)
        )
