"""Listing and reading: filters, pages, counts, and what is rubbish."""

from __future__ import annotations

import base64
import random
from typing import Any

import pytest

from celeray.scheduler.letters.store import LetterFilter, Letters
from tests.integration.scheduler.transport.conftest import Broker, Side

ALL = LetterFilter()


def test_no_letters(letters: Letters) -> None:
    page = letters.page(ALL, 10)
    assert (page.letters, page.total, page.by_reason, page.next) == ((), 0, {}, None)
    assert letters.get("x") is None


def test_newest_first_by_pages_with_counts(letters: Letters, park: Any) -> None:
    order = list(range(450))
    random.Random(1).shuffle(order)
    for number in order:
        reason = "poison" if number % 3 else "unreadable"
        # Some at the same time.
        park(
            f"{number:03}",
            at=1000.0 + number // 2,
            reason=reason,
            queue="io.storage" if number < 50 else "cpu.analysis",
        )
    got: list[str] = []
    cursor: str | None = None
    while True:
        page = letters.page(ALL, 100, cursor)
        got += [letter.id for letter in page.letters]
        assert page.total == 450
        if (cursor := page.next) is None:
            break
    assert got == [f"{number:03}" for number in reversed(range(450))]
    assert page.by_reason == {"poison": 300, "unreadable": 150}
    assert page.by_queue == {"cpu.analysis": 400, "io.storage": 50}
    chosen = LetterFilter(queue="io.storage", reason="unreadable", until=1010.0)
    assert letters.page(chosen, 500).total == 7
    assert letters.matching(chosen)[:2] == ["000", "003"]


@pytest.mark.parametrize("cursor", ["", "x", "nan~a", "1.0", "inf~"])
def test_a_strange_cursor_is_refused(letters: Letters, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        letters.page(ALL, 10, cursor)


def test_a_list_shows_what_one_shows(letters: Letters, park: Any) -> None:
    park("a", task="app.paint", headers={"x": "y" * 5000})
    (listed,) = letters.page(ALL, 1).letters
    detail = letters.get("a")
    assert detail is not None
    assert detail.model_dump(include=set(type(listed).model_fields)) == listed.model_dump()
    assert (listed.task, listed.task_id, listed.queue, listed.priority) == (
        "app.paint",
        "id-a",
        "cpu.analysis",
        5,
    )


def test_large_bodies_stay_in_redis(letters: Letters, park: Any, broker: Broker) -> None:
    body = base64.b64encode(b"x" * 3_000_000)
    raw = park("a")
    park("a", message=raw.replace(b"W10=", body))
    before = broker.client.info("stats")["total_net_output_bytes"]
    (listed,) = letters.page(ALL, 1).letters
    assert broker.client.info("stats")["total_net_output_bytes"] - before < 100_000
    assert (listed.task, listed.size) == ("app.work", len(raw) - 4 + len(body))
    detail = letters.get("a")
    assert detail is not None
    assert len(detail.body or "") == 64 * 1024


def test_rubbish_is_listed(letters: Letters, park: Any, broker: Broker) -> None:
    park("text", message=b'{"body": "a \\" b", "headers": {"task": "t"}}')
    park("broken", message=b'{"body": "')
    park("bytes", message=b"\x00\xff")
    broker.client.hset("celeray:parked", b"\xff/ %", b"\xc1 no msgpack")
    broker.client.hset("celeray:parked", "list", b"\x93\x01\x02\x03")
    found = {letter.id: letter for letter in letters.page(ALL, 10).letters}
    assert set(found) == {"text", "broken", "bytes", "=FF=2F=20=25", "list"}
    assert (found["text"].task, found["broken"].task, found["list"].reason) == ("t", None, "unknown")
    assert found["bytes"].size == 2
    detail = letters.get("=FF=2F=20=25")
    assert detail is not None
    assert base64.b64decode(detail.message_base64) == b"\xc1 no msgpack"


def test_what_the_transport_parks_is_a_letter(letters: Letters, side: Side, broker: Broker) -> None:
    broker.client.lpush("q", "no message")
    assert side.get() is None
    side.publish({"a": 1}, "q", priority=3, id="i", task="app.paint")
    held = side.get()
    side.channel.leases.park(side.channel.leases.get(held.delivery_tag), "some reason", "said so")
    newest, oldest = letters.page(ALL, 10).letters
    assert (oldest.reason, oldest.queue, oldest.task) == ("unreadable", "q", None)
    assert (newest.reason, newest.detail, newest.task, newest.id) == (
        "some reason",
        "said so",
        "app.paint",
        held.properties["delivery_tag"],
    )
    assert newest.priority == 7
    assert newest.parked_at > 1_600_000_000
    detail = letters.get(newest.id)
    assert detail is not None
    assert (detail.body, detail.unreadable) == ('{"a": 1}', None)
