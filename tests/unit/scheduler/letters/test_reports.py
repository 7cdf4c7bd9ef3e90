"""What is put on the dead-letter queue is understood, or kept with the reason why not; reading it never fails."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.serialization import loads

from celeray.scheduler.letters.envelope import body_of, read_envelope
from celeray.scheduler.letters.reports import BODY_MOST, Report, read_report
from tests.unit.scheduler.letters.test_envelope import VALUES
from tests.unit.scheduler.letters.test_record import message

TASK = {"name": "film.render", "args": [1, "zwei"], "kwargs": {"fps": 24}, "id": "task-9", "queue": "gpu.x"}
SHAPE = {"task": TASK, "error": "ValueError: no frames", "retry_count": 3}


def envelope(body: Any, *, msgpacked: bool = False, **headers: Any) -> bytes:
    written = msgpack.packb(body) if msgpacked else json.dumps(body).encode()
    kind, encoding = ("application/x-msgpack", "binary") if msgpacked else ("application/json", "utf-8")
    more = {"content-type": kind, "content-encoding": encoding, "headers": headers}
    return message(body=base64.b64encode(written).decode(), **more)


def inner(report: Report) -> tuple[Any, Any, Any]:
    """Headers, place and arguments of the message that a redrive sends."""
    assert report.message is not None
    found = read_envelope(report.message)
    body = loads(body_of(found.document), "application/json", "utf-8", accept=["application/json"])
    return found.document["headers"], found.properties, body


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps(SHAPE).encode(),
        envelope(SHAPE),
        envelope(SHAPE, msgpacked=True),
        envelope([[], SHAPE, {}], task="app.handle_dead_letter", id="outer"),
        envelope([[SHAPE], {}, {}], msgpacked=True, task="app.handle_dead_letter", id="outer"),
        envelope({"task": "app.handle_dead_letter", "id": "outer", "args": [], "kwargs": SHAPE}),
        message(
            body=json.dumps(SHAPE), **{"content-type": "text/plain"}, properties={"delivery_tag": "tag-1"}
        ),
    ],
    ids=["bare", "body", "msgpack", "kwargs", "argument", "protocol 1", "text"],
)
def test_the_older_shape_wherever_it_is(raw: bytes) -> None:
    report = read_report(raw, "dlq")
    headers, properties, body = inner(report)

    assert (headers["task"], headers["id"], headers["root_id"]) == ("film.render", "task-9", "task-9")
    assert properties["delivery_info"] == {"exchange": "", "routing_key": "gpu.x"}
    assert (properties["priority"], headers["celeray_priority"]) == (5, 5)
    assert body[:2] == [[1, "zwei"], {"fps": 24}]
    assert (report.detail, report.tries, report.can_be_sent) == ("ValueError: no frames", 3, True)
    assert report == read_report(raw, "dlq")


def test_what_is_not_given_is_made_up() -> None:
    headers, properties, body = inner(
        read_report(json.dumps({"task": {"task": "t"}, "error": None}).encode(), "dlq")
    )

    assert (headers["task"], len(headers["id"]), body[:2]) == ("t", 36, [[], {}])
    assert properties["delivery_info"]["routing_key"] == "dlq"


@pytest.mark.parametrize(
    ("error", "detail", "exception"),
    [
        ({"exc_type": "OSError", "exc_message": ["gone"]}, "['gone']", "OSError"),
        ({"type": "KeyError", "message": "x"}, "x", "KeyError"),
        (["a"], "['a']", None),
        (None, "", None),
        ("y" * 9_999, "y" * 500, None),
    ],
)
def test_errors_of_any_kind(error: Any, detail: str, exception: str | None) -> None:
    report = read_report(json.dumps({**SHAPE, "error": error}).encode(), "dlq")

    assert (report.detail, report.exception) == (detail, exception)


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ({}, "it names no task"),
        ({"name": 7}, "it names no task"),
        ({"name": "x" * 300}, "name: expected at most 200 characters"),
        ({"name": "\ud800"}, "name: expected at most 200 characters"),
        ({"name": "t", "args": {}}, "args is no list but a dict"),
        ({"name": "t", "kwargs": []}, "kwargs is no mapping of names"),
    ],
)
def test_an_inner_task_of_which_nothing_can_be_made(task: dict[str, Any], why: str) -> None:
    report = read_report(json.dumps({**SHAPE, "task": task}).encode(), "dlq")

    assert (report.message, report.can_be_sent, report.tries) == (None, False, 3)
    assert report.detail.startswith(
        f"ValueError: no frames [can't be sent: the task in it can't be sent: {why}"
    )


def test_a_message_of_a_task_stays_as_it_is() -> None:
    assert read_report(message(), "dlq") == Report("tag-1")
    # Arguments of a task's own may have such names.
    assert read_report(envelope([[], {"task": "x", "error": "y"}, {}], task="t"), "dlq") == Report("tag-1")


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"\xff", "no JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "properties: missing"),
        (envelope({"x": 1}), "it names no task"),
        (envelope({**SHAPE, "fill": "x" * BODY_MOST}), "it names no task"),
    ],
)
def test_anything_else_says_why_it_can_not_be_sent(raw: bytes, why: str) -> None:
    report = read_report(raw, "dlq")

    assert (report.message, report.can_be_sent) == (None, False)
    assert why in report.detail


KEYS = st.sampled_from(
    ["task", "error", "retry_count", "name", "args", "kwargs", "id", "queue", "priority", "body"]
)
SHAPES = st.recursive(VALUES, lambda inner: st.dictionaries(KEYS, inner, max_size=6), max_leaves=12)


@given(shape=SHAPES, task=st.none() | st.just("t"), where=st.sampled_from(["bare", "body", "kwargs", "args"]))
def test_reading_never_fails_and_is_bounded(shape: Any, task: str | None, where: str) -> None:
    bodies = {"body": shape, "kwargs": [[], shape, {}], "args": [[shape], {}, {}], "bare": None}
    headers = {} if task is None else {"task": task}
    raw = json.dumps(shape).encode() if where == "bare" else envelope(bodies[where], **headers)
    report = read_report(raw, "dlq")

    assert len(report.detail) <= 1_100
    assert report.letter_id.isascii()
    assert report.letter_id.isprintable()
    if report.message is not None:
        assert read_envelope(report.message).document["headers"]["task"]
        json.loads(report.message)


@given(raw=st.binary(max_size=200))
def test_any_bytes_are_kept(raw: bytes) -> None:
    report = read_report(raw, "dlq")

    assert report.message is None
    assert not report.can_be_sent
