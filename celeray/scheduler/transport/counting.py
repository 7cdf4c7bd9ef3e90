"""In every worker of an installed app, on the leased transport: what a run owes to the lease of its message.

The request carries the lease to where the task runs, the transport is told when a run begins, so that it counts, and
a run whose lease is lost is ended.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery import bootsteps
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.concurrency.solo import TaskPool as SoloPool
from celery.exceptions import Reject

from celeray.scheduler.fencing import LEASE
from celeray.scheduler.lost_leases import LostLeases, is_given_up, kill
from celeray.scheduler.transport.qos import QoS


class RunCounter:
    """Stands before a consumer's `on_task_request`."""

    def __init__(self, consumer: Any, *, runs_in_loop: bool) -> None:
        """
        Args:
            runs_in_loop: the event loop stands still while a task runs, so what is to be told is told before.
        """
        self._handle: Callable[[Any], Any] = consumer.on_task_request
        self._pool = consumer.pool
        self._runs_in_loop = runs_in_loop
        self._forgets = isinstance(consumer.pool, PreforkPool)
        self._lost = LostLeases(consumer)

    def __call__(self, request: Any) -> Any:
        qos = getattr(request.message.channel, "qos", None)
        if isinstance(qos, QoS):
            self._take_lease(request, qos)
            self._watch(request, qos)
        return self._handle(request)

    def _take_lease(self, request: Any, qos: QoS) -> None:
        tag = request.message.delivery_tag
        if qos.leases.get(tag) is not None:
            qos.leases.pool_forgets = self._forgets
            # The request's own copy, which is a part of what the task's process gets; the message stays as it is.
            request.delivery_info[LEASE] = tag
            self._lost.watch(request, qos.leases)

    def _watch(self, request: Any, qos: QoS) -> None:
        # On the request, since Celery takes its methods as the pool's callbacks; weakly, since it would hold itself.
        tag, made_by, weak, flushes = (
            request.message.delivery_tag,
            type(request),
            weakref.ref(request),
            self._runs_in_loop,
        )

        def on_accepted(pid: int, time_accepted: float) -> Any:
            request: Any = weak()
            if is_given_up(request):
                # It was with the pool already when its lease was lost.
                request.worker_pid = pid
                return kill(self._pool, request)
            qos.begun(tag)
            accepted = made_by.on_accepted(request, pid, time_accepted)
            if flushes:
                qos.flush()
            return accepted

        def execute_using_pool(pool: Any, **options: Any) -> Any:
            qos.handed_over(tag)
            return made_by.execute_using_pool(weak(), pool, **options)

        def on_failure(exc_info: Any, *args: Any, **kwargs: Any) -> Any:
            if is_given_up(weak()):
                return None
            error = exc_info.exception
            if isinstance(error.exc if isinstance(error, ExceptionWithTraceback) else error, Reject):
                qos.ended(tag)
            return made_by.on_failure(weak(), exc_info, *args, **kwargs)

        request.on_accepted, request.on_failure = on_accepted, on_failure
        if not getattr(self._pool, "runs_on_ray", False):
            # The bridge's pool keeps what waits itself, and gives it back itself.
            request.execute_using_pool = execute_using_pool


class CountRuns(bootsteps.Step):
    """Consumer step. Strategies take `on_task_request` when the consumer starts, which is after every step is made."""

    def create(self, parent: Any) -> None:
        parent.on_task_request = RunCounter(parent, runs_in_loop=isinstance(parent.pool, SoloPool))
