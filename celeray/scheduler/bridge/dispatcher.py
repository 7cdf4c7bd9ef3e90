"""The bridge's decisions carried out: what waits is placed, what was placed is begun, what ended is told.

Everything here runs on the consumer thread; nothing blocks. `handle` takes one event of the cluster, `cycle` places
when something changed, `run_due` enforces time limits. The order within one wake-up is: events, then one cycle, so
that the task after an ended one begins in the same wake-up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from celeray.scheduler.bridge.deadlines import Deadline, Deadlines, Due
from celeray.scheduler.bridge.executors import Executor
from celeray.scheduler.bridge.fleet import ExecutorLimits, Fleet, LostRun
from celeray.scheduler.bridge.recorder import Begin, Recorder
from celeray.scheduler.bridge.run import Run, RunPort
from celeray.scheduler.bridge.running import RunningRuns
from celeray.scheduler.bridge.waiting import Shape, WaitingRuns, tasks
from celeray.scheduler.clock import Clock
from celeray.scheduler.cluster import (
    AppSpec,
    Cluster,
    ClusterDown,
    ClusterEvent,
    ClusterUp,
    ExecutorEnded,
    ExecutorStarted,
    NodeLost,
    NodeRead,
    RunEnded,
    RunSpec,
    RunStarted,
)
from celeray.scheduler.errors import LedgerError
from celeray.scheduler.model import Isolation, Placement, Reason, Snapshot
from celeray.scheduler.placement import CycleInput, Policy, place
from celeray.scheduler.settings import Settings
from celeray.scheduler.states import RunState
from celeray.scheduler.status import TaskState

logger = logging.getLogger(__name__)


class Dispatcher:
    """Holds the runs, and decides by `place`."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        app: AppSpec,
        *,
        clock: Clock,
        recorder: Recorder,
        limits: ExecutorLimits | None = None,
    ) -> None:
        self.deadlines = Deadlines()
        self.fleet = Fleet(cluster, settings, app, clock, self.deadlines, limits or ExecutorLimits())
        self.policy = Policy(settings.vram_headroom_mib, settings.exclusive_foreign_mib)
        self.waiting = WaitingRuns()
        self.running = RunningRuns()
        self.never_since: dict[Shape, float] = {}
        """Since when a shape is known to fit nowhere, even on an idle cluster."""
        self.cluster_up = False
        self.cluster_address: str | None = None
        self.cluster_detail: str | None = "not connected yet"
        self.last_cycle: CycleInput | None = None
        self.dirty = True
        """Something changed since the last cycle."""
        self._cluster = cluster
        self._clock = clock
        self._recorder = recorder
        self._closed = False

    # From the pool

    def submit(self, run: Run) -> None:
        """Take a message. It begins in a later `cycle`."""
        self.waiting.add(run)
        self.dirty = True

    def recheck(self, run: Run) -> None:
        """Drop a run that waits and is not wanted any more."""
        if run.state is RunState.WAITING and not run.port.wanted():
            self._discard(run)

    def terminate(self, key: int, signum: int, *, deadly: bool) -> None:
        """End the begun run that `begun` named `key`, with its executor; where not `deadly`, only signal it."""
        run = self.running.by_key(key)
        executor = self.fleet.executors.get(run.executor_id) if run else None
        if run is None or executor is None:
            return
        if not deadly:
            self._cluster.signal_executor(executor.executor_id, signum)
            return
        self._finish(run, TaskState.REVOKED, detail=f"terminated by signal {signum}")
        self.fleet.stop(executor, force=True)

    def adopt(self, task_id: str, retries: int, port: RunPort) -> Run | None:
        """The run of an earlier delivery of the same message, which then ends for `port` instead; None: there is none.

        A broker delivers again what was held on a lost connection, while the executor goes on with it.
        """
        run = self.running.by_task(task_id)
        if run is None or run.retries != retries:
            return None
        run.port.superseded()
        run.port = port
        if run.state is RunState.RUNNING and run.key is not None:
            port.begun(run.key, self._clock.monotonic())
        return run

    def close(self) -> None:
        """Begin nothing more, and give every message back whose task has not begun."""
        self._closed = True
        self.give_back_unbegun()

    def give_back_unbegun(self) -> None:
        """Give every message back whose task has not begun. What the transport does not take is left to the broker."""
        for run in [run for run in self.running if run.state is RunState.RESERVED]:
            executor = self.fleet.executors.get(run.executor_id)
            self._wait_again(run)
            if executor:
                executor.run_id = None
                self.fleet.stop(executor, force=True)
        for run in self.waiting:
            try:
                self.give_back(run)
            except Exception as error:  # noqa: BLE001 - a lost connection raises the transport's own kinds
                logger.debug("message of %s is left to the broker: %r", run.task_id, error)

    def give_back(self, run: Run) -> None:
        """Put a waiting run's message back on its queue."""
        self.waiting.remove(run)
        run.move(RunState.ENDED)
        self._recorder.given_back(run.facts, self._clock.time())
        run.port.give_back()

    def refuse(self, run: Run, error: Exception, reason: str) -> None:
        """A waiting run fails without having begun."""
        self.waiting.remove(run)
        run.move(RunState.ENDED)
        self._recorder.ended(
            run.facts, TaskState.REJECTED, self._clock.time(), reason=reason, detail=str(error)
        )
        run.port.refused(error)

    # From the cluster

    def handle(self, event: ClusterEvent) -> None:
        """Take one event."""
        self.dirty = True
        match event:
            case RunEnded():
                self._on_run_ended(event)
            case RunStarted():
                self._on_run_started(event)
            case ExecutorStarted():
                self.fleet.started(event)
            case ExecutorEnded():
                self._lose(self.fleet.ended(event))
            case NodeRead(reading):
                self.fleet.observe(reading)
            case NodeLost(node_id):
                self._lose(*self.fleet.lose_node(node_id))
            case ClusterUp(address):
                self.cluster_up, self.cluster_address, self.cluster_detail = True, address, None
            case ClusterDown(detail):
                self._on_cluster_down(detail)

    def _on_run_ended(self, event: RunEnded) -> None:
        executor = self.fleet.executors.get(event.executor_id)
        if executor is not None and executor.run_id == event.run_id:
            self.fleet.free(executor, event.rss_mib)
        run = self.running.get(event.run_id)
        if run is None:
            return
        if run.state is RunState.RESERVED:
            # A fresh process whose start and end came in one go.
            run.move(RunState.RUNNING)
        self._release(run)
        state = run.port.came_back(event.payload)
        self._recorder.ended(run.facts, state, self._clock.time())

    def _on_run_started(self, event: RunStarted) -> None:
        executor = self.fleet.executors.get(event.executor_id)
        run = self.running.get(event.run_id)
        if executor is None or run is None or run.state is not RunState.RESERVED:
            return
        self.fleet.fresh_started(executor, event.pid)
        self._begun(run, executor)

    def _on_cluster_down(self, detail: str) -> None:
        if self.cluster_up:
            logger.error("cluster down: %s", detail)
        self.cluster_up, self.cluster_detail = False, detail
        self._lose(*self.fleet.lose_all(f"cluster down: {detail}"))

    def _lose(self, *lost: LostRun | None) -> None:
        for entry in lost:
            run = self.running.get(entry.run_id) if entry else None
            if entry is None or run is None:
                continue
            try:
                self._lose_run(run, entry)
            except Exception:
                # The others that were lost with it must be told as well.
                logger.exception("the loss of %s could not be told", run.task_id)

    def _lose_run(self, run: Run, lost: LostRun) -> None:
        if run.state is RunState.RESERVED:
            # Its code never ran, so this is no attempt.
            self._wait_again(run)
            return
        self._release(run)
        state = run.port.lost(f"executor {lost.executor_id}: {lost.detail}")
        self._recorder.ended(run.facts, state, self._clock.time(), reason="executor_lost", detail=lost.detail)

    # Placement

    def cycle(self) -> None:
        """Place what waits, if anything changed since the last cycle."""
        if not self.dirty or self._closed:
            return
        self.dirty = False
        if not len(self.waiting):
            return
        now = self._clock.monotonic()
        snapshot = self.fleet.snapshot(now)
        heads = self.waiting.heads(self._head_limits(snapshot, now))
        self.last_cycle = CycleInput(tasks(heads), snapshot, self.policy)
        decisions = place(self.last_cycle.waiting, snapshot, self.policy)
        for sequence, reason in decisions.waiting.items():
            self._mark(heads[sequence], reason, now)
        for executor_id in decisions.evictions:
            if executor := self.fleet.executors.get(executor_id):
                self.fleet.stop(executor)
        for placement in decisions.placements:
            self._try(heads[placement.sequence], placement, now)

    def _head_limits(self, snapshot: Snapshot, now: float) -> Callable[[Shape], int]:
        """How many of a shape could find a place in this cycle at the most, and one more to learn the reason."""
        starts = sum(node.starts_free for node in snapshot.nodes)
        ready: dict[str, int] = {}
        for executor in snapshot.executors:
            if executor.idle or executor.starting:
                ready[executor.executor_class] = ready.get(executor.executor_class, 0) + 1

        def limit(shape: Shape) -> int:
            possible = ready.get(shape[0], 0)
            if self.fleet.starts.blocked(shape[0], now):
                self.waiting.mark(shape, Reason.EXECUTOR_FAILED)
                return possible
            return possible + starts + 1

        return limit

    def _mark(self, run: Run, reason: Reason, now: float) -> None:
        if reason is Reason.NEVER_FITS:
            self.never_since.setdefault(run.shape, now)
        else:
            self.never_since.pop(run.shape, None)
        if run.reason is not reason:
            self.waiting.mark(run.shape, reason)

    def _try(self, run: Run, placement: Placement, now: float) -> None:
        """Carry out one placement; an error in it spares the others."""
        try:
            self._carry_out(run, placement, now)
        except Exception as error:
            logger.exception("the placement of %s failed", run.task_id)
            self.dirty = True
            if run.state is RunState.WAITING and not isinstance(error, LedgerError):
                self.refuse(run, error, "unplaceable")

    def _carry_out(self, run: Run, placement: Placement, now: float) -> None:
        if run.state is not RunState.WAITING:
            return
        if not run.port.wanted():
            self._discard(run)
            return
        executor = self.fleet.executors.get(placement.executor_id)
        if executor is None and run.request.isolation is Isolation.WARM:
            self.fleet.start(run.task, placement, now)
            return
        spec = self._spec(run)
        if executor is None:
            executor = self.fleet.start(run.task, placement, now)
            self._bind(run, executor)
            self._cluster.run(executor.executor_id, spec)
            return
        self.fleet.take(executor, run.request.cpus_milli, now)
        self._bind(run, executor)
        self._cluster.run(executor.executor_id, spec)
        self._begun(run, executor)

    def _spec(self, run: Run) -> RunSpec:
        return RunSpec(run.run_id, run.task_id, run.port.payload(), run.soft_limit_s)

    def _bind(self, run: Run, executor: Executor) -> None:
        self.waiting.remove(run)
        run.move(RunState.RESERVED)
        run.executor_id = executor.executor_id
        executor.run_id = run.run_id
        self.running.add(run)

    def _wait_again(self, run: Run) -> None:
        self.running.remove(run)
        run.executor_id = None
        run.move(RunState.WAITING)
        self._recorder.waits_again(run.facts)
        self.submit(run)

    def _begun(self, run: Run, executor: Executor) -> None:
        now = self._clock.monotonic()
        key = self.running.begin(run, executor.pid)
        begin = Begin(
            node_id=executor.node_id,
            node_name=self.fleet.ledger.node_name(executor.node_id),
            device_uuids=executor.device_uuids,
            executor_id=executor.executor_id,
            executor_class=executor.executor_class,
            warm=executor.runs > 0,
        )
        executor.runs += 1
        self._recorder.started(run.facts, begin, self._clock.time())
        for due, seconds in ((Due.SOFT_LIMIT, run.soft_limit_s), (Due.HARD_LIMIT, run.hard_limit_s)):
            if seconds:
                self.deadlines.add(now + seconds, Deadline(due, run.run_id, seconds))
        # Last: Celery may end the run from within, when it was revoked before it began.
        run.port.begun(key, now)

    # Ends

    def run_due(self) -> None:
        """Enforce the time limits that have passed, and end the executors that did not end by themselves."""
        for deadline in self.deadlines.pop_due(self._clock.monotonic()):
            self.dirty = True
            if isinstance(deadline.subject, str):
                self.fleet.kill_if_ending(deadline.subject)
            elif run := self.running.get(deadline.subject):
                self._limit_passed(run, deadline)

    def _limit_passed(self, run: Run, deadline: Deadline) -> None:
        if deadline.due is Due.SOFT_LIMIT:
            run.port.soft_limit(deadline.seconds)
        else:
            self._time_out(run, deadline.seconds)

    def _time_out(self, run: Run, seconds: float) -> None:
        executor = self.fleet.executors.get(run.executor_id)
        self._finish(run, TaskState.TIMEOUT, detail=f"hard time limit of {seconds} s")
        if executor is not None:
            self.fleet.stop(executor, force=True)
        run.port.hard_limit(seconds)

    def _release(self, run: Run) -> None:
        self.running.remove(run)
        self.deadlines.forget(run.run_id)
        run.move(RunState.ENDED)

    def _finish(self, run: Run, state: TaskState, detail: str | None = None) -> None:
        """A begun run ends by order, not by itself."""
        self._release(run)
        self._recorder.ended(run.facts, state, self._clock.time(), detail=detail)

    def _discard(self, run: Run) -> None:
        """A waiting run was revoked or has expired; that was announced already."""
        self.waiting.remove(run)
        run.move(RunState.ENDED)
        self._recorder.ended(run.facts, TaskState.REVOKED, self._clock.time())
        self.dirty = True
