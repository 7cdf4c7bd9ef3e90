"""Which messages a claim takes when not all are wanted: limited classes, full windows, and paused queues."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from celeray.scheduler.message_class import HEADER, read_class
from celeray.scheduler.transport.claiming import SKIPPED_MOST, Choice, Claim, Limit, read_reply
from celeray.scheduler.transport.scripts import script
from tests.integration.scheduler.transport.conftest import SEPARATOR, Broker


def publish(producer: Any, *numbers: int, of: str = "a", priority: int = 5, queue: str = "q") -> None:
    for number in numbers:
        producer.publish({"n": number}, queue=queue, priority=priority, n=number, **{HEADER: of})


def numbers(consumer: Any) -> list[int]:
    return [message.headers["n"] for message in consumer.got]


def pause(broker: Broker, *queues: str) -> None:
    for queue in queues:
        broker.client.hset(
            f"{broker.prefix}celeray:paused", queue, json.dumps({"by": "me", "why": "", "at": 1})
        )


def no_more(*classes: str, level: int = 0) -> Choice:
    return Choice(limits={name: Limit(0, level) for name in classes})


def settled(consumer: Any, condition: Callable[[], bool]) -> None:
    """Turn until the condition holds."""
    for _ in range(200):
        if condition():
            return
        consumer.turn(0.05)
    raise AssertionError(f"got {numbers(consumer)}")


def test_a_class_without_room_is_looked_past(side: Any, broker: Broker) -> None:
    producer, consumer = side(), side()
    publish(producer, 1, 2, of="big")
    publish(producer, 3, of="small")
    publish(producer, 4, of="big")
    publish(producer, 5, of="small")
    consumer.channel.demand.choose(no_more("big"))
    consumer.consume(prefetch=10)
    settled(consumer, lambda: numbers(consumer) == [3, 5])
    assert broker.headers(f"q{SEPARATOR}5") == [1, 2, 4]
    assert broker.held()["unacked"] == 2


def test_a_class_is_taken_as_far_as_there_is_room(side: Any, broker: Broker) -> None:
    producer, consumer = side(), side()
    book = consumer.channel.leases
    publish(producer, 1, 2, 3, of="big")
    publish(producer, 4, of="small")
    one = Claim(("q",), (f"q{SEPARATOR}5",), 10, choice=Choice(limits={"big": Limit(2, 0)}))
    found = read_reply(script("claim")(broker.client, one.keys(book), one.arguments(book)), one, book)
    assert [payload["headers"]["n"] for payload, _ in found.messages] == [1, 2, 4]
    assert (found.skipped, found.left_from) == (1, 1)
    assert broker.headers(f"q{SEPARATOR}5") == [3]
    broker.client.delete(f"q{SEPARATOR}5")
    _behind_thousands(broker, book, consumer)


def _behind_thousands(broker: Broker, book: Any, consumer: Any) -> None:
    """As far as a claim may look past what has no room."""
    order = [*["big"] * 2_500, "small", "big", "small", "small", *["big"] * 20]
    broker.client.lpush(f"q{SEPARATOR}5", *(_raw(n, of) for n, of in enumerate(order)))

    def claimed(depth: int) -> tuple[list[int], bool, bool]:
        one = Claim(("q",), (f"q{SEPARATOR}5",), 10, choice=no_more("big"), depth=depth)
        found = read_reply(script("claim")(broker.client, one.keys(book), one.arguments(book)), one, book)
        return [payload["headers"]["n"] for payload, _ in found.messages], found.cut, found.behind

    assert claimed(SKIPPED_MOST) == ([], True, False)
    assert claimed(2_502) == ([2_500, 2_502, 2_503], True, True)
    assert broker.headers(f"q{SEPARATOR}5") == [n for n, of in enumerate(order) if of == "big"]
    assert claimed(4_000) == ([], False, False)
    broker.client.lpush(f"q{SEPARATOR}5", _raw(9_999, "small"))
    consumer.channel.demand.choose(no_more("big"))
    consumer.consume(prefetch=10)
    settled(consumer, lambda: numbers(consumer) == [9_999])


def _raw(n: int, of: str) -> str:
    """A message as it lies on its list."""
    info = {"exchange": "", "routing_key": "q"}
    properties = {"delivery_tag": f"tag-{n}", "delivery_info": info, "priority": 5, "body_encoding": "base64"}
    return json.dumps(
        {
            "body": "e30=",
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"n": n, HEADER: of},
            "properties": properties,
        }
    )


def test_a_limit_does_not_concern_what_is_more_urgent(side: Any, broker: Broker) -> None:
    producer, consumer = side(), side()
    publish(producer, 1, of="big", priority=5)
    publish(producer, 2, of="big", priority=4)
    publish(producer, 3, of="big", priority=6)
    consumer.channel.demand.choose(no_more("big", level=5))
    consumer.consume(prefetch=10)
    settled(consumer, lambda: numbers(consumer) == [2])
    assert (broker.headers(f"q{SEPARATOR}5"), broker.headers(f"q{SEPARATOR}6")) == ([1], [3])


@pytest.mark.parametrize("leased", [True, False])
def test_without_a_header_the_task_is_the_class(side: Any, broker: Broker, leased: bool) -> None:
    producer, consumer = side(leased=leased), side()
    producer.publish("", n=1, task="film.big")
    producer.publish("", n=2)
    producer.publish("", n=3, task="film.small")
    consumer.channel.demand.choose(no_more("film.big"))
    consumer.consume(prefetch=10)
    settled(consumer, lambda: numbers(consumer) == [2, 3])
    assert broker.headers("q") == [1]


@pytest.mark.parametrize(
    "headers",
    [
        {HEADER: "x", "task": "y"},
        {"task": "x"},
        {HEADER: 5, "task": "x"},
        {HEADER: None, "task": ["x"]},
        {},
        {"task": "x", "tenant": "t"},
        {"task": "x", "tenant": None},
    ],
    ids=str,
)
def test_redis_and_python_read_the_same_class(side: Any, broker: Broker, headers: dict[str, Any]) -> None:
    consumer = side()
    side().publish("", n=1, **headers)
    consumer.channel.demand.choose(no_more(read_class(headers)))
    consumer.consume(prefetch=10)
    consumer.turn(0.1)
    assert consumer.got == []
    consumer.channel.demand.choose(no_more("another"))
    settled(consumer, lambda: numbers(consumer) == [1])
    assert broker.client.llen("q") == 0


def test_what_only_looks_like_a_class_is_not_taken_for_it_for_good(side: Any, broker: Broker) -> None:
    producer, consumer = side(), side()
    producer.publish("", n=1, nested={HEADER: "big"}, **{HEADER: "small"})
    consumer.channel.demand.choose(no_more("big"))
    consumer.consume(prefetch=10)
    consumer.turn(0.2)
    consumer.channel.demand.choose(Choice())
    settled(consumer, lambda: numbers(consumer) == [1])
    assert broker.held()["unacked"] == 1


def test_an_unreadable_message_behind_limited_ones_is_parked(side: Any, broker: Broker) -> None:
    producer, consumer = side(), side()
    publish(producer, 1, of="big", priority=0)
    broker.client.lpush("q", "garbage")
    publish(producer, 2, of="small", priority=0)
    consumer.channel.demand.choose(no_more("big"))
    consumer.consume(prefetch=10)
    settled(consumer, lambda: numbers(consumer) == [2])
    assert [record["message"] for record in broker.parked()] == [b"garbage"]
    assert broker.headers("q") == [1]


def test_looking_past_is_bounded_and_goes_on_when_there_is_room(side: Any, broker: Broker) -> None:
    producer, consumer = side(), side()
    template = {
        "body": "",
        "content-encoding": "utf-8",
        "content-type": "text/plain",
        "headers": {HEADER: "big"},
        "properties": {"delivery_info": {"exchange": "", "routing_key": "q"}, "priority": 0},
    }
    many = []
    for number in range(1500):
        template["properties"]["delivery_tag"] = f"t{number}"  # type: ignore[index]
        many.append(json.dumps(template))
    broker.client.lpush("q", *many)
    publish(producer, 1, of="small", priority=0)
    consumer.channel.demand.choose(no_more("big"))
    consumer.consume(prefetch=2)
    before = broker.calls().get("evalsha", 0)
    consumer.turn(0.3)
    assert consumer.got == []
    # Nothing new has come, so it has not looked again and again.
    assert broker.calls().get("evalsha", 0) - before <= 5
    consumer.channel.demand.choose(Choice())
    settled(consumer, lambda: len(consumer.got) == 2)
    assert consumer.got[0].delivery_tag.endswith(":t0")


@pytest.mark.parametrize("prefix", ["", "team:"])
def test_what_is_more_urgent_comes_into_a_full_window(side: Any, redis_url: str, prefix: str) -> None:
    broker = Broker(redis_url, prefix)
    # With a look only every 60 s it is the change of the list that wakes it.
    producer, consumer = side(global_keyprefix=prefix), side(global_keyprefix=prefix, idle_check_s=60)
    publish(producer, 1, 2, 3, priority=5)
    consumer.consume(prefetch=2)
    settled(consumer, lambda: numbers(consumer) == [1, 2])
    consumer.channel.demand.choose(Choice(over=1, urgent_levels=5))
    publish(producer, 4, priority=5)
    publish(producer, 5, 6, priority=4)
    settled(consumer, lambda: numbers(consumer) == [1, 2, 5])
    assert consumer.channel.demand.free == -1
    assert broker.headers(f"q{SEPARATOR}4") == [6]
    consumer.channel.qos.give_back_all([message.delivery_tag for message in reversed(consumer.got[:2])])
    assert broker.headers(f"q{SEPARATOR}5") == [1, 2, 3, 4]


def test_a_full_window_is_not_woken_by_what_is_no_more_urgent(side: Any, broker: Broker) -> None:
    producer, consumer = side(), side(idle_check_s=60)
    publish(producer, 1, priority=5)
    consumer.consume(prefetch=1)
    settled(consumer, lambda: numbers(consumer) == [1])
    consumer.channel.demand.choose(Choice(over=1, urgent_levels=5))
    consumer.turn(0.1)
    before = broker.calls()["evalsha"]
    for number in range(20):
        publish(producer, number, priority=5)
        consumer.turn(0.01)
    assert broker.calls()["evalsha"] == before


@pytest.mark.parametrize("prefix", ["", "team:"])
def test_a_paused_queue_is_left_alone_and_others_go_on(side: Any, redis_url: str, prefix: str) -> None:
    broker = Broker(redis_url, prefix)
    producer, consumer = side(global_keyprefix=prefix), side(global_keyprefix=prefix, idle_check_s=60)
    pause(broker, "q")
    publish(producer, 1, queue="q")
    publish(producer, 2, queue="other")
    consumer.consume("q", "other", prefetch=10)
    settled(consumer, lambda: numbers(consumer) == [2])
    consumer.turn(0.1)
    assert numbers(consumer) == [2]
    assert consumer.channel.demand.paused == {"q"}
    assert consumer.get("q") is None
    broker.client.hdel(f"{prefix}celeray:paused", "q")
    # With a look only every 60 s it is the change of the key that wakes it.
    settled(consumer, lambda: numbers(consumer) == [2, 1])
    assert not consumer.channel.demand.paused


def test_a_pause_is_told_also_where_there_is_no_credit(side: Any, broker: Broker) -> None:
    producer, consumer = side(), side(idle_check_s=60)
    told: list[frozenset[str]] = []
    consumer.channel.demand.on_paused.append(told.append)
    publish(producer, 1)
    consumer.consume(prefetch=1)
    settled(consumer, lambda: numbers(consumer) == [1])
    pause(broker, "q", "elsewhere")
    settled(consumer, lambda: told == [frozenset({"q"})])
    broker.client.delete("celeray:paused")
    settled(consumer, lambda: told[1:] == [frozenset()])


def test_no_more_than_there_are_free_slots(side: Any, broker: Broker) -> None:
    producer, consumer = side(), side()
    publish(producer, *range(6))
    free = [2]
    consumer.channel.demand.free_slots = lambda: free[0] - len(consumer.got)
    consumer.consume(prefetch=10)
    settled(consumer, lambda: numbers(consumer) == [0, 1])
    consumer.turn(0.1)
    assert numbers(consumer) == [0, 1]
    free[0] = 3
    settled(consumer, lambda: numbers(consumer) == [0, 1, 2])
