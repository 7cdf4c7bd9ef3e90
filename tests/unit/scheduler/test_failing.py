"""What leaves a task's body: a policy's retry, or the failure that it is."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery import Celery
from celery.app.task import Context

import celeray
from celeray.scheduler.endings.classifying import error_of
from celeray.scheduler.failing import RETRIED, PolicyRetry, after_exception, retried_before
from celeray.scheduler.outcomes import Outcome
from celeray.scheduler.settings import Settings

QUICK = {"kind": "constant", "base_s": 5, "max_attempts": 3, "jitter": 0, "never": ["LookupError"]}


@pytest.fixture
def task() -> Any:
    app = Celery("failing", broker="redis://127.0.0.1:1/0", set_as_current=False)
    celeray.install(
        app,
        Settings.load(None, retry_policies={"failing.*": "quick"}, custom_retry_policies={"quick": QUICK}),
    )

    @app.task(name="failing.task", shared=False)
    def failing() -> None: ...

    return failing


def request(retried: int | None) -> Context:
    info = {} if retried is None else {RETRIED: retried}
    return Context({"id": "1", "delivery_info": info, "retries": 4})


def test_a_policy_retries_until_its_attempts_are_used_up(task: Any) -> None:
    for before in (0, 1):
        with pytest.raises(PolicyRetry) as caught:
            after_exception(task, request(before), ValueError("why"))
        assert (caught.value.in_s, caught.value.outcome) == (5, Outcome.EXCEPTION)

    after_exception(task, request(2), ValueError("why"))


def test_what_it_stores_then_completes_nothing(task: Any) -> None:
    one = request(0)
    with pytest.raises(PolicyRetry):
        after_exception(task, one, ValueError("why"))

    assert one.celeray_kept is True


@pytest.mark.parametrize(
    "error", [KeyError("x"), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")]
)
def test_some_are_final_at_once(task: Any, error: Exception) -> None:
    after_exception(task, request(0), error)


def test_where_nobody_sends_again_a_failure_is_final(task: Any) -> None:
    after_exception(task, request(None), ValueError("why"))

    assert retried_before(Context({"delivery_info": None})) is None
    assert retried_before(Context({"delivery_info": {RETRIED: "2"}})) is None


def test_a_retry_travels_with_what_its_letter_shows() -> None:
    class Unpicklable(Exception):
        def __init__(self, one: int, other: int) -> None:
            super().__init__(one)

    try:
        try:
            raise Unpicklable(1, 2)
        except Unpicklable as error:
            raise PolicyRetry.of(error, Outcome.SOFT_TIME_LIMIT, 2.5) from error
    except PolicyRetry:
        found = error_of(pickle.loads(pickle.dumps(ExceptionInfo())))

    assert isinstance(found, PolicyRetry)
    assert (found.in_s, found.when, found.outcome) == (2.5, 2.5, Outcome.SOFT_TIME_LIMIT)
    assert found.error_name.endswith("Unpicklable")
    assert found.error_text == "1"
    assert "raise Unpicklable(1, 2)" in found.trace
    assert "by its policy" in str(found)
