"""A second submission is the first one: its id, one message, whatever the transport."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis
from celery import Celery, chain, chord, group

from celeray.scheduler.errors import DuplicateTaskError, SubmissionError
from celeray.scheduler.submission import writing
from celeray.scheduler.submission.holds import watch_acks
from tests.integration.scheduler.submission.conftest import WAITING, Look


def test_by_content(app: Celery, look: Look) -> None:
    cut = app.tasks["film.cut"]
    first = cut.delay(1, scene={"a": [1, 2], "b": None})
    assert cut.delay(1, scene={"b": None, "a": (1, 2)}).id == first.id
    assert app.send_task("film.cut", [1], {"scene": {"a": [1, 2], "b": None}}).id == first.id
    assert cut.s(1, scene={"a": [1, 2], "b": None}).delay().id == first.id
    others = [cut.delay(2, scene=None).id, cut.delay(1).id, cut.delay(True).id]
    assert look.ids() == [first.id, *others]
    assert len(set(others)) == 3


def test_by_key_and_only_within_a_task_name(app: Celery, look: Look) -> None:
    cut, render = app.tasks["film.cut"], app.tasks["film.render"]
    key = {"deduplicate": {"key": "order-{args[0]}"}}
    first, second = (cut.apply_async((n, other), headers=key) for n, other in ((1, "x"), (2, "x")))
    assert cut.apply_async((1, "y"), headers=key).id == first.id
    other = render.apply_async((1, "y"), headers=key)
    assert look.ids() == [first.id, second.id, other.id]


def test_a_call_can_switch_it_off(app: Celery, look: Look) -> None:
    cut = app.tasks["film.cut"]
    cut.delay()
    cut.apply_async(headers={"deduplicate": False})
    assert len(look.ids()) == 2


@pytest.mark.parametrize(
    ("wanted", "key"),
    [
        ({"for": 1}, "deduplicate.for"),
        ({"for_s": 0}, "deduplicate.for_s"),
        ({"until": "both"}, "deduplicate.until"),
        ({"key": "{args[3]}"}, "deduplicate.key"),
        ("yes", "deduplicate"),
    ],
)
def test_what_is_not_understood_is_refused(app: Celery, look: Look, wanted: Any, key: str) -> None:
    with pytest.raises(SubmissionError) as caught:
        app.tasks["film.render"].apply_async(headers={"deduplicate": wanted})
    assert caught.value.key == key
    assert look.client.keys("*") == []


def test_for_a_period(app: Celery, look: Look, eventually: Callable[..., Any]) -> None:
    render = app.tasks["film.render"]
    headers = {"deduplicate": {"for_s": 0.4}}
    first = render.apply_async(headers=headers)
    look.client.delete(WAITING)
    assert render.apply_async(headers=headers).id == first.id
    assert look.ids() == []
    eventually(lambda: not look.held_keys())
    assert render.apply_async(headers=headers).id != first.id


def test_until_both_the_end_and_the_period(app: Celery, look: Look, eventually: Callable[..., Any]) -> None:
    render = app.tasks["film.render"]
    headers = {"deduplicate": {"for_s": 0.5, "until": "both"}}
    first = render.apply_async(headers=headers)
    [message] = look.messages()
    [record] = look.held_keys()
    assert look.client.pttl(record) > 1_000_000
    with app.connection_for_write() as connection:
        held = connection.default_channel.basic_get("cpu.analysis")
        watch_acks(connection.default_channel)
        held.ack()
    assert message["headers"]["id"] == first.id
    assert 0 < look.client.pttl(record) <= 500
    assert render.apply_async(headers=headers).id == first.id
    eventually(lambda: not look.held_keys())


def test_a_duplicate_that_someone_would_wait_for_is_refused(app: Celery, look: Look) -> None:
    cut, render = app.tasks["film.cut"], app.tasks["film.render"]
    first = cut.delay(1)
    composed = (
        chain(cut.s(1), render.s()),
        group(cut.s(1), render.s()),
        chord([cut.s(1)], render.s()),
        cut.signature((1,), link=render.s()),
        cut.signature((1,), link_error=render.s()),
    )
    for signature in composed:
        with pytest.raises(DuplicateTaskError, match=f"duplicate of {first.id}"):
            signature.apply_async()
    assert look.ids() == [first.id]


def test_without_a_first_submission_composed_ones_go_as_ever(app: Celery, look: Look) -> None:
    cut, render = app.tasks["film.cut"], app.tasks["film.render"]
    result = chain(cut.s(1), render.s())()
    assert look.ids() == [result.parent.id]
    assert cut.delay(1).id == result.parent.id


@pytest.mark.parametrize("ended", [False, True], ids=["waiting", "ended"])
def test_a_reply_that_was_lost_doubles_nothing(
    app: Celery, look: Look, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    call, lost = writing._call, []

    def losing(*args: Any) -> Any:
        reply = call(*args)
        if not lost:
            lost.append(reply)
            if ended:
                # A worker was quick: the task has ended, and so has its hold.
                look.client.delete(WAITING, *look.held_keys())
            raise redis.exceptions.ConnectionError("the reply was lost")
        return reply

    app.tasks["film.cut"].delay()
    look.client.flushdb()
    monkeypatch.setattr(writing, "_call", losing)
    result = app.tasks["film.cut"].delay()
    assert lost
    assert look.ids() == ([] if ended else [result.id])


def test_scripts_are_loaded_again(app: Celery, look: Look) -> None:
    app.tasks["film.cut"].delay(1)
    look.client.script_flush()
    app.tasks["film.cut"].delay(2)
    assert len(look.ids()) == 2


def test_keys_have_the_prefix(make_app: Callable[..., Celery], look: Look) -> None:
    app = make_app(conf={"broker_transport_options": {"global_keyprefix": "team:"}})
    first = app.tasks["film.cut"].delay()
    assert app.tasks["film.cut"].delay().id == first.id
    assert look.ids(f"team:{WAITING}") == [first.id]
    assert {key.split(b"celeray:")[0] for key in look.client.keys("*celeray*")} == {b"team:"}


def test_a_key_of_a_purged_message_ends_by_itself(make_app: Callable[..., Celery], look: Look) -> None:
    app = make_app(dedup_hold_max_s=60)
    first = app.tasks["film.cut"].delay()
    app.control.purge()
    [record] = look.held_keys()
    assert 50 < look.client.ttl(record) <= 60
    assert app.tasks["film.cut"].delay().id == first.id


def test_a_list_that_is_none_is_an_error_and_changes_nothing(app: Celery, look: Look) -> None:
    look.client.set(WAITING, "not a list")
    with pytest.raises(Exception, match="WRONGTYPE"):
        app.tasks["film.cut"].apply_async(retry=False)
    assert look.held_keys() == []


def test_64_submitters_of_the_same_keys(make_app: Callable[..., Celery], look: Look) -> None:
    app = make_app()
    found: list[list[str]] = []

    def submit() -> None:
        found.append([app.tasks["film.cut"].delay(n).id for n in range(5)])

    threads = [threading.Thread(target=submit) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 64
    assert len({tuple(ids) for ids in found}) == 1
    assert sorted(look.ids()) == sorted(found[0])
