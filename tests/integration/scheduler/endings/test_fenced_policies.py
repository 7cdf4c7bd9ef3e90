"""A policy's retry under a fence: it is no end of its message before the worker has kept that for later."""

from __future__ import annotations

from typing import Any

import pytest
from celery import states

import celeray
from celeray.scheduler.failing import RETRIED, PolicyRetry
from celeray.scheduler.fencing import LEASE
from celeray.scheduler.settings import Settings
from tests.integration.scheduler.test_fences import MESSAGE, NEW, OLD, Runs, runs, task_id

__all__ = ["runs", "task_id"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),
    pytest.mark.unmeasured,
]


def with_policy(runs: Runs) -> None:
    celeray.install(runs.app, Settings(transport="leased", retry_policies={"fences.*": "default"}))


def run(
    runs: Runs, fence: int, body: Any, task_id: str, *, repeat: bool = False, message: str = MESSAGE
) -> Any:
    info = {LEASE: f"{fence}:{message}", RETRIED: 0, "redelivered": repeat, "routing_key": "cpu.analysis"}
    return runs.run(fence, body, task_id=task_id, delivery_info=info, errbacks=[runs.after.si()])


def fail() -> None:
    raise ValueError("not yet")


def test_a_worker_that_dies_before_it_keeps_the_message_loses_nothing(runs: Runs, task_id: str) -> None:
    with_policy(runs)
    first = run(runs, OLD, fail, task_id)
    assert isinstance(first.info.retval, PolicyRetry)
    assert runs.stored(task_id)[0] == states.RETRY

    # Its message was not settled, so it is delivered again, and runs as if for the first time.
    second = run(runs, NEW, lambda: "done", task_id, repeat=True)
    assert runs.begun == [OLD, NEW]
    assert second.retval == "done"
    assert runs.stored(task_id) == (states.SUCCESS, "done")
    assert runs.published() == [], "no errback was called"


def test_what_is_sent_again_replaces_the_retry(runs: Runs, task_id: str) -> None:
    with_policy(runs)
    run(runs, OLD, fail, task_id)
    run(runs, NEW, lambda: "done", task_id, message="another-tag")

    assert runs.stored(task_id) == (states.SUCCESS, "done")


def test_a_zombie_retries_nothing(runs: Runs, task_id: str) -> None:
    with_policy(runs)

    def zombie() -> None:
        run(runs, NEW, lambda: "new", task_id, repeat=True)
        fail()

    run(runs, OLD, zombie, task_id)
    assert runs.stored(task_id) == (states.SUCCESS, "new")


def test_without_a_policy_a_failure_is_told_at_once(runs: Runs, task_id: str) -> None:
    outcome = runs.run(OLD, fail, task_id=task_id)

    assert not isinstance(outcome.info.retval, PolicyRetry)
    assert runs.stored(task_id)[0] == states.FAILURE
