"""Processes of one host by pid and start time, so that a pid that was given out again is never taken for another."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil

INITIAL_PID_NAMESPACE = "pid:[4026531836]"
"""Fixed by the kernel (PROC_PID_INIT_INO)."""
PIDS_VISIBLE_VARIABLE = "CELERAY_PIDS_VISIBLE"
"""1 or 0 in the raylet's environment overrides the check of the pid namespace."""
CREATED_TOLERANCE_S = 2.0
"""psutil derives the start time from the boot time, which moves by a second when the clock is set."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process, for ever."""

    pid: int
    created: float
    """Start time in seconds since the epoch, as psutil gives it."""


def this_process() -> ProcessId:
    """The calling process."""
    return ProcessId(os.getpid(), psutil.Process().create_time())


def is_alive(process: ProcessId) -> bool:
    """Whether it still runs. A zombie is dead: it holds no memory."""
    return find(process) is not None


def pids_visible() -> bool:
    """Whether the pids that NVML lists are pids as this process sees them: NVML lists those of the host."""
    if (forced := os.environ.get(PIDS_VISIBLE_VARIABLE)) is not None:
        return forced == "1"
    try:
        return os.readlink("/proc/self/ns/pid") == INITIAL_PID_NAMESPACE
    except OSError:
        return False


def ancestors(pid: int) -> tuple[int, ...]:
    """Pids of its ancestors, the nearest first, as far as they can be seen. Empty: it is gone."""
    try:
        return tuple(parent.pid for parent in psutil.Process(pid).parents())
    except psutil.Error:
        return ()


def find(process: ProcessId) -> psutil.Process | None:
    """The live process, or None."""
    try:
        found = psutil.Process(process.pid)
        with found.oneshot():
            same = abs(found.create_time() - process.created) < CREATED_TOLERANCE_S
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None
