"""Reading parked records: whatever the bytes are, something is shown and nothing is lost."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeray.scheduler.keys import PRIORITY_SEPARATOR, Keys
from celeray.scheduler.letters.record import UNKNOWN, detail_of, field_of, letter_id, letter_of, unpacked

KEYS = Keys(prefix="app:")
BODY = base64.b64encode(b'[[1, 2], {}, {"chord": null}]').decode()


def message(**changes: Any) -> bytes:
    document = {
        "body": BODY,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"id": "task-1", "task": "app.work", "celeray_priority": 8},
        "properties": {
            "body_encoding": "base64",
            "priority": 2,
            "delivery_tag": "tag-1",
            "delivery_info": {"exchange": "", "routing_key": "gpu.x"},
        },
    }
    return json.dumps({**document, **changes}).encode()


def packed(raw: bytes, **changes: Any) -> bytes:
    record = {
        "reason": "poison",
        "detail": "3 runs begun, none ended",
        "list": f"app:gpu.x{PRIORITY_SEPARATOR}2",
        "at": 1790000000.25,
        "begun": 3,
        "message": raw,
    }
    return bytes(msgpack.packb({**record, **changes}))


def test_all_of_a_letter_is_shown() -> None:
    detail = detail_of(unpacked(b"tag-1", packed(message())), KEYS)

    assert (detail.id, detail.task_id, detail.task) == ("tag-1", "task-1", "app.work")
    assert (detail.queue, detail.priority, detail.list) == ("gpu.x", 8, f"app:gpu.x{PRIORITY_SEPARATOR}2")
    assert (detail.reason, detail.detail) == ("poison", "3 runs begun, none ended")
    assert (detail.parked_at, detail.begun, detail.size) == (1790000000.25, 3, len(message()))
    assert detail.unreadable is None
    assert (detail.content_type, detail.content_encoding) == ("application/json", "utf-8")
    assert detail.body == '[[1, 2], {}, {"chord": null}]'
    assert detail.headers["id"] == "task-1"
    assert detail.properties["delivery_tag"] == "tag-1"
    assert base64.b64decode(detail.message_base64) == message()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\x00",
        b"null",
        b"[" * 100_000,
        b'{"headers": 1, "properties": 2, "body": {"a": 1}}',
        message(headers={"id": 5, "task": ["x"], "celeray_priority": "high"}),
        message(headers={"id": "\ud800", "task": "\x1b[31m", "n": 10**400, "x": float("nan")}),
        message(properties={"priority": True, "body_encoding": "rot13"}),
        message(body="%%%"),
    ],
    ids=range(10),
)
def test_rubbish_is_shown_and_kept(raw: bytes) -> None:
    detail = detail_of(unpacked(b"t", packed(raw)), KEYS)

    assert json.loads(detail.model_dump_json())["id"] == "t"
    assert base64.b64decode(detail.message_base64) == raw
    assert 1 <= detail.priority <= 10


def test_why_it_is_unreadable_is_said() -> None:
    def why(raw: bytes) -> str | None:
        return detail_of(unpacked(b"t", packed(raw)), KEYS).unreadable

    assert why(message()) is None
    assert str(why(b"{")).startswith("no JSON: ")
    assert why(b"[]") == "not a JSON object"
    assert why(message(properties=None)) == "properties: missing"
    assert why(message(headers=None)) == "headers: missing"
    assert why(message(body="%%%", properties={"delivery_tag": "t", "delivery_info": {}})) is None
    tag = {"delivery_tag": "two words", "delivery_info": {}}
    assert why(message(properties=tag)) == "properties.delivery_tag: not a string of printable ASCII"
    encoded = {"delivery_tag": "t", "delivery_info": {}, "body_encoding": "rot13"}
    assert str(why(message(properties=encoded))).startswith("AttributeError")


@pytest.mark.parametrize(
    "raw", [b"", b"\xc1", b"\x93\x01", msgpack.packb([1]), msgpack.packb({"message": 1})]
)
def test_what_is_no_record_is_a_letter_all_the_same(raw: bytes) -> None:
    parked = unpacked(b"t", raw)
    letter = letter_of(parked, KEYS)

    assert (letter.reason, letter.queue, letter.parked_at, parked.message) == (UNKNOWN, None, 0.0, raw)


def test_wrong_fields_of_a_record_are_unknown() -> None:
    raw = packed(message(), reason=None, detail=7, list=3, at=float("inf"), begun="x", extra=[1])
    letter = letter_of(unpacked(b"t", raw), KEYS)

    assert (letter.reason, letter.detail, letter.queue) == (UNKNOWN, "", None)
    assert (letter.parked_at, letter.begun, letter.task) == (0.0, 0, "app.work")


@given(field=st.binary(max_size=40), raw=st.binary(max_size=300))
def test_any_bytes_can_be_read(field: bytes, raw: bytes) -> None:
    for record in (raw, packed(raw), packed(raw, list=raw, reason=raw)):
        detail_of(unpacked(field, record), KEYS).model_dump_json()
        letter_of(unpacked(field, record), KEYS).model_dump_json()


@given(st.binary(min_size=1, max_size=40))
def test_ids_are_printable_and_name_their_field(field: bytes) -> None:
    name = letter_id(field)

    assert field_of(name) == field
    assert re.fullmatch(r"[\w:.~=-]+", name, re.ASCII)


def test_usual_tags_are_their_own_ids() -> None:
    for tag in ("0b3e3a1c-52a4-4c6c-9d0e-6a3b4b9e1f10", "unreadable-1790000000000001"):
        assert letter_id(tag.encode()) == tag
