"""Every end of a task in an executor becomes an outcome that can be read back, or the wish to leave."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, states
from celery.app.trace import fast_trace_task
from celery.exceptions import Ignore, NotRegistered, Reject, Retry

from celeray.actors.soft_limit import SoftTimeLimit
from celeray.actors.tracing import Left, pickle_outcome, run_task
from tests.unit.actors.tracing_app import arguments, prepare, traced_app


class UnreadableError(Exception):
    """Pickles, and can't be read back."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


class Holder:
    """What pickle refuses."""

    def __reduce__(self) -> Any:
        raise TypeError("not to be pickled")


RAISED: dict[str, BaseException] = {
    "value": ValueError("why"),
    "memory": MemoryError("too much"),
    "exit": SystemExit(3),
    "exit text": SystemExit("bad"),
    "exit none": SystemExit(),
    "interrupt": KeyboardInterrupt(),
    "reject": Reject("no", requeue=False),
    "ignore": Ignore(),
    "retry": Retry("later"),
    "unreadable": UnreadableError("one", "two"),
    "holder": ValueError(Holder()),
}


@pytest.fixture
def app() -> Iterator[Celery]:
    with traced_app() as app:

        @app.task(name="add", shared=False)
        def add(x: int, y: int) -> int:
            return x + y

        @app.task(name="raises", shared=False)
        def raises(what: str) -> None:
            raise RAISED[what]

        prepare(app)
        yield app


def run(app: Celery, name: str, *args: Any, **request: Any) -> bytes | Left:
    return run_task(app, arguments(name, *args, **request), SoftTimeLimit(fast_trace_task), None)


def outcome(app: Celery, name: str, *args: Any, **request: Any) -> tuple[int, Any, float | None]:
    payload = run(app, name, *args, **request)
    assert isinstance(payload, bytes)
    read: tuple[int, Any, float | None] = pickle.loads(payload)
    return read


def test_a_success_is_what_celerys_trace_function_returns(app: Celery) -> None:
    failed, text, runtime = outcome(app, "add", 2, 3)

    assert (failed, text) == (0, "5")
    assert runtime is not None
    assert app.AsyncResult("t1").get(disable_sync_subtasks=False) == 5


def test_a_failure_is_read_back_with_its_traceback(app: Celery) -> None:
    failed, info, _ = outcome(app, "raises", "value")

    assert failed
    assert info.type is ValueError
    assert 'ValueError("why")' in info.traceback or "ValueError: why" in info.traceback


@pytest.mark.parametrize("what", ["unreadable", "holder"])
def test_an_exception_that_cannot_travel_is_replaced_and_explained(app: Celery, what: str) -> None:
    failed, info, _ = outcome(app, "raises", what)

    assert failed
    assert type(RAISED[what]).__name__ in str(info.exception) + info.traceback


def test_pickling_an_outcome_falls_back_to_the_traceback_as_text() -> None:
    from billiard.einfo import ExceptionInfo

    try:
        raise UnreadableError("one", "two")
    except UnreadableError:
        info = ExceptionInfo()

    failed, read, runtime = pickle.loads(pickle_outcome(1, info, 0.5))

    assert (failed, runtime) == (1, 0.5)
    assert "test_tracing.py" in read.traceback
    assert "UnreadableError" in read.traceback
    assert "test_tracing.py" in str(read.exception.__cause__)


def test_a_return_value_that_cannot_be_pickled_travels_as_text() -> None:
    failed, text, _ = pickle.loads(pickle_outcome(0, Holder(), 0.1))

    assert failed == 0
    assert "Holder" in text


@pytest.mark.parametrize("what", ["reject", "ignore", "retry"])
def test_verdicts_for_celerys_request_pass_through(app: Celery, what: str) -> None:
    failed, info, _ = outcome(app, "raises", what)

    assert failed
    assert info.type is type(RAISED[what])


def test_running_out_of_host_memory_fails_the_task(app: Celery) -> None:
    failed, info, _ = outcome(app, "raises", "memory")

    assert failed
    assert info.type is MemoryError
    assert app.AsyncResult("t1").state == states.FAILURE


def test_a_task_that_this_process_does_not_know_fails(app: Celery) -> None:
    failed, info, _ = outcome(app, "unknown", task_id="t2")

    assert failed
    assert info.type is NotRegistered
    assert app.AsyncResult("t2").state == states.FAILURE


def test_a_body_that_cannot_be_decoded_fails_the_task(app: Celery) -> None:
    name, task_id, request, _, content_type, encoding = arguments("add", task_id="t3")
    payload = run_task(
        app,
        (name, task_id, request, b"\x80 not json", content_type, encoding),
        SoftTimeLimit(fast_trace_task),
        None,
    )

    assert isinstance(payload, bytes)
    assert pickle.loads(payload)[0]
    assert app.AsyncResult("t3").state == states.FAILURE


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("exit", "exitcode 3"),
        ("exit text", "exitcode 1"),
        ("exit none", "exitcode 0"),
        ("interrupt", "KeyboardInterrupt"),
    ],
)
def test_a_task_that_wants_its_process_to_end_leaves(app: Celery, what: str, said: str) -> None:
    left = run(app, "raises", what)

    assert isinstance(left, Left)
    assert left.detail.startswith("Worker exited prematurely: ")
    assert said in left.detail
