"""What `deduplicate` means as users write it, and which calls are duplicates of each other."""

from __future__ import annotations

from collections import OrderedDict
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeray.scheduler.errors import SubmissionError
from celeray.scheduler.submission.deduplication import (
    DEPTH_MAX,
    KEY_MAX,
    PERIOD_MAX_S,
    Deduplication,
    digest,
    parse,
)

BY_CONTENT = Deduplication()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    return digest(BY_CONTENT, "t", (one,), {}) == digest(BY_CONTENT, "t", (other,), {})


class TestShape:
    @pytest.mark.parametrize(
        ("raw", "parsed"),
        [
            (None, None),
            (False, None),
            (True, Deduplication()),
            ({}, Deduplication()),
            ({"key": "order-17"}, Deduplication("order-17")),
            ({"for_s": 600}, Deduplication(until_ended=False, period_ms=600_000)),
            ({"for_s": 0.5, "until": "period"}, Deduplication(until_ended=False, period_ms=500)),
            ({"for_s": 1, "until": "both", "key": "k"}, Deduplication("k", True, 1000)),
            ({"until": "ended"}, Deduplication()),
        ],
    )
    def test_it_is_understood(self, raw: Any, parsed: Any) -> None:
        assert parse(raw) == parsed

    @pytest.mark.parametrize(
        ("raw", "key", "bound"),
        [
            (1, "deduplicate", "true, false or a mapping"),
            ("yes", "deduplicate", "true, false or a mapping"),
            ({"period": 1}, "deduplicate.period", "unknown key; known are key, for_s, until"),
            ({"for_s": -1}, "deduplicate.for_s", "seconds from"),
            ({"for_s": True}, "deduplicate.for_s", "seconds from"),
            ({"for_s": float("nan")}, "deduplicate.for_s", "seconds from"),
            ({"for_s": PERIOD_MAX_S + 1}, "deduplicate.for_s", str(PERIOD_MAX_S)),
            ({"for_s": 1, "until": "ended"}, "deduplicate.until", "contradicts for_s"),
            ({"until": "both"}, "deduplicate.until", "needs for_s"),
            ({"until": ["ended"]}, "deduplicate.until", "one of ended, period, both"),
            ({"key": ""}, "deduplicate.key", "1 to"),
            ({"key": 17}, "deduplicate.key", "1 to"),
            ({"key": "k" * (KEY_MAX + 1)}, "deduplicate.key", "1 to"),
        ],
    )
    def test_it_is_refused(self, raw: Any, key: str, bound: str) -> None:
        with pytest.raises(SubmissionError) as caught:
            parse(raw)
        assert caught.value.key == key
        assert bound in caught.value.bound
        assert key in str(caught.value)


class TestContent:
    @given(VALUES, VALUES)
    def test_equal_only_where_equal(self, one: Any, other: Any) -> None:
        assert same(one, one)
        if repr(one) != repr(other) and one != other:
            assert not same(one, other)

    @given(st.dictionaries(st.text(), VALUES))
    def test_the_order_of_keys_does_not_count(self, mapping: dict[str, Any]) -> None:
        backwards = OrderedDict(reversed(mapping.items()))
        assert same(mapping, backwards)
        assert digest(BY_CONTENT, "t", (), mapping) == digest(BY_CONTENT, "t", (), backwards)

    def test_what_a_worker_sees_alike_is_alike(self) -> None:
        assert same((1, 2), [1, 2])
        assert same({3, 1, 2}, {2, 3, 1})
        assert same(bytearray(b"x"), b"x")

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (1, True),
            (1, 1.0),
            ("1", 1),
            (b"a", "a"),
            (["ab"], ["a", "b"]),
            ([["a"], "b"], [["a", "b"]]),
            ({"a": 1}, [["a", 1]]),
            ({1}, [1]),
            (None, "None"),
            (date(2026, 1, 1), "2026-01-01"),
            (datetime(2026, 1, 1), date(2026, 1, 1)),
            (UUID(int=1), str(UUID(int=1))),
            (Decimal("1.0"), Decimal("1.00")),
            (0.0, -0.0),
        ],
        ids=repr,
    )
    def test_what_differs_differs(self, one: Any, other: Any) -> None:
        assert not same(one, other)

    def test_name_and_place_count(self) -> None:
        found = {
            digest(BY_CONTENT, "t", (1, 2), {}),
            digest(BY_CONTENT, "u", (1, 2), {}),
            digest(BY_CONTENT, "t", (1,), {"x": 2}),
            digest(BY_CONTENT, "t", (), {"x": 2}),
            digest(Deduplication("1"), "t", (1, 2), {}),
            digest(Deduplication("1"), "u", (1, 2), {}),
        }
        assert len(found) == 6

    def test_what_can_not_be_compared_is_refused(self) -> None:
        with pytest.raises(SubmissionError, match="an argument is a object"):
            same(object(), 1)
        nested: Any = []
        for _ in range(DEPTH_MAX + 5):
            nested = [nested]
        with pytest.raises(SubmissionError, match="deep"):
            same(nested, 1)


class TestKey:
    def test_arguments_are_filled_in(self) -> None:
        template = Deduplication("order-{args[1]}-{kwargs[shop]}-{other}")
        found = digest(template, "t", (1, 17), {"shop": "north"})
        assert found == digest(Deduplication("order-17-north-{other}"), "t", (), {})
        assert found != digest(template, "t", (1, 18), {"shop": "north"})

    @pytest.mark.parametrize("key", ["{args[2]}", "{args[x]}", "{kwargs[missing]}", "{args[0]}"])
    def test_what_is_not_there_or_no_text_is_refused(self, key: str) -> None:
        with pytest.raises(SubmissionError) as caught:
            digest(Deduplication(key), "t", ([1], 2), {})
        assert caught.value.key == "deduplicate.key"

    def test_a_filled_key_has_a_bound(self) -> None:
        with pytest.raises(SubmissionError, match=f"at most {KEY_MAX}"):
            digest(Deduplication("{args[0]}"), "t", ("x" * (KEY_MAX + 1),), {})
