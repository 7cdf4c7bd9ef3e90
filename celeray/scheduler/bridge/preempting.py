"""Runs that are ended, and put back, so that an urgent task gets their room.

The order matters: the process is dead before its message goes back, or two runs of it could go on at once. So the
decision kills the executor, and its end, which the cluster tells once the process was seen dead, lets the message go
back. A run that comes back in between is done, and its message acknowledged: nothing is lost, and nothing runs twice.
"""

from __future__ import annotations

import logging

from celeray.scheduler.bridge.fleet import Fleet
from celeray.scheduler.bridge.run import Run
from celeray.scheduler.bridge.runs import Runs
from celeray.scheduler.model import Preemption
from celeray.scheduler.states import RunState

logger = logging.getLogger(__name__)


class Preemptions:
    """Of one bridge. Belongs to the consumer thread."""

    def __init__(self, fleet: Fleet, runs: Runs) -> None:
        self._fleet = fleet
        self._runs = runs
        self._made: dict[int, tuple[Run, Preemption, tuple[str, ...]]] = {}
        """Whose room is not back yet, by the urgent run's number, and the executors that have it."""
        self._dead: dict[str, list[Run]] = {}
        """Runs whose process is gone, by the urgent task, while others that end for it are not."""

    def pending(self) -> tuple[Preemption, ...]:
        """Those whose room comes back for a task that still waits for it."""
        self._made = {
            number: (urgent, made, ended)
            for number, (urgent, made, ended) in self._made.items()
            if urgent.state is RunState.WAITING and any(map(self._fleet.executors.get, ended))
        }
        return tuple(made for _, made, _ in self._made.values())

    def carry_out(self, decided: Preemption, urgent: Run, evictions: tuple[str, ...] = ()) -> None:
        """Kill the executors. What they run is put back when they are gone, and the urgent run comes first then.

        Args:
            evictions: idle executors that were told to end in the same cycle: they take longer to.
        """
        for executor_id in decided.executor_ids:
            executor = self._fleet.executors.get(executor_id)
            if executor is None:
                continue
            for run_id in executor.run_ids:
                if (run := self._runs.running.get(run_id)) is not None:
                    self._runs.is_to_end(run, urgent.task_id)
            executor.fate = f"ended for {urgent.task_id}"
            self._fleet.stop(executor, force=True)
        self._runs.comes_first(urgent)
        self._made[urgent.run_id] = (urgent, decided, (*decided.executor_ids, *evictions))

    def put_back(self, run: Run, executor_id: str) -> None:
        """The process of a run that was ended for an urgent one is gone."""
        assert run.ended_for is not None
        logger.info(
            "%s[%s] of priority %d is put back for the urgent %s: executor %s was ended",
            run.name,
            run.task_id,
            run.task.priority,
            run.ended_for,
            executor_id,
        )
        self._dead.setdefault(run.ended_for, []).append(run)

    def settle(self) -> None:
        """Put back what is dead, once nothing else ends for the same urgent task.

        Each goes to the front of its list, so the youngest goes first: then they stand there in their order.
        """
        for task_id, dead in list(self._dead.items()):
            if any(run.ended_for == task_id and run not in dead for run in self._runs.running):
                continue
            del self._dead[task_id]
            for run in sorted(dead, key=lambda run: -run.task.sequence):
                if run.state is RunState.ENDED:
                    continue
                try:
                    self._runs.put_back(run)
                except Exception:
                    # The others must go back as well.
                    logger.exception("%s could not be put back", run.task_id)
