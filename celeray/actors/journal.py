"""How far an executor is with its batch, in a file that outlives it.

A killed process leaves what it wrote to a file with the kernel, so the node agent reads it when the process is dead,
and the bridge learns which run was under way, which had ended, and that the others never began. A record costs one
write of a few microseconds; nothing is forced to the disk, since what ends with the node is not known anyhow.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir

import psutil

from celeray.actors.simulated import make_private
from celeray.scheduler.cluster import Progress, RunEnded

BEGUN, ENDED, RETURNED = b"B", b"E", b"R"
"""A run's code begins; a run has ended and its result is stored; the last begun run has returned."""
_HEAD = struct.Struct("!cqdI")
"""Kind, run id, seconds, length of the outcome that follows."""
SWEEP_AFTER_S = 3600.0
"""Journals of dead processes that nobody asked for, since their bridge is gone."""


def journal_path(pid: int, executor_id: str, folder: Path | None = None) -> Path:
    """Where that executor keeps its journal."""
    return (folder or _folder()) / f"{pid}-{executor_id}"


def _folder() -> Path:
    return Path(gettempdir()) / f"celeray-{os.getuid()}" / "journals"


class Journal:
    """Written by one executor. Each batch begins it anew."""

    def __init__(self, executor_id: str, folder: Path | None = None) -> None:
        """Make the file.

        Raises:
            ConfigurationError: its folder is another user's.
            OSError: it can't be made.
        """
        path = journal_path(os.getpid(), executor_id, folder)
        if folder is None:
            make_private(path.parents[1])
            make_private(path.parent)
        self._path = path
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def begin_batch(self) -> None:
        """Nothing of the batches before counts any more."""
        os.ftruncate(self._fd, 0)

    def begun(self, run_id: int) -> None:
        """The run's code begins; the one before has returned."""
        os.write(self._fd, _HEAD.pack(BEGUN, run_id, 0.0, 0))

    def returned(self) -> None:
        """The last begun run has returned, and none begins any more."""
        os.write(self._fd, _HEAD.pack(RETURNED, 0, 0.0, 0))

    def ended(self, runs: Iterable[RunEnded]) -> None:
        """These ends are final: what was to be stored is stored."""
        parts = (
            _HEAD.pack(ENDED, run.run_id, run.seconds or 0.0, len(run.payload)) + run.payload for run in runs
        )
        if data := b"".join(parts):
            os.write(self._fd, data)

    def close(self) -> None:
        """The executor leaves by itself: nobody needs it."""
        os.close(self._fd)
        self._path.unlink(missing_ok=True)


def read_journal(executor_id: str, data: bytes) -> tuple[list[RunEnded], Progress]:
    """The ends that are final, and how far the executor was. A record that was cut off did not happen."""
    ended: dict[int, RunEnded] = {}
    begun: list[int] = []
    running: int | None = None
    at = 0
    while at + _HEAD.size <= len(data):
        kind, run_id, seconds, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if at + length > len(data):
            break
        if kind == BEGUN:
            begun.append(run_id)
            running = run_id
        elif kind == ENDED:
            ended[run_id] = RunEnded(executor_id, run_id, data[at : at + length], None, seconds)
            running = None if running == run_id else running
        else:
            running = None
        at += length
    unstored = tuple(run_id for run_id in begun if run_id not in ended and run_id != running)
    return list(ended.values()), Progress(running, unstored)


def take_journal(pid: int, executor_id: str, folder: Path | None = None) -> bytes | None:
    """The journal of a dead executor of this node, which is removed. None: it had none."""
    path = journal_path(pid, executor_id, folder)
    try:
        data = path.read_bytes()
    except OSError:
        return None
    path.unlink(missing_ok=True)
    return data


def sweep_journals(now: float | None = None, folder: Path | None = None) -> int:
    """Remove what processes left that died an hour ago or earlier; returns how many. `now`: seconds since the epoch."""
    swept = 0
    for path in (folder or _folder()).glob("*-*"):
        with suppress(OSError, ValueError):
            old = (now or time.time()) - path.stat().st_mtime > SWEEP_AFTER_S
            if old and not psutil.pid_exists(int(path.name.partition("-")[0])):
                path.unlink()
                swept += 1
    return swept
