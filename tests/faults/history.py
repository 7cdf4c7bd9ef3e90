"""What happened, as those who did it saw it: JSON lines, each on disk before its writer goes on.

| event | written by | besides `at` and `pid` |
|---|---|---|
| `submit-ok` | submitter, after the broker's answer | `id`, `role`; of a body: `parts` |
| `submit-fail` | submitter: certainly not published | `id`, `role` |
| `submit-unknown` | submitter: perhaps published | `id`, `role`; of a body: `parts` |
| `start` | task | `id`, `role`, `run`, `tag` of the publication, `fence`, `attempt`; of a callback: `of` |
| `end` | task, as its last step | `id`, `role`, `run`; of a body: `parts` that it was given |
| `effect` | effect store, in the same step as the effect | `id`, `run`, `fence` |
| `result-stored` | watcher of the result backend | `id`, `run`, `fence` |
| `result-seen` | reader at the end | `id`, `run` |
| `fault` | test | `name`, `crash` |
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class History:
    """One file a process in a folder of all. Safe for threads, and for forked children, which open their own file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: tuple[int, int] | None = None

    def note(self, event: str, **facts: Any) -> None:
        """Append a line and wait until it is on disk. `at` is CLOCK_MONOTONIC: one clock for all processes."""
        pid = os.getpid()
        line = json.dumps({"event": event, "at": time.monotonic(), "pid": pid, **facts}) + "\n"
        file = self._open(pid)
        os.write(file, line.encode())
        os.fdatasync(file)

    def _open(self, pid: int) -> int:
        if self._file is None or self._file[0] != pid:
            self.folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
            self._file = pid, os.open(self.folder / f"{pid}.jsonl", flags, 0o600)
        return self._file[1]

    def close(self) -> None:
        if self._file is not None and self._file[0] == os.getpid():
            os.close(self._file[1])
        self._file = None

    def read(self) -> list[Record]:
        """All lines of all processes, by their time."""
        files = sorted(self.folder.glob("*.jsonl")) if self.folder.is_dir() else []
        return in_order(json.loads(line) for file in files for line in _whole_lines(file.read_bytes()))


def _whole_lines(data: bytes) -> list[bytes]:
    """Without a torn one at the end: it is being written, or its writer was killed before it went on."""
    return data[: data.rfind(b"\n") + 1].splitlines()


def in_order(records: Iterable[Record]) -> list[Record]:
    """By the time at which they were written."""
    return sorted(records, key=lambda record: float(record["at"]))
