"""Parked messages in the session's Redis, put there as the transport does or field by field."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.discard import Discard
from celeray.scheduler.letters.redrive import Redrive
from celeray.scheduler.letters.store import Letters
from celeray.scheduler.settings import Settings
from tests.integration.scheduler.transport.conftest import SEPARATOR, Broker, Side, broker

__all__ = ["broker"]

Park = Callable[..., bytes]


@pytest.fixture
def side(redis_url: str) -> Iterator[Side]:
    made = Side(redis_url)
    yield made
    made.connection.close()


@pytest.fixture
def letters(broker: Broker) -> Letters:
    return Letters(broker.client, Keys())


@pytest.fixture
def redrive(letters: Letters) -> Redrive:
    return Redrive(letters, Settings())


@pytest.fixture
def discard(letters: Letters) -> Discard:
    return Discard(letters)


@pytest.fixture
def park(broker: Broker) -> Park:
    """Parks a message under an id; returns its bytes."""

    def make(
        letter: str,
        *,
        queue: str = "cpu.analysis",
        step: int = 5,
        task: str = "app.work",
        reason: str = "poison",
        at: float = 1000.0,
        headers: dict[str, Any] | None = None,
        message: bytes | None = None,
    ) -> bytes:
        document = {
            "body": "W10=",
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"id": f"id-{letter}", "task": task, "empty": [], "large": 2**70, **(headers or {})},
            "properties": {
                "body_encoding": "base64",
                "priority": step,
                "delivery_tag": letter,
                "delivery_info": {"exchange": "", "routing_key": queue},
            },
        }
        raw = json.dumps(document).encode() if message is None else message
        name = f"{queue}{SEPARATOR}{step}" if step else queue
        record = {"reason": reason, "detail": "why", "list": name, "at": at, "begun": 3, "message": raw}
        broker.client.hset("celeray:parked", letter, msgpack.packb(record, use_bin_type=False))
        return raw

    return make


def hold_of(key: str) -> str:
    """A digest, as that of a dedup key."""
    return hashlib.sha256(key.encode()).hexdigest()
