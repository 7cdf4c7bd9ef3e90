"""Placements carried out: executors started, and waiting runs sent to executors, alone or in a batch."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from celeray.scheduler.bridge.batching import RunTimes, batch_length, fair_share
from celeray.scheduler.bridge.executors import Executor
from celeray.scheduler.bridge.fleet import Fleet
from celeray.scheduler.bridge.out_of_memory import OutOfMemory
from celeray.scheduler.bridge.recorder import Begin
from celeray.scheduler.bridge.run import Run
from celeray.scheduler.bridge.runs import Runs
from celeray.scheduler.cluster import Cluster, RunSpec
from celeray.scheduler.errors import LedgerError
from celeray.scheduler.model import Isolation, Placement
from celeray.scheduler.states import RunState

logger = logging.getLogger(__name__)


class Launcher:
    """Acts on what a cycle decided. An error in one placement, or in one run of a batch, spares the others."""

    def __init__(
        self,
        cluster: Cluster,
        fleet: Fleet,
        runs: Runs,
        times: RunTimes,
        out_of_memory: OutOfMemory,
        *,
        batch_max: int,
    ) -> None:
        """
        Args:
            batch_max: most runs in one call; 1: no batches.
        """
        self._cluster = cluster
        self._fleet = fleet
        self._runs = runs
        self._times = times
        self._out_of_memory = out_of_memory
        self._batch_max = batch_max

    def launch(self, placed: list[tuple[Run, Placement]], now: float) -> bool:
        """Carry all out, in order. Returns whether another cycle is needed, since something did not go as decided.

        A run for which an executor was to be started goes with a batch before it, and none is started then.
        """
        executors: dict[str, int] = {}
        heads: set[int] = set()
        for run, placement in placed:
            if placement.executor_id is not None:
                executors[run.task.executor_class] = executors.get(run.task.executor_class, 0) + 1
                heads.add(run.run_id)
        again = False
        for run, placement in placed:
            free = executors.get(run.task.executor_class, 0)
            again |= self._try(run, placement, now, heads, free)
            heads.discard(run.run_id)
            if placement.executor_id is not None:
                executors[run.task.executor_class] = free - 1
        return again

    def _try(self, run: Run, placement: Placement, now: float, heads: set[int], free: int) -> bool:
        try:
            return self._carry_out(run, placement, now, heads, free)
        except Exception as error:
            logger.exception("the placement of %s failed", run.task_id)
            if run.state is RunState.WAITING and not isinstance(error, LedgerError):
                self._runs.refuse(run, error, "unplaceable")
            return True

    def _carry_out(self, run: Run, placement: Placement, now: float, heads: set[int], free: int) -> bool:
        if run.state is not RunState.WAITING:
            return False
        executor = self._fleet.executors.get(placement.executor_id)
        if executor is None and run.request.isolation is Isolation.WARM:
            if self._unwanted(run):
                return True
            self._fleet.start(run.task, placement, now)
            return False
        chosen = [run] if executor is None else self._batch(run, executor, heads, free)
        self._out_of_memory.decide(chosen, placement)
        specs, unfit = self._specs(chosen)
        if not specs:
            return True
        if executor is None:
            executor = self._fleet.start(run.task, placement, now)
            executor.cpus_milli = run.request.cpus_milli
            if run.task.expected_ms is not None:
                executor.ends_at = now + run.task.expected_ms / 1000
        else:
            expected = [member.task.expected_ms for member, _ in specs]
            known = None if None in expected else sum(ms for ms in expected if ms is not None)
            # After its last run it takes no other, so nobody is to wait for it.
            executor.recycle = executor.recycle or self._fleet.runs_left(executor) <= len(specs)
            self._fleet.take(executor, run.request.cpus_milli, known, now)
        for member, _ in specs:
            self._runs.bind(member, executor)
        executor.call_size = len(specs)
        first = specs[0][0]
        # Put back, what ran out of GPU memory would begin anew with too little.
        executor.preemptible = first.preemptible and not first.ran_out and len(specs) == 1
        executor.priority = first.task.priority
        self._cluster.run(executor.executor_id, *(spec for _, spec in specs))
        if not executor.fresh:
            self._begin((member for member, _ in specs), executor)
        return unfit

    def _batch(self, head: Run, executor: Executor, heads: set[int], free: int) -> list[Run]:
        """The head and those behind it that go with it, in their order."""
        most = min(self._batch_max, self._fleet.runs_left(executor))
        if most <= 1 or self._mean(head) is None:
            return [head]
        behind = self._runs.waiting.behind(head, most, without=heads)
        most = min(most, 1 + fair_share(len(behind), free))
        candidates = [head, *behind]
        return candidates[: batch_length(map(self._mean, candidates), most, self._times.short_s)]

    def _mean(self, run: Run) -> float | None:
        return self._times.predicted(run.task.executor_class, run.name) if run.may_share_a_call else None

    def _unwanted(self, run: Run) -> bool:
        if run.port.wanted():
            return False
        self._runs.discard(run)
        return True

    def _specs(self, runs: Iterable[Run]) -> tuple[list[tuple[Run, RunSpec]], bool]:
        """What goes out of `runs`, and whether any does not: it is not wanted any more, or can't be handed over."""
        specs, unfit = [], False
        for run in runs:
            if self._unwanted(run):
                unfit = True
                continue
            try:
                payload, again = run.port.payload(), run.larger is not None
                specs.append((run, RunSpec(run.run_id, run.task_id, payload, run.soft_limit_s, again)))
            except Exception as error:
                logger.exception("%s can't be handed over", run.task_id)
                self._runs.refuse(run, error, "unplaceable")
                unfit = True
        return specs, unfit

    def _begin(self, runs: Iterable[Run], executor: Executor) -> None:
        begin = None
        for run in runs:
            # One value serves an executor's first run, and another one all later runs of the call.
            if begin is None or executor.runs == 1:
                begin = self.begin_of(executor)
            try:
                self._runs.begun(run, executor, begin)
            except Exception:
                # It is with the executor already, and so are those behind it.
                logger.exception("the begin of %s could not be told", run.task_id)

    def begin_of(self, executor: Executor) -> Begin:
        """Where the executor's next run begins."""
        return Begin(
            node_id=executor.node_id,
            node_name=self._fleet.ledger.node_name(executor.node_id),
            device_uuids=executor.device_uuids,
            executor_id=executor.executor_id,
            executor_class=executor.executor_class,
            warm=executor.runs > 0,
            reserved_mib=executor.memory_mib if executor.device_uuids else None,
        )
