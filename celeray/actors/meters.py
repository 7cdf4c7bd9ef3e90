"""What an executor uses of its devices just now, as far as it can be told apart from what others use.

By pid: its own process and those that it started, as NVML lists them. By reservation, where NVML lists pids of another
namespace: what is used on the device beyond what was before the app was loaded, which is its own as long as it is alone
there; the bridge knows whether it is. Simulated devices: what the task said by `hold`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from celeray.actors import simulated
from celeray.actors.nvml_query import DeviceLostError, DriverLostError
from celeray.actors.processes import ancestors, pids_visible
from celeray.scheduler.model import Attribution, DeviceProcess

logger = logging.getLogger(__name__)

Use = tuple[int | None, ...]
"""MiB on each of the executor's devices, in their order. None: it can't be told."""


class Meter(Protocol):
    """Of one executor. Called by two threads, never by both at once for long: a reading takes milliseconds."""

    attribution: Attribution

    def begin(self) -> None:
        """A run begins."""
        ...

    def used(self) -> Use:
        """What is used now."""
        ...

    def most(self) -> Use:
        """The most since `begin`, where that is known without asking anybody."""
        ...


def open_meter(device_uuids: Sequence[str], holds_folder: str | None) -> Meter | None:
    """The meter of this process. Call it before the app is loaded. None: nothing can be told of its devices.

    Args:
        holds_folder: of the node's simulated devices; None: they are real.
    """
    if holds_folder is not None:
        return SimulatedMeter(Path(holds_folder), device_uuids)
    try:
        return NvmlMeter(device_uuids, by_pid=pids_visible())
    except (DriverLostError, DeviceLostError, ImportError) as error:
        logger.warning("what this executor uses of its devices is not known: %s", error)
        return None


class NvmlMeter:
    """Holds NVML open for the life of the process."""

    def __init__(self, device_uuids: Sequence[str], *, by_pid: bool) -> None:
        """Open the devices.

        Raises:
            DriverLostError, DeviceLostError: NVML or a device does not answer.
        """
        # pynvml loads the driver's library: an executor without devices never needs it.
        import pynvml

        from celeray.actors.nvml_query import query

        query(pynvml.nvmlInit)
        self.attribution = Attribution.PID if by_pid else Attribution.RESERVATION
        self._handles = [query(pynvml.nvmlDeviceGetHandleByUUID, uuid) for uuid in device_uuids]
        self._own = Descendants(os.getpid())
        self._before = () if by_pid else tuple(map(self._whole, self._handles))

    def begin(self) -> None:
        self._own.forget()

    def used(self) -> Use:
        try:
            if self.attribution is Attribution.PID:
                return tuple(map(self._listed, self._handles))
            return tuple(
                _beyond(self._whole(handle), before)
                for handle, before in zip(self._handles, self._before, strict=True)
            )
        except (DriverLostError, DeviceLostError):
            return (None,) * len(self._handles)

    def most(self) -> Use:
        return (None,) * len(self._handles)

    def _listed(self, handle: Any) -> int | None:
        from celeray.actors.nvml import processes_on

        processes = None if handle is None else processes_on(handle)
        return None if processes is None else _sum_of(processes, self._own)

    def _whole(self, handle: Any) -> int | None:
        from celeray.actors.nvml import memory_of

        memory = None if handle is None else memory_of(handle)
        # The host's memory, which everything on the machine uses, tells nothing.
        return None if memory is None or memory.unified else memory.used_mib


class SimulatedMeter:
    """What a task said by `hold`, in this process or in one that it started.

    A process that says nothing holds its reservation, which is an assumption and no observation.
    """

    attribution = Attribution.PID

    def __init__(self, folder: Path, device_uuids: Sequence[str]) -> None:
        self._folder = folder
        self._uuids = tuple(device_uuids)
        self._own = Descendants(os.getpid())

    def begin(self) -> None:
        self._own.forget()
        simulated.begin_said()

    def used(self) -> Use:
        return tuple(self._used(uuid) for uuid in self._uuids)

    def most(self) -> Use:
        return tuple(simulated.said_most.get(uuid) for uuid in self._uuids)

    def _used(self, uuid: str) -> int | None:
        held = simulated.holds_on(self._folder, uuid)
        children = [process for process in held if process.pid != os.getpid() and process.pid in self._own]
        own = simulated.said.get(uuid)
        if own is None and not children:
            return None
        return (own or 0) + sum(process.used_mib or 0 for process in children)


class Descendants:
    """Whether a pid is this process's or one that it started. What was found is kept for a run."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._known: dict[int, bool] = {}

    def forget(self) -> None:
        """Pids may have been given out again."""
        self._known = {}

    def __contains__(self, pid: int) -> bool:
        if pid == self._pid:
            return True
        known = self._known.get(pid)
        if known is None:
            known = self._known[pid] = self._pid in ancestors(pid)
        return known


def _sum_of(processes: Sequence[DeviceProcess], own: Descendants) -> int | None:
    """None: what one of them uses can't be read."""
    total = 0
    for process in processes:
        if process.pid in own:
            if process.used_mib is None:
                return None
            total += process.used_mib
    return total


def _beyond(used: int | None, before: int | None) -> int | None:
    return None if used is None or before is None else max(0, used - before)
