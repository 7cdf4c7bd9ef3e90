"""The short way says of plain arguments exactly what Celery says."""

from __future__ import annotations

from typing import Any

from celery.utils.saferepr import saferepr
from hypothesis import given
from hypothesis import strategies as st

from celeray.scheduler.submission.assembling import short_repr

SIZE = 1024
VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text("ab_1'\\ ", max_size=40)
    | st.binary()
    | st.lists(st.integers())
)


@given(
    st.lists(VALUES, max_size=10)
    | st.lists(VALUES, max_size=10).map(tuple)
    | st.dictionaries(st.text("ab_'", max_size=5), VALUES, max_size=10),
    st.integers(1, SIZE),
)
def test_it_is_the_same_or_none(value: Any, size: int) -> None:
    found = short_repr(value, size)
    if found is not None:
        assert found == saferepr(value, size)


def test_plain_arguments_are_short() -> None:
    assert short_repr((1, "half", None, True), SIZE) == "(1, 'half', None, True)"
    assert short_repr({"size": "half"}, SIZE) == "{'size': 'half'}"
    assert short_repr((), SIZE) == "()"
    assert short_repr(("it's",), SIZE) is None
    assert short_repr((1,) * 9, SIZE) is None
