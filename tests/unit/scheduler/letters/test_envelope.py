"""A message with a new tag is the same text but for the tag."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeray.scheduler.letters.envelope import Envelope, UnreadableLetterError, read_envelope, renewed
from tests.unit.scheduler.letters.test_record import message

TEXTS = st.text(max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)


def test_only_the_tag_changes() -> None:
    raw = message(
        headers={"delivery_tag": "tag-1", "empty": [], "large": 2**70, "text": '"delivery_tag": "tag-1"'}
    )
    new = renewed(read_envelope(raw), "tag-2")

    assert new.count(b"tag-2") == 1
    assert json.loads(new)["properties"]["delivery_tag"] == "tag-2"
    before, _, after = raw.rpartition(b"tag-1")
    assert new == before + b"tag-2" + after


def test_of_a_key_twice_the_last_one_counts() -> None:
    text = (
        '{"properties": {"delivery_tag": "a"} , "properties" :{ "delivery_tag": "b" ,"delivery_tag" : "c"}}'
    )
    new = renewed(Envelope(text, json.loads(text)), "z")

    assert new == text.replace('"c"', '"z"').encode()


@given(headers=st.dictionaries(TEXTS, VALUES, max_size=4), more=st.dictionaries(TEXTS, VALUES, max_size=3))
def test_any_message_stays_as_it_is(headers: dict[str, Any], more: dict[str, Any]) -> None:
    properties = {
        **more,
        "delivery_tag": "t",
        "delivery_info": {"routing_key": "q"},
        "body_encoding": "base64",
    }
    raw = json.dumps({"body": "", "headers": headers, "properties": properties}, ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )
    try:
        envelope = read_envelope(raw)
    except UnreadableLetterError:
        return
    new = renewed(envelope, "other")

    assert len(new) == len(raw) + len("other") - len("t")
    assert json.loads(new) == {
        "body": "",
        "headers": headers,
        "properties": {**properties, "delivery_tag": "other"},
    }


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[1]", b'{"properties": {}}'])
def test_what_is_no_message_is_refused(raw: bytes) -> None:
    with pytest.raises(UnreadableLetterError):
        read_envelope(raw)
