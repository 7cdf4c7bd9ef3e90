"""Celery's promises, kept by tasks that run on Ray."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded
from celery.result import AsyncResult

from .live import LiveBridge, until

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured]


def task(app: Celery, name: str) -> Any:
    return app.tasks[f"gpu.{name}"]


def test_a_task_runs_in_an_executor_on_one_device(app: Celery, shared_bridge: LiveBridge) -> None:
    first = task(app, "here").delay().get(timeout=60)
    second = task(app, "here").delay().get(timeout=60)
    assert first["pid"] != shared_bridge.pid
    assert first["devices"].startswith("GPU-sim-")
    assert "," not in first["devices"]
    assert second["pid"] == first["pid"], "the second call finds it warm"


def test_started_is_seen_with_the_executors_pid(app: Celery) -> None:
    result = task(app, "sleep").delay(2.0)
    until(lambda: result.state == "STARTED", "STARTED is stored")
    started = result.info
    assert result.get(timeout=60)["pid"] == started["pid"]
    assert started["hostname"] == "gpu@test"


def test_a_state_of_the_tasks_own(app: Celery) -> None:
    result = task(app, "progress").delay()
    until(lambda: result.state == "PROGRESS", "the task's own state is stored")
    assert result.info == {"done": 50}
    result.get(timeout=60)


def test_failures_keep_their_type_and_traceback(app: Celery) -> None:
    result = task(app, "fail").delay("no such film")
    with pytest.raises(ValueError, match="no such film"):
        result.get(timeout=60)
    assert "raise ValueError(message)" in result.traceback


def test_retry_and_autoretry(app: Celery) -> None:
    flaky = task(app, "flaky").apply_async((2,), priority=7)
    assert flaky.get(timeout=60) == {"retries": 2, "priority": 7}
    assert task(app, "auto").delay().get(timeout=60) == 2


def test_flags_are_not_applied_again_by_a_retry(app: Celery) -> None:
    result = task(app, "flaky").apply_async((2,), headers={"user_initiated": True})
    assert result.get(timeout=60) == {"retries": 2, "priority": 7}


def test_chain_group_chord_link_and_link_error(app: Celery, tmp_path: Any) -> None:
    add, total = task(app, "add"), task(app, "total")
    assert chain(add.s(1, 2), add.s(3), add.s(4))().get(timeout=60) == 10
    assert group(add.s(n, n) for n in range(5))().get(timeout=60) == [0, 2, 4, 6, 8]
    assert chord([add.s(n, 1) for n in range(5)], total.s())().get(timeout=60) == 15
    linked = add.apply_async((1, 1), link=add.s(5).set(task_id="linked"))
    assert linked.get(timeout=60) == 2
    assert AsyncResult("linked", app=app).get(timeout=60) == 7
    failed = task(app, "fail").apply_async(("x",), link_error=task(app, "fresh").si().set(task_id="errback"))
    with pytest.raises(ValueError, match="x"):
        failed.get(timeout=60)
    assert AsyncResult("errback", app=app).get(timeout=60)["pid"]


def test_a_failed_chord_member_fails_the_body(app: Celery) -> None:
    body = chord([task(app, "add").s(1, 1), task(app, "fail").s("member")], task(app, "total").s())()
    with pytest.raises(Exception, match="member"):
        body.get(timeout=60)


def test_ignored_results_and_countdown(app: Celery) -> None:
    ignored = task(app, "add").apply_async((1, 1), ignore_result=True)
    later = task(app, "add").apply_async((1, 1), countdown=0.5)
    assert later.get(timeout=60) == 2
    assert ignored.state == "PENDING"


def test_a_message_that_expires_while_it_waits_never_runs(app: Celery) -> None:
    blockers = [task(app, "whole").delay(2.0) for _ in range(2)]
    for blocker in blockers:
        until(lambda blocker=blocker: blocker.state == "STARTED", "both devices are taken")
    expired = task(app, "whole").apply_async((0.0,), expires=0.5)
    with pytest.raises(TaskRevokedError, match="expired"):
        expired.get(timeout=60)
    for blocker in blockers:
        blocker.get(timeout=60)


def test_soft_and_hard_time_limits(app: Celery) -> None:
    soft = task(app, "sleep").apply_async((30.0,), soft_time_limit=0.5)
    with pytest.raises(SoftTimeLimitExceeded):
        soft.get(timeout=60)
    pid = task(app, "sleep").delay(0.0).get(timeout=60)["pid"]
    hard = task(app, "sleep").apply_async((30.0,), time_limit=0.5)
    with pytest.raises(TimeLimitExceeded):
        hard.get(timeout=60)
    assert task(app, "sleep").delay(0.0).get(timeout=60)["pid"] != pid, "its executor was replaced"


def test_fresh_tasks_have_a_process_of_their_own(app: Celery) -> None:
    seen = [task(app, "fresh").delay().get(timeout=60) for _ in range(2)]
    assert seen[0]["pid"] != seen[1]["pid"]
    assert all(entry["devices"].startswith("GPU-sim-") for entry in seen)


def test_work_without_devices_sees_none(app: Celery) -> None:
    assert task(app, "on_cpu").apply_async(queue="gpu.processing").get(timeout=60)["devices"] == ""


def test_half_of_the_devices_are_shared_and_a_whole_one_is_not(app: Celery) -> None:
    whole = task(app, "whole").delay(3.0)
    until(lambda: whole.state == "STARTED", "the whole device is taken")
    others = group(task(app, "sleep").s(0.3) for _ in range(4))().get(timeout=60)
    device = whole.get(timeout=60)["devices"]
    assert device not in {entry["devices"] for entry in others}
