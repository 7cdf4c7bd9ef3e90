"""What a message tells of being put back: it counts for the next run only, and nothing in it breaks a worker."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeray.scheduler.letters.attempts import HEADER as ATTEMPTS
from celeray.scheduler.letters.attempts import Attempts
from celeray.scheduler.letters.envelope import read_envelope, renewed, with_header
from celeray.scheduler.preempted import HEADER, MOST, PutBack, put_back_of

MARK = PutBack(1_700_000_000.125, "urgent-1")


def headers_with(mark: PutBack = MARK, **headers: Any) -> dict[str, Any]:
    given = {"id": "t", "retries": 0, **headers}
    return {**given, HEADER: mark.header(given)}


def test_the_next_run_knows() -> None:
    assert put_back_of(headers_with()) == MARK
    assert put_back_of(headers_with(retries=3)) == MARK
    assert headers_with()[HEADER].isascii()


def test_it_is_written_into_the_text_of_the_message() -> None:
    given = {"id": "t", "retries": 2, HEADER: "of an earlier time"}
    mark = PutBack(3.5, 'quo"ted \u00e4')
    text = with_header(json.dumps({"body": "b", "headers": given}).encode(), HEADER, mark.header(given))
    found = json.loads(text)
    assert put_back_of(found["headers"]) == mark
    assert found == {"body": "b", "headers": {**given, HEADER: mark.header(given)}}


def test_a_message_that_was_not_put_back_says_nothing() -> None:
    assert put_back_of({"id": "t", "retries": 0}) is None
    assert put_back_of(None) is None


def test_a_retry_may_be_put_back_again() -> None:
    assert put_back_of({**headers_with(), "retries": 1}) is None


def test_so_may_what_a_retry_policy_has_sent_again() -> None:
    assert put_back_of({**headers_with(), ATTEMPTS: Attempts(retried=1, total=1).header()}) is None
    retried = Attempts(retried=1, total=1).header()
    assert put_back_of(headers_with(**{ATTEMPTS: retried})) == MARK


def test_a_dead_letter_that_is_sent_again_was_not_put_back() -> None:
    message = {
        "body": "e30=",
        "headers": {"id": "t", "retries": 0},
        "properties": {"delivery_tag": "tag", "delivery_info": {"exchange": "", "routing_key": "q"}},
    }
    parked = with_header(json.dumps(message).encode(), HEADER, MARK.header(message["headers"]))
    assert put_back_of(json.loads(parked)["headers"]) == MARK
    again = json.loads(renewed(read_envelope(parked), "another"))
    assert put_back_of(again["headers"]) is None


def test_a_long_task_id_is_cut() -> None:
    found = put_back_of(headers_with(PutBack(1.0, "x" * 100_000)))
    assert found is not None
    assert len(found.for_task) == 255


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "[0, 0, 1]",
        "[0, 0, NaN, 't']",
        '[0, 0, NaN, "t"]',
        '[0, 0, 1e999, "t"]',
        "[0, 0, 1, 2]",
        '[0, 0, "1", "t"]',
        '[[], {}, 1, "t"]',
        f'[0, 0, {"9" * 400}, "t"]',
        "[" * 1500,
        f'[0, 0, 1, "{"x" * MOST}"]',
        b"[0, 0, 1, 2]",
        7,
        None,
    ],
)
def test_what_is_no_such_thing_counts_as_none(text: Any) -> None:
    assert put_back_of({"retries": 0, HEADER: text}) is None


@given(st.text(max_size=60), st.integers() | st.none() | st.text(max_size=3))
def test_no_header_is_an_error(text: str, retries: Any) -> None:
    put_back_of({"retries": retries, HEADER: text})
