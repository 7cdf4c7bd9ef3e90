"""A run that may be placed again leaves nothing behind when its GPU memory runs out; another one fails as ever."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, Task, signals, states
from celery.app.trace import fast_trace_task

from celeray.actors.soft_limit import SoftTimeLimit
from celeray.actors.tracing import RanOut, run_task
from celeray.scheduler.gating import gate_tasks
from celeray.scheduler.gpu_memory import may_place_again
from tests.unit.actors.tracing_app import arguments, prepare, traced_app

TEXT = "CUDA out of memory. Tried to allocate 14.00 GiB."


class Noting(Task):
    """Notes which of Celery's hooks were called."""

    called: list[str] = []

    def on_failure(self, *_: Any) -> None:
        self.called.append("on_failure")

    def on_retry(self, *_: Any) -> None:
        self.called.append("on_retry")

    def after_return(self, *_: Any) -> None:
        self.called.append("after_return")


@pytest.fixture
def app() -> Iterator[Celery]:
    Noting.called.clear()
    with traced_app() as app:

        @app.task(name="raises", shared=False, base=Noting)
        def raises(text: str) -> None:
            raise RuntimeError(text)

        @app.task(name="wraps", shared=False, base=Noting)
        def wraps(text: str) -> None:
            try:
                raise RuntimeError(text)
            except RuntimeError as error:
                raise ValueError("no image") from error

        @app.task(name="auto", shared=False, base=Noting, autoretry_for=(Exception,))
        def auto(text: str) -> None:
            raise RuntimeError(text)

        @app.task(name="handles", shared=False, base=Noting)
        def handles(text: str) -> str:
            try:
                app.tasks["raises"](text)
            except RuntimeError:
                return "smaller"
            return "never"

        app.finalize()
        gate_tasks(app)
        prepare(app)
        yield app


def run(app: Celery, name: str, text: str = TEXT, *, again: bool = True) -> Any:
    got = run_task(app, arguments(name, text), SoftTimeLimit(fast_trace_task), None, may_place_again=again)
    assert not may_place_again.get(), "set for this run only"
    return pickle.loads(got) if isinstance(got, bytes) else got


@pytest.mark.parametrize("name", ["raises", "wraps", "auto"])
def test_nothing_is_stored_called_or_logged(app: Celery, name: str, caplog: pytest.LogCaptureFixture) -> None:
    failures: list[Any] = []

    def note(**told: Any) -> None:
        failures.append(told)

    signals.task_failure.connect(note)
    with caplog.at_level(logging.DEBUG):
        got = run(app, name)
    signals.task_failure.disconnect(note)
    assert isinstance(got, RanOut)
    assert TEXT in got.detail or "no image" in got.detail
    assert app.AsyncResult("t1").state == states.PENDING
    assert Noting.called == []
    assert failures == []
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_the_next_run_in_the_process_is_as_ever(app: Celery) -> None:
    run(app, "raises")
    failed, _, _ = run(app, "raises", "something else")
    assert failed
    assert app.AsyncResult("t1").state == states.FAILURE
    assert Noting.called == ["on_failure", "after_return"]


def test_where_it_is_not_placed_again_it_is_the_tasks_failure(app: Celery) -> None:
    failed, einfo, _ = run(app, "raises", again=False)
    assert failed
    assert TEXT in str(einfo.exception)
    assert app.AsyncResult("t1").state == states.FAILURE


def test_a_task_that_handles_it_succeeds(app: Celery) -> None:
    failed, text, _ = run(app, "handles")
    assert (failed, text) == (0, "'smaller'")
