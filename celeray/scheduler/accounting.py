"""One device's memory, split by who has it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from celeray.scheduler.model import DeviceReading


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
class DeviceAccount:
    """MiB by owner; None where it can't be known."""

    reading: DeviceReading
    node_id: str
    reserved_mib: int
    measured_mib: int
    """Of our holders, as far as NVML lists their pids."""
    foreign_mib: int | None
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
) -> DeviceAccount:
    """Split a device's memory: schedulable = total - foreign - sum(max(reserved, measured)) - headroom, at least 0.

    Args:
        reservations: those on the device, ended ones included.
        pids_visible: whether the pids that NVML lists are those of `reservations`.
    """
    reserved = sum(entry.memory_mib for entry in reservations)
    claimed, measured = _claims(reading, reservations, pids_visible)
    foreign = _foreign(reading, reserved, measured if pids_visible else None)
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


def _claims(reading: DeviceReading, entries: Iterable[Reservation], pids_visible: bool) -> tuple[int, int]:
    """Sum of max(reserved, measured), and sum of measured, over the holders of a device."""
    used_by_pid: dict[int, int] = {}
    for process in (reading.processes or ()) if pids_visible else ():
        used_by_pid[process.pid] = used_by_pid.get(process.pid, 0) + (process.used_mib or 0)
    claimed = measured = 0
    for entry in entries:
        used = used_by_pid.get(entry.pid, 0) if entry.pid is not None else 0
        claimed += max(entry.memory_mib, used)
        measured += used
    return claimed, measured


def _foreign(reading: DeviceReading, reserved: int, measured: int | None) -> int | None:
    """Memory that no holder accounts for; None where the device's use can't be read.

    Where the processes can't be listed or their use can't be read, what is used up to the sum of the
    reservations is taken to be the holders' own.
    """
    if reading.used_mib is None:
        return None
    listed = reading.processes is not None and all(p.used_mib is not None for p in reading.processes)
    if measured is None or not listed:
        return max(0, reading.used_mib - reserved)
    return max(0, reading.used_mib - measured)
