"""What the cluster tells, taken to the runs and executors that it concerns."""

from __future__ import annotations

import logging
from collections.abc import Collection

from celeray.scheduler.bridge.batching import RunTimes
from celeray.scheduler.bridge.executors import Executor
from celeray.scheduler.bridge.fleet import Fleet, LostRuns
from celeray.scheduler.bridge.launching import Launcher
from celeray.scheduler.bridge.learner import Learner
from celeray.scheduler.bridge.out_of_memory import OutOfMemory
from celeray.scheduler.bridge.peaks import peak_of
from celeray.scheduler.bridge.preempting import Preemptions
from celeray.scheduler.bridge.run import Run
from celeray.scheduler.bridge.runs import Runs
from celeray.scheduler.cluster import (
    ClusterDown,
    ClusterEvent,
    ClusterUp,
    EndCause,
    ExecutorEnded,
    ExecutorStarted,
    NodeLost,
    NodeRead,
    RunEnded,
    RunOutOfMemory,
    RunReturned,
    RunStarted,
)
from celeray.scheduler.model import NodeReading
from celeray.scheduler.states import RunState
from celeray.scheduler.status import TaskState

logger = logging.getLogger(__name__)


class ClusterEvents:
    """Belongs to the consumer thread."""

    def __init__(
        self,
        fleet: Fleet,
        runs: Runs,
        times: RunTimes,
        launcher: Launcher,
        learner: Learner,
        out_of_memory: OutOfMemory,
        preemptions: Preemptions,
    ) -> None:
        self.up = False
        self.address: str | None = None
        self.detail: str | None = "not connected yet"
        """Why it is not up."""
        self.closed = False
        """Nothing begins any more: what comes back goes back to its queue."""
        self.given_back: Collection[str] = frozenset()
        """Ids of nodes that are none of this bridge's any more: a reading that was under way then does not count."""
        self._fleet = fleet
        self._runs = runs
        self._times = times
        self._launcher = launcher
        self._learner = learner
        self._out_of_memory = out_of_memory
        self._preemptions = preemptions

    def handle(self, event: ClusterEvent) -> None:
        """Take one event."""
        match event:
            case RunEnded():
                self._on_run_ended(event)
            case RunStarted():
                self._on_run_started(event)
            case RunReturned() | RunOutOfMemory():
                self._on_run_returned(event)
            case ExecutorStarted():
                self._fleet.started(event)
            case ExecutorEnded():
                self._on_executor_ended(event)
            case NodeRead(reading):
                self._on_node_read(reading)
            case NodeLost(node_id):
                self._lose(*self._fleet.lose_node(node_id))
            case ClusterUp(address):
                self.up, self.address, self.detail = True, address, None
            case ClusterDown(detail):
                self._on_cluster_down(detail)
        self._preemptions.settle()

    def _on_node_read(self, reading: NodeReading) -> None:
        if reading.node_id not in self.given_back:
            self._fleet.observe(reading)

    def _on_run_ended(self, event: RunEnded) -> None:
        executor = self._fleet.executors.get(event.executor_id)
        peak = peak_of(executor, event)
        self._free(event.executor_id, event.run_id, event.rss_mib)
        run = self._runs.running.get(event.run_id)
        if run is None or run.executor_id != event.executor_id:
            return
        if event.seconds is not None:
            self._note_loading(run, executor, event.seconds)
            self._times.learn(run.task.executor_class, run.name, event.seconds)
        run.facts.peak = peak
        state = self._runs.came_back(run, event.payload, event.seconds)
        if run.port.ran_out:
            self._out_of_memory.failed(run, executor)
        elif peak is not None and executor is not None and state is TaskState.SUCCEEDED:
            self._learner.note(run, executor, peak)

    def _note_loading(self, run: Run, executor: Executor | None, seconds: float) -> None:
        """What the first run of an executor took beyond what such a run usually does counts as a part of its start."""
        expected_ms = self._times.expected.expected_ms(run.name)
        if executor is not None and executor.runs == 1 and expected_ms is not None:
            executor.start_s += max(0.0, seconds - expected_ms / 1000)

    def _on_run_returned(self, event: RunReturned | RunOutOfMemory) -> None:
        """It came to no end, and waits again: as it was, or for more memory."""
        executor = self._fleet.executors.get(event.executor_id)
        if isinstance(event, RunOutOfMemory) and executor is not None:
            # Once the rest of its batch is back, which comes with this.
            executor.recycle = True
        self._free(event.executor_id, event.run_id, None)
        run = self._runs.running.get(event.run_id)
        if run is None or run.executor_id != event.executor_id:
            return
        if isinstance(event, RunOutOfMemory):
            self._out_of_memory.ran_out(run, executor, event, closed=self.closed)
        else:
            self._runs.wait_again(run)
        if run.state is RunState.WAITING:
            self._give_back_if_closed(run)

    def _free(self, executor_id: str, run_id: int, rss_mib: int | None) -> None:
        executor = self._fleet.executors.get(executor_id)
        if executor is not None and run_id in executor.run_ids:
            executor.run_ids.remove(run_id)
            if not executor.run_ids:
                self._fleet.free(executor, rss_mib)

    def _on_run_started(self, event: RunStarted) -> None:
        executor = self._fleet.executors.get(event.executor_id)
        run = self._runs.running.get(event.run_id)
        if executor is None or run is None or run.state is not RunState.RESERVED:
            return
        self._fleet.fresh_started(executor, event.pid)
        self._runs.begun(run, executor, self._launcher.begin_of(executor))

    def _on_cluster_down(self, detail: str) -> None:
        if self.up:
            logger.error("cluster down: %s", detail)
        self.up, self.detail = False, detail
        self._lose(*self._fleet.lose_all(f"cluster down: {detail}"))

    def _on_executor_ended(self, event: ExecutorEnded) -> None:
        lost = self._fleet.ended(event)
        if event.cause is not EndCause.LEASE_LOST:
            self._lose(lost)
            return
        for run_id in lost.run_ids if lost else ():
            if (run := self._runs.running.get(run_id)) is not None:
                self._runs.lease_lost(run)

    def _lose(self, *lost: LostRuns | None) -> None:
        for entry in lost:
            for run_id in entry.run_ids if entry else ():
                run = self._runs.running.get(run_id)
                if entry is None or run is None:
                    continue
                try:
                    self._lose_run(run, entry)
                except Exception:
                    # The others that were lost with it must be told as well.
                    logger.exception("the loss of %s could not be told", run.task_id)

    def _lose_run(self, run: Run, lost: LostRuns) -> None:
        """The one that ran is lost, as Celery has it. A member of a batch that may have run runs alone from now on."""
        if run.ended_for is not None:
            self._preemptions.put_back(run, lost.executor_id)
            return
        if run.state is RunState.RESERVED or lost.had_not_begun(run.run_id):
            # Its code never ran, so this is no attempt.
            self._runs.wait_again(run)
        elif lost.is_suspect(run.run_id):
            self._runs.wait_again(run, alone=True)
        else:
            run.facts.peak = peak_of(self._fleet.executors.get(lost.executor_id))
            self._runs.lost(run, lost.executor_id, lost.detail)
            return
        self._give_back_if_closed(run)

    def _give_back_if_closed(self, run: Run) -> None:
        if self.closed and run.stays:
            self._out_of_memory.give_up(run)
        elif self.closed:
            self._runs.give_back(run)
