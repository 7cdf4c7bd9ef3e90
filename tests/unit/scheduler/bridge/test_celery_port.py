"""What a port makes of an outcome that came back, besides calling Celery's request."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery.exceptions import Ignore, Reject, Retry

from celeray.scheduler.bridge.celery_port import CeleryPort
from celeray.scheduler.status import TaskState

OUT_OF_MEMORY = RuntimeError("CUDA out of memory. Tried to allocate 496.00 MiB")


class Told:
    """Takes the place of `Request.on_success`."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, outcome: Any) -> None:
        self.calls.append(outcome)


def came_back(error: Exception) -> tuple[CeleryPort, TaskState, Told]:
    try:
        raise error
    except Exception:  # noqa: BLE001 - raised in the line above, for its traceback
        payload = pickle.dumps((1, ExceptionInfo(), 0.5))
    told = Told()

    def unused(*_: Any) -> None:
        raise AssertionError("only the callback is due")

    port = CeleryPort(
        None, (), accept_callback=unused, callback=told, error_callback=unused, timeout_callback=unused
    )
    return port, port.came_back(payload), told


def test_a_failure_for_want_of_gpu_memory_is_known_as_one() -> None:
    port, state, told = came_back(OUT_OF_MEMORY)
    assert (port.ran_out, state, len(told.calls)) == (True, TaskState.FAILED, 1)


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        (Retry("later", OUT_OF_MEMORY), TaskState.RETRIED),
        (Reject(str(OUT_OF_MEMORY), requeue=False), TaskState.REJECTED),
        (Ignore(str(OUT_OF_MEMORY)), TaskState.SUCCEEDED),
    ],
)
def test_what_is_no_failure_is_none_for_its_words(verdict: Exception, state: TaskState) -> None:
    port, found, told = came_back(verdict)
    assert (port.ran_out, found, len(told.calls)) == (False, state, 1)
