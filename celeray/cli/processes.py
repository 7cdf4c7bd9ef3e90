"""Starts processes, shows their output, restarts those that die, and stops them in order. Knows nothing of celeray.

A part runs in a session of its own, so Ctrl-C in a terminal reaches only this process, which then decides who
stops first. Start and run the `Supervisor` in the main thread: a part's life is tied to the thread that started it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Protocol

import click
import psutil

from celeray.scheduler.parent_death import end_with_parent

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 30.0
SETTLED_S = 30.0
"""A part that lived so long starts its backoff anew."""
POLL_S = 0.1
LEFTOVER_GRACE_S = 5.0
"""For what a part started and left behind, such as the child that stops Ray."""
COLOURS = ("cyan", "green", "yellow", "blue", "magenta", "bright_cyan", "bright_green", "bright_yellow")


class Output:
    """Writes lines of many parts to one stream, each whole and prefixed by the part's name."""

    def __init__(self, stream: IO[str] | None = None, *, colour: bool | None = None) -> None:
        self._stream = stream or sys.stdout
        self._colour = self._stream.isatty() and not os.environ.get("NO_COLOR") if colour is None else colour
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}

    def line(self, name: str, text: str) -> None:
        """One line of a part."""
        with self._lock:
            colour = self._names.setdefault(name, COLOURS[len(self._names) % len(COLOURS)])
            prefix = f"{name:<8} | "
            # With the reader of a pipe gone the lines have nowhere to go, but the parts must not block on theirs.
            with suppress(BrokenPipeError):
                self._stream.write((click.style(prefix, fg=colour) if self._colour else prefix) + text + "\n")
                self._stream.flush()


class Part(Protocol):
    """Something that runs beside the others."""

    name: str

    def start(self) -> None: ...

    def alive(self) -> bool: ...

    def ending(self) -> str:
        """How it ended, in words."""
        ...

    def ask_to_end(self, *, cold: bool) -> None:
        """Return at once; it may take its time, less of it when `cold`."""
        ...

    def kill(self) -> None:
        """End it and what it left behind; return when nothing of it runs any more."""
        ...


@dataclass(frozen=True)
class Command:
    """How a process part is started and stopped."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cold_signal: int = signal.SIGTERM
    """What ends it at once; Celery's workers take SIGQUIT."""


class ProcessPart:
    """One command, its output shown line by line."""

    def __init__(self, name: str, command: Command, output: Output) -> None:
        self.name = name
        self._command = command
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None
        self._family: dict[int, psutil.Process] = {}

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - the caller's own command
            list(self._command.argv),
            env=dict(self._command.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent(),
        )
        threading.Thread(target=self._show, args=(self._process.stdout,), daemon=True).start()

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ending(self) -> str:
        code = self._process.returncode if self._process else None
        if code is None:
            return "not ended"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def ask_to_end(self, *, cold: bool) -> None:
        self._remember_family()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(self._command.cold_signal if cold else signal.SIGTERM)

    def kill(self) -> None:
        self._remember_family()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        family = list(self._family.values())
        _, left = psutil.wait_procs(family, timeout=LEFTOVER_GRACE_S)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=LEFTOVER_GRACE_S)

    def _remember_family(self) -> None:
        """Who has to be gone too: what the process started, and what still runs in its session."""
        if self._process is None:
            return
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                self._family[child.pid] = child
        for process in psutil.process_iter():
            if process.pid != self._process.pid and _session(process.pid) == self._process.pid:
                self._family[process.pid] = process

    def _show(self, stream: IO[bytes]) -> None:
        for line in stream:
            self._output.line(self.name, line.decode("utf-8", "replace").rstrip("\r\n"))
        stream.close()


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _nothing() -> None:
    return


class Supervisor:
    """Keeps parts alive until a signal comes, then stops them stage by stage.

    The first SIGINT, SIGTERM or SIGHUP stops warmly, the second one coldly, the third one kills.
    """

    def __init__(self, stages: Sequence[Sequence[Part]], output: Output, *, deadline_s: float = 60.0) -> None:
        """
        Args:
            stages: in the order of stopping; started in reverse. Parts of one stage are stopped together.
            deadline_s: for each stage to end warmly; then it is killed.
        """
        self._stages = stages
        self._output = output
        self._deadline_s = deadline_s
        self.on_restart: Callable[[], None] = _nothing
        """Called after a part was started again."""
        self._signals = 0
        self._started_at: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._due: dict[str, float] = {}

    def stop(self) -> None:
        """As if a signal had come. Takes no lock, since a signal handler calls it."""
        self._signals += 1

    def install_signals(self) -> None:
        """Stop on SIGINT, SIGTERM and, unless `nohup` has it ignored, SIGHUP."""
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, lambda *_: self.stop())

    def start(self) -> None:
        """Start every part, the last stage first.

        Raises:
            ConfigurationError, OSError: a part can't be started; those before it run.
        """
        for stage in reversed(self._stages):
            for part in stage:
                if self._signals:
                    return
                self._start(part)

    def run(self) -> None:
        """Keep the parts alive until told to stop."""
        while not self._signals:
            for part in (part for stage in self._stages for part in stage):
                self._look_after(part, time.monotonic())
            time.sleep(POLL_S)

    def shut_down(self) -> None:
        """Stop every part; nothing of them runs afterwards."""
        for stage in self._stages:
            self._end_stage([part for part in stage if part.name in self._started_at])

    def _start(self, part: Part) -> None:
        self._started_at[part.name] = time.monotonic()
        part.start()

    def _look_after(self, part: Part, now: float) -> None:
        if part.alive():
            if now - self._started_at[part.name] > SETTLED_S:
                self._failures.pop(part.name, None)
        elif part.name not in self._due:
            failures = self._failures[part.name] = self._failures.get(part.name, 0) + 1
            pause = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (failures - 1))
            self._due[part.name] = now + pause
            self._output.line(part.name, f"ended ({part.ending()}); starting again in {pause:g} s")
            # What a dead process left behind would hold its port, its name or its devices.
            part.kill()
        elif now >= self._due[part.name]:
            del self._due[part.name]
            self._restart(part)

    def _restart(self, part: Part) -> None:
        try:
            self._start(part)
        except Exception as error:  # noqa: BLE001 - whatever it was, the next try comes after a longer pause
            self._output.line(part.name, f"did not start: {error}")
        else:
            self._output.line(part.name, "started again")
            self.on_restart()

    def _end_stage(self, parts: Sequence[Part]) -> None:
        seen = self._signals
        for part in parts:
            if part.alive():
                self._output.line(part.name, "stopping" if seen < 2 else "stopping at once")
            part.ask_to_end(cold=seen >= 2)
        end_at = time.monotonic() + self._deadline_s
        while any(part.alive() for part in parts) and time.monotonic() < end_at and self._signals < 3:
            if self._signals > seen:
                seen = self._signals
                for part in parts:
                    part.ask_to_end(cold=True)
            time.sleep(POLL_S)
        for part in parts:
            if part.alive():
                self._output.line(part.name, f"did not stop within {self._deadline_s:g} s: killed")
            part.kill()
