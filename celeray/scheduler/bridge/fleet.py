"""The executors of this bridge: started where the ledger has room, stopped, and given up when they are gone.

The only writer of the ledger. Knows nothing of runs but their number: the dispatcher tells what an executor runs,
and is told which runs an executor took along when it died.
"""

from __future__ import annotations

import logging
import sys
import uuid
from dataclasses import dataclass
from itertools import count

from celeray.scheduler.accounting import Reservation
from celeray.scheduler.bridge.deadlines import Deadline, Deadlines, Due
from celeray.scheduler.bridge.executors import Executor, ExecutorTable
from celeray.scheduler.bridge.peaks import note_device, note_use
from celeray.scheduler.bridge.starts import StartFailures
from celeray.scheduler.clock import Clock
from celeray.scheduler.cluster import (
    AppSpec,
    Cluster,
    EndCause,
    ExecutorEnded,
    ExecutorSpec,
    ExecutorStarted,
    Progress,
)
from celeray.scheduler.elastic.node_types import empty_nodes
from celeray.scheduler.ledger import Ledger
from celeray.scheduler.model import Isolation, NodeReading, Placement, Snapshot, WaitingTask
from celeray.scheduler.settings import Settings
from celeray.scheduler.states import ExecutorState

logger = logging.getLogger(__name__)

STOP_GRACE_S = 10.0
"""How long an executor may take to end by itself, Celery's shutdown signals included."""


@dataclass(frozen=True, slots=True)
class ExecutorLimits:
    """When an executor is replaced; None: never."""

    max_runs: int | None = None
    max_rss_mib: int | None = None


@dataclass(frozen=True, slots=True)
class LostRuns:
    """The runs that an executor took along."""

    run_ids: tuple[int, ...]
    executor_id: str
    detail: str
    progress: Progress | None = None
    batched: bool = False
    """They went out in one call with others."""
    told_to_end: bool = False
    """It died by order, so what ran is not to blame."""

    def had_not_begun(self, run_id: int) -> bool:
        """Whether it is known that the code of this member of a batch never ran."""
        known = self.progress
        if not self.batched or known is None:
            return False
        return run_id != known.running and run_id not in known.unstored

    def is_suspect(self, run_id: int) -> bool:
        """Whether this member of a batch may have run, and is not known to be what ended the executor."""
        if not self.batched:
            return False
        return self.told_to_end or self.progress is None or run_id != self.progress.running


