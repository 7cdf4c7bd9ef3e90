"""`celeray up` as a child process, with its output in a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from examples.auteur.watch import Api

CONFIG = Path(__file__).with_name("celeray.toml")
READY_DEADLINE_S = 120.0
STOP_DEADLINE_S = 60.0
POLL_S = 0.2


class StackError(RuntimeError):
    """`celeray up` ended or did not get ready; carries the end of its output."""


class Stack:
    """Everything that the demo needs, for the time of a `with` block."""

    def __init__(self, root: Path, simulated_gpus: str, api_port: int, flower_port: int) -> None:
        self.api = Api(api_port)
        self.flower_port = flower_port
        self.log = root / "celeray.log"
        self._state = root / "state"
        self._command = [sys.executable, "-m", "celeray.cli", "up", "-A", "examples.auteur.app"]
        self._command += ["--simulate-gpus", simulated_gpus, "--state-dir", str(self._state)]
        self._command += ["--api-port", str(api_port), "--flower-port", str(flower_port)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def redis_url(self) -> str:
        """Where the embedded Redis is."""
        return str(json.loads((self._state / "up.json").read_text(encoding="utf-8"))["redis_url"])

    def __enter__(self) -> Stack:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            # A session of its own: Ctrl-C reaches the demo alone, which then ends the stack in order.
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, with arguments of ours
                self._command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"CELERAY_CONFIG": str(CONFIG), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        try:
            self._await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """End the stack in order; kills what is left of `celeray up` after a minute."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise StackError(
                f"`celeray up` did not end within {STOP_DEADLINE_S:.0f} s\n{self.tail()}"
            ) from None
        if process.returncode:
            raise StackError(f"`celeray up` ended with {process.returncode}\n{self.tail()}")

    def wait(self) -> None:
        """Until the stack ends by itself, or Ctrl-C."""
        if self._process:
            self._process.wait()

    def tail(self, lines: int = 40) -> str:
        """The end of the output."""
        return "\n".join(self._output().splitlines()[-lines:])

    def _output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _await_ready(self) -> None:
        deadline = time.monotonic() + READY_DEADLINE_S
        while not self._is_ready():
            if self._process is None or self._process.poll() is not None:
                raise StackError(f"`celeray up` ended before it was ready\n{self.tail()}")
            if time.monotonic() > deadline:
                raise StackError(f"`celeray up` was not ready within {READY_DEADLINE_S:.0f} s\n{self.tail()}")
            time.sleep(POLL_S)

    def _is_ready(self) -> bool:
        try:
            return self.api.get("/readyz") is not None and self.api.get("/v1/status")["devices"] > 0
        except (OSError, RuntimeError):
            return False
