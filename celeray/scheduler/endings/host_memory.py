"""Whether the kernel has killed a process for want of memory: its own count of that, nearest to this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
VMSTAT = Path("/proc/vmstat")
COUNT = "oom_kill"


class OutOfMemoryKills:
    """Counts from the time when it is made. A kernel that counts nowhere has killed nobody."""

    def __init__(self, path: Path | None = None) -> None:
        """
        Args:
            path: a file with a line `oom_kill NUMBER`. None: of the cgroup of this process, else of the machine.
        """
        self._path = path or next((found for found in _paths() if _count(found) is not None), None)
        self._seen = self._now()

    def have_risen(self) -> bool:
        """Whether there was one since the last call."""
        before, self._seen = self._seen, self._now()
        return self._seen > before

    def _now(self) -> int:
        return 0 if self._path is None else _count(self._path) or 0


def _paths() -> Iterator[Path]:
    try:
        lines = OWN_CGROUP.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield CGROUPS / path.lstrip("/") / "memory.events"
        elif "memory" in controllers.split(","):
            yield CGROUPS / "memory" / path.lstrip("/") / "memory.oom_control"
    # In a container the cgroup's own path may be one of the host.
    yield CGROUPS / "memory.events"
    yield VMSTAT


def _count(path: Path) -> int | None:
    try:
        pairs = (line.split() for line in path.read_text().splitlines())
        return next((int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0] == COUNT), None)
    except (OSError, ValueError):
        return None
