"""Messages held over the leased transport, and the gates that they ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celeray.scheduler.limits.declaration import declared
from celeray.scheduler.limits.gates import Call, Gate, Limit, gates
from celeray.scheduler.limits.store import Answer, LimitStore, Room, Verdict
from celeray.scheduler.transport.restoring import restore_expired
from tests.integration.scheduler.transport.conftest import Broker, Side, broker

__all__ = ["broker"]


def gate(name: str = "t", **option: Any) -> Gate:
    [found] = gates([Limit(name, declared(option))], Call((), {}, {}))
    return found


class Desk:
    """A worker without a pool: takes messages and asks for them."""

    def __init__(self, side: Side, broker: Broker) -> None:
        self.side, self.broker = side, broker
        self.leases = side.channel.leases
        self.store = LimitStore(self.leases.client, self.leases.keys)

    def publish(self, number: int, priority: int = 5, queue: str = "q") -> None:
        self.side.publish(number, queue, priority=priority, n=number)

    def take(self, queue: str = "q") -> Any:
        return self.side.get(queue)

    def ask(self, message: Any, *of: Gate) -> Answer:
        lease = self.leases.get(message.delivery_tag)
        answer: Answer | None = None

        def attempt() -> bool:
            nonlocal answer
            level = message.properties.get("priority") or 0
            answer = self.store.acquire(lease, of, level=level, task_id=str(message.headers["n"]))
            return answer.verdict is Verdict.WAITS

        self.leases.hand_over(lease, attempt)
        assert answer is not None
        if answer.verdict is Verdict.WAITS:
            self.side.channel.qos.forget(message.delivery_tag)
        return answer

    def asked(self, *of: Gate, queue: str = "q") -> tuple[int, Verdict] | None:
        """Take the next message and ask: its number, and what became of it."""
        message = self.take(queue)
        return None if message is None else (message.headers["n"], self.ask(message, *of).verdict)

    def room(self, message: Any, of: Gate) -> Room:
        lease = self.leases.get(message.delivery_tag)
        return Room(of.id, lease.tag, lease.token)

    def die(self, message: Any) -> None:
        """Hold the message no more without a word, and let its lease end."""
        lease = self.leases._take(message.delivery_tag)
        self.side.channel.qos.forget(message.delivery_tag)
        _, index, _, deadlines, *_ = self.leases.book_keys
        self.broker.client.zadd(index, {lease.tag: 1.0})
        self.broker.client.zadd(deadlines, {lease.tag: 1.0 + self.leases.options.lease_s})
        self.broker.trust_server()
        restore_expired(
            self.leases.client,
            self.leases.keys,
            self.leases.options,
            visibility_timeout_s=3600,
            priority_steps=range(10),
        )

    def sweep(self) -> int:
        """As if every gate were due, and nobody else swept."""
        book = self.leases.keys.limit_book()
        self.broker.client.delete(book[4])
        for gate_id in self.broker.client.zrange(book[1], 0, -1):
            self.broker.client.zadd(book[1], {gate_id: 1.0})
        return self.store.sweep().looked_at


@pytest.fixture
def desk(redis_url: str, broker: Broker) -> Iterator[Desk]:
    side = Side(redis_url, lease_s=3600)
    yield Desk(side, broker)
    side.connection.close()
