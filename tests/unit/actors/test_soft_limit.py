"""A soft time limit is raised inside the task, once, and never anywhere else."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterator
from functools import partial

import pytest
from celery import Celery
from celery.app.trace import fast_trace_task
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_success

from celeray.actors.soft_limit import SoftTimeLimit
from celeray.actors.tracing import run_task
from tests.unit.actors.tracing_app import arguments, prepare, traced_app

FAR_S = 60.0
# The plugin's own timer is the very signal that is tested here.
pytestmark = pytest.mark.timeout(120, method="thread")


@pytest.fixture
def limit() -> Iterator[SoftTimeLimit]:
    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGUSR1)}
    limit = SoftTimeLimit(fast_trace_task)
    limit.install()
    yield limit
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def app() -> Iterator[Celery]:
    with traced_app() as app:

        @app.task(name="spin", shared=False)
        def spin() -> str:
            """Until something is raised."""
            end = time.monotonic() + FAR_S
            while time.monotonic() < end:
                pass
            return "never"

        @app.task(name="catch", shared=False)
        def catch() -> str:
            end = time.monotonic() + FAR_S
            try:
                while time.monotonic() < end:
                    pass
            except SoftTimeLimitExceeded as error:
                return f"caught {error.args[0]}"
            return "never"

        @app.task(name="signal", shared=False)
        def signal_self() -> None:
            os.kill(os.getpid(), signal.SIGUSR1)

        @app.task(name="quick", shared=False)
        def quick() -> str:
            return "done"

        prepare(app)
        yield app


def run(app: Celery, limit: SoftTimeLimit, name: str, limit_s: float | None) -> tuple[int, object]:
    payload = run_task(app, arguments(name), limit, limit_s)
    assert isinstance(payload, bytes)
    failed, retval, _ = pickle.loads(payload)
    return failed, retval


def test_it_is_raised_inside_the_task(app: Celery, limit: SoftTimeLimit) -> None:
    failed, info = run(app, limit, "spin", 0.02)

    assert failed
    assert info.type is SoftTimeLimitExceeded  # type: ignore[attr-defined]


def test_a_task_may_catch_it_and_it_comes_once(app: Celery, limit: SoftTimeLimit) -> None:
    assert run(app, limit, "catch", 0.02) == (0, "'caught 0.02'")
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("limit_s", [None, 0, FAR_S])
def test_a_task_within_its_limit_goes_on(app: Celery, limit: SoftTimeLimit, limit_s: float | None) -> None:
    assert run(app, limit, "quick", limit_s) == (0, "'done'")
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_signal_in_our_own_code_does_nothing_and_comes_again_in_the_task(
    app: Celery, limit: SoftTimeLimit
) -> None:
    heard = 0

    def count(signum: int, frame: object) -> None:
        nonlocal heard
        heard += 1
        limit._on_alarm(signum, frame)  # type: ignore[arg-type]

    with limit.armed(app.tasks["spin"], 0.001):
        signal.signal(signal.SIGALRM, count)
        while heard < 3:
            pass
        failed, _, _ = fast_trace_task(*arguments("spin"))
    assert failed


def test_signals_without_a_task_do_nothing(limit: SoftTimeLimit) -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    with limit.armed(None, FAR_S):
        os.kill(os.getpid(), signal.SIGALRM)


def test_sigusr1_raises_in_a_running_task_as_in_prefork(app: Celery, limit: SoftTimeLimit) -> None:
    failed, info = run(app, limit, "signal", None)

    assert failed
    assert info.type is SoftTimeLimitExceeded  # type: ignore[attr-defined]


def test_a_task_that_is_no_python_function_is_reached_too(app: Celery, limit: SoftTimeLimit) -> None:
    task = app.tasks["spin"]
    task.run = partial(task.run)

    failed, info = run(app, limit, "spin", 0.02)

    assert failed
    assert info.type is SoftTimeLimitExceeded  # type: ignore[attr-defined]


def test_a_limit_that_ends_while_the_result_is_stored_changes_nothing(
    app: Celery, limit: SoftTimeLimit
) -> None:
    slow = Stopwatch(0.05)
    task_success.connect(slow, weak=False)
    try:
        assert run(app, limit, "quick", 0.01) == (0, "'done'")
    finally:
        task_success.disconnect(slow)
    assert slow.done


class Stopwatch:
    """A receiver of a signal that takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.done = False

    def __call__(self, **_: object) -> None:
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            pass
        self.done = True
