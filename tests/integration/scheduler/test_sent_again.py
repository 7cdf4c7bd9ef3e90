"""A message whose sending was not confirmed, and tried again: what it says is done once, though there are two of it."""

from __future__ import annotations

from typing import Any

import pytest
from celery import states
from kombu.exceptions import OperationalError

from celeray.scheduler.fencing import SENT_AGAIN
from tests.integration.scheduler.test_fences import NEW, OLD, Runs, pytestmark, runs, task_id

__all__ = ["pytestmark", "runs", "task_id"]
FIRST, SECOND = "first-message", "second-message"


def test_what_its_twin_has_done_is_not_done_again(runs: Runs, task_id: str) -> None:
    link = [runs.after.si()]
    runs.run(OLD, lambda: "first", task_id=task_id, message=FIRST, callbacks=link)
    runs.run(NEW, lambda: "second", task_id=task_id, message=SECOND, callbacks=link, **{SENT_AGAIN: True})
    assert runs.begun == [OLD]
    assert runs.stored(task_id) == (states.SUCCESS, "first")


def test_it_runs_where_its_twin_was_never_sent(runs: Runs, task_id: str) -> None:
    runs.run(NEW, lambda: "second", task_id=task_id, message=SECOND, **{SENT_AGAIN: True})
    assert runs.begun == [NEW]
    assert runs.stored(task_id) == (states.SUCCESS, "second")


def test_a_retry_of_it_is_another_one(runs: Runs, task_id: str) -> None:
    runs.run(OLD, lambda: "first", task_id=task_id, message=FIRST)
    runs.run(NEW, lambda: "again", task_id=task_id, message=SECOND, retries=1, **{SENT_AGAIN: True})
    assert runs.begun == [OLD, NEW]


def test_an_id_that_its_user_takes_again_runs(runs: Runs, task_id: str) -> None:
    runs.run(OLD, lambda: "first", task_id=task_id, message=FIRST)
    runs.run(NEW, lambda: "second", task_id=task_id, message=SECOND)
    assert runs.begun == [OLD, NEW]


def test_a_callback_says_that_it_was_sent_again(
    runs: Runs, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with runs.app.connection_for_write() as connection:
        channel = type(connection.default_channel)
    put, refused = channel._put_once, iter([True])

    def lost_reply(self: Any, *args: Any) -> None:
        put(self, *args)
        if next(refused, False):
            # As after a failover: done, not confirmed, and the server that knew of it is gone.
            for key in runs.redis.keys("celeray:once:*"):
                runs.redis.delete(key)
            raise OperationalError("not confirmed")

    monkeypatch.setattr(channel, "_put_once", lost_reply)
    runs.run(OLD, task_id=task_id, callbacks=[runs.after.si()])
    second, first = sorted(runs.headers(), key=lambda headers: SENT_AGAIN not in headers)
    assert second["id"] == first["id"]
    assert second[SENT_AGAIN] is True
    assert SENT_AGAIN not in first
