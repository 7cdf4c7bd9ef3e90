"""An edited message is the same text but for what was edited, and its request is made by the rules of publishing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeray.scheduler import message_class
from celeray.scheduler.errors import RequirementError
from celeray.scheduler.letters.editing import Edits, edit_request, edited, put
from celeray.scheduler.letters.envelope import read_envelope
from celeray.scheduler.requests import effective_request
from celeray.scheduler.routing import GPU_QUEUE_DEFAULT, TaskRouter
from celeray.scheduler.settings import Settings
from tests.unit.scheduler.letters.test_envelope import TEXTS, VALUES
from tests.unit.scheduler.letters.test_record import message

ROUTER = TaskRouter(Settings())
HEADERS = {"id": "i", "task": "t", "celeray_priority": 8, "empty": [], "large": 2**70}


def changed(raw: bytes, edits: Edits) -> Any:
    return json.loads(edited(read_envelope(raw), "n", edits))


def test_edits_of_the_place_are_consistent() -> None:
    raw = message(headers=HEADERS)
    moved = changed(raw, Edits(queue="io.storage", priority=10))

    assert moved["headers"] == {**HEADERS, "celeray_priority": 10}
    assert moved["properties"]["priority"] == 0
    assert moved["properties"]["delivery_info"] == {"exchange": "", "routing_key": "io.storage"}
    assert moved["properties"]["delivery_tag"] == "n"
    assert moved["body"] == json.loads(raw)["body"]
    only_queue = changed(raw, Edits(queue="io.storage"))
    assert (only_queue["headers"]["celeray_priority"], only_queue["properties"]["priority"]) == (8, 2)
    only_priority = changed(raw, Edits(priority=1))
    assert only_priority["properties"]["delivery_info"]["routing_key"] == "gpu.x"
    assert only_priority["properties"]["priority"] == 9


def test_everything_else_stays_byte_for_byte() -> None:
    raw = message(headers={"task": "t", "resource_requirements": {"vram_gb": 12}, "x": {"vram_gb": 12}})
    # As another producer might write it.
    raw = raw.replace(b'"x": {', b'"x"  :\t{').replace(b'"celeray', b'"\\u0063eleray')
    new = edited(read_envelope(raw), "tag-1", Edits(headers={"resource_requirements": {"vram_gb": 16}}))

    assert new == raw.replace(
        b'"resource_requirements": {"vram_gb": 12}', b'"resource_requirements": {"vram_gb": 16}'
    )


@given(
    headers=st.dictionaries(TEXTS, VALUES, max_size=4),
    name=TEXTS,
    value=VALUES,
    indent=st.none() | st.integers(0, 3),
)
def test_put_changes_one_member_of_any_object(
    headers: dict[str, Any], name: str, value: Any, indent: int | None
) -> None:
    document = {"body": [], "headers": headers, "properties": {}}
    text = json.dumps(document, indent=indent)
    new = put(text, ("headers", name), value)

    assert json.loads(new) == {**document, "headers": {**headers, name: value}}
    # The same again changes nothing, and the old value brings the old text back.
    assert put(new, ("headers", name), value) == new
    if name in headers and indent is None:
        assert put(new, ("headers", name), headers[name]) == text


def test_a_request_goes_over_the_messages_own() -> None:
    own = {"gpu": True, "vram_gb": 12, "gpu_type": ["A100"]}
    found = edit_request(
        {"task": "film.render", "resource_requirements": own}, {"vram_gb": 16}, "gpu.x", ROUTER
    )

    assert (found.before, found.after) == (own, {**own, "vram_gb": 16})
    wanted = effective_request({**own, "vram_gb": 16}, None, GPU_QUEUE_DEFAULT)
    assert found.headers == {
        "resource_requirements": {**own, "vram_gb": 16},
        message_class.HEADER: message_class.message_class("film.render", wanted),
    }


def test_what_the_message_lacks_comes_from_the_edit_alone() -> None:
    found = edit_request({"task": "film.render"}, {"cpus": 2}, "cpu.analysis", ROUTER)

    assert (found.before, found.after) == ({}, {"cpus": 2})
    # Nobody chooses by class on a queue of plain workers.
    assert found.headers == {"resource_requirements": {"cpus": 2}}


@pytest.mark.parametrize(
    ("own", "edits", "key"),
    [
        ({}, {"vram_gb": -1}, "vram_gb"),
        ({}, {"vramgb": 1}, "vramgb"),
        ({"vram_gb": 8, "vram_gb_max": 10}, {"vram_gb": 16}, "vram_gb_max"),
        ("twelve", {"vram_gb": 16}, "resource_requirements"),
        ({"vram_gb": "a lot"}, {"cpus": 1}, "vram_gb"),
    ],
)
def test_what_can_not_be_is_refused_by_name(own: Any, edits: dict[str, Any], key: str) -> None:
    with pytest.raises(RequirementError) as raised:
        edit_request({"task": "t", "resource_requirements": own}, edits, "gpu.x", ROUTER)
    assert raised.value.key == key
