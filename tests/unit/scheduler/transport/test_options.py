"""The leased transport's options: bounds, and errors that name them."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from celeray.scheduler.errors import ConfigurationError, MessageTooLargeError
from celeray.scheduler.transport.options import BOUNDS, LeaseOptions


def test_the_defaults_are_within_their_bounds() -> None:
    options = LeaseOptions.read({"global_keyprefix": "x", "visibility_timeout": 5})
    assert options == LeaseOptions()
    assert set(BOUNDS) == set(LeaseOptions.__slots__)
    for name, (low, high) in BOUNDS.items():
        assert low <= getattr(options, name) <= high


def test_given_values_count() -> None:
    assert LeaseOptions.read({"lease_s": 2, "poison_after": 0}) == LeaseOptions(lease_s=2, poison_after=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lease_s": 0}, "lease_s=0: expected a number from 0.1 to 3600"),
        ({"lease_s": "30"}, "lease_s='30': expected a number"),
        ({"poison_after": 1.5}, "poison_after=1.5: expected a whole number from 0"),
        ({"claim_max_messages": True}, "claim_max_messages=True: expected a whole number from 1 to 10000"),
        ({"max_message_bytes": 10}, "max_message_bytes=10: expected a whole number from 1024"),
        ({"ack_emulation": False}, "ack_emulation=False: a lease is held until the ack"),
    ],
)
def test_what_is_out_of_its_bound_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"broker_transport_options.{message}"):
        LeaseOptions.read(given)


def test_the_error_of_a_large_message_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(MessageTooLargeError("q", 20, 10)))
    assert (error.queue, error.size, error.bound) == ("q", 20, 10)
    assert str(error).startswith("message of 20 bytes for 'q': at most max_message_bytes=10")
