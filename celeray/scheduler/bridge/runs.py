"""The runs that the bridge holds: waiting, on an executor, and every step between. Tells the recorder of each step.

No decision is made here, and nothing of the cluster is known but the executor's id on a run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from celeray.scheduler.bridge.deadlines import Deadline, Deadlines, Due
from celeray.scheduler.bridge.executors import Executor
from celeray.scheduler.bridge.recorder import OOM, Begin, Recorder
from celeray.scheduler.bridge.run import Run
from celeray.scheduler.bridge.running import RunningRuns
from celeray.scheduler.bridge.tenant_books import TenantBooks
from celeray.scheduler.bridge.waiting import WaitingRuns
from celeray.scheduler.clock import Clock
from celeray.scheduler.model import ResourceRequest
from celeray.scheduler.placement.policy import Order
from celeray.scheduler.preempted import PutBack
from celeray.scheduler.states import RunState
from celeray.scheduler.status import TaskState

logger = logging.getLogger(__name__)

LEASE_LOST = "lease_lost"
"""Reason of a run that ended since its lease was lost."""


class Runs:
    """One value owns both books, so that a run is always in exactly one of them until it has ended."""

    def __init__(
        self,
        clock: Clock,
        recorder: Recorder,
        deadlines: Deadlines,
        order: Order | None = None,
        books: TenantBooks | None = None,
    ) -> None:
        self.waiting = WaitingRuns(order)
        self.running = RunningRuns()
        self.books = books or TenantBooks(clock)
        self._clock = clock
        self._recorder = recorder
        self._deadlines = deadlines

    # Waiting

    def give_back(self, run: Run) -> None:
        """Put a waiting run's message back on its queue. One that has no message any more waits on."""
        if run.stays:
            return
        self._leave_waiting(run)
        self._recorder.given_back(run.facts, self._clock.time())
        run.port.give_back()

    def give_back_all(self, runs: Sequence[Run]) -> None:
        """Put waiting runs' messages back on their queues, in their order.

        Raises:
            the transport's connection errors: the runs wait on.
        """
        if not runs:
            return
        first, *others = sorted(runs, key=lambda run: run.task.sequence)
        first.port.give_back_with([run.port for run in others])
        self.forget(runs)

    def resize(self, run: Run, request: ResourceRequest, executor_class: str) -> None:
        """A waiting run asks for something else from now on, since more was learned of its task."""
        self.waiting.remove(run)
        run.ask(request, executor_class)
        self.waiting.add(run)

    def comes_first(self, run: Run) -> None:
        """Others were ended for a waiting run: it comes before what is not so."""
        self.waiting.remove(run)
        run.task = replace(run.task, first=True)
        self.waiting.add(run)

    def forget(self, runs: Sequence[Run]) -> None:
        """Waiting runs are the broker's again, which could not be told."""
        for run in runs:
            self._leave_waiting(run)
            self._recorder.given_back(run.facts, self._clock.time())

    def refuse(self, run: Run, error: Exception, reason: str) -> None:
        """A waiting run fails without having begun."""
        self._leave_waiting(run)
        self._recorder.ended(
            run.facts, TaskState.REJECTED, self._clock.time(), reason=reason, detail=str(error)
        )
        run.port.refused(error)

    def discard(self, run: Run) -> None:
        """A waiting run was revoked or has expired; that was announced already."""
        self._leave_waiting(run)
        self._recorder.ended(run.facts, TaskState.REVOKED, self._clock.time())

    def _leave_waiting(self, run: Run) -> None:
        self.waiting.remove(run)
        run.move(RunState.ENDED)

    # On an executor

    def bind(self, run: Run, executor: Executor) -> None:
        """A waiting run is the executor's from now on."""
        self.waiting.remove(run)
        run.move(RunState.RESERVED)
        run.executor_id = executor.executor_id
        executor.run_ids.append(run.run_id)
        self.running.add(run)
        self.books.begin(run, executor)

    def begun(self, run: Run, executor: Executor, begin: Begin) -> None:
        """Its code runs now, or once those before it in its batch have ended."""
        now = self._clock.monotonic()
        key = self.running.begin(run, executor.pid)
        executor.runs += 1
        self._recorder.started(run.facts, begin, self._clock.time())
        for due, seconds in ((Due.SOFT_LIMIT, run.soft_limit_s), (Due.HARD_LIMIT, run.hard_limit_s)):
            if seconds:
                self._deadlines.add(now + seconds, Deadline(due, run.run_id, seconds))
        # Last: Celery may end the run from within, when it was revoked before it began.
        run.port.begun(key, now)

    def wait_again(self, run: Run, *, alone: bool = False) -> None:
        """It has not run, or not to an end that counts: it is no attempt, and waits for a place again.

        Args:
            alone: what happened to it is not known, so it goes into no batch any more.
        """
        if run.state is RunState.RUNNING:
            self._deadlines.forget(run.run_id)
            run.port.not_begun()
        self.running.remove(run)
        self.books.end(run)
        run.executor_id = run.key = run.ended_for = None
        run.alone = run.alone or alone
        run.move(RunState.WAITING)
        self._recorder.waits_again(run.facts)
        self.waiting.add(run)

    def is_to_end(self, run: Run, for_task: str) -> None:
        """Its executor is being killed for an urgent task. Until that is dead the run may still come back."""
        run.ended_for = for_task
        self._deadlines.forget(run.run_id)

    def put_back(self, run: Run) -> None:
        """It was ended for an urgent task, and its process is gone: its message is as if it had not been taken."""
        mark = PutBack(self._clock.time(), run.ended_for or "")
        self._release(run)
        self._recorder.put_back(run.facts, mark)
        run.port.not_begun()
        run.port.put_back(mark)

    def ran_out(
        self, run: Run, larger: ResourceRequest, executor_class: str, reserved_mib: int | None
    ) -> None:
        """Its GPU memory ran out: it waits for more.

        Args:
            reserved_mib: what it had on each device. None: not known.
        """
        self._recorder.ran_out(run.facts, larger, reserved_mib, self._clock.time())
        run.ran_out += 1
        run.ask(larger, executor_class)
        self.wait_again(run)

    def fail(self, run: Run, error: Exception) -> None:
        """The GPU memory of a run ran out, and it can't be placed again: the task fails with the error."""
        self._release(run)
        self._recorder.ended(run.facts, TaskState.FAILED, self._clock.time(), outcome=OOM, detail=str(error))
        run.port.refused(error)

    def came_back(self, run: Run, payload: bytes, seconds: float | None) -> TaskState:
        """Its trace function returned; returns what that means."""
        if run.state is RunState.RESERVED:
            # A fresh process whose start and end came in one go.
            run.move(RunState.RUNNING)
        self._release(run)
        state = run.port.came_back(payload)
        outcome = OOM if run.port.ran_out else None
        self._recorder.ended(run.facts, state, self._clock.time(), outcome=outcome, run_s=seconds)
        return state

    def lost(self, run: Run, executor_id: str, detail: str) -> None:
        """A begun run died with its executor."""
        self._release(run)
        state = run.port.lost(f"executor {executor_id}: {detail}")
        self._recorder.ended(run.facts, state, self._clock.time(), reason="executor_lost", detail=detail)

    def lease_lost(self, run: Run) -> None:
        """The message is, or may soon be, somebody else's. Nobody is told, and what is counted is a lost lease."""
        if run.state is RunState.WAITING:
            self._leave_waiting(run)
        else:
            self._release(run)
        self._recorder.ended(run.facts, TaskState.LOST, self._clock.time(), reason=LEASE_LOST)
        run.port.lease_lost()

    def finish(self, run: Run, state: TaskState, detail: str | None = None) -> None:
        """A begun run ends by order, not by itself."""
        self._release(run)
        self._recorder.ended(run.facts, state, self._clock.time(), detail=detail)

    def _release(self, run: Run) -> None:
        self.running.remove(run)
        self.books.end(run)
        self._deadlines.forget(run.run_id)
        run.move(RunState.ENDED)
