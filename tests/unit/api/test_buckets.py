"""Token buckets on a clock of the test's own."""

from __future__ import annotations

import pytest

from celeray.api.buckets import KEYS_MAX, Buckets, address_key


def test_a_burst_then_one_an_interval() -> None:
    buckets = Buckets(burst=3, interval_s=10.0)
    assert [buckets.take("a", 100.0) for _ in range(4)] == [0, 0, 0, pytest.approx(10.0)]
    assert buckets.take("a", 105.0) == pytest.approx(5.0)
    assert buckets.take("a", 110.0) == 0
    assert buckets.take("a", 110.0) == pytest.approx(10.0)


def test_a_refusal_is_not_counted() -> None:
    buckets = Buckets(burst=1, interval_s=10.0)
    buckets.take("a", 0.0)
    for now in range(1, 10):
        assert buckets.take("a", float(now)) == pytest.approx(10.0 - now)
    assert buckets.take("a", 10.0) == 0


def test_it_fills_up_to_the_burst_and_no_further() -> None:
    buckets = Buckets(burst=2, interval_s=1.0)
    buckets.take("a", 0.0)
    assert [buckets.take("a", 1e6) > 0 for _ in range(3)] == [False, False, True]


def test_keys_do_not_share() -> None:
    buckets = Buckets(burst=1, interval_s=10.0)
    assert [buckets.take(key, 0.0) > 0 for key in "aabb"] == [False, True, False, True]


def test_memory_is_bounded_and_the_longest_unseen_goes() -> None:
    buckets = Buckets(burst=1, interval_s=1e9)
    for number in range(KEYS_MAX):
        buckets.take(str(number), 0.0)
    assert buckets.take("0", 0.0) > 0
    buckets.take("one more", 0.0)
    assert buckets.take("0", 0.0) > 0
    assert buckets.take("1", 0.0) == 0
    assert len(buckets._full_at) == KEYS_MAX


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("testclient", "testclient"),
    ],
)
def test_addresses(host: str, key: str) -> None:
    assert address_key(host) == key
