"""What a run used at its peak, from the two who can see it: its executor, and the readings of its node.

The executor tells with the run's end (celeray/actors/peaks.py). The readings go on where it can't: a run that died
with its executor, or code that held Python's lock for all of its time. The larger of the two counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from celeray.scheduler.accounting import DeviceAccount, belongs
from celeray.scheduler.bridge.executors import Executor
from celeray.scheduler.cluster import RunEnded
from celeray.scheduler.model import Attribution, NodeReading
from celeray.scheduler.settings import Settings
from celeray.scheduler.states import ExecutorState

ATTRIBUTIONS = {member.value: member for member in Attribution}


class Peak(NamedTuple):
    """Of one run, on the device on which it used most. A tuple, since each run has one."""

    mib: int
    by: Attribution


def note_device(executor: Executor, device: DeviceAccount, settings: Settings) -> None:
    """What its first device is, before the executor is on it: observations of its runs belong to the model."""
    executor.gpu_type = device.reading.name
    if (total_mib := device.reading.total_mib) is not None:
        # As much foreign memory as a whole device may have is there to stay: a display server, say.
        foreign_mib = min(device.foreign_mib or 0, settings.exclusive_foreign_mib)
        executor.device_mib = max(0, total_mib - settings.vram_headroom_mib - foreign_mib)


def note_use(executors: Iterable[Executor], reading: NodeReading) -> None:
    """Keep what busy executors of the node are seen to use. A reading that began before they were busy says nothing."""
    if not reading.pids_visible or reading.simulated:
        # A simulated device shows the whole reservation from the first task on, whatever the task holds.
        return
    for executor in executors:
        busy = executor.state is ExecutorState.BUSY and reading.requested_at > executor.changed_at
        if not busy or executor.node_id != reading.node_id or not executor.device_uuids:
            continue
        if seen := _used_mib(executor, reading):
            executor.seen_mib = max(seen, executor.seen_mib or 0)


def _used_mib(executor: Executor, reading: NodeReading) -> int:
    """Most on one device."""
    uses = (
        sum(process.used_mib or 0 for process in device.processes or () if belongs(process, executor.pid))
        for device in reading.devices
    )
    return max(uses, default=0)


def peak_of(executor: Executor | None, told: RunEnded | None = None) -> Peak | None:
    """The peak of a run that ends. None: it can't be known to be this run's, or nothing was used.

    By reservation it counts only while nobody shares the executor's devices: NVML tells then what is used on them, and
    not by whom.

    Args:
        executor: where it ran; None: it is gone.
        told: the executor's own word. None: it gave none.
    """
    seen_mib = (executor.seen_mib if executor is not None else None) or 0
    told_mib = (told.peak_mib if told is not None else None) or 0
    if not seen_mib and not told_mib:
        return None
    if told is None or told.attribution is None or told_mib < seen_mib:
        return Peak(seen_mib, Attribution.PID)
    by = ATTRIBUTIONS[told.attribution]
    if by is Attribution.RESERVATION and (executor is None or not executor.alone):
        return None
    return Peak(told_mib, by)
