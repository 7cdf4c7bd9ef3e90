"""Attempts as they travel: what is kept, what is cut, and that nothing which somebody else wrote breaks the reading."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeray.scheduler.letters.attempts import (
    HEADER,
    KEPT_FIRST,
    KEPT_LAST,
    MESSAGE_MOST,
    PACKED_MOST,
    TRACEBACK_MOST,
    Attempt,
    Attempts,
    attempts_of,
    end_of,
    name_of,
    text_of,
    unpacked,
)


def attempt(text: str = "why", **fields: Any) -> Attempt:
    given = {"outcome": "exception", "ended_at": 2.0, "worker": "w@h", "exception": "ValueError"}
    return Attempt(number=1, message=text, **{**given, **fields})


def test_they_come_back_as_they_were() -> None:
    one = attempt(
        node="n", devices=("GPU-1",), vram_asked_mib=1024, vram_peak_mib=900, traceback="at", began_at=1.0
    )
    made = Attempts().plus(one, retried=True).plus(attempt("again"), retried=False)

    assert unpacked(made.packed()) == made
    assert attempts_of({HEADER: made.header()}) == made
    assert (made.retried, made.total, made.last) == (1, 2, made.kept[-1])
    assert made.kept[-1].number == 2


@given(st.integers(1, 40))
def test_the_first_and_the_last_are_kept(count: int) -> None:
    made = Attempts()
    for number in range(1, count + 1):
        made = made.plus(attempt(str(number)), retried=True)
    numbers = [one.number for one in made.kept]
    every = list(range(1, count + 1))

    assert made.total == made.retried == count
    assert numbers == (every if count <= 10 else every[:KEPT_FIRST] + every[-KEPT_LAST:])
    assert [one.message for one in made.kept] == [str(number) for number in numbers]


def test_the_longest_are_read_again() -> None:
    made = Attempts()
    for number in range(12):
        long = attempt("x" * MESSAGE_MOST, traceback=f"{number}" * (TRACEBACK_MOST // 2))
        made = made.plus(long, retried=True)

    assert attempts_of({HEADER: made.header()}) == made
    assert len(made.header()) < PACKED_MOST


@given(
    st.one_of(
        st.none(),
        st.integers(),
        st.text(max_size=50),
        st.binary(max_size=50).map(lambda raw: base64.b64encode(raw).decode()),
        st.recursive(
            st.one_of(st.none(), st.integers(-5, 2**40), st.text(max_size=5), st.binary(max_size=5)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=9), inner, max_size=4)
            ),
            max_leaves=10,
        ).map(lambda value: base64.b64encode(zlib.compress(msgpack.packb(value))).decode()),
    )
)
def test_what_somebody_else_wrote_counts_as_none_or_is_bounded(header: Any) -> None:
    found = attempts_of({HEADER: header})

    assert len(found.kept) <= KEPT_FIRST + KEPT_LAST
    assert found.total >= 0
    assert found.retried >= 0


def test_a_bomb_is_not_unpacked() -> None:
    bomb = zlib.compress(msgpack.packb([1, 1, ["x" * (64 * 1024 * 1024)]]))

    assert len(bomb) < PACKED_MOST
    assert unpacked(bomb) == Attempts()


@pytest.mark.parametrize(
    "headers", [None, [], "x", {}, {HEADER: 1}, {HEADER: "é"}, {HEADER: "x" * (PACKED_MOST + 1)}]
)
def test_headers_of_any_shape(headers: Any) -> None:
    assert attempts_of(headers) == Attempts()


def test_texts_are_cut_and_clean() -> None:
    class Own(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert name_of(ValueError) == "ValueError"
    assert name_of(Own).endswith("Own")
    assert text_of(Own()) == "<no text>"
    assert text_of(ValueError("\ud800" + "x" * 1000)) == "?" + "x" * (MESSAGE_MOST - 1)
    assert end_of("a" + "b" * TRACEBACK_MOST) == "b" * TRACEBACK_MOST
    assert end_of(None) == ""
