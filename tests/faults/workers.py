"""Worker processes that tests kill, stop and cut off. Each is ended by its pid or its own process group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.faults.application import Config
from tests.faults.servers import until

ROOT = Path(__file__).parents[2]
CLOCK = Path(__file__).parent / "clock_shift"
START_DEADLINE_S = 60.0


class Victim:
    """A process that a test may break, in a process group of its own, so that its children can be reached with it."""

    ready = ""
    """What its log says when it is ready."""

    def __init__(self, config: Config, folder: Path, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = [sys.executable, "-m", *command]
        self._env = {**os.environ, **config.environment()}
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> Self:
        """Start it, without waiting."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def await_ready(self) -> Self:
        until(self._ready, f"{self.name} is ready:\n{self.tail()}", START_DEADLINE_S)
        return self

    def start(self) -> Self:
        return self.begin().await_ready()

    def _ready(self) -> bool:
        if not self.alive:
            raise AssertionError(f"{self.name} ended:\n{self.tail()}")
        return self.ready in self.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def signal(self, signum: int, *, group: bool = True) -> None:
        """Send a signal.

        Args:
            group: to its pool children as well; else to the main process alone.
        """
        if not self.alive:
            return
        if group:
            os.killpg(self.pid, signum)
        else:
            os.kill(self.pid, signum)

    def kill(self, *, group: bool = True) -> None:
        """SIGKILL, and wait for its end. Without its group its children live on until they notice."""
        self.signal(signal.SIGKILL, group=group)
        assert self._process is not None
        self._process.wait(20)

    def stop(self) -> None:
        """Warm shutdown; killed with what is left of its group where that takes too long."""
        if self._process is None:
            return
        if self.alive:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM, group=False)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)
                self._process.wait(20)
        self._reap_group()

    def _reap_group(self) -> None:
        # Children of a killed worker are of its group still, which no other process can have joined.
        for _ in range(50):
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                return
            time.sleep(0.02)


class Worker(Victim):
    """`celery worker`."""

    ready = " ready."

    def __init__(
        self, config: Config, folder: Path, name: str, *arguments: str, clock_shift_s: float = 0.0
    ) -> None:
        """
        Args:
            arguments: more of `celery worker`, such as `-P`.
            clock_shift_s: how far its `time.time` is ahead.
        """
        command = ["celery", "-A", "tests.faults.worker_app", "worker", "-n", f"{name}@faults", "-l", "INFO"]
        command += ["-Q", config.queue, "--without-mingle", "--without-gossip", *arguments]
        super().__init__(config, folder, name, command)
        if clock_shift_s:
            self._env["FAULTS_CLOCK_SHIFT_S"] = str(clock_shift_s)
            self._env["PYTHONPATH"] = os.pathsep.join([str(CLOCK), self._env["PYTHONPATH"]])


class Keeper(Victim):
    """`celeray keeper`."""

    ready = " is up"

    def __init__(self, config: Config, folder: Path, name: str) -> None:
        super().__init__(config, folder, name, ["celeray.cli", "keeper", "-A", "tests.faults.worker_app"])


class Bridge(Victim):
    """`celeray bridge`. Its Ray driver is of its group."""

    ready = " ready."

    def __init__(self, config: Config, folder: Path, name: str, ray_address: str) -> None:
        command = ["celeray.cli", "bridge", "-A", "tests.faults.worker_app", "-n", f"{name}@faults"]
        command += ["-Q", config.queue, "--ray-address", ray_address]
        super().__init__(config, folder, name, [*command, "--", "--without-mingle", "--without-gossip"])
