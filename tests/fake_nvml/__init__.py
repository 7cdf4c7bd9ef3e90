"""A fake `libnvidia-ml.so.1`, driven by a file, so that the real bindings read devices that we make up.

In C since it then serves our `nvidia-ml-py` and the copy that Ray vendors alike, in this process and in a raylet's.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO

STATE_VARIABLE = "CELERAY_FAKE_NVML_STATE"
LIBRARY = "libnvidia-ml.so.1"
MIB = 1024 * 1024
SOURCE = Path(__file__).parent / "nvml.c"


@dataclass
class FakeDevice:
    """One device; a field that is None is NOT_SUPPORTED. The defaults are a healthy data centre card."""

    uuid: str
    name: str | None = "NVIDIA A100-SXM4-40GB"
    total_mib: int | None = 40960
    used_mib: int = 0
    """Held by nobody whom NVML lists."""
    reserved_mib: int = 0
    processes: list[tuple[int, int | None, str]] = field(default_factory=list)
    """(pid, MiB or None for N/A, "compute" or "graphics"); NVML shows them while they live."""
    utilization: int | None = 7
    temperature: int | None = 41
    power: int | None = 61000
    compute_mode: int | None = 0
    ecc: int | None = 0
    remap_pending: int | None = 0
    remap_failed: int | None = 0
    retired_pending: int | None = None
    recovery: int | None = 0
    mig_mode: int | None = 0
    lost: int | None = None
    keeps_dead: int | None = None
    """What becomes of a dead process's memory; None: it comes back, 1: it stays with its pid, 2: it stays with none."""
    events: int | None = 8
    """Kinds of events that it can tell, as NVML's mask: 8 is XIDs."""
    xids: list[int] = field(default_factory=list)
    """Errors that the driver has told of so far; what is added is told once to each event set."""
    pcie: dict[str, int] = field(default_factory=dict)
    """NVML's level of the common ancestor with other devices, by UUID; one of the two may tell."""
    links: list[str] = field(default_factory=list)
    """Where each NVLink leads to, from link 0 on: a device's UUID, "switch", or "off"."""
    errors: dict[str, int] = field(default_factory=dict)
    """NVML's code by exported function name."""
    slices: list[FakeDevice] = field(default_factory=list)
    """MIG devices."""


class FakeNvml:
    """The state file. Any process may change it; the library sees the change at its next call."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        devices: list[FakeDevice] | None = None,
        *,
        errors: Mapping[str, int] | None = None,
        driver: str = "550.54.15",
    ) -> None:
        self.path = Path(path)
        self.devices = devices or []
        self.errors = dict(errors or {})
        self.driver = driver
        if devices is not None:
            self.write()

    def environment(self, library: Path | None = None) -> dict[str, str]:
        """What a process needs to see these devices: give it to a raylet, or set it before `nvmlInit`."""
        folder = (library or build()).parent
        return {STATE_VARIABLE: str(self.path), "LD_LIBRARY_PATH": str(folder), "CELERAY_PIDS_VISIBLE": "1"}

    def device(self, uuid: str) -> FakeDevice:
        """A device or slice by UUID."""
        slices = [part for device in self.devices for part in device.slices]
        return next(device for device in [*self.devices, *slices] if device.uuid == uuid)

    def write(self) -> None:
        """Write everything. Allocations that other processes made meanwhile are lost: use `allocate` for those."""
        with _locked(self.path) as file:
            _replace(file, self._text())

    def change(self, uuid: str, **values: int) -> None:
        """Change numbers of one device, or with `xid` tell one more error; allocations of other processes stay."""
        device = self.device(uuid)
        for name, value in values.items():
            if name == "xid":
                device.xids.append(value)
            else:
                setattr(device, name, value)
        with _locked(self.path) as file:
            inside, out = False, []
            for line in file.read().splitlines():
                if line.startswith(("device=", "mig=")):
                    inside = line.partition("=")[2] == uuid
                elif inside and line.partition("=")[0] in values and not line.startswith("xid="):
                    continue
                elif inside and "keeps_dead" in values and _is_of_a_dead_process(line):
                    # What has come back already does not go again.
                    continue
                out.append(line)
                if inside and line.startswith(("device=", "mig=")):
                    out += [f"{name}={value}" for name, value in values.items() if name != "xid"]
            self._insert_xids(out, uuid, [value for name, value in values.items() if name == "xid"])
            _replace(file, "\n".join(out) + "\n")

    @staticmethod
    def _insert_xids(lines: list[str], uuid: str, xids: list[int]) -> None:
        """At the end of the device's section: the library tells them in their order."""
        begin = next(i for i, line in enumerate(lines) if line in (f"device={uuid}", f"mig={uuid}"))
        end = next(
            (i for i in range(begin + 1, len(lines)) if lines[i].startswith(("device=", "mig="))), len(lines)
        )
        lines[end:end] = [f"xid={xid}" for xid in xids]

    def _text(self) -> str:
        lines = [f"driver={self.driver}", *(f"error.{name}={code}" for name, code in self.errors.items())]
        for device in self.devices:
            lines += _section("device", device)
            for part in device.slices:
                lines += _section("mig", part)
        return "\n".join(lines) + "\n"


