"""A warm executor for a task: its model is loaded. An idle one, where it begins at once, or a busy one soon."""

from __future__ import annotations

from dataclasses import dataclass

from celeray.scheduler.model import Placement, WaitingTask, WarmExecutor
from celeray.scheduler.placement.board import Board
from celeray.scheduler.placement.filters import executor_fits, node_matches, warm_device_fits
from celeray.scheduler.placement.rooms import Bools


@dataclass(frozen=True, slots=True)
class Warm:
    """An idle executor that can take the task."""

    place: int
    """In `Board.idle_of_class`."""
    placement: Placement


def find_warm(task: WaitingTask, board: Board, *, lasting: bool, barred: Bools | None) -> Warm | None:
    """The executor that was used last: the others grow old and are evicted first.

    Args:
        lasting: the run does not end before what is reserved begins.
        barred: by node, where the task may not go.
    """
    idle = board.idle_of_class(task.executor_class)
    for place in range(len(idle) - 1, -1, -1):
        executor = idle[place]
        if _fits(task, executor, board, lasting=lasting, barred=barred):
            return Warm(
                place,
                Placement(
                    task.task_id,
                    executor.node_id,
                    executor.device_uuids,
                    executor.memory_mib,
                    executor.executor_id,
                    task.sequence,
                ),
            )
    return None


def soon_free(
    task: WaitingTask, board: Board, within_ms: int, *, lasting: bool, barred: Bools | None
) -> WarmExecutor | None:
    """The busy executor that is free first, where that is sooner than it would take to start another.

    Both are what they were measured to be: a start with the loading in its first run, and the usual time of the run
    that keeps it busy. Of a class that never started yet the former is not known, and nobody waits.

    Args:
        within_ms: what has to be given up for another one besides its start, as time.
        lasting: the run does not end before what is reserved begins.
        barred: by node, where the task may not go.
    """
    for executor in board.soon_free(task.executor_class):
        node = board.node(executor.node_id)
        if not executor.start_ms or executor.free_in_ms is None or node is None:
            continue
        # Executors without a device are of one class, whatever CPUs their tasks ask for.
        if node.cpus_for(lasting=lasting) + executor.cpus_milli < task.request.cpus_milli:
            continue
        if executor.free_in_ms <= executor.start_ms + within_ms and _suits(
            task, executor, board, lasting=lasting, barred=barred
        ):
            return executor
    return None


def _fits(
    task: WaitingTask, executor: WarmExecutor, board: Board, *, lasting: bool, barred: Bools | None
) -> bool:
    node = board.node(executor.node_id)
    if node is None or node.cpus_for(lasting=lasting) < task.request.cpus_milli:
        return False
    return _suits(task, executor, board, lasting=lasting, barred=barred)


def _suits(
    task: WaitingTask, executor: WarmExecutor, board: Board, *, lasting: bool, barred: Bools | None
) -> bool:
    """Whether the task may run there, given the CPUs."""
    request, node = task.request, board.node(executor.node_id)
    if node is None:
        return False
    if barred is not None and barred[node.row]:
        return False
    if node_matches(request, node.state) or not executor_fits(request, executor):
        return False
    devices = [board.devices.get(uuid) for uuid in executor.device_uuids]
    if not all(warm_device_fits(request, device) for device in devices):
        return False
    # The reservation counts on what an idle executor holds.
    return not lasting or all(
        device is None or device.spare_mib is None or device.spare_mib >= executor.memory_mib
        for device in devices
    )
