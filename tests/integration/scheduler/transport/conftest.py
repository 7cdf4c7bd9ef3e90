"""Leased and stock connections to the session's Redis, and a look into it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
import redis
from kombu import Connection, Exchange, Queue

LEASED = "celeray.scheduler.transport:Transport"
STEPS = list(range(10))
SEPARATOR = "\x06\x16"


class Side:
    """One connection, as a producer or a consumer has it."""

    def __init__(self, url: str, *, leased: bool = True, **options: Any) -> None:
        self.prefix = options.get("global_keyprefix", "")
        self.connection = Connection(
            url,
            transport=LEASED if leased else "redis",
            transport_options={"priority_steps": STEPS, **options},
        )
        self.got: list[Any] = []
        """Messages that were delivered, in their order."""

    @property
    def channel(self) -> Any:
        return self.connection.default_channel

    def publish(self, body: Any, queue: str = "q", priority: int | None = None, **headers: Any) -> None:
        with self.connection.Producer() as producer:
            producer.publish(body, routing_key=queue, priority=priority, headers=headers)

    def consume(self, *queues: str, prefetch: int = 0, no_ack: bool = False) -> Any:
        """Start to consume; messages go to `got` and are held."""
        consumer = self.connection.Consumer(
            [Queue(name, Exchange(""), routing_key=name) for name in queues or ("q",)],
            on_message=self.got.append,
            no_ack=no_ack,
        )
        if prefetch:
            consumer.qos(prefetch_count=prefetch)
        consumer.consume()
        return consumer

    def drain(self, count: int = 1, deadline_s: float = 10.0) -> list[Any]:
        """Wait until `count` more messages were delivered; returns their bodies."""
        wanted, deadline = len(self.got) + count, time.monotonic() + deadline_s
        while len(self.got) < wanted:
            assert time.monotonic() < deadline, f"{len(self.got)} of {wanted} messages came"
            self.turn(0.5)
        return [message.decode() for message in self.got[wanted - count : wanted]]

    def turn(self, seconds: float = 0.1) -> None:
        """Let the transport work, whether anything comes or not."""
        with contextlib.suppress(TimeoutError):
            self.connection.drain_events(timeout=seconds)

    def get(self, queue: str = "q") -> Any:
        """The next message, held; None where there is none."""
        return self.channel.basic_get(queue)


class Broker:
    """What is in Redis."""

    def __init__(self, url: str, prefix: str = "") -> None:
        self.client: Any = redis.Redis.from_url(url)
        self.prefix = prefix

    def bodies(self, key: str = "q") -> list[Any]:
        """Messages on a list, the next one first."""
        items = self.client.lrange(f"{self.prefix}{key}", 0, -1)
        return [json.loads(item) for item in reversed(items)]

    def headers(self, key: str = "q") -> list[Any]:
        return [item["headers"].get("n") for item in self.bodies(key)]

    def held(self) -> dict[str, int]:
        """Sizes of everything that knows of a held message."""
        names = ("unacked", "unacked_index", "celeray:leases", "celeray:lease-deadlines", "celeray:begun")
        sizes = (
            self.client.zcard if name in ("unacked_index", "celeray:lease-deadlines") else self.client.hlen
            for name in names
        )
        return {name: size(f"{self.prefix}{name}") for name, size in zip(names, sizes, strict=True)}

    def nothing_held(self) -> bool:
        return not any(self.held().values())

    def parked(self) -> list[dict[str, Any]]:
        records = self.client.hvals(f"{self.prefix}celeray:parked")
        return [
            {key.decode(): value for key, value in msgpack.unpackb(record, raw=True).items()}
            for record in records
        ]

    def calls(self) -> dict[str, int]:
        """Calls of each command so far."""
        stats = self.client.info("commandstats")
        return {name.removeprefix("cmdstat_"): item["calls"] for name, item in stats.items()}

    def trust_server(self) -> None:
        """As if the server had been known for long, so that expired leases are restored at once."""
        run_id = self.client.info("server")["run_id"]
        self.client.hset(f"{self.prefix}celeray:restoring", mapping={"run_id": run_id, "since": 1})


@pytest.fixture
def broker(redis_url: str) -> Iterator[Broker]:
    made = Broker(redis_url)
    yield made
    made.client.close()


@pytest.fixture
def side(redis_url: str) -> Iterator[Callable[..., Side]]:
    made: list[Side] = []

    def make(**options: Any) -> Side:
        made.append(Side(redis_url, **options))
        return made[-1]

    yield make
    for item in made:
        item.connection.close()