class Fleet:
    """Executors and the ledger that holds their room."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        app: AppSpec,
        clock: Clock,
        deadlines: Deadlines,
        limits: ExecutorLimits,
    ) -> None:
        self.ledger = Ledger(
            headroom_mib=settings.vram_headroom_mib,
            reading_max_age_s=settings.reading_max_age_s,
            start_concurrency=settings.executor_start_concurrency,
            leak_after_s=settings.leak_after_s,
        )
        self.executors = ExecutorTable()
        self.starts = StartFailures()
        self._cluster = cluster
        self._settings = settings
        self._app = app
        self._clock = clock
        self._deadlines = deadlines
        self._limits = limits
        self._may_come = empty_nodes(settings.elastic, headroom_mib=settings.vram_headroom_mib)
        """A node of each type that Ray may add: what fits there is not said to fit never."""
        self._numbers = count(1)
        self._prefix = uuid.uuid4().hex[:6]

    def snapshot(self, now: float) -> Snapshot:
        """What placement sees."""
        nodes = self.ledger.nodes(now, self.executors.starting_nodes())
        executors = self.executors.views(now, self._settings.executor_min_stay)
        return Snapshot(nodes, executors, (*self.ledger.absent(now), *self._may_come))

    # Start and stop

    def start(self, task: WaitingTask, placement: Placement, now: float) -> Executor:
        """Reserve the placement's room and start an executor there."""
        request = task.request
        executor = Executor(
            executor_id=f"{self._prefix}-{next(self._numbers)}",
            executor_class=task.executor_class,
            node_id=placement.node_id,
            device_uuids=placement.device_uuids,
            memory_mib=placement.memory_mib,
            exclusive=request.exclusive,
            host_memory_mib=request.host_memory_mib,
            fresh=request.isolation is Isolation.FRESH,
            changed_at=now,
        )
        if executor.device_uuids:
            note_device(executor, self.ledger.account(executor.device_uuids[0], now), self._settings)
        self.ledger.reserve(
            Reservation(
                holder=executor.executor_id,
                node_id=executor.node_id,
                device_uuids=executor.device_uuids,
                memory_mib=executor.memory_mib,
                exclusive=executor.exclusive,
                host_memory_mib=executor.host_memory_mib,
            ),
            now,
        )
        self.ledger.book_cpus(executor.executor_id, executor.node_id, request.cpus_milli)
        self.executors.add(executor)
        self._cluster.start_executor(self._spec(executor, request.cpus_milli // 1000, now))
        return executor

    def _spec(self, executor: Executor, cpus: int, now: float) -> ExecutorSpec:
        return ExecutorSpec(
            executor_id=executor.executor_id,
            executor_class=executor.executor_class,
            node_id=executor.node_id,
            device_uuids=executor.device_uuids,
            share=self._share(executor, now),
            memory_mib=executor.memory_mib,
            app=self._app,
            cpus=cpus,
            fresh=executor.fresh,
            runtime_env=self._settings.runtime_env,
            limit_vram=self._settings.limit_vram and not executor.exclusive,
            peak_interval_s=self._settings.peak_interval_s,
        )

    def _share(self, executor: Executor, now: float) -> float:
        """Ray's fraction of the first device: a guard, cut to the four decimals that Ray keeps."""
        if not executor.device_uuids:
            return 0.0
        total = self.ledger.account(executor.device_uuids[0], now).reading.total_mib or 0
        if executor.exclusive or not total:
            return 1.0
        return max(1, min(10_000, executor.memory_mib * 10_000 // total)) / 10_000

    def stop(self, executor: Executor, *, force: bool = False) -> None:
        """Tell an executor to end, and kill it after a grace. It keeps its room until it is gone."""
        now = self._clock.monotonic()
        if executor.state is ExecutorState.RECLAIMING:
            return
        if executor.state is not ExecutorState.ENDING:
            executor.move(ExecutorState.ENDING, now)
            self.ledger.set_ending(executor.executor_id)
        self._cluster.stop_executor(executor.executor_id, force=force)
        self._deadlines.forget(executor.executor_id)
        # A kill may get lost with a node; it is repeated until the executor is gone.
        self._deadlines.add(now + STOP_GRACE_S, Deadline(Due.KILL, executor.executor_id))

    def kill_if_ending(self, executor_id: str) -> None:
        """The grace is over: an executor that still ends is killed."""
        executor = self.executors.get(executor_id)
        if executor is not None and executor.state is ExecutorState.ENDING:
            logger.warning("executor %s did not end within %.0f s: killed", executor_id, STOP_GRACE_S)
            self.stop(executor, force=True)

    def recycle(self) -> None:
        """Replace every executor: idle ones now, the others after what they run."""
        for executor in self.executors.alive():
            if executor.state is ExecutorState.IDLE:
                self.stop(executor)
            else:
                executor.recycle = True

    # What an executor does

    def started(self, event: ExecutorStarted) -> None:
        """A warm executor is up and idle."""
        executor = self.executors.get(event.executor_id)
        if executor is None or executor.state is not ExecutorState.STARTING:
            return
        self._set_pid(executor, event.pid)
        self.ledger.unbook_cpus(executor.executor_id)
        now = self._clock.monotonic()
        executor.up_at, executor.start_s = now, now - executor.changed_at
        executor.move(ExecutorState.IDLE, now)
        self.starts.succeeded(executor.executor_class)

    def fresh_started(self, executor: Executor, pid: int) -> None:
        """A fresh process has begun its task. It keeps the CPUs that it started with."""
        self._set_pid(executor, pid)
        executor.move(ExecutorState.BUSY, self._clock.monotonic())
        self.starts.succeeded(executor.executor_class)

    def _set_pid(self, executor: Executor, pid: int) -> None:
        executor.pid = pid
        self.ledger.set_pid(executor.executor_id, pid)

    def runs_left(self, executor: Executor) -> int:
        """How many runs the executor may still take before it is replaced."""
        return sys.maxsize if self._limits.max_runs is None else max(1, self._limits.max_runs - executor.runs)

    def take(self, executor: Executor, cpus_milli: int, expected_ms: int | None, now: float) -> None:
        """An idle executor gets tasks.

        Args:
            expected_ms: how long all of them are expected to take. None: not known.
        """
        executor.cpus_milli = cpus_milli
        executor.ends_at = None if expected_ms is None else now + expected_ms / 1000
        if cpus_milli:
            self.ledger.book_cpus(executor.executor_id, executor.node_id, cpus_milli)
        executor.move(ExecutorState.BUSY, now)

    def free(self, executor: Executor, rss_mib: int | None) -> None:
        """All that the executor had is over: idle again, or replaced where its limits say so."""
        self.ledger.unbook_cpus(executor.executor_id)
        if executor.state is not ExecutorState.BUSY or executor.fresh:
            return
        executor.move(ExecutorState.IDLE, self._clock.monotonic())
        spent = self._limits.max_runs is not None and executor.runs >= self._limits.max_runs
        fat = self._limits.max_rss_mib is not None and (rss_mib or 0) > self._limits.max_rss_mib
        if spent or fat or executor.recycle:
            self.stop(executor)

    # Ends

    def ended(self, event: ExecutorEnded) -> LostRuns | None:
        """The process is dead; its room comes back with the node's next reading. Returns the run that it had."""
        executor = self.executors.get(event.executor_id)
        if executor is None or executor.state is ExecutorState.RECLAIMING:
            return None
        if event.cause is EndCause.START_FAILED and executor.state is ExecutorState.STARTING:
            now = self._clock.monotonic()
            wait = self.starts.failed(executor.executor_class, now) - now
            logger.error(
                "no executor of %s starts, next try in %.0f s: %s",
                executor.executor_class,
                wait,
                event.detail,
            )
        return self._gone(executor, event.detail, event.progress)

    def observe(self, reading: NodeReading) -> None:
        """Take a reading, and forget the executors whose room it gives back."""
        note_use(self.executors, reading)
        for holder in self.ledger.observe(reading):
            self.executors.drop(holder)

    def lose_node(self, node_id: str) -> list[LostRuns]:
        """A node is gone with everything on it."""
        holders = self.ledger.forget_node(node_id, self._clock.monotonic())
        return self._lose(holders, f"node {node_id} is gone")

    def lose_all(self, detail: str) -> list[LostRuns]:
        """The cluster is gone; readings of the next one start from nothing."""
        self.ledger.clear(self._clock.monotonic())
        return self._lose(tuple(executor.executor_id for executor in self.executors), detail)

    def _lose(self, executor_ids: tuple[str, ...], detail: str) -> list[LostRuns]:
        lost = []
        for executor_id in executor_ids:
            executor = self.executors.get(executor_id)
            if executor is not None and executor.state is not ExecutorState.RECLAIMING:
                lost.append(self._gone(executor, detail))
            self.executors.drop(executor_id)
        return [run for run in lost if run is not None]

    def _gone(self, executor: Executor, detail: str, progress: Progress | None = None) -> LostRuns | None:
        now = self._clock.monotonic()
        told_to_end = executor.state is ExecutorState.ENDING
        run_ids, executor.run_ids = tuple(executor.run_ids), []
        executor.move(ExecutorState.RECLAIMING, now)
        self._deadlines.forget(executor.executor_id)
        self.ledger.end(executor.executor_id, now)
        if self.ledger.reservation(executor.executor_id) is None:
            self.executors.drop(executor.executor_id)
        else:
            self._cluster.read_node(executor.node_id)
        if not run_ids:
            return None
        detail = executor.fate or detail
        return LostRuns(run_ids, executor.executor_id, detail, progress, executor.call_size > 1, told_to_end)
