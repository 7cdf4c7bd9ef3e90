"""Simulated devices: the readings of a GPU on a machine that has none.

A device is a line of arithmetic: `used` is the sum of what live processes say that they hold. A process says so
with one small file a device in the node's folder, which the node agent drops once the process is dead. An
executor holds its reservation from its first task on, as a model that was loaded would; a task may change that
with `hold`, which runs out of memory as a real allocation does: beyond what the executor reserved, where frameworks
are kept within it, and beyond what is left on the device.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from celeray.actors.processes import ProcessId, is_alive, this_process
from celeray.scheduler.errors import ConfigurationError, OutOfGpuMemoryError
from celeray.scheduler.links import Pairs
from celeray.scheduler.model import DeviceProcess, DeviceReading, Health

SPEC_VARIABLE = "CELERAY_SIMULATE_GPUS"
HOLDS_VARIABLE = "CELERAY_SIMULATED_HOLDS"
"""Folder of the node's holds, in the environment of an executor on simulated devices."""
DEVICES_VARIABLE = "CELERAY_SIMULATED_DEVICES"
"""UUIDs of the executor's devices, comma-separated."""
MOST_VARIABLE = "CELERAY_SIMULATED_MOST_MIB"
"""Most MiB that a process may hold on each of its devices. Not set: what is left there."""
TOTALS = "totals"
"""File in the folder of holds: a line of UUID and MiB for each device."""

said: dict[str, int] = {}
"""MiB that this process holds by its own word, `hold`, by device. What it only reserved is not in it."""
said_most: dict[str, int] = {}
"""The most of that since `begin_said`."""

PRIVATE_MODE = 0o700
OTHERS_WRITE = 0o022

_PART = re.compile(r"(?:(?P<count>\d+)x)?(?P<size>\d+)(?P<unit>GiB|MiB)")
_MIB = {"GiB": 1024, "MiB": 1}


@dataclass(frozen=True, slots=True)
class SimulatedDevice:
    """One device of a node's specification."""

    uuid: str
    index: int
    name: str
    """For instance `SIM-24GiB`, which `gpu_type` matches as it matches a real name."""
    total_mib: int


def parse_spec(spec: str) -> tuple[tuple[str, int], ...]:
    """Name and MiB of each device of, for instance, ``2x24GiB,1x80GiB``; a count of 1 may be left out.

    Raises:
        ConfigurationError: names the part that can't be read, or that asks for no device or no memory.
    """
    devices: list[tuple[str, int]] = []
    for part in spec.split(","):
        match = _PART.fullmatch(part.strip())
        count = int(match["count"] or 1) if match else 0
        if match is None or count < 1 or int(match["size"]) < 1:
            raise ConfigurationError(
                f"simulate_gpus={spec!r}: part {part.strip()!r}: expected COUNTxSIZE with a unit of GiB or MiB, "
                "both at least 1, for instance 2x24GiB"
            )
        name = f"SIM-{int(match['size'])}{match['unit']}"
        devices += [(name, int(match["size"]) * _MIB[match["unit"]])] * count
    return tuple(devices)


def holds_folder(node_id: str) -> Path:
    """Where the processes of a node's simulated devices say what they hold."""
    return Path(tempfile.gettempdir()) / f"celeray-{os.getuid()}" / f"simulated-{node_id}"


def make_private(folder: Path) -> None:
    """Make a folder that only this user can enter, or make sure that it is one.

    Its name can be guessed and lies where everybody may write, so another user may have made it first.

    Raises:
        ConfigurationError: it is no folder, another user's, or others may write into it.
    """
    # A mode of `parents=True` would count for the last folder only.
    with suppress(FileExistsError):
        folder.mkdir(mode=PRIVATE_MODE)
    found = folder.lstat()
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigurationError(
            f"{folder}: expected a folder for simulated devices, found something else there"
        )
    if found.st_uid != os.getuid() or mode & OTHERS_WRITE:
        raise ConfigurationError(
            f"{folder}: owner {found.st_uid}, mode {mode:04o}: expected owner {os.getuid()}, mode {PRIVATE_MODE:04o}; "
            "remove it, or set TMPDIR to a folder of your own"
        )
    if mode != PRIVATE_MODE:
        folder.chmod(PRIVATE_MODE)


class SimulatedDevices:
    """Reads the simulated devices of one node. The shape is `nvml.NvmlReader`'s."""

    def __init__(self, spec: str, node_id: str, folder: Path | None = None) -> None:
        """Make the folder of holds.

        Args:
            spec: as `parse_spec` takes it.
            node_id: Ray's id of the node.
            folder: of the holds; None: the node's own.

        Raises:
            ConfigurationError: the specification can't be read, or the folder is not this user's alone.
        """
        self.folder = folder or holds_folder(node_id)
        if folder is None:
            make_private(self.folder.parent)
        make_private(self.folder)
        self.devices = tuple(
            SimulatedDevice(f"GPU-sim-{node_id[:8]}-{index}", index, name, total)
            for index, (name, total) in enumerate(parse_spec(spec))
        )
        lines = [f"{device.uuid} {device.total_mib}\n" for device in self.devices]
        _write_whole(self.folder / TOTALS, "".join(lines))

    driver_version = "simulated"
    closeness: Pairs = ()
    """Simulated devices are connected by nothing."""

    def read(self) -> tuple[DeviceReading, ...]:
        """All devices, each with the processes that hold memory of it."""
        holds = _live_holds(self.folder)
        return tuple(_reading(device, holds) for device in self.devices)


