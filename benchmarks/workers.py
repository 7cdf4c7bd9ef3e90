"""Worker processes: start by command, ready at their ping, stopped by pid."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from celery import Celery

START_DEADLINE_S = 240.0
STOP_DEADLINE_S = 60.0
REPLY_DEADLINE_S = 10.0


class WorkerProcess:
    """A Celery worker of any kind, up and answering between enter and exit. Its output goes to `log`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        app: Celery,
        node: str,
        log: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.app = app
        self.node = node
        self.log = log
        self._command = list(command)
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll() if self._process else None

    @property
    def pid(self) -> int:
        """Of the worker's main process, once it was started."""
        assert self._process is not None
        return self._process.pid

    def stats(self) -> dict[str, Any]:
        """The worker's own `inspect stats`."""
        return self._inspect("stats")

    def conf(self) -> dict[str, Any]:
        """The settings in force in the worker."""
        return self._inspect("conf", with_defaults=True)

    def __enter__(self) -> WorkerProcess:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=subprocess.STDOUT, env=self._env
            )
        try:
            self._await_ping()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Warm shutdown; past the deadline the worker and the processes below it are killed. Safe to call twice."""
        if self._process is None or self._process.poll() is not None:
            return
        below = psutil.Process(self._process.pid).children(recursive=True)
        self._process.terminate()
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            for process in [psutil.Process(self._process.pid), *below]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait()

    def _inspect(self, command: str, **arguments: object) -> dict[str, Any]:
        inspect = self.app.control.inspect([self.node], timeout=REPLY_DEADLINE_S, limit=1)
        replies = getattr(inspect, command)(**arguments)
        if not replies:
            raise TimeoutError(
                f"{self.node} did not answer {command} within {REPLY_DEADLINE_S:g} s; see {self.log}"
            )
        reply: dict[str, Any] = replies[self.node]
        return reply

    def _await_ping(self) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while not self.app.control.ping([self.node], timeout=1, limit=1):
            if (code := self.exit_code) is not None:
                raise RuntimeError(f"the worker ended with code {code} before it answered; see {self.log}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"no ping from {self.node} within {START_DEADLINE_S:g} s; see {self.log}")
