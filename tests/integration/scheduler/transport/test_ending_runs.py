"""A failed run's message becomes a letter or waits, in one step with its ack, and only under a valid lease."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import Mock

import msgpack
import pytest
import redis

from celeray.scheduler.keys import Keys
from celeray.scheduler.moving import put_back
from celeray.scheduler.preempted import HEADER, PutBack, put_back_of
from celeray.scheduler.transport.ending import Ending, end_unleased
from tests.integration.scheduler.letters.conftest import hold_of
from tests.integration.scheduler.transport.conftest import Broker
from tests.integration.scheduler.transport.test_settling import expire, hold

pytestmark = pytest.mark.usefixtures("no_lease_threads")

FINAL = Ending("failed", "ValueError: why [w]", b"packed\xff", 3, "ValueError", None)
LATER = Ending("failed", "ValueError: why [w]", b"packed\xff", 3, "ValueError", 60.0)


def end(holder: Any, ending: Ending, index: int = 0) -> None:
    message = holder.got[index]
    holder.channel.leases.get(message.delivery_tag).ending = ending
    message.ack()


def waiting(broker: Broker) -> dict[bytes, dict[bytes, Any]]:
    found = broker.client.hgetall("celeray:scheduled")
    return {tag: msgpack.unpackb(raw, raw=True) for tag, raw in found.items()}


@pytest.mark.parametrize("reject", [False, True])
def test_a_letter_takes_the_place_of_the_message(side: Any, broker: Broker, reject: bool) -> None:
    holder = hold(side)
    raw = holder.got[0]._raw.text
    holder.channel.leases.get(holder.got[0].delivery_tag).ending = FINAL
    holder.got[0].reject() if reject else holder.got[0].ack()
    (record,) = broker.parked()

    assert broker.nothing_held()
    assert record["message"] == raw
    assert (record["reason"], record["attempts"], record["tries"]) == (b"failed", b"packed\xff", 3)
    assert (record["exception"], record["list"], record["begun"]) == (b"ValueError", b"q", 0)
    assert waiting(broker) == {}


def test_what_is_sent_again_waits(side: Any, broker: Broker) -> None:
    holder = hold(side)
    end(holder, LATER)
    ((tag, record),) = waiting(broker).items()

    assert broker.nothing_held()
    assert broker.parked() == []
    assert record[b"due"] == pytest.approx(record[b"at"] + 60)
    assert broker.client.zscore("celeray:scheduled:due", tag) == pytest.approx(record[b"due"], abs=1e-3)
    assert tag.decode() == holder.got[0].properties["delivery_tag"]


@pytest.mark.parametrize("told", [False, True])
def test_the_run_that_ended_is_not_counted_as_one_without_an_end(
    side: Any, broker: Broker, told: bool
) -> None:
    holder = hold(side)
    tag = holder.got[0].properties["delivery_tag"]
    broker.client.hset("celeray:begun", tag, 2)
    holder.channel.leases.note_begun(holder.got[0].delivery_tag)
    if told:
        holder.channel.leases.flush()
    end(holder, FINAL)

    assert broker.parked()[0]["begun"] == 2
    # Nothing is left to tell of a lease that is gone.
    assert not holder.channel.leases.has_settlements
    assert broker.nothing_held()


@pytest.mark.parametrize("ending", [FINAL, LATER])
def test_of_a_lost_lease_it_changes_nothing(side: Any, broker: Broker, ending: Ending) -> None:
    first, second = hold(side), side()
    expire(broker)
    assert second.channel.restore_expired().restored == 1
    taken = second.get()
    end(first, ending)

    assert broker.held()["unacked"] == 1
    assert (broker.parked(), waiting(broker)) == ([], {})
    taken.ack()
    assert broker.nothing_held()


def test_where_redis_does_not_answer_the_message_comes_again(
    side: Any, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, other = hold(side), side()

    def refuse(*_: Any, **__: Any) -> None:
        raise redis.ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(holder.channel.leases.client, "evalsha", refuse)
        end(holder, FINAL)
    assert broker.held()["unacked"] == 1
    expire(broker)
    assert other.channel.restore_expired().restored == 1
    assert other.get() is not None
    assert broker.parked() == []


def test_a_letter_lets_go_of_its_dedup_key_and_what_waits_does_not(side: Any, broker: Broker) -> None:
    holder, digest = side(), hold_of("key")
    holder.publish(1, celeray_hold=f"{digest}:one")
    holder.publish(2, celeray_hold=f"{digest}:two")
    key = f"celeray:dedup:{digest}"
    broker.client.hset(key, mapping={"id": "task", "m:one": "1", "m:two": "1"})
    holder.consume(prefetch=2)
    holder.drain(2)
    end(holder, LATER, 0)
    end(holder, FINAL, 1)

    assert set(broker.client.hkeys(key)) == {b"id", b"m:one"}


def test_without_a_lease_doing_it_twice_changes_nothing(broker: Broker) -> None:
    for _ in range(2):
        end_unleased(broker.client, Keys(), "t1", FINAL, "q", b'{"headers": {}}')
        end_unleased(broker.client, Keys(), "t2", LATER, "q", b'{"headers": {}}')

    (record,) = broker.parked()
    assert (record["list"], record["message"]) == (b"q", b'{"headers": {}}')
    assert set(waiting(broker)) == {b"t2"}


def test_a_requeued_message_tells_of_the_run_that_was_lost(side: Any, broker: Broker) -> None:
    holder = hold(side)
    tag, message = holder.got[0].properties["delivery_tag"], holder.got[0]
    broker.client.hset("celeray:begun", tag, 1)
    changed = json.dumps({**json.loads(message._raw.text), "note": 1}).encode()
    holder.channel.leases.get(message.delivery_tag).returned_as = changed
    message.reject(requeue=True)

    assert broker.client.lrange("q", 0, -1) == [changed]
    assert broker.client.hgetall("celeray:begun") == {tag.encode(): b"1"}
    assert broker.held()["unacked"] == 0


def test_and_is_parked_as_poison_in_the_end(side: Any, broker: Broker) -> None:
    holder = hold(side)
    tag, message = holder.got[0].properties["delivery_tag"], holder.got[0]
    broker.client.hset("celeray:begun", tag, 3)
    holder.channel.leases.get(message.delivery_tag).returned_as = b'{"changed": true}'
    message.reject(requeue=True)

    (record,) = broker.parked()
    assert (record["reason"], record["message"]) == (b"poison", b'{"changed": true}')
    assert broker.nothing_held()


def test_where_redis_does_not_answer_a_requeued_message_comes_again(
    side: Any, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, other = hold(side), side()
    message = holder.got[0]
    holder.channel.leases.get(message.delivery_tag).returned_as = b'{"changed": true}'

    def refuse(*_: Any, **__: Any) -> None:
        raise redis.ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(holder.channel.leases.client, "evalsha", refuse)
        message.reject(requeue=True)
    assert holder.channel.leases.get(message.delivery_tag) is None, "its lease is renewed no more"
    expire(broker)
    assert other.channel.restore_expired().restored == 1
    assert other.get() is not None


def test_a_message_that_was_put_back_is_the_next_one_uncounted_and_tells_of_it(
    side: Any, broker: Broker
) -> None:
    holder, other = hold(side, 2), side()
    message = holder.got[0]
    tag = message.properties["delivery_tag"]
    holder.channel.qos.begun(message.delivery_tag)
    holder.channel.qos.flush()
    assert broker.client.hgetall("celeray:begun") == {tag.encode(): b"1"}

    holder.channel.qos.begun_in_vain(message.delivery_tag)
    holder.got[1].reject(requeue=True)
    put_back(Mock(message=message), PutBack(1.0, "urgent"))

    assert broker.client.hget("celeray:begun", tag) == b"0", "delivered, and no begun run counts"
    back = other.get()
    assert back.properties["delivery_tag"] == tag, "in front of the others"
    assert put_back_of(back.headers) == PutBack(1.0, "urgent")
    assert back.properties["delivery_info"]["redelivered"], "so the next run asks what this one has left"
    assert {**back.headers, HEADER: None, "redelivered": None} == {
        **message.headers,
        HEADER: None,
        "redelivered": None,
    }


def test_a_message_whose_begin_was_not_told_yet_is_put_back_as_one_that_was_delivered(
    side: Any, broker: Broker
) -> None:
    holder = hold(side)
    message = holder.got[0]
    # Both in one turn of the loop: Redis hears of neither.
    holder.channel.leases.note_begun(message.delivery_tag)
    holder.channel.leases.note_in_vain(message.delivery_tag)
    put_back(Mock(message=message), PutBack(1.0, "urgent"))

    assert broker.client.hgetall("celeray:begun") == {message.properties["delivery_tag"].encode(): b"0"}


def test_what_is_somebody_elses_is_not_put_back(side: Any, broker: Broker) -> None:
    holder = hold(side)
    message = holder.got[0]
    expire(broker)
    assert side().channel.restore_expired().restored == 1
    before = broker.client.lrange("q", 0, -1)
    put_back(Mock(message=message), PutBack(1.0, "urgent"))

    assert broker.client.lrange("q", 0, -1) == before
