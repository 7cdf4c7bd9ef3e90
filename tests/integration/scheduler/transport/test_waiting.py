"""Idle consumers: what they cost Redis, and what wakes them."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from celeray.scheduler.transport.channel import Channel
from celeray.scheduler.transport.transport import Transport
from tests.integration.scheduler.transport import conftest
from tests.integration.scheduler.transport.conftest import Broker, Side


class DeafChannel(Channel):
    """As redis-py before 8 connects: over RESP2, which carries no invalidations."""

    def _connparams(self, asynchronous: bool = False) -> Any:
        return {**super()._connparams(asynchronous), "protocol": 2}


class DeafTransport(Transport):
    Channel = DeafChannel


@pytest.fixture(params=["tracking", "polling"])
def consumer(request: pytest.FixtureRequest, side: Any, monkeypatch: pytest.MonkeyPatch) -> Side:
    if request.param == "polling":
        monkeypatch.setattr(conftest, "LEASED", DeafTransport)
    made: Side = side(idle_check_s=30)
    made.consume("q", "other")
    made.turn(0.3)
    assert made.channel.turns._wire.tracks == (request.param == "tracking")
    return made


@pytest.mark.parametrize("leased", [True, False], ids=["leased producer", "stock producer"])
def test_an_idle_consumer_is_woken_by_any_producer(side: Any, consumer: Side, leased: bool) -> None:
    producer = side(leased=leased)
    for number in range(5):
        timer = threading.Timer(0.1, producer.publish, (number,), {"priority": number})
        timer.start()
        assert consumer.drain(deadline_s=5) == [number]
        timer.join()
        consumer.got[-1].ack()


def test_woken_by_what_is_restored_and_given_back(side: Any, consumer: Side) -> None:
    other = side()
    other.publish(1)
    # The consumer takes no turn here, so the message is still there.
    message = other.get()
    timer = threading.Timer(0.1, other.channel.give_back_held, (message.delivery_tag,))
    timer.start()
    assert consumer.drain(deadline_s=5) == [1]
    timer.join()


def test_an_idle_consumer_costs_little(consumer: Side, broker: Broker) -> None:
    before, begun = broker.calls(), time.monotonic()
    while time.monotonic() < begun + 2:
        consumer.turn(0.5)
    seconds = time.monotonic() - begun
    after = broker.calls()
    asked = {name: after.get(name, 0) - before.get(name, 0) for name in ("evalsha", "brpop")}
    tracks = consumer.channel.turns._wire.tracks
    # Besides the looks into the queues there is the keeper, once in five seconds, with a script for each of its duties.
    assert sum(asked.values()) <= (seconds + 12 if tracks else 45 * seconds + 12)


def test_it_looks_into_the_queues_without_being_woken(side: Any) -> None:
    consumer = side(idle_check_s=0.2)
    consumer.consume()
    consumer.turn(0.3)
    consumer.channel.client.connection._parser.set_invalidation_push_handler(lambda _: None)
    side(leased=False).publish("quiet")
    assert consumer.drain(deadline_s=5) == ["quiet"]


def test_a_new_queue_is_looked_into_at_once(side: Any) -> None:
    consumer, producer = side(idle_check_s=30), side()
    consumer.consume("a")
    consumer.turn(0.2)
    producer.publish("there", "b")
    consumer.consume("b")
    assert consumer.drain(deadline_s=5) == ["there"]
