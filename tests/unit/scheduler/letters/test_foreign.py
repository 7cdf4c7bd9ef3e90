"""What a letter keeps of a message of AMQP, and what is published of it again."""

from __future__ import annotations

import json
import zlib
from datetime import datetime
from decimal import Decimal
from typing import Any

import amqp
import msgpack
import pytest
from kombu.transport.pyamqp import Message

from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.attempts import HEADER as ATTEMPTS
from celeray.scheduler.letters.attempts import Attempt, Attempts, attempts_of
from celeray.scheduler.letters.envelope import UnreadableLetterError
from celeray.scheduler.letters.foreign import (
    Outgoing,
    body_bytes,
    may_have_come,
    outgoing_of,
    tag_after,
    tag_of,
    text_of,
)
from celeray.scheduler.letters.record import Parked, unpacked
from celeray.scheduler.letters.tags import HEADER, is_redriven

HEADERS = {
    "id": "t-1",
    "task": "film.cut",
    "retries": 2,
    "price": Decimal("1.25"),
    "when": datetime(2026, 1, 2, 3),
    "deep": {"list": [1, None, True], "large": 2**40},
}
PROPERTIES = {"priority": 7, "correlation_id": "t-1", "delivery_mode": 2, "reply_to": "r", "user_id": "guest"}


def message(body: Any = b"[[], {}, {}]", headers: dict[str, Any] | None = None, **delivery: Any) -> Message:
    """As py-amqp hands it over."""
    raw = amqp.Message(
        body,
        content_type="application/json",
        content_encoding="utf-8",
        application_headers=HEADERS if headers is None else headers,
        **PROPERTIES,
    )
    raw.delivery_info = {
        "exchange": "auteur",
        "routing_key": "cpu.analysis",
        "redelivered": False,
        **delivery,
    }
    return Message(raw)


def letter(kept: Message, tag: str | None = None, **fields: Any) -> Parked:
    """Its record, as Redis gives it back."""
    record = {
        "reason": "failed",
        "detail": "why",
        "list": "app:cpu.analysis",
        "at": 1000.5,
        "begun": 0,
        "message": text_of(kept, tag or tag_of(kept)),
        "broker": "amqp",
        **fields,
    }
    return unpacked(b"id", msgpack.packb(record, use_bin_type=False))


def outgoing(kept: Message, letter_id: str | None = None, **fields: Any) -> Outgoing:
    tag = letter_id or tag_of(kept)
    return outgoing_of(tag, letter(kept, tag, **fields), Keys(prefix="app:"))


def test_body_headers_and_properties_come_back_as_they_were() -> None:
    found = outgoing(message(b"\x00\xff"))

    assert (found.queue, found.body, found.priority) == ("cpu.analysis", b"\x00\xff", 7)
    assert (found.content_type, found.content_encoding) == ("application/json", "utf-8")
    assert {key: value for key, value in found.headers.items() if key not in (ATTEMPTS, HEADER)} == HEADERS
    # The broker takes a user's name from that user only.
    assert found.properties == {"correlation_id": "t-1", "delivery_mode": 2, "reply_to": "r"}


@pytest.mark.parametrize(
    ("body", "expected"), [("ä", b"\xc3\xa4"), (b"\xff", b"\xff"), (None, b""), ("", b"")]
)
def test_text_that_the_client_has_decoded_is_bytes_again(body: Any, expected: bytes) -> None:
    kept = message(b"")
    kept.body = body

    assert body_bytes(kept) == expected


def test_what_was_compressed_says_so_no_more_unless_it_is_broken() -> None:
    headers = {**HEADERS, "compression": "application/x-gzip"}
    broken = message(b"no gzip", headers)

    assert broken.errors
    assert outgoing(broken).headers["compression"] == "application/x-gzip"

    whole = message(zlib.compress(b"[[], {}, {}]"), headers)
    assert outgoing(whole).body == b"[[], {}, {}]"
    assert "compression" not in outgoing(whole).headers


class TestTags:
    def test_each_delivery_of_a_message_has_the_same(self) -> None:
        assert tag_of(message()) == tag_of(message(redelivered=True))
        assert tag_of(message()).startswith("t-1-2-")

    @pytest.mark.parametrize(
        "other",
        [
            {"body": b"[[1], {}, {}]"},
            {"headers": {**HEADERS, "retries": 3}},
            {"headers": {**HEADERS, "id": "t"}},
        ],
    )
    def test_another_message_has_another(self, other: dict[str, Any]) -> None:
        assert tag_of(message(**other)) != tag_of(message())

    @pytest.mark.parametrize("task_id", [None, 5, "", "a b", "x" * 201, "ä"])
    def test_what_names_no_usable_task_has_one_by_its_body(self, task_id: Any) -> None:
        found = tag_of(message(headers={"id": task_id}))
        assert len(found) == 40
        assert found == tag_of(message(headers={"id": None}))

    def test_the_header_counts_where_it_can_be_a_tag(self) -> None:
        assert tag_of(message(headers={**HEADERS, HEADER: "t-1.4"})) == "t-1.4"
        for bad in (7, "", "a b", "x" * 301):
            assert tag_of(message(headers={**HEADERS, HEADER: bad})) == tag_of(message())

    def test_the_next_one_counts_on_and_is_the_same_each_time(self) -> None:
        first = tag_after("t-1-0-abcd", 1000.5, redriven=False)
        assert first == tag_after("t-1-0-abcd", 1000.5, redriven=False)
        assert first.endswith(".1")
        assert tag_after(first, 2000.0, redriven=False) == first[:-1] + "2"
        assert tag_after(first, 2000.0, redriven=True) == f"redriven-{first[:-1]}2"
        assert tag_after(f"redriven-{first}", 2000.0, redriven=False) == first[:-1] + "2"

    def test_a_task_id_that_is_used_again_has_other_ones(self) -> None:
        assert tag_after("same-0-1", 1.0, redriven=False) != tag_after("same-0-1", 2.0, redriven=False)

    def test_what_may_have_come_before(self) -> None:
        assert not may_have_come(message())
        assert may_have_come(message(redelivered=True))
        assert may_have_come(message(headers={**HEADERS, HEADER: "t-1.4"}))


class TestSentAgain:
    def test_by_a_policy_the_attempts_travel_with_it(self) -> None:
        attempt = Attempt(number=1, outcome="exception", ended_at=1, worker="w", exception="E", message="m")
        packed = Attempts().plus(attempt, retried=True).packed()
        found = outgoing(message(), attempts=packed)

        assert attempts_of(found.headers).retried == 1
        assert not found.redriven
        assert not is_redriven(found)

    def test_by_an_operator_they_do_not(self) -> None:
        kept = message(headers={**HEADERS, ATTEMPTS: "old"})
        document = json.loads(text_of(kept, "redriven-new"))
        record = letter(kept, "redriven-new")
        found = outgoing_of("t-1-2-x", record, Keys(prefix="app:"))

        assert document["properties"]["delivery_tag"] == "redriven-new"
        assert found.redriven
        assert is_redriven(found)
        assert ATTEMPTS not in found.headers

    def test_a_retry_of_what_was_redriven_is_no_redrive(self) -> None:
        kept = message(headers={**HEADERS, HEADER: "redriven-t-1.1"})
        found = outgoing(kept)

        assert not found.redriven
        assert found.headers[HEADER] == "t-1.2"

    def test_without_a_queue_nobody_can(self) -> None:
        with pytest.raises(UnreadableLetterError, match="name a queue"):
            outgoing(message(), list="")
