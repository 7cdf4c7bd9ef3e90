"""A batch is all or nothing, is what single calls would be, and names what it refuses."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import redis
from celery import Celery, chain, chord, group, signals
from celery.result import GroupResult

import celeray
from celeray.scheduler.errors import (
    BatchRefusedError,
    ConfigurationError,
    RequirementError,
)
from celeray.scheduler.submission import writing
from tests.integration.scheduler.submission.conftest import SEPARATOR, WAITING, Look

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
VOLATILE = ("id", "root_id", "group", "group_index")


def stable(message: dict[str, Any]) -> Any:
    """A message without what is new with each publish."""
    text = json.loads(json.dumps(message))
    for name in VOLATILE:
        text["headers"].pop(name, None)
    for name in ("correlation_id", "delivery_tag"):
        text["properties"].pop(name)
    return text


def all_messages(look: Look) -> list[dict[str, Any]]:
    keys = [key.decode() for key in look.client.keys("*") if look.client.type(key) == b"list"]
    return [message for key in sorted(keys) for message in look.messages(key)]


def test_its_messages_are_those_of_single_calls(app: Celery, look: Look) -> None:
    render = app.tasks["film.render"]
    signatures = [
        render.s(1, b=2),
        render.signature((2,), priority=9, headers={"user_initiated": True, "mine": "x"}),
        render.signature((3,), queue="io.storage", countdown=600),
        render.signature((4,), time_limit=9, soft_time_limit=8, expires=600, link=render.si()),
        render.signature((5,), headers={"resource_requirements": {"vram_gb": 2}}, compression="gzip"),
        app.signature("film.upload_to_cloud", args=(6,), kwargs={"batch_size": 20}, ignore_result=True),
        render.signature(({"when": 2**70},), shadow="other", serializer="json"),
        chain(render.s(7), render.s(8)),
    ]
    for signature in signatures:
        signature.apply_async()
    singly = [stable(message) for message in all_messages(look)]
    look.client.flushdb()
    celeray.submit_batch(signatures)
    batched = [stable(message) for message in all_messages(look)]
    for one, other in zip(singly, batched, strict=True):
        for timed in ("eta", "expires"):
            assert (one["headers"].pop(timed) is None) == (other["headers"].pop(timed) is None)
        if one["headers"]["task"] == "film.render" and "(7,)" in one["headers"]["argsrepr"]:
            # The body holds ids of the rest of the chain, whose last task is in the group.
            assert one.pop("body") != other.pop("body")
        assert one == other


def test_it_returns_a_group_in_order_and_saves_it(app: Celery, look: Look) -> None:
    render = app.tasks["film.render"]
    result = celeray.submit_batch([render.s(n) for n in range(20)], app)
    assert isinstance(result, GroupResult)
    assert [child.id for child in result.results] == look.ids()
    heads = [message["headers"] for message in look.messages()]
    assert {head["group"] for head in heads} == {result.id}
    assert [head["group_index"] for head in heads] == list(range(20))
    for message in look.messages():
        app.backend.store_result(message["headers"]["id"], message["headers"]["group_index"], "SUCCESS")
    assert result.get(timeout=5) == list(range(20))
    assert app.GroupResult.restore(result.id).get(timeout=5) == list(range(20))


def test_those_who_are_called_back_and_wait_are_told(app: Celery, look: Look) -> None:
    result = celeray.submit_batch([app.tasks["film.render"].s(n) for n in range(3)], app)
    called: list[Any] = []
    result.then(called.append)
    for child in result.results:
        app.backend.store_result(child.id, None, "SUCCESS")
    result.get(timeout=5)
    assert called


def test_duplicates_have_the_result_of_the_first_one(app: Celery, look: Look) -> None:
    cut, render = app.tasks["film.cut"], app.tasks["film.render"]
    before = cut.delay(1)
    result = celeray.submit_batch([render.s(), cut.s(1), cut.s(2), cut.s(2)], app)
    ids = [child.id for child in result.results]
    assert ids[1] == before.id
    assert ids[2] == ids[3]
    assert look.ids() == [before.id, ids[0], ids[2]]
    for name, task_id in zip("abc", look.ids(), strict=True):
        app.backend.store_result(task_id, name, "SUCCESS")
    assert result.get(timeout=5) == ["b", "a", "c", "c"]


def test_a_linked_duplicate_refuses_all(app: Celery, look: Look) -> None:
    cut, render = app.tasks["film.cut"], app.tasks["film.render"]
    before = cut.delay(1)
    with pytest.raises(BatchRefusedError, match="duplicate of") as caught:
        celeray.submit_batch([render.s(), cut.s(3), chain(cut.s(1), render.s())], app)
    assert caught.value.index == 2
    assert look.ids() == [before.id]
    assert len(look.held_keys()) == 1


def bad_signatures(app: Celery) -> dict[str, tuple[Any, type[Exception] | None]]:
    render = app.tasks["film.render"]
    return {
        "requirement": (
            render.signature(headers={"resource_requirements": {"vramm": 1}}),
            RequirementError,
        ),
        "priority": (render.signature(priority=77), RequirementError),
        "deduplicate": (render.signature(headers={"deduplicate": 3}), RequirementError),
        "group": (group(render.s(), render.s()), None),
        "chord": (chord([render.s()], render.s()), None),
        "group first": (chain(group(render.s(), render.s()), render.s()), None),
        "empty chain": (chain(), None),
        "no signature": (render, None),
        "pickle": (render.signature(serializer="pickle"), ConfigurationError),
        "not serializable": (render.signature((object(),)), Exception),
        "same id": (render.signature(task_id="taken"), None),
    }


KINDS = (
    "requirement",
    "priority",
    "deduplicate",
    "group",
    "chord",
    "group first",
    "empty chain",
    "no signature",
    "pickle",
    "not serializable",
    "same id",
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_can_not_be_submitted_is_named_and_nothing_is(app: Celery, look: Look, kind: str) -> None:
    bad, cause = bad_signatures(app)[kind]
    good = app.tasks["film.render"].signature(task_id="taken")
    with pytest.raises(BatchRefusedError, match="nothing was submitted") as caught:
        celeray.submit_batch([good, bad, app.tasks["film.cut"].s()], app)
    assert caught.value.index == 1
    if cause is not None:
        assert isinstance(caught.value.__cause__, cause)
    assert all_messages(look) == []
    assert look.held_keys() == []


def test_arguments_are_checked_as_in_a_call(app: Celery, look: Look) -> None:
    @app.task(shared=False, name="film.typed")
    def typed(one: int) -> None: ...

    with pytest.raises(BatchRefusedError, match=r"signature 1: film.typed"):
        celeray.submit_batch([typed.s(1), typed.s(1, 2)], app)
    assert all_messages(look) == []


def test_bounds(make_app: Callable[..., Celery], look: Look) -> None:
    app = make_app(batch_max_messages=3, batch_max_bytes=4096)
    render = app.tasks["film.render"]
    with pytest.raises(BatchRefusedError, match="4 signatures: at most batch_max_messages=3"):
        celeray.submit_batch([render.s()] * 4, app)
    with pytest.raises(BatchRefusedError, match=r"signature 1: .*batch_max_bytes=4096"):
        celeray.submit_batch([render.s("x" * 1000), render.s("y" * 2000)], app)
    assert all_messages(look) == []
    assert celeray.submit_batch([], app).get() == []


@pytest.mark.parametrize("transport", ["leased"], indirect=True)
def test_a_message_that_is_too_large(make_app: Callable[..., Celery], look: Look) -> None:
    app = make_app(conf={"broker_transport_options": {"max_message_bytes": 4096}})
    render = app.tasks["film.render"]
    with pytest.raises(BatchRefusedError, match=r"signature 1: .*max_message_bytes=4096"):
        celeray.submit_batch([render.s("x"), render.s("y" * 4096)], app)
    assert all_messages(look) == []


def test_a_named_batch_is_submitted_once(app: Celery, look: Look) -> None:
    cut, render = app.tasks["film.cut"], app.tasks["film.render"]
    signatures = [render.s(1), cut.s(2), cut.s(2)]
    first, again = (celeray.submit_batch(signatures, app, batch_id="night-17") for _ in range(2))
    assert first.id == again.id == "night-17"
    assert [one.id for one in first.results] == [one.id for one in again.results]
    assert len(all_messages(look)) == 2


def test_a_reply_that_was_lost_doubles_nothing(
    app: Celery, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, lost = writing._call, []

    def losing(*args: Any) -> Any:
        reply = call(*args)
        if not lost:
            lost.append(reply)
            raise redis.exceptions.ConnectionError("the reply was lost")
        return reply

    celeray.submit_batch([app.tasks["film.render"].s()], app)
    look.client.flushdb()
    monkeypatch.setattr(writing, "_call", losing)
    result = celeray.submit_batch([app.tasks["film.render"].s(n) for n in range(5)], app)
    assert lost
    assert look.ids() == [child.id for child in result.results]


def test_signals_and_events(app: Celery, look: Look) -> None:
    seen: list[tuple[str, str]] = []

    def before(headers: Any = None, **_: Any) -> None:
        assert look.client.llen(WAITING) == 0
        headers["stamp"] = "mine"
        seen.append(("before", headers["id"]))

    def after(headers: Any = None, **_: Any) -> None:
        assert look.client.llen(WAITING) == 2
        seen.append(("after", headers["id"]))

    events: list[dict[str, Any]] = []
    pubsub = look.client.pubsub()
    pubsub.psubscribe("*task.multi")
    signals.before_task_publish.connect(before, sender="film.render")
    signals.after_task_publish.connect(after, sender="film.render")
    try:
        result = celeray.submit_batch([app.tasks["film.render"].s(n) for n in range(2)], app)
    finally:
        signals.before_task_publish.disconnect(before, sender="film.render")
        signals.after_task_publish.disconnect(after, sender="film.render")
    ids = [child.id for child in result.results]
    assert seen == [(kind, task_id) for kind in ("before", "after") for task_id in ids]
    assert [message["headers"]["stamp"] for message in look.messages()] == ["mine", "mine"]
    while not events:
        got = pubsub.get_message(timeout=5)
        assert got is not None
        if got["type"] == "pmessage":
            body = json.loads(got["data"])["body"]
            events = json.loads(base64.b64decode(body))
    pubsub.close()
    assert [(event["type"], event["uuid"]) for event in events] == [("task-sent", task_id) for task_id in ids]
    assert {event["queue"] for event in events} == {"cpu.analysis"}


def test_across_queues_and_priorities(app: Celery, look: Look) -> None:
    render = app.tasks["film.render"]
    celeray.submit_batch(
        [render.s(), render.signature(queue="io.storage", priority=10), render.signature(queue="priority")],
        app,
    )
    assert len(look.ids()) == len(look.ids("io.storage")) == len(look.ids(f"priority{SEPARATOR}5")) == 1


def test_an_app_without_celeray(redis_url: str) -> None:
    app = Celery("stock", broker=redis_url, set_as_current=False)
    with pytest.raises(ConfigurationError, match="not installed"):
        celeray.submit_batch([app.signature("x")], app)


def test_bodies_are_msgpack(app: Celery, look: Look) -> None:
    celeray.submit_batch([app.tasks["film.render"].s(b"\x00")], app)
    [message] = look.messages()
    assert message["content-type"] == "application/x-msgpack"
    assert msgpack.unpackb(base64.b64decode(message["body"]))[0] == [b"\x00"]
