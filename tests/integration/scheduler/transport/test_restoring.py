"""Expired leases, messages of stock workers, poison, and what nobody can read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.scheduler.transport.conftest import SEPARATOR, Broker
from tests.integration.scheduler.transport.test_settling import expire, hold

pytestmark = pytest.mark.usefixtures("no_lease_threads")


def test_expired_ones_are_at_the_front_in_their_order(side: Any, broker: Broker) -> None:
    worker, other = hold(side, 3), side()
    other.publish("later", n="later")
    expire(broker)
    found = other.channel.restore_expired()
    assert (found.restored, found.waiting) == (3, False)
    assert broker.headers() == [0, 1, 2, "later"]
    assert other.channel.restore_expired().restored == 0
    assert broker.nothing_held()
    assert worker.got[0].delivery_info.get("redelivered") is None


def test_nothing_is_restored_for_one_lease_time_after_a_restart(side: Any, broker: Broker) -> None:
    worker = hold(side, 1)
    expire(broker)
    broker.client.hset("celeray:restoring", "run_id", "another server")
    assert worker.channel.restore_expired().waiting
    assert worker.channel.restore_expired().waiting
    assert (
        broker.client.hget("celeray:restoring", "run_id").decode() == broker.client.info("server")["run_id"]
    )
    assert broker.held()["unacked"] == 1
    broker.trust_server()
    assert worker.channel.restore_expired().restored == 1


def test_a_stock_workers_message_waits_for_the_visibility_timeout(side: Any, broker: Broker) -> None:
    stock, leased = side(leased=False), side(visibility_timeout=500)
    stock.publish("held", priority=7, n="held")
    stock.consume()
    stock.drain()
    broker.trust_server()
    assert leased.channel.restore_expired().restored == 0
    [(tag, score)] = broker.client.zrange("unacked_index", 0, -1, withscores=True)
    broker.client.zadd("unacked_index", {tag: score - 400})
    assert leased.channel.restore_expired().restored == 0
    broker.client.zadd("unacked_index", {tag: score - 501})
    assert leased.channel.restore_expired().restored == 1
    assert broker.headers(f"q{SEPARATOR}7") == ["held"]


def test_a_stock_workers_message_on_a_named_exchange_finds_its_queue(side: Any, broker: Broker) -> None:
    from kombu import Exchange, Queue

    stock, leased = side(leased=False), side()
    queue = Queue("bound", Exchange("named", type="direct"), routing_key="key")
    with stock.connection.Producer() as producer:
        producer.publish("held", exchange=queue.exchange, routing_key="key", declare=[queue])
    stock.channel.basic_get("bound")
    [(tag, score)] = broker.client.zrange("unacked_index", 0, -1, withscores=True)
    broker.client.zadd("unacked_index", {tag: score - 4000})
    broker.trust_server()
    assert leased.channel.restore_expired().bound == (tag.decode(),)
    assert len(broker.bodies("bound")) == 1


def test_what_a_stock_worker_restored_and_took_is_left_to_it(side: Any, broker: Broker) -> None:
    worker, stock = hold(side, 1), side(leased=False)
    [tag] = broker.client.hkeys("unacked")
    stock.channel.qos.restore_by_tag(tag.decode())
    stock.consume()
    stock.drain()
    [(tag, score)] = broker.client.zrange("celeray:lease-deadlines", 0, -1, withscores=True)
    broker.client.zadd("celeray:lease-deadlines", {tag: score - 100})
    broker.trust_server()
    assert worker.channel.restore_expired().restored == 0
    assert broker.held()["celeray:leases"] == 0
    assert worker.channel.leases.renew() == [worker.got[0].delivery_tag]
    stock.got[0].ack()
    assert broker.nothing_held()


def test_claimed_and_lost_counts_nothing_begun_counts(side: Any, broker: Broker) -> None:
    holder = hold(side, 1)
    other = side()
    for _ in range(5):
        expire(broker)
        other.channel.restore_expired()
        message = other.get()
        assert message.delivery_info.get("redelivered") is None
    other.channel.qos.begun(message.delivery_tag)
    other.channel.qos.begun(message.delivery_tag)
    assert broker.client.hvals("celeray:begun") == [b"1"]
    expire(broker)
    other.channel.restore_expired()
    again = other.get()
    assert again.delivery_info["redelivered"] is True
    assert again.headers["redelivered"] is True
    again.ack()
    assert broker.nothing_held()
    holder.got[0].ack()


def test_after_the_third_begun_run_it_is_parked_with_its_bytes(side: Any, broker: Broker) -> None:
    worker = side()
    worker.publish("deadly", n=1, stamps=[], big=2**70)
    original = broker.client.lindex("q", 0)
    for begun in range(1, 4):
        message = worker.get()
        worker.channel.qos.begun(message.delivery_tag)
        expire(broker)
        found = worker.channel.restore_expired()
        assert found.restored == (begun < 3)
    assert found.poisoned == (message.properties["delivery_tag"],)
    [record] = broker.parked()
    assert record["message"] == original
    assert (record["reason"], record["begun"], record["list"]) == (b"poison", 3, b"q")
    assert broker.headers() == []
    assert broker.nothing_held()


def test_requeued_by_its_worker_after_three_begun_runs_it_is_parked(side: Any, broker: Broker) -> None:
    worker = side()
    worker.publish("deadly")
    for _ in range(3):
        message = worker.get()
        worker.channel.qos.begun(message.delivery_tag)
        message.reject(requeue=True)
    assert worker.get() is None
    assert [record["reason"] for record in broker.parked()] == [b"poison"]
    assert broker.nothing_held()


def test_a_run_that_ended_on_purpose_is_no_sign_of_poison(side: Any, broker: Broker) -> None:
    worker = side()
    worker.publish("comes again")
    for _ in range(5):
        message = worker.get()
        worker.channel.qos.begun(message.delivery_tag)
        worker.channel.qos.ended(message.delivery_tag)
        message.reject(requeue=True)
    worker.get().ack()
    assert broker.parked() == []
    assert broker.nothing_held()


BROKEN = {
    "no JSON": b"\x80\x04gibberish",
    "a number": b"7",
    "no properties": b"{}",
    "no tag": b'{"properties": {"delivery_info": {}}}',
    "a tag in a header only": b'{"headers": {"delivery_tag": "x"}, "properties": {"delivery_info": {}}}',
    "no delivery info": b'{"properties": {"delivery_tag": "x"}}',
    "no UTF-8 in its tag": b'{"properties": {"delivery_tag": "\xff", "delivery_info": {}}}',
    "no base64": json.dumps(
        {
            "body": "a",
            "headers": {},
            "properties": {
                "delivery_tag": "x",
                "body_encoding": "base64",
                "delivery_info": {"exchange": "", "routing_key": "q"},
            },
        }
    ).encode(),
}


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("by", ["consume", "get"])
def test_what_nobody_can_read_is_parked_and_blocks_nothing(
    side: Any, broker: Broker, raw: bytes, by: str
) -> None:
    worker = side()
    broker.client.lpush("q", raw)
    worker.publish("good")
    if by == "consume":
        worker.consume()
        assert worker.drain() == ["good"]
        worker.got[0].ack()
    else:
        worker.get().ack()
    [record] = broker.parked()
    assert record["message"] == raw
    assert record["reason"] == b"unreadable"
    assert record["detail"]
    assert broker.nothing_held()


@pytest.mark.parametrize("routing_key", ["q", 'quo"ted', "back\\", "sla/sh", "ü", "a, b"])
def test_any_queue_name_survives_the_way_there_and_back(side: Any, broker: Broker, routing_key: str) -> None:
    worker, stock = side(), side(leased=False)
    for holder in (worker, stock):
        holder.publish("x", routing_key, n=1)
        holder.get(routing_key)
        before = len(broker.bodies(routing_key))
        for tag, score in broker.client.zrange("unacked_index", 0, -1, withscores=True):
            broker.client.zadd("unacked_index", {tag: score - 4000})
            if broker.client.zscore("celeray:lease-deadlines", tag):
                broker.client.zadd("celeray:lease-deadlines", {tag: score - 4000 + 30})
        broker.trust_server()
        assert (before, worker.channel.restore_expired().restored) == (0, 1)
        assert broker.headers(routing_key) == [1]
        assert worker.get(routing_key).decode() == "x"
        worker.channel.basic_recover(requeue=True)
        broker.client.delete(routing_key)
