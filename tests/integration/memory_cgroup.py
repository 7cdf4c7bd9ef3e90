"""A memory cgroup below that of this process: the kernel kills in it what takes more than its limit."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

CGROUPS = Path("/sys/fs/cgroup")
MIB = 1024 * 1024
LIMITS: dict[str, Callable[[int], int]] = {
    # Swap is taken away too, where the kernel counts it: else the process would swap instead of being killed.
    "memory.limit_in_bytes": lambda limit: limit,
    "memory.memsw.limit_in_bytes": lambda limit: limit,
    "memory.max": lambda limit: limit,
    "memory.swap.max": lambda _: 0,
}
"""Files of cgroup v1 and v2 by what is written to them, in this order; a version has its own two."""


@dataclass(frozen=True)
class MemoryCgroup:
    """A folder of the cgroup file system."""

    folder: Path

    def entered(self, command: Sequence[str]) -> list[str]:
        """The command, which begins in the cgroup, and all that it starts with it."""
        script = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        return ["/bin/sh", "-c", script, str(self.folder), *command]

    def kills(self) -> int:
        """How many processes the kernel has killed here."""
        names = ("memory.oom_control", "memory.events")
        text = next(path for name in names if (path := self.folder / name).exists()).read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))

    def _pids(self) -> list[int]:
        return [int(pid) for pid in (self.folder / "cgroup.procs").read_text().split()]

    def remove(self) -> None:
        """End what is left in it; an empty one can be removed."""
        deadline = time.monotonic() + 30
        while pids := self._pids():
            assert time.monotonic() < deadline, f"still in {self.folder}: {pids}"
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        self.folder.rmdir()


def _own_folder() -> Path:
    """The cgroup of this process that has a memory controller."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in lines:
        if "memory" in controllers.split(","):
            return CGROUPS / "memory" / path.lstrip("/")
    unified = next((path for _, controllers, path in lines if not controllers), "/")
    return CGROUPS / unified.lstrip("/")


@contextmanager
def memory_cgroup(limit_mib: int) -> Iterator[MemoryCgroup]:
    """A new one; skips the test where this user may make none."""
    folder = _own_folder() / f"celeray-test-{secrets.token_hex(4)}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    made = MemoryCgroup(folder)
    try:
        _limit(folder, limit_mib * MIB)
        yield made
    finally:
        made.remove()


def _limit(folder: Path, limit: int) -> None:
    given = {name: value(limit) for name, value in LIMITS.items() if (folder / name).exists()}
    if not given:
        pytest.skip(f"{folder} has no memory controller")
    for name, value in given.items():
        (folder / name).write_text(str(value))
