"""What no event announces, looked after once a second: messages that expired, executors idle or starting for too long,
and requests that fit nowhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from celeray.scheduler.bridge.dispatcher import Dispatcher
from celeray.scheduler.bridge.executors import Executor, executor_class
from celeray.scheduler.bridge.waiting import Shape
from celeray.scheduler.errors import RequirementError
from celeray.scheduler.model import Basis, Reason, ResourceRequest
from celeray.scheduler.placement.scores import PRICED
from celeray.scheduler.settings import Settings
from celeray.scheduler.states import ExecutorState

logger = logging.getLogger(__name__)


class Upkeep:
    """One duty of the bridge: `run_once`."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        settings: Settings,
        refusal: Callable[[ResourceRequest], RequirementError | None],
    ) -> None:
        """
        Args:
            refusal: the error for a request that no node of any known bridge can hold; None where another one can.
        """
        self._dispatcher = dispatcher
        self._settings = settings
        self._refusal = refusal

    def run_once(self, now: float) -> None:
        """Do all of it. `now` is monotonic seconds."""
        for run in self._dispatcher.waiting:
            self._dispatcher.recheck(run)
        self._price()
        self._resize_waiting()
        self._end_unplaceable(now)
        for executor in self._dispatcher.fleet.executors.alive():
            age = now - executor.changed_at
            if executor.state is ExecutorState.STARTING and age > self._settings.executor_start_timeout_s:
                self._give_up_start(executor, now)
            elif executor.state is ExecutorState.IDLE and 0 < self._settings.executor_idle_timeout_s < age:
                self._dispatcher.fleet.stop(executor)
            elif self._dispatcher.learner.is_oversize(executor):
                self._replace(executor)
        # Readings grow old and backoffs end without an event.
        self._dispatcher.dirty = True

    def _price(self) -> None:
        """Let placement go by what usually comes, as far as that is known by now."""
        dispatcher = self._dispatcher
        if prior := dispatcher.workload.take():
            dispatcher.policy = replace(dispatcher.policy, prior=prior)
        if dispatcher.policy.name in PRICED and dispatcher.workload.is_due():
            readings = dispatcher.fleet.ledger.readings()
            totals = {
                device.total_mib for reading in readings for device in reading.devices if device.total_mib
            }
            headroom = dispatcher.policy.headroom_mib
            dispatcher.workload.begin({max(1, total - headroom) for total in totals})

    def _resize_waiting(self) -> None:
        """Give what waits the figure of now, or each executor of the old size would be replaced by its like.

        What ran out of memory waits for more, and that is not lowered.
        """
        runs, learner = self._dispatcher.runs, self._dispatcher.learner
        for (_, request, _), waiting in runs.waiting.shapes().items():
            for run in waiting if request.basis is Basis.LEARNED else ():
                wanted = learner.resolve(run.name, run.facts.request)
                if wanted != run.request and not run.ran_out:
                    runs.resize(run, wanted, executor_class(run.name, wanted))

    def _replace(self, executor: Executor) -> None:
        """End it now, or after what it runs: it reserves much more than its tasks were learned to need."""
        if executor.state is ExecutorState.IDLE:
            self._dispatcher.fleet.stop(executor)
        elif executor.state is ExecutorState.BUSY:
            executor.recycle = True

    def _give_up_start(self, executor: Executor, now: float) -> None:
        retry_at = self._dispatcher.fleet.starts.failed(executor.executor_class, now)
        logger.error(
            "executor %s of %s was not up after %.0f s: killed, next try in %.0f s",
            executor.executor_id,
            executor.executor_class,
            now - executor.changed_at,
            retry_at - now,
        )
        self._dispatcher.fleet.stop(executor, force=True)

    def _end_unplaceable(self, now: float) -> None:
        """A request that fits nowhere fails, or goes back where another bridge's nodes can hold it."""
        never, waiting = self._dispatcher.never_since, self._dispatcher.waiting
        for shape in [shape for shape in never if not waiting.of(shape)]:
            del never[shape]
        due: set[Shape] = (
            set()
            if self._settings.cluster_may_grow
            else {shape for shape, since in never.items() if now - since >= self._settings.never_fits_after_s}
        )
        if not due:
            return
        for shape, runs in waiting.shapes().items():
            if shape not in due:
                continue
            error = self._refusal(shape[1])
            for run in runs:
                if error is None:
                    self._dispatcher.runs.give_back(run)
                else:
                    self._dispatcher.runs.refuse(run, error, Reason.NEVER_FITS)
        for shape in due:
            self._dispatcher.never_since.pop(shape, None)
