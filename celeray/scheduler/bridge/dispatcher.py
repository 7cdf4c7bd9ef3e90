"""The bridge's decisions: what waits is placed, what was placed begins, and what is not to go on is ended.

Everything here runs on the consumer thread; nothing blocks. `handle` takes one event of the cluster, `cycle` places
when something changed, `run_due` enforces time limits. The order within one wake-up is: events, then one cycle, so
that the task after an ended one begins in the same wake-up.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace

from celeray.scheduler.bridge.batching import RunTimes
from celeray.scheduler.bridge.cluster_events import ClusterEvents
from celeray.scheduler.bridge.deadlines import Deadline, Deadlines, Due
from celeray.scheduler.bridge.fleet import ExecutorLimits, Fleet
from celeray.scheduler.bridge.launching import Launcher
from celeray.scheduler.bridge.learner import Learner
from celeray.scheduler.bridge.operator_policy import policy_of_placement
from celeray.scheduler.bridge.out_of_memory import OutOfMemory
from celeray.scheduler.bridge.peaks import peak_of
from celeray.scheduler.bridge.preempting import Preemptions
from celeray.scheduler.bridge.recorder import Recorder
from celeray.scheduler.bridge.run import Run, RunPort
from celeray.scheduler.bridge.runs import Runs
from celeray.scheduler.bridge.tenant_books import TenantBooks
from celeray.scheduler.bridge.waiting import Shape
from celeray.scheduler.bridge.workload import Workload
from celeray.scheduler.clock import Clock
from celeray.scheduler.cluster import AppSpec, Cluster, ClusterEvent
from celeray.scheduler.fencing import Fence
from celeray.scheduler.learned.overview import policy_of
from celeray.scheduler.model import Reason, Reserved, Snapshot
from celeray.scheduler.placement import CycleInput, place
from celeray.scheduler.placement.preempting import URGENT
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
        self.policy = policy_of_placement(settings)
        self.window = settings.window
        """How many runs may be under way at once."""
        self.times = RunTimes(settings.batch_short_s)
        self.workload = Workload()
        self.books = TenantBooks(
            clock,
            half_life_s=settings.tenant_half_life_s,
            unknown_run_ms=self.policy.order.unknown_run_ms,
        )
        """What each tenant has used."""
        self.runs = Runs(clock, recorder, self.deadlines, self.policy.order, self.books)
        self.waiting, self.running = self.runs.waiting, self.runs.running
        self.never_since: dict[Shape, float] = {}
        """Since when a shape is known to fit nowhere, even on an idle cluster."""
        self.last_cycle: CycleInput | None = None
        self.stood_at: float | None = None
        """When the last cycle was, in monotonic seconds, if it changed nothing. None: it did, or there was none."""
        self.reserved: Reserved | None = None
        """Room that the last cycle kept for a task."""
        self.dirty = True
        """Something changed since the last cycle."""
        self.may_place = True
        """False as long as what is drained is not known."""
        self._cluster = cluster
        self._clock = clock
        self.learner = Learner(policy_of(settings))
        self._out_of_memory = OutOfMemory(
            self.runs, self.learner, self.policy, runs_most=settings.out_of_memory_runs_max
        )
        self._launcher = Launcher(
            cluster,
            self.fleet,
            self.runs,
            self.times,
            self._out_of_memory,
            batch_max=settings.batch_max_runs,
        )
        self._preemptions = Preemptions(self.fleet, self.runs)
        self.cluster = ClusterEvents(
            self.fleet,
            self.runs,
            self.times,
            self._launcher,
            self.learner,
            self._out_of_memory,
            self._preemptions,
        )

    def now(self) -> float:
        """Monotonic seconds of the bridge's clock."""
        return self._clock.monotonic()

    # From the pool

    def submit(self, run: Run) -> None:
        """Take a message. It begins in a later `cycle`."""
        self.waiting.add(run)
        self.workload.note(run.request)
        if run.task.tenant is not None:
            self.books.named = True
        self.dirty = True

    def recheck(self, run: Run) -> None:
        """Drop a run that waits and is not wanted any more."""
        if run.state is RunState.WAITING and not run.port.wanted():
            self.runs.discard(run)
            self.dirty = True

    def terminate(self, key: int, signum: int, *, deadly: bool) -> None:
        """End the begun run that `begun` named `key`, with its executor; where not `deadly`, only signal it.

        The other runs of its batch are placed again. A signal would reach whichever of them runs just now, so a
        batch gets none: it is over within a moment.
        """
        run = self.running.by_key(key)
        executor = self.fleet.executors.get(run.executor_id) if run else None
        if run is None or executor is None:
            return
        if deadly:
            self.runs.finish(run, TaskState.REVOKED, detail=f"terminated by signal {signum}")
            self.fleet.stop(executor, force=True)
        elif len(executor.run_ids) == 1:
            self._cluster.signal_executor(executor.executor_id, signum)
        else:
            logger.warning(
                "signal %d is not sent to %s: it runs in a batch of short tasks", signum, run.task_id
            )

    def lease_lost(self, run: Run) -> None:
        """The message of a run is somebody else's: end it at once, and tell nobody.

        A batch goes on, since the others in it may still be held; it is over within a moment, and the fence refuses
        what the lost run yields.
        """
        if run.state is RunState.ENDED:
            return
        executor = self.fleet.executors.get(run.executor_id)
        self.runs.lease_lost(run)
        self.dirty = True
        if executor is not None and executor.run_ids == [run.run_id]:
            self.fleet.stop(executor, force=True)

    def adopt(self, task_id: str, retries: int, port: RunPort, fence: Fence | None = None) -> Run | None:
        """The run of an earlier delivery of the same message, which then ends for `port` instead; None: there is none.

        A broker delivers again what was held on a lost connection, while the executor goes on with it. Under leases a
        message comes again only when that run's lease is lost, so the run is ended and none is adopted.

        Args:
            fence: of the later delivery.
        """
        run = self.running.by_task(task_id)
        if run is None or run.retries != retries:
            return None
        if fence is not None or run.fence is not None:
            if fence and run.fence and fence.message == run.fence.message:
                self.lease_lost(run)
            return None
        run.port.superseded()
        run.port = port
        if run.state is RunState.RUNNING and run.key is not None:
            port.begun(run.key, self._clock.monotonic())
        return run

    def close(self) -> None:
        """Begin nothing more, and give every message back whose task has not begun."""
        self.cluster.closed = True
        self.give_back_unbegun()
        for run in [run for run in self.waiting if run.stays]:
            self._out_of_memory.give_up(run)

    def give_back_unbegun(self, queues: Collection[str] | None = None) -> None:
        """Give every message back whose task has not begun. What the transport does not take is left to the broker.

        Args:
            queues: only of these. None: of all.
        """

        def meant(run: Run) -> bool:
            return queues is None or run.queue in queues

        for run in [run for run in self.running if run.state is RunState.RESERVED and meant(run)]:
            executor = self.fleet.executors.get(run.executor_id)
            self.runs.wait_again(run)
            if executor:
                executor.run_ids.clear()
                self.fleet.stop(executor, force=True)
        back = [run for run in self.waiting if meant(run) and not run.stays]
        try:
            self.runs.give_back_all(back)
        except Exception as error:  # noqa: BLE001 - a lost connection raises the transport's own kinds
            logger.debug("messages of %d tasks are left to the broker: %r", len(back), error)
            if queues is None:
                self.runs.forget(back)

    def handle(self, event: ClusterEvent) -> None:
        """Take one event of the cluster."""
        self.dirty = True
        self.cluster.handle(event)

    # Placement

    def cycle(self) -> None:
        """Place what waits, if anything changed since the last cycle."""
        if not self.dirty or self.cluster.closed or not self.may_place:
            return
        self.dirty, self.stood_at = False, None
        # A message that is acknowledged early is not held while it runs, so the transport does not bound these.
        room = self.window - len(self.running)
        if not len(self.waiting) or room <= 0:
            return
        now = self._clock.monotonic()
        snapshot = self.snapshot(now)
        self._out_of_memory.see(snapshot)
        urgent = URGENT if self.policy.order.preempt else None
        heads = self.waiting.heads(self._head_limits(snapshot, now), urgent=urgent)
        self.last_cycle = CycleInput(self.waiting.tasks(heads), snapshot, self.policy)
        decisions = place(self.last_cycle.waiting, snapshot, self.policy)
        self.reserved = decisions.reserved
        acts = decisions.placements or decisions.evictions or decisions.preemptions
        self.stood_at = None if acts else now
        self.waiting.overtaken(decisions.overtaken)
        for sequence, reason in decisions.waiting.items():
            self._mark(heads[sequence], reason, now)
        for executor_id in decisions.evictions:
            if executor := self.fleet.executors.get(executor_id):
                self.fleet.stop(executor)
        for preemption in decisions.preemptions:
            self._preemptions.carry_out(preemption, heads[preemption.sequence], decisions.evictions)
        placed = [(heads[placement.sequence], placement) for placement in decisions.placements]
        # One cycle preempts for one task; there may be another.
        if self._launcher.launch(placed[:room], now) or decisions.preemptions:
            self.dirty = True

    def snapshot(self, now: float) -> Snapshot:
        """What a cycle goes by. `now`: monotonic seconds."""
        used = self.books.usage(self.waiting.tenants())
        return replace(
            self.fleet.snapshot(now),
            reserved=self.reserved,
            preemptions=self._preemptions.pending(),
            tenants=used,
        )

    def _head_limits(self, snapshot: Snapshot, now: float) -> Callable[[Shape], int]:
        """How many of a shape could find a place in this cycle at the most, and one more to learn the reason."""
        starts = sum(node.starts_free for node in snapshot.nodes)
        executors = snapshot.executors
        ready = Counter(e.executor_class for e in executors if e.idle or e.starting)
        awaited = Counter(e.executor_class for e in executors if e.free_in_ms is not None)

        def limit(shape: Shape) -> int:
            if self.fleet.starts.blocked(shape[0], now):
                self.waiting.mark(shape, Reason.EXECUTOR_FAILED)
                return ready[shape[0]]
            return ready[shape[0]] + awaited[shape[0]] + starts + 1

        return limit

    def _mark(self, run: Run, reason: Reason, now: float) -> None:
        if reason is Reason.NEVER_FITS:
            self.never_since.setdefault(run.shape, now)
        else:
            self.never_since.pop(run.shape, None)
        if run.reason is not reason:
            self.waiting.mark(run.shape, reason)

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
        run.facts.peak = peak_of(executor)
        self.runs.finish(run, TaskState.TIMEOUT, detail=f"hard time limit of {seconds} s")
        if executor is not None:
            self.fleet.stop(executor, force=True)
        run.port.hard_limit(seconds)
