"""Processes of one host by pid and start time, so that a pid that was given out again is never taken for another."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil

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


def find(process: ProcessId) -> psutil.Process | None:
    """The live process, or None."""
    try:
        found = psutil.Process(process.pid)
        with found.oneshot():
            same = abs(found.create_time() - process.created) < CREATED_TOLERANCE_S
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None