def hold(mib: int, device_uuids: Sequence[str] | None = None) -> None:
    """Say that this process now holds `mib` MiB (0: nothing) on each of its simulated devices.

    Does nothing in a process that has no simulated device, so that a task may call it anywhere.

    Args:
        mib: what a real task would have allocated.
        device_uuids: some of the executor's devices; None: all.

    Raises:
        ValueError: `mib` is negative.
        OutOfGpuMemoryError: it is more than the executor reserved, where that is its bound, or than a device has
            left. The process holds what it held before.
    """
    if mib < 0:
        raise ValueError(f"hold({mib!r}): at least 0 MiB")
    folder = os.environ.get(HOLDS_VARIABLE)
    if not folder:
        return
    uuids = device_uuids or os.environ[DEVICES_VARIABLE].split(",")
    _check_room(Path(folder), mib, uuids)
    _hold(Path(folder), mib, uuids)
    for uuid in uuids:
        said[uuid] = mib
        said_most[uuid] = max(mib, said_most.get(uuid, 0))


def begin_said() -> None:
    """From now on `said_most` counts anew, from what is held now."""
    said_most.clear()
    said_most.update(said)


def hold_reserved(mib: int) -> None:
    """As `hold` on all devices, of what was reserved: there is room for it, whatever others hold in excess."""
    if folder := os.environ.get(HOLDS_VARIABLE):
        _hold(Path(folder), mib, os.environ[DEVICES_VARIABLE].split(","))


def _hold(folder: Path, mib: int, device_uuids: Sequence[str]) -> None:
    owner = this_process()
    for uuid in device_uuids:
        path = folder / f"{owner.pid}@{uuid}"
        if mib == 0:
            path.unlink(missing_ok=True)
        else:
            _write_whole(path, f"{owner.created} {mib}")


def _write_whole(path: Path, text: str) -> None:
    # Written aside and renamed: nobody ever reads half a file.
    aside = path.with_name(f".{path.name}")
    aside.write_text(text)
    aside.rename(path)


def _check_room(folder: Path, mib: int, device_uuids: Sequence[str]) -> None:
    most = os.environ.get(MOST_VARIABLE)
    if most and mib > int(most):
        raise OutOfGpuMemoryError(f"{mib} MiB wanted on each simulated device, {most} MiB reserved")
    totals = {uuid: int(total) for uuid, total in map(str.split, (folder / TOTALS).read_text().splitlines())}
    holds = [hold for hold in _live_holds(folder) if hold[1].pid != os.getpid()]
    for uuid in totals.keys() & set(device_uuids):
        left = totals[uuid] - sum(process.used_mib or 0 for device, process in holds if device == uuid)
        if mib > left:
            raise OutOfGpuMemoryError(f"{mib} MiB wanted on simulated device {uuid}, {max(0, left)} MiB left")


def register(folder: str, device_uuids: Sequence[str], most_mib: int | None = None) -> None:
    """Make `hold` work in this process and its children.

    Args:
        most_mib: that a process may hold on each of the devices. None: what is left there.
    """
    os.environ[HOLDS_VARIABLE] = folder
    os.environ[DEVICES_VARIABLE] = ",".join(device_uuids)
    if most_mib is None:
        os.environ.pop(MOST_VARIABLE, None)
    else:
        os.environ[MOST_VARIABLE] = str(most_mib)


def holds_on(folder: Path, device_uuid: str) -> list[DeviceProcess]:
    """Processes with a hold on a device; one that died just now may be among them."""
    found = []
    for path in folder.glob(f"[0-9]*@{device_uuid}"):
        with suppress(FileNotFoundError, ValueError):
            found.append(DeviceProcess(int(path.name.partition("@")[0]), int(path.read_text().split()[1])))
    return found


def _live_holds(folder: Path) -> list[tuple[str, DeviceProcess]]:
    """Device UUID and process of each hold; those of dead processes are removed."""
    holds = []
    for path in sorted(folder.glob("[0-9]*@*")):
        pid, _, uuid = path.name.partition("@")
        try:
            created, mib = path.read_text().split()
        except FileNotFoundError:
            continue
        if is_alive(ProcessId(int(pid), float(created))):
            holds.append((uuid, DeviceProcess(int(pid), int(mib))))
        else:
            path.unlink(missing_ok=True)
    return holds


def _reading(device: SimulatedDevice, holds: Sequence[tuple[str, DeviceProcess]]) -> DeviceReading:
    processes = tuple(process for uuid, process in holds if uuid == device.uuid)
    return DeviceReading(
        uuid=device.uuid,
        index=device.index,
        name=device.name,
        total_mib=device.total_mib,
        used_mib=sum(process.used_mib or 0 for process in processes),
        processes=processes,
        health=Health.HEALTHY,
    )
