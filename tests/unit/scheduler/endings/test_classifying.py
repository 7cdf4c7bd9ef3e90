"""Which outcome an exception is, where it was raised and after it has travelled."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError

from celeray.scheduler.bridge.celery_port import CeleryPort
from celeray.scheduler.endings.classifying import (
    OUT_OF_MEMORY,
    error_of,
    names_of,
    node_gone,
    outcome_of_body,
    outcome_of_failure,
    outcome_of_lost_executor,
)
from celeray.scheduler.errors import NeverFitsError, OutOfGpuMemoryError, RequirementError
from celeray.scheduler.outcomes import Outcome


class Slotted(Exception):
    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("x"), Outcome.EXCEPTION),
        (SoftTimeLimitExceeded(), Outcome.SOFT_TIME_LIMIT),
        (MemoryError(), Outcome.HOST_MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), Outcome.GPU_MEMORY),
        # A task that publishes a bad request raises this itself.
        (RequirementError("vram_gb", -1, "positive"), Outcome.EXCEPTION),
        (Slotted("x"), Outcome.EXCEPTION),
    ],
)
def test_of_a_body(error: Exception, outcome: Outcome) -> None:
    assert outcome_of_body(error) is outcome


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TimeLimitExceeded(1), Outcome.TIME_LIMIT),
        (WorkerLostError("gone"), Outcome.WORKER_LOST),
        (NeverFitsError("vram_gb", 4000, "80"), Outcome.NEVER_FITS),
        (RequirementError("vram_gb", -1, "positive"), Outcome.BAD_REQUEST),
        (OutOfGpuMemoryError("again"), Outcome.GPU_MEMORY),
        (MemoryError(), Outcome.HOST_MEMORY),
        (ValueError("x"), Outcome.EXCEPTION),
    ],
)
def test_of_a_failure_in_the_worker(error: Exception, outcome: Outcome) -> None:
    assert outcome_of_failure(error) is outcome


def test_the_body_decides_since_causes_do_not_travel() -> None:
    error = ValueError("the model failed")
    error.__cause__ = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    assert outcome_of_body(error) is Outcome.GPU_MEMORY
    travelled = pickle.loads(pickle.dumps(error))
    assert travelled.__cause__ is None
    assert outcome_of_failure(travelled) is Outcome.GPU_MEMORY


def test_a_note_that_is_none_of_ours_is_not_believed() -> None:
    error = ValueError("x")
    error.celeray_outcome = ["nonsense"]  # type: ignore[attr-defined]

    assert outcome_of_failure(error) is Outcome.EXCEPTION


@pytest.mark.parametrize(
    ("detail", "outcome"),
    [
        (f"executor e1: ActorUnavailableError: Socket closed; {node_gone('4f')}", Outcome.NODE_LOST),
        ("executor e1: The actor died because its node has died. Node Id: 4f", Outcome.NODE_LOST),
        ("executor e1: Task was killed due to the node running low on memory.", Outcome.HOST_MEMORY),
        ("executor e1: ray.exceptions.OutOfMemoryError: ...", Outcome.HOST_MEMORY),
        (f"executor e1: The actor is dead. SIGKILL ({OUT_OF_MEMORY})", Outcome.HOST_MEMORY),
        (
            "executor e1: The actor is dead. Some common causes include: (1) the process was killed by the OOM killer "
            "due to high memory usage, (2) ray stop --force",
            Outcome.EXECUTOR_LOST,
        ),
        (
            "executor e1: The actor is dead because its worker process has died. SIGKILL",
            Outcome.EXECUTOR_LOST,
        ),
    ],
)
def test_how_an_executor_was_lost(detail: str, outcome: Outcome) -> None:
    assert outcome_of_lost_executor(detail) is outcome


def test_the_bridge_tells_the_request_how() -> None:
    class Request:
        celeray_lost_as = None

    def nothing(*_: Any) -> None: ...

    request, told = Request(), []
    port = CeleryPort(
        request,
        (),
        accept_callback=nothing,
        callback=nothing,
        error_callback=told.append,
        timeout_callback=nothing,
    )
    port.lost("executor e1: node 4f is gone")

    assert request.celeray_lost_as is Outcome.NODE_LOST
    assert isinstance(error_of(told[0]), WorkerLostError)


def test_names_of_a_class() -> None:
    names = names_of(KeyError)

    assert {"KeyError", "builtins.KeyError", "LookupError", "Exception"} <= names
