"""An `ExecutorCore` in a process of its own, driven over a pipe: loading an app changes a process for good."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from celeray.actors import batch
from celeray.actors.executor_core import ExecutorCore
from celeray.scheduler.cluster import ExecutorSpec

ROOT = Path(__file__).parents[3]


class CoreProcess:
    """The parent's side: calls methods of the core and returns what they return."""

    def __init__(self, connection: Connection, pid: int) -> None:
        self._connection = connection
        self.pid = pid

    def be_patient(self) -> None:
        """Let a batch take as long as it likes, since the machine may be busy."""
        self.call("be_patient")

    def call(self, method: str, *args: Any) -> Any:
        """Raises RuntimeError with the text of what the core raised."""
        self._connection.send((method, args))
        error, value = self._connection.recv()
        if error is not None:
            raise RuntimeError(error)
        return value


@contextmanager
def core_process(
    spec: ExecutorSpec,
    holds_folder: Path | None = None,
    env: Mapping[str, str] | None = None,
    ends_with: int = 0,
) -> Iterator[CoreProcess]:
    """A core that is made and not loaded; its process ends with the block, with that exit code."""
    parent, child = socket.socketpair()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    with child:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.actors.core_process", str(child.fileno())],
            pass_fds=(child.fileno(),),
            env=environment,
            cwd=ROOT,
        )
    with Connection(parent.detach()) as connection:
        connection.send((spec, None if holds_folder is None else str(holds_folder)))
        yield CoreProcess(connection, process.pid)
    assert process.wait(30) == ends_with


def main() -> None:
    """The child's side."""
    connection = Connection(int(sys.argv[1]))
    core = ExecutorCore(*connection.recv())
    while True:
        try:
            method, args = connection.recv()
        except EOFError:
            return
        if method == "be_patient":
            batch.OVERTIME_S = 600.0
            connection.send((None, None))
            continue
        try:
            answer = (None, getattr(core, method)(*args))
        except Exception as error:  # noqa: BLE001 - the parent's test judges it
            answer = (f"{type(error).__name__}: {error}", None)
        connection.send(answer)


if __name__ == "__main__":
    main()
