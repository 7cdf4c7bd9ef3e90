"""A run whose GPU memory ran out is a wrong placement: it waits again, for more, and its executor is replaced.

Decided is before a run begins (`placement/larger.py`), since its executor must know whether to tell the task's failure:
the request that is decided on then is asked for afterwards, whatever the cluster has become. The message stays with
this bridge, under its lease, and its begin is taken back, so neither the task's retries nor the count of begun runs
that makes a poison know of it. Nothing of it outlives the bridge: a message that is delivered again, here or to
another bridge, asks what it asked at first.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from celeray.scheduler.bridge.executors import Executor, executor_class
from celeray.scheduler.bridge.learner import Learner
from celeray.scheduler.bridge.peaks import peak_of
from celeray.scheduler.bridge.recorder import OOM
from celeray.scheduler.bridge.run import Run
from celeray.scheduler.bridge.runs import Runs
from celeray.scheduler.cluster import RunOutOfMemory
from celeray.scheduler.errors import OutOfGpuMemoryError
from celeray.scheduler.model import NodeState, Placement, ResourceRequest, Snapshot
from celeray.scheduler.placement import Policy
from celeray.scheduler.placement.larger import Tries, idle_room_mib, largest_device_mib, place_again

logger = logging.getLogger(__name__)


class OutOfMemory:
    """Of one bridge. Belongs to the consumer thread."""

    def __init__(self, runs: Runs, learner: Learner, policy: Policy, *, runs_most: int) -> None:
        """
        Args:
            runs_most: of one message, the first included; 1: every out-of-memory is the task's failure.
        """
        self._runs = runs
        self._learner = learner
        self._policy = policy
        self._runs_most = runs_most
        self._nodes: Sequence[NodeState] = ()
        self._largest: dict[ResourceRequest, int | None] = {}
        """Of the nodes that were seen last."""

    def see(self, snapshot: Snapshot) -> None:
        """What the cluster has now, nodes that went away a short while ago included."""
        self._nodes = (*snapshot.nodes, *snapshot.absent)
        self._largest.clear()

    def decide(self, runs: Sequence[Run], placement: Placement) -> None:
        """Note on each run, all of one shape, what it asks for should its memory run out where it is placed."""
        decided: dict[int, ResourceRequest | None] = {}
        for run in runs:
            if run.ran_out not in decided:
                decided[run.ran_out] = self._larger(run, placement)
            run.larger = decided[run.ran_out]

    def ran_out(self, run: Run, executor: Executor | None, event: RunOutOfMemory, *, closed: bool) -> None:
        """The memory of a run that was to be placed again ran out: it waits for more.

        Args:
            closed: the bridge is, so what nobody else can run ends here.
        """
        if executor is not None:
            run.facts.peak = peak_of(executor)
            self._learner.note_out_of_memory(run, executor)
        if run.larger is None or (closed and run.acknowledges_early):
            self._runs.fail(run, OutOfGpuMemoryError(event.detail))
            return
        larger, had_mib = run.larger, executor.memory_mib if executor else None
        logger.info(
            "%s[%s] ran out of GPU memory with %s MiB reserved on %s, and waits for %s MiB (run %d of at most %d): %s",
            run.name,
            run.task_id,
            had_mib,
            ", ".join(executor.device_uuids) if executor else "an executor that is gone",
            larger.memory_mib,
            run.ran_out + 1,
            self._runs_most,
            event.detail,
        )
        self._runs.ran_out(run, larger, executor_class(run.name, larger), had_mib)

    def failed(self, run: Run, executor: Executor | None) -> None:
        """A run's failure was that its memory ran out, and it was the last one or wanted no other."""
        if executor is not None:
            self._learner.note_out_of_memory(run, executor)

    def give_up(self, run: Run) -> None:
        """The bridge ends, and a waiting run has no message that another bridge could be given."""
        error = OutOfGpuMemoryError(
            "GPU memory ran out, and the bridge ended before the task was placed again"
        )
        self._runs.refuse(run, error, OOM)

    def _larger(self, run: Run, placement: Placement) -> ResourceRequest | None:
        request = run.request
        if not request.gpus:
            return None
        if request not in self._largest:
            self._largest[request] = largest_device_mib(request, self._nodes, self._policy)
        return place_again(
            request,
            reserved_mib=self._reserved_mib(request, placement),
            largest_mib=self._largest[request],
            learned_mib=self._learner.peak_mib(run.name),
            tries=Tries(run.ran_out, self._runs_most),
        )

    def _reserved_mib(self, request: ResourceRequest, placement: Placement) -> int:
        if not request.exclusive:
            return placement.memory_mib
        # What a whole device happened to have left is not what it has.
        held = set(placement.device_uuids)
        rooms = [
            idle_room_mib(device, self._policy)
            for node in self._nodes
            for device in node.devices
            if device.uuid in held
        ]
        return max(placement.memory_mib, min(rooms, default=0))
