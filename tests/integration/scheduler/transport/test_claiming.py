"""What is claimed, in which order, and beside whom."""

from __future__ import annotations

import json
from typing import Any

import pytest

from celeray.scheduler.errors import MessageTooLargeError
from tests.integration.scheduler.transport.conftest import SEPARATOR, Broker

MIB = 1024 * 1024


def test_a_stock_producer_and_a_leased_consumer(side: Any, broker: Broker) -> None:
    producer, consumer = side(leased=False), side()
    producer.publish({"n": 1}, stamps=[], big=2**70)
    consumer.consume()
    assert consumer.drain() == [{"n": 1}]
    [entry] = broker.client.hgetall("unacked").values()
    message, exchange, routing_key = json.loads(entry)
    assert (exchange, routing_key) == ("", "q")
    assert message["headers"]["stamps"] == []
    assert message["headers"]["big"] == 2**70
    assert broker.held() == {
        "unacked": 1,
        "unacked_index": 1,
        "celeray:leases": 1,
        "celeray:lease-deadlines": 1,
        "celeray:begun": 0,
    }
    assert consumer.got[0].headers["stamps"] == []
    assert consumer.got[0].fence > 0
    consumer.got[0].ack()
    assert broker.nothing_held()


def test_a_leased_producer_and_a_stock_consumer(side: Any, broker: Broker) -> None:
    producer, consumer = side(), side(leased=False)
    consumer.consume()
    producer.publish({"n": 1}, priority=4)
    assert consumer.drain() == [{"n": 1}]
    consumer.got[0].ack()
    assert broker.nothing_held()


def test_both_kinds_of_consumers_share_a_queue(side: Any, broker: Broker) -> None:
    producer, consumers = side(leased=False), [side(), side(leased=False)]
    for consumer in consumers:
        consumer.consume(prefetch=3)
    for number in range(60):
        producer.publish(number)
    for _ in range(2000):
        for consumer in consumers:
            consumer.turn(0.01)
            for message in consumer.got:
                if not message.acknowledged:
                    message.ack()
        if sum(len(consumer.got) for consumer in consumers) >= 60:
            break
    bodies = [message.decode() for consumer in consumers for message in consumer.got]
    assert sorted(bodies) == list(range(60))
    assert all(consumer.got for consumer in consumers)
    assert broker.nothing_held()


@pytest.mark.parametrize("prefetch", [0, 7])
def test_the_most_urgent_first_over_all_queues(side: Any, prefetch: int) -> None:
    producer, consumer = side(), side()
    for number, (queue, priority) in enumerate(
        [("a", 9), ("b", 5), ("a", 5), ("b", 0), ("a", 0), ("b", 0), ("c", 3)]
    ):
        producer.publish([number, queue, priority], queue, priority)
    consumer.consume("a", "b", "c", prefetch=prefetch)
    levels = [priority for _, _, priority in consumer.drain(7)]
    assert levels == sorted(levels)


def test_queues_of_a_level_take_turns(side: Any) -> None:
    producer, consumer = side(), side()
    for number in range(4):
        for queue in ("a", "b"):
            producer.publish(f"{queue}{number}", queue)
    consumer.consume("a", "b", prefetch=8)
    assert consumer.drain(8) == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3"]


def test_with_strict_queue_order_the_first_queue_goes_first(side: Any) -> None:
    producer, consumer = side(), side(queue_order_strategy="priority")
    for number in range(2):
        for queue in ("b", "a"):
            producer.publish(f"{queue}{number}", queue)
    consumer.consume("a", "b", prefetch=4)
    assert consumer.drain(4) == ["a0", "a1", "b0", "b1"]


def test_what_was_given_back_is_next_and_in_order(side: Any, broker: Broker) -> None:
    producer, consumer = side(), side()
    for number in range(5):
        producer.publish(number, priority=5, n=number)
    before = broker.bodies(f"q{SEPARATOR}5")
    consumer.consume()
    consumer.drain(3)
    for message in reversed(consumer.got):
        assert consumer.channel.give_back_held(message.delivery_tag)
    assert not consumer.channel.give_back_held(consumer.got[0].delivery_tag)
    assert consumer.drain(5) == [0, 1, 2, 3, 4]
    consumer.connection.close()
    assert broker.bodies(f"q{SEPARATOR}5") == before
    assert broker.nothing_held()


