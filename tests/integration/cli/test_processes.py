"""The supervisor on small real commands: output, restarts, order of stopping, and nothing left behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from celeray.cli import processes
from celeray.cli.processes import Command, Output, ProcessPart, Supervisor

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured]
DEADLINE_S = 20.0
POLITE = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print('up', flush=True); "
WAIT = "[time.sleep(0.05) for _ in range(2000)]"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); " + WAIT
)


def wait_for(condition: Callable[[], object], what: str) -> None:
    end_at = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_at, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.02)


class Stack:
    """Parts from Python snippets, and what they wrote."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.output = Output(self.stream, colour=False)
        self.parts: list[ProcessPart] = []

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    def part(self, name: str, code: str, *, cold: int = signal.SIGTERM) -> ProcessPart:
        command = Command((sys.executable, "-c", code), dict(os.environ), cold)
        made = ProcessPart(name, command, self.output)
        self.parts.append(made)
        return made


@pytest.fixture
def stack() -> Iterator[Stack]:
    made = Stack()
    yield made
    for part in made.parts:
        part.kill()


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def run_until(supervisor: Supervisor, script: Callable[[], None]) -> None:
    """Run the supervisor in this thread, and `script` beside it, which ends with a stop whatever happens."""
    failure: list[BaseException] = []

    def play() -> None:
        try:
            script()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failure.append(error)
        supervisor.stop()

    player = threading.Thread(target=play)
    player.start()
    supervisor.run()
    player.join()
    supervisor.shut_down()
    if failure:
        raise failure[0]


def test_lines_are_prefixed_and_whole(stack: Stack) -> None:
    one = stack.part(
        "one", "import sys; print('a' * 50); print('b', file=sys.stderr); sys.stdout.write('no newline')"
    )
    one.start()
    wait_for(lambda: "no newline" in stack.text, "the last line")
    assert sorted(stack.text.splitlines()) == sorted(
        [f"one      | {'a' * 50}", "one      | b", "one      | no newline"]
    )
    wait_for(lambda: not one.alive(), "the end")
    assert one.ending() == "exit code 0"


def test_colour_is_one_a_name() -> None:
    stream = io.StringIO()
    output = Output(stream, colour=True)
    output.line("one", "x")
    output.line("two", "x")
    output.line("one", "y")
    first, second, third = stream.getvalue().splitlines()
    assert first.startswith("\x1b[")
    assert first.removesuffix("x") == third.removesuffix("y")
    assert first.removesuffix("x").replace("one", "two") != second.removesuffix("x")


def test_a_part_that_dies_is_started_again_and_said(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "BACKOFF_FIRST_S", 0.1)
    part = stack.part("one", POLITE + WAIT)
    supervisor = Supervisor([[part]], stack.output)
    restarts: list[int | None] = []
    supervisor.on_restart = lambda: restarts.append(part.pid)
    supervisor.start()
    first = part.pid
    assert first is not None

    def script() -> None:
        wait_for(lambda: "| up" in stack.text, "it is up")
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: restarts, "it is started again")
        wait_for(lambda: stack.text.count("| up") == 2, "it is up again")

    run_until(supervisor, script)
    assert "ended (signal SIGKILL); starting again in 0.1 s" in stack.text
    assert restarts[0] != first
    assert not part.alive()


def test_the_pause_before_a_restart_grows(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "BACKOFF_FIRST_S", 0.05)
    supervisor = Supervisor([[stack.part("one", "raise SystemExit(3)")]], stack.output)
    supervisor.start()
    run_until(supervisor, lambda: wait_for(lambda: "again in 0.2 s" in stack.text, "the third pause"))
    assert "ended (exit code 3); starting again in 0.05 s" in stack.text
    assert "starting again in 0.1 s" in stack.text


def test_stages_start_from_the_last_and_stop_from_the_first(stack: Stack, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def code(name: str) -> str:
        say = f"open({str(log)!r}, 'a').write"
        return (
            f"import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: ({say}('-{name}\\n'), sys.exit(0)));"
            f"{say}('+{name}\\n'); print('up', flush=True); {WAIT}"
        )

    stages = [[stack.part("a", code("a"))], [stack.part("b", code("b"))], [stack.part("c", code("c"))]]
    supervisor = Supervisor(stages, stack.output)
    supervisor.start()
    run_until(supervisor, lambda: wait_for(lambda: stack.text.count("| up") == 3, "all are up"))
    lines = log.read_text().split()
    assert sorted(lines[:3]) == ["+a", "+b", "+c"]
    assert lines[3:] == ["-a", "-b", "-c"]


def test_who_does_not_stop_in_time_is_killed_with_what_it_started(stack: Stack, tmp_path: Path) -> None:
    child_file = tmp_path / "child"
    code = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(200)'], "
        f"start_new_session=True); open({str(child_file)!r}, 'w').write(str(child.pid)); " + STUBBORN
    )
    part = stack.part("one", code)
    supervisor = Supervisor([[part]], stack.output, deadline_s=0.3)
    supervisor.start()
    child: list[int] = []

    def script() -> None:
        wait_for(lambda: "| up" in stack.text, "it is up")
        child.append(int(child_file.read_text()))

    run_until(supervisor, script)
    assert "did not stop within 0.3 s: killed" in stack.text
    assert not part.alive()
    assert not alive(child[0])


def test_a_second_signal_stops_coldly(stack: Stack) -> None:
    code = "import signal, sys; signal.signal(signal.SIGQUIT, lambda *_: sys.exit(7)); " + STUBBORN
    part = stack.part("one", code, cold=signal.SIGQUIT)
    supervisor = Supervisor([[part]], stack.output)
    supervisor.start()
    wait_for(lambda: "| up" in stack.text, "it is up")
    supervisor.stop()
    second = threading.Timer(0.3, supervisor.stop)
    second.start()
    supervisor.run()
    supervisor.shut_down()
    second.join()
    assert part.ending() == "exit code 7"


def test_a_part_that_can_not_be_started_again_is_tried_again(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "BACKOFF_FIRST_S", 0.05)
    part = stack.part("one", "print('up', flush=True)")
    supervisor = Supervisor([[part]], stack.output)
    supervisor.start()
    part._command = Command(("/nowhere/program",), {})

    def script() -> None:
        wait_for(lambda: "did not start" in stack.text, "the failed start")
        part._command = Command((sys.executable, "-c", POLITE + WAIT), dict(os.environ))
        wait_for(lambda: "started again" in stack.text, "the next try")

    run_until(supervisor, script)


def test_parts_end_with_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = f"""
import os, sys, time
from celeray.cli.processes import Command, Output, ProcessPart
part = ProcessPart("one", Command((sys.executable, "-c", "import time; time.sleep(200)"), os.environ), Output())
part.start()
open({str(pid_file)!r}, "w").write(str(part.pid))
time.sleep(200)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as supervisor:
        wait_for(lambda: pid_file.exists() and pid_file.read_text(), "the part runs")
        pid = int(pid_file.read_text())
        supervisor.kill()
        wait_for(lambda: not alive(pid), "the part ended")
