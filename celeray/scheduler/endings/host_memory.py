"""Whether the kernel has killed a process for want of memory: its own count of that, nearest to this process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
VMSTAT = Path("/proc/vmstat")
COUNT = "oom_kill"
LATELY_S = 10.0
"""How long after a kill a death may still be its work. A kill of some other process is forgotten then."""


class OutOfMemoryKills:
    """Counts from the time when it is made. A kernel that counts nowhere has killed nobody."""

    def __init__(self, path: Path | None = None) -> None:
        """
        Args:
            path: a file with a line `oom_kill NUMBER`. None: of the cgroup of this process, else of the machine.
        """
        self._path = path or next((found for found in _paths() if _count(found) is not None), None)
        self._seen = self._now()

    def rise(self) -> int:
        """How many there were since the last call."""
        before, self._seen = self._seen, self._now()
        return max(0, self._seen - before)

    def _now(self) -> int:
        return 0 if self._path is None else _count(self._path) or 0


class RecentKills:
    """Which deaths those kills explain: each explains one, and only one that is asked about soon. Thread-safe."""

    def __init__(self, kills: OutOfMemoryKills, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            clock: seconds that only rise.
        """
        self._kills = kills
        self._clock = clock
        self._lock = Lock()
        self._seen_at: deque[float] = deque()

    def look(self) -> None:
        """Note what there is now; as often as it may be, since a kill counts from the look that saw it."""
        with self._lock:
            self._note()

    def take(self) -> bool:
        """Whether a process that has just been seen dead was killed so, as far as can be told."""
        with self._lock:
            self._note()
            if not self._seen_at:
                return False
            self._seen_at.popleft()
            return True

    def _note(self) -> None:
        now = self._clock()
        self._seen_at.extend([now] * self._kills.rise())
        while self._seen_at and self._seen_at[0] < now - LATELY_S:
            self._seen_at.popleft()


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