def allocate(uuid: str, mib: int, *, pid: int | None = None, path: str | None = None) -> None:
    """Let a process hold `mib` MiB (0: nothing) of a device from now on, as a CUDA allocation would.

    Meant for tasks: by default this process, on the devices of CELERAY_FAKE_NVML_STATE.
    """
    pid = os.getpid() if pid is None else pid
    with _locked(Path(path or os.environ[STATE_VARIABLE])) as file:
        lines, inside, out = file.read().splitlines(), False, []
        for line in lines:
            if inside and line.startswith(f"process={pid} "):
                continue
            out.append(line)
            if line.startswith(("device=", "mig=")):
                inside = line.partition("=")[2] == uuid
                if inside and mib:
                    out.append(f"process={pid} {mib * MIB}")
        _replace(file, "\n".join(out) + "\n")


def build(*, old_driver: bool = False) -> Path:
    """Compile the library with gcc, or with the `ziglang` package, once for each source; its path.

    Raises:
        RuntimeError: there is no C compiler.
    """
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    kind = "old" if old_driver else "new"
    folder = Path(tempfile.gettempdir()) / f"celeray-fake-nvml-{os.getuid()}-{digest}-{kind}"
    library = folder / LIBRARY
    if library.exists():
        return library
    folder.mkdir(exist_ok=True)
    # Compiled aside: another process that builds it too never loads half a library.
    aside = folder / f".{os.getpid()}.so"
    options = ["-O1", "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}", *(["-DOLD_DRIVER"] if old_driver else [])]
    subprocess.run([*_compiler(), *options, "-o", str(aside), str(SOURCE)], check=True)
    aside.rename(library)
    return library


def _compiler() -> list[str]:
    if gcc := shutil.which("gcc"):
        return [gcc]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise RuntimeError("no C compiler: install gcc, or pip install ziglang")


_BYTES = {"total_mib": "total", "used_mib": "used", "reserved_mib": "reserved"}
_OTHERS = {"uuid", "processes", "errors", "slices", "xids", "pcie", "links"}


def _section(kind: str, device: FakeDevice) -> list[str]:
    lines = [f"{kind}={device.uuid}"]
    for item in fields(device):
        value = getattr(device, item.name)
        if item.name in _OTHERS or value is None:
            continue
        lines.append(f"{_BYTES[item.name]}={value * MIB}" if item.name in _BYTES else f"{item.name}={value}")
    for pid, mib, context in device.processes:
        lines.append(f"process={pid} {-1 if mib is None else mib * MIB} {context}")
    lines += [f"xid={xid}" for xid in device.xids]
    lines += [f"pcie={uuid} {level}" for uuid, level in device.pcie.items()]
    lines += [f"link={end}" for end in device.links]
    lines += [f"error.{name}={code}" for name, code in device.errors.items()]
    return lines


def _is_of_a_dead_process(line: str) -> bool:
    key, _, value = line.partition("=")
    return key == "process" and not Path(f"/proc/{value.split()[0]}").exists()


@contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    with open(path, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        yield file


def _replace(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()
