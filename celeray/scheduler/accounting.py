"""One device's memory, split by who has it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from celeray.scheduler.model import DeviceProcess, DeviceReading


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one holder (an executor) keeps for its whole life."""

    holder: str
    node_id: str
    device_uuids: tuple[str, ...] = ()
    memory_mib: int = 0
    """On each device."""
    exclusive: bool = False
    host_memory_mib: int = 0
    pid: int | None = None
    ending: bool = False
    """Told to end: its room comes back soon."""
    ended_at: float | None = None
    """Monotonic time at which its death was seen; None while it lives."""


@dataclass(frozen=True, slots=True)
class Leak:
    """Memory of ended holders that NVML still shows used, past its time."""

    mib: int
    pids: tuple[int, ...]
    """Of the ended holders and their children, as far as NVML still lists them. Empty: nobody whom it lists."""
    since: float
    """Monotonic time at which the death of the first of them was seen."""


@dataclass(frozen=True, slots=True)
class DeviceAccount:
    """MiB by owner; None where it can't be known."""

    reading: DeviceReading
    node_id: str
    reserved_mib: int
    measured_mib: int
    """Of our holders and their children, as far as NVML lists their pids."""
    foreign_mib: int | None
    """What leaks is a part of it."""
    schedulable_mib: int
    overrun_mib: int
    """By how much foreign use, claims and headroom exceed the total."""
    holders: tuple[str, ...]


def account(
    reading: DeviceReading,
    node_id: str,
    reservations: Collection[Reservation],
    *,
    pids_visible: bool,
    headroom_mib: int,
    owed_mib: int = 0,
) -> DeviceAccount:
    """Split a device's memory: schedulable = total - foreign - sum(max(reserved, measured)) - headroom, at least 0.

    Args:
        reservations: those on the device, ended ones included.
        pids_visible: whether the pids that NVML lists are those of `reservations`.
        owed_mib: memory of ended holders that did not come back: it is foreign, whatever the others have reserved.
    """
    reserved = sum(entry.memory_mib for entry in reservations)
    claimed, measured = _claims(reading, reservations, pids_visible)
    foreign = _foreign(reading, reserved, measured if pids_visible else None, owed_mib)
    room = 0
    if reading.total_mib is not None and foreign is not None:
        room = reading.total_mib - foreign - claimed - headroom_mib
    return DeviceAccount(
        reading=reading,
        node_id=node_id,
        reserved_mib=reserved,
        measured_mib=measured,
        foreign_mib=foreign,
        schedulable_mib=max(0, room),
        overrun_mib=max(0, -room),
        holders=tuple(entry.holder for entry in reservations),
    )


def belongs(process: DeviceProcess, pid: int | None) -> bool:
    """Whether a process is the holder's with this pid, or one that it started."""
    return pid is not None and (process.pid == pid or pid in process.parents)


def listed_mib(reading: DeviceReading) -> int | None:
    """Sum of what the listed processes use; None where not every one of them can be read."""
    if reading.processes is None or any(process.used_mib is None for process in reading.processes):
        return None
    return sum(process.used_mib or 0 for process in reading.processes)


def _claims(reading: DeviceReading, entries: Iterable[Reservation], pids_visible: bool) -> tuple[int, int]:
    """Sum of max(reserved, measured), and sum of measured, over the holders of a device."""
    processes = (reading.processes or ()) if pids_visible else ()
    claimed = measured = 0
    for entry in entries:
        used = sum(process.used_mib or 0 for process in processes if belongs(process, entry.pid))
        claimed += max(entry.memory_mib, used)
        measured += used
    return claimed, measured


def _foreign(reading: DeviceReading, reserved: int, measured: int | None, owed: int) -> int | None:
    """Memory that no holder accounts for; None where the device's use can't be read.

    Where the processes can't be listed or their use can't be read, what is used up to the sum of the
    reservations is taken to be the holders' own.
    """
    if reading.used_mib is None:
        return None
    own = reserved if measured is None or listed_mib(reading) is None else measured
    return max(0, reading.used_mib - own, min(owed, reading.used_mib))
