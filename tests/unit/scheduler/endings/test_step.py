"""Which class of requests a task gets, and what a broker that keeps nothing is told of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.worker.request import Request

import celeray
from celeray.scheduler.endings.request import RetriedRequest, SettledRequest
from celeray.scheduler.endings.step import SettleRuns, settle_runs_of, spared
from celeray.scheduler.endings.writing import Writer
from celeray.scheduler.parked import ParkReason
from celeray.scheduler.settings import Settings


class OwnRequest(Request):
    """A user's."""

    def on_failure(self, *args: Any, **kwargs: Any) -> str:
        return "own"


def app_on(broker: str) -> Celery:
    app = Celery("steps", broker=broker, set_as_current=False)
    celeray.install(app, Settings.load(None, retry_policies={"retried": "default"}))

    def nothing() -> None: ...

    for name in ("retried", "plain"):
        app.task(nothing, name=name, shared=False)
    app.task(nothing, name="own", shared=False, Request=OwnRequest)
    app.finalize()
    return app


def test_tasks_with_a_policy_tell_their_process_so() -> None:
    app = app_on("redis://127.0.0.1:1/0")
    SettleRuns(SimpleNamespace(app=app))

    assert issubclass(app.tasks["retried"].Request, RetriedRequest)
    assert issubclass(app.tasks["plain"].Request, SettledRequest)
    assert not issubclass(app.tasks["plain"].Request, RetriedRequest)


def test_a_users_own_class_stays_beneath() -> None:
    app = app_on("redis://127.0.0.1:1/0")
    writer = Writer(Settings(), sends_again=True)
    for _ in range(2):
        settle_runs_of(app.tasks["own"], writer)
    found = app.tasks["own"].Request

    assert found.__mro__[1:3] == (SettledRequest, OwnRequest)
    assert found.celeray_writer is writer


def test_without_redis_nothing_is_promised(caplog: pytest.LogCaptureFixture) -> None:
    app = app_on("memory://")
    SettleRuns(SimpleNamespace(app=app))

    assert "result_backend='': failed tasks leave no dead letters" in caplog.text
    assert not issubclass(app.tasks["retried"].Request, RetriedRequest)
    assert app.tasks["retried"].Request.celeray_writer.policy_of("retried") is None


@pytest.mark.parametrize(
    ("reason", "kept"),
    [(ParkReason.FAILED, False), (ParkReason.NEVER_FITS, True), (ParkReason.BAD_REQUEST, True)],
)
def test_letters_of_failed_tasks_may_be_left_out(
    monkeypatch: pytest.MonkeyPatch, reason: ParkReason, kept: bool
) -> None:
    from celeray.scheduler.letters.attempts import Attempts

    writer, ended = Writer(Settings(failed_task_letters=False), sends_again=True), []
    monkeypatch.setattr(writer, "_end", lambda *given: ended.append(given))
    writer.park(None, reason, Attempts(), "why")

    assert bool(ended) is kept


def test_a_duty_that_fails_does_not_disturb_the_renewal(caplog: pytest.LogCaptureFixture) -> None:
    def fails(book: Any, settings: Settings) -> None:
        raise RuntimeError("no memory")

    spared(fails, SimpleNamespace(), Settings())  # type: ignore[arg-type] # a book that nobody asks

    assert "no memory" in caplog.text