def test_credit_bounds_the_claim(side: Any, broker: Broker) -> None:
    producer, consumer = side(), side()
    for number in range(10):
        producer.publish(number)
    consumer.consume(prefetch=4)
    consumer.drain(4)
    consumer.turn()
    assert broker.held()["unacked"] == 4
    assert broker.client.llen("q") == 6
    consumer.got[0].ack()
    assert consumer.drain() == [4]


@pytest.mark.parametrize("bound", [{"claim_max_bytes": 1}, {"claim_max_messages": 1}])
def test_the_claim_is_bounded(side: Any, broker: Broker, bound: dict[str, int]) -> None:
    producer, consumer = side(), side(**bound)
    for number in range(3):
        producer.publish(number)
    consumer.consume(prefetch=3)
    consumer.drain(1)
    assert broker.client.llen("q") == 2
    assert consumer.drain(2) == [1, 2]


def test_a_key_prefix_reaches_every_key(side: Any, broker: Broker) -> None:
    plain, prefixed = side(), side(global_keyprefix="team-a:")
    plain.publish("mine")
    prefixed.publish("theirs", priority=3)
    prefixed.consume()
    assert prefixed.drain() == ["theirs"]
    prefixed.channel.qos.begun(prefixed.got[0].delivery_tag)
    prefixed.channel.restore_expired()
    keys = {key.decode() for key in broker.client.keys("*")}
    assert keys - {"q"} == {key for key in keys if key.startswith("team-a:")}
    assert Broker.held(broker)["unacked"] == 0
    broker.prefix = "team-a:"
    assert broker.held()["unacked"] == 1
    prefixed.got[0].ack()
    assert broker.nothing_held()


def test_without_acks_a_message_is_done_with_when_it_comes(side: Any, broker: Broker) -> None:
    producer, consumer = side(), side()
    producer.publish(1)
    producer.publish(2)
    consumer.consume(no_ack=True)
    assert consumer.drain(2) == [1, 2]
    assert broker.nothing_held()
    producer.publish(3)
    assert consumer.channel.basic_get("q", no_ack=True).decode() == 3
    assert broker.nothing_held()
    assert consumer.get() is None


def test_what_was_claimed_for_a_cancelled_consumer_goes_back(side: Any, broker: Broker) -> None:
    producer, consumer = side(), side()
    for number in range(5):
        producer.publish(number, n=number)
    cancelled = consumer.consume(prefetch=5)
    consumer.drain(1)
    cancelled.cancel()
    consumer.consume("other")
    for _ in range(6):
        consumer.turn(0.05)
    assert broker.headers() == [1, 2, 3, 4]
    assert broker.held()["unacked"] == 1


def test_ten_mebibytes_pass_and_more_is_refused(side: Any, broker: Broker) -> None:
    producer, consumer = side(), side()
    body = "x" * (10 * MIB)
    producer.publish(body)
    consumer.consume()
    assert consumer.drain() == [body]
    consumer.got[0].ack()
    with pytest.raises(
        MessageTooLargeError, match=r"message of \d+ bytes for 'q': at most max_message_bytes=16777216"
    ):
        producer.publish("x" * (13 * MIB))
    assert broker.client.llen("q") == 0


def test_scripts_are_loaded_again(side: Any, broker: Broker) -> None:
    producer, consumer = side(), side()
    consumer.consume()
    for number in range(3):
        broker.client.script_flush()
        producer.publish(number)
        assert consumer.drain() == [number]
        broker.client.script_flush()
        consumer.got[-1].ack()
    assert broker.nothing_held()


def test_the_same_bytes_twice_are_two_messages(side: Any, broker: Broker) -> None:
    producer, consumer = side(), side()
    producer.publish("twin")
    broker.client.lpush("q", broker.client.lindex("q", 0))
    consumer.consume()
    assert consumer.drain(2) == ["twin", "twin"]
    for message in consumer.got:
        message.ack()
    assert broker.nothing_held()
