"""Workers as processes of their own, on the session's Redis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

ROOT = Path(__file__).parents[3]
START_DEADLINE_S = 60.0

StartWorker = Callable[..., subprocess.Popen[bytes]]


def wait_for(condition: Callable[[], Any], deadline_s: float = 30.0) -> Any:
    """What `condition` gives once it is true."""
    deadline = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
    return value


@pytest.fixture
def eventually() -> Callable[..., Any]:
    return wait_for


@pytest.fixture
def start_worker(redis_url: str, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts `celery -A tests.apps.front worker` with more arguments, and waits until it answers."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        name = f"front{len(processes)}@localhost"
        log = tmp_path / f"{name}.log"
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "tests.apps.front",
            "worker",
            "-n",
            name,
            "-l",
            "INFO",
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "FRONT_REDIS_URL": redis_url, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        processes.append(process)
        control = Celery(broker=redis_url, set_as_current=False).control
        try:
            wait_for(lambda: control.ping([name], timeout=0.5), START_DEADLINE_S)
        except AssertionError:
            raise AssertionError(log.read_text()) from None
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def front(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """The app of the workers, in this process."""
    monkeypatch.setenv("FRONT_REDIS_URL", redis_url)
    monkeypatch.syspath_prepend(str(ROOT))
    sys.modules.pop("tests.apps.front", None)
    from tests.apps.front import app

    yield app
    app.close()
    sys.modules.pop("tests.apps.front", None)


@pytest.fixture
def stock(redis_url: str) -> Iterator[Celery]:
    """A producer and reader that knows nothing of celeray."""
    app = Celery("stock", broker=redis_url, backend=redis_url, set_as_current=False)
    yield app
    app.close()
