"""What the bridge makes of a message that Celery hands to its pool: a run, or the reason why there is none."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import count
from typing import Any

from celeray.scheduler.bridge.celery_port import CeleryPort
from celeray.scheduler.bridge.dispatcher import Dispatcher
from celeray.scheduler.bridge.executors import executor_class
from celeray.scheduler.bridge.recorder import Recorder
from celeray.scheduler.bridge.run import Run
from celeray.scheduler.bridge.waiting import LEVELS
from celeray.scheduler.errors import RequirementError
from celeray.scheduler.fencing import fence_of
from celeray.scheduler.message_class import read_class
from celeray.scheduler.model import WaitingTask
from celeray.scheduler.preempted import put_back_of
from celeray.scheduler.receiving import Received, receive
from celeray.scheduler.settings import Settings


class Intake:
    """Of one bridge. Numbers the runs in the order in which they come."""

    def __init__(
        self, dispatcher: Dispatcher, recorder: Recorder, settings: Settings, options: Mapping[str, Any]
    ) -> None:
        """
        Args:
            options: of the pool; `soft_timeout` and `timeout` are the worker's own time limits, in seconds.
        """
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._settings = settings
        self._options = options
        self._run_ids = count(1)

    def take(
        self, request: Any, port: CeleryPort, *, soft_limit_s: float | None, hard_limit_s: float | None
    ) -> Run | RequirementError:
        """Hand a new run to the dispatcher, or let the run of an earlier delivery go on for this one.

        Returns:
            The error, not raised, where the message's requirements can't be understood.
        """
        retries = request.request_dict.get("retries") or 0
        fence = fence_of(request.request_dict)
        redelivered = bool(request.delivery_info.get("redelivered"))
        if redelivered and (run := self._dispatcher.adopt(request.id, retries, port, fence)):
            return run
        received = receive(request, self._settings)
        if isinstance(received, RequirementError):
            return received
        run = self._run(request, received, port)
        run.retries, run.fence = retries, fence
        run.level = min(getattr(request.message, "level", 0), LEVELS - 1)
        run.message_class = read_class(request.message.headers)
        run.batchable = request.task.acks_late and not redelivered
        run.acknowledges_early = not request.task.acks_late
        self._note_preemption(run, request, received)
        run.soft_limit_s = soft_limit_s or self._options.get("soft_timeout")
        run.hard_limit_s = hard_limit_s or self._options.get("timeout")
        self._dispatcher.submit(run)
        return run

    def _note_preemption(self, run: Run, request: Any, received: Received) -> None:
        """Whether it may be put back: only under a lease, since its message tells of it, and never twice in a row."""
        run.facts.preempted = put_back_of(request.message.headers)
        run.preemptible = (
            self._settings.preemption
            and received.request.preemptible
            and run.fence is not None
            and not run.acknowledges_early
            and run.facts.preempted is None
        )

    def _run(self, request: Any, received: Received, port: CeleryPort) -> Run:
        number = next(self._run_ids)
        placed = self._dispatcher.learner.resolve(request.type, received.request)
        task = WaitingTask(
            task_id=request.id,
            executor_class=executor_class(request.type, placed),
            request=placed,
            priority=received.priority,
            sequence=number,
            arrived_ms=round(self._dispatcher.now() * 1000),
            expected_ms=received.request.expected_ms
            or self._dispatcher.times.expected.expected_ms(request.type),
            tenant=received.tenant,
        )
        facts = self._recorder.received(
            request.id, request.type, received.queue, received.priority, received.request, time.time()
        )
        facts.tenant = received.tenant
        return Run(
            run_id=number,
            name=request.type,
            queue=received.queue,
            task=task,
            port=port,
            facts=facts,
            recheck=self._dispatcher.recheck,
        )
