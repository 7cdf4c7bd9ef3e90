"""A header is put into a message's text and taken out again, and every other byte stays."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeray.scheduler.letters.attempts import HEADER
from celeray.scheduler.letters.editing import Edits, edited
from celeray.scheduler.letters.envelope import (
    UnreadableLetterError,
    read_envelope,
    renewed,
    with_header,
    without_header,
)
from tests.unit.scheduler.letters.test_envelope import TEXTS, VALUES
from tests.unit.scheduler.letters.test_record import message

SEPARATORS = st.sampled_from([(", ", ": "), (",", ":"), (" ,  ", " : ")])


@given(st.dictionaries(TEXTS, VALUES, max_size=4), SEPARATORS, st.booleans())
def test_it_leaves_no_trace(headers: dict[str, Any], separators: tuple[str, str], ascii_only: bool) -> None:
    headers.pop("mine", None)
    document = {"body": '"headers": {"mine": 1}', "headers": headers, "properties": {}}
    try:
        raw = json.dumps(document, separators=separators, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return
    marked = with_header(raw, "mine", "one==")

    assert json.loads(marked) == document | {"headers": {**headers, "mine": "one=="}}
    assert without_header(marked, "mine") == raw
    assert with_header(marked, "mine", "two") == with_header(raw, "mine", "two")
    assert without_header(raw, "mine") == raw


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('{"headers": {"a": 1, "mine": "x", "b": 2}}', '{"headers": {"a": 1, "b": 2}}'),
        ('{"headers": {"a": 1, "mine": "x"}}', '{"headers": {"a": 1}}'),
        ('{"headers": {"mine": "x"}}', '{"headers": {}}'),
        ('{"headers": {"mine": [{"mine": 1}], "a":{"mine":2}}}', '{"headers": {"a":{"mine":2}}}'),
        ('{"headers": {"mine": 1, "a": 1, "mine": 2}}', '{"headers": {"a": 1}}'),
    ],
)
def test_wherever_a_retry_of_celerys_has_put_it(text: str, left: str) -> None:
    assert without_header(text.encode(), "mine") == left.encode()


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b'{"headers": []}', b'{"body": 1}'])
def test_what_has_no_headers_is_refused(raw: bytes) -> None:
    with pytest.raises(UnreadableLetterError):
        with_header(raw, "mine", "x")


def test_a_message_that_is_sent_again_is_as_it_was_first_sent() -> None:
    raw = message(headers={"id": "1", "empty": [], "large": 2**70})
    retried = with_header(raw, HEADER, "abc=")

    assert renewed(read_envelope(retried), "t") == renewed(read_envelope(raw), "t")
    edits = Edits(queue="q", priority=1)
    assert edited(read_envelope(retried), "t", edits) == edited(read_envelope(raw), "t", edits)
