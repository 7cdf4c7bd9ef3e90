"""Reading a node's devices through NVML.

Identity is the UUID; the index is for display and for Ray's token. What can't be read is None. Where MIG mode is on,
each slice is a device of its own and the card itself is unhealthy: nothing may run beside its slices.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import psutil
import pynvml

from celeray.actors.health import read_health
from celeray.actors.link_reading import LinkReader, Place
from celeray.actors.nvml_query import DeviceLostError, DriverLostError, query, query_or
from celeray.scheduler.clock import Clock, SystemClock
from celeray.scheduler.links import Pairs
from celeray.scheduler.model import MIB, DeviceProcess, DeviceReading, Health

RETRY_MIN_S = 1.0
RETRY_MAX_S = 60.0
MIG_INDEX_STEP = 1000
"""Slice j of card i has the index i * 1000 + j, as in Ray's own reports."""
MIG_PARENT = "MIG mode is on: its slices are the devices; name them in CUDA_VISIBLE_DEVICES of `ray start`"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Of one device. None: it can't be read."""

    total_mib: int | None = None
    used_mib: int | None = None
    unified: bool = False


class NvmlReader:
    """Holds NVML open from the first read on; opens it again, with backoff, when the driver was lost.

    Not thread-safe: one read at a time.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._open = False
        self._retry_at = 0.0
        self._delay_s = RETRY_MIN_S
        self._uuids: dict[int, str] = {}
        self._places: list[Place] = []
        self._links = LinkReader(self._clock)
        self.driver_version: str | None = None
        self.closeness: Pairs = ()
        """Of the devices that the last read found."""

    def read(self) -> tuple[DeviceReading, ...]:
        """All devices; empty where there is no driver, or none that answers."""
        self._places, self.closeness = [], ()
        if not self._ensure_open():
            return ()
        try:
            self.driver_version = query(pynvml.nvmlSystemGetDriverVersion)
            count = query(pynvml.nvmlDeviceGetCount) or 0
            devices = tuple(device for index in range(count) for device in self._read_index(index))
            self.closeness = self._links.read(self._places)
            return devices
        except DriverLostError as error:
            self._lose(str(error))
            return ()

    def close(self) -> None:
        """Let NVML go. Safe to call twice."""
        if self._open:
            self._open = False
            query(pynvml.nvmlShutdown)

    def _ensure_open(self) -> bool:
        if self._open:
            return True
        if self._clock.monotonic() < self._retry_at:
            return False
        try:
            _, code = query_or(pynvml.nvmlInit)
        except (DriverLostError, DeviceLostError) as error:
            self._lose(str(error))
            return False
        if code is not None:
            self._lose(f"NVML error {code}")
            return False
        self._open, self._delay_s = True, RETRY_MIN_S
        return True

    def _lose(self, reason: str) -> None:
        if self._open or self._retry_at == 0.0:
            logger.info("no GPU data from NVML: %s", reason)
        self._open = False
        self._retry_at = self._clock.monotonic() + self._delay_s
        self._delay_s = min(self._delay_s * 2, RETRY_MAX_S)

    def _read_index(self, index: int) -> Iterator[DeviceReading]:
        try:
            handle = query(pynvml.nvmlDeviceGetHandleByIndex, index)
            uuid = None if handle is None else query(pynvml.nvmlDeviceGetUUID, handle)
            if uuid is None:
                return
            self._uuids[index] = uuid
            if _mig_mode(handle):
                yield _bare(uuid, index, MIG_PARENT)
                for part in _read_slices(handle, index):
                    self._places.append(Place(part.uuid, handle, uuid))
                    yield replace(part, card_uuid=uuid)
            else:
                device = _read_device(handle, uuid, index)
                self._places.append(Place(uuid, handle))
                yield device
        except DeviceLostError as error:
            # A device that was lost before its first read has no name to report it by.
            if (known := self._uuids.get(index)) is not None:
                yield replace(_bare(known, index, str(error)), lost=True)


def _read_slices(parent: Any, index: int) -> Iterator[DeviceReading]:
    for place in range(query(pynvml.nvmlDeviceGetMaxMigDeviceCount, parent) or 0):
        # The places have holes.
        if (handle := query(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, parent, place)) is None:
            continue
        if (uuid := query(pynvml.nvmlDeviceGetUUID, handle)) is not None:
            # Row remapping, ECC and power are the card's: a slice has the card's health.
            yield _read_device(handle, uuid, index * MIG_INDEX_STEP + place, card=parent)


def _read_device(handle: Any, uuid: str, index: int, card: Any = None) -> DeviceReading:
    memory = memory_of(handle)
    health, reason = read_health(handle if card is None else card)
    rates = query(pynvml.nvmlDeviceGetUtilizationRates, handle)
    return DeviceReading(
        uuid=uuid,
        index=index,
        name=query(pynvml.nvmlDeviceGetName, handle),
        total_mib=memory.total_mib,
        used_mib=memory.used_mib,
        processes=processes_on(handle),
        health=health,
        health_reason=reason,
        utilization_pct=None if rates is None else int(rates.gpu),
        temperature_c=query(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        power_mw=query(pynvml.nvmlDeviceGetPowerUsage, handle),
        exclusive_process=query(pynvml.nvmlDeviceGetComputeMode, handle)
        == pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS,
        unified_memory=memory.unified,
    )


def _bare(uuid: str, index: int, reason: str) -> DeviceReading:
    return DeviceReading(
        uuid=uuid,
        index=index,
        name=None,
        total_mib=None,
        used_mib=None,
        processes=None,
        health=Health.UNHEALTHY,
        health_reason=reason,
    )


def _mig_mode(handle: Any) -> bool:
    modes = query(pynvml.nvmlDeviceGetMigMode, handle)
    return modes is not None and modes[0] == pynvml.NVML_DEVICE_MIG_ENABLE


def memory_of(handle: Any) -> DeviceMemory:
    """A device's memory, the driver's own reserve left out; what can't be read is None."""
    info, code = query_or(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    if code in (pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH):
        # Counts the driver's own reserve as used; v2 does not.
        info, code = query_or(pynvml.nvmlDeviceGetMemoryInfo, handle)
    if code == pynvml.NVML_ERROR_NOT_SUPPORTED or (info is not None and info.total == 0):
        # Only for the exact answer of chips that share the host's memory: any other is unknown.
        host = psutil.virtual_memory()
        return DeviceMemory(int(host.total // MIB), int((host.total - host.available) // MIB), unified=True)
    if info is None:
        return DeviceMemory()
    # The reserve is nobody's to use. Rounded so that what is free is never more than is there.
    reserved = getattr(info, "reserved", 0)
    return DeviceMemory(int((info.total - reserved) // MIB), -int(-info.used // MIB))


def processes_on(handle: Any) -> tuple[DeviceProcess, ...] | None:
    """Compute and graphics processes, each pid once; None where neither list can be read."""
    lists = [
        query(pynvml.nvmlDeviceGetComputeRunningProcesses, handle),
        query(pynvml.nvmlDeviceGetGraphicsRunningProcesses, handle),
    ]
    if lists == [None, None]:
        return None
    used: dict[int, int | None] = {}
    for process in (process for processes in lists for process in processes or ()):
        mib = None if process.usedGpuMemory is None else -int(-process.usedGpuMemory // MIB)
        # A process of both kinds is listed twice with the same memory.
        known = used.get(int(process.pid))
        used[int(process.pid)] = known if mib is None else max(mib, known or 0)
    return tuple(DeviceProcess(pid, mib) for pid, mib in sorted(used.items()))
