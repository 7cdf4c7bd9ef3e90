"""Acks, rejections and gifts back: only under a valid lease."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import redis

from celeray.scheduler.transport.keeping import LeaseKeeper
from celeray.scheduler.transport.leases import LeaseBook
from tests.integration.scheduler.transport.conftest import Broker


def expire(broker: Broker) -> None:
    """As if every lease had ended a second ago, without waiting for it."""
    for key, keep in (("unacked_index", 0.0), ("celeray:lease-deadlines", 0.0)):
        for tag, score in broker.client.zrange(f"{broker.prefix}{key}", 0, -1, withscores=True):
            broker.client.zadd(f"{broker.prefix}{key}", {tag: score + keep - 1_000})
    broker.trust_server()


def hold(side: Any, count: int = 1, **options: Any) -> Any:
    """A side that holds `count` messages, newly published."""
    holder = side(**options)
    for number in range(count):
        holder.publish(number, n=number)
    holder.consume(prefetch=count)
    holder.drain(count)
    return holder


@pytest.mark.usefixtures("no_lease_threads")
def test_the_ack_of_somebody_elses_lease_changes_nothing(side: Any, broker: Broker) -> None:
    first, second = hold(side), side()
    late: list[Any] = []
    first.channel.leases.on_refused.append(late.extend)
    expire(broker)
    assert second.channel.restore_expired().restored == 1
    message = second.get()
    first.got[0].ack()
    assert late == [first.got[0].delivery_tag]
    assert broker.held()["unacked"] == 1
    message.ack()
    assert broker.nothing_held()


@pytest.mark.usefixtures("no_lease_threads")
def test_a_lost_lease_is_reported_once(side: Any, broker: Broker) -> None:
    first, second = hold(side, 2), side()
    lost: list[str] = []
    first.channel.qos.on_lost.append(lost.extend)
    expire(broker)
    second.channel.restore_expired()
    taken = second.get()
    assert sorted(first.channel.leases.renew()) == sorted(message.delivery_tag for message in first.got)
    assert sorted(lost) == sorted(message.delivery_tag for message in first.got)
    assert first.channel.leases.renew() == []
    # Nothing of theirs is acked, given back or dropped any more.
    first.got[0].ack()
    first.got[1].reject(requeue=True)
    assert len(lost) == 2
    assert broker.headers() == [1]
    assert broker.held()["unacked"] == 1
    taken.ack()


@pytest.mark.usefixtures("no_lease_threads")
def test_a_message_claimed_again_by_the_same_worker_is_another_lease(side: Any, broker: Broker) -> None:
    worker = hold(side)
    expire(broker)
    worker.channel.restore_expired()
    again = worker.get()
    assert again.properties["delivery_tag"] == worker.got[0].properties["delivery_tag"]
    assert again.fence > worker.got[0].fence
    worker.got[0].ack()
    assert broker.held()["unacked"] == 1
    again.ack()
    assert broker.nothing_held()


def test_renewing_keeps_it(side: Any, broker: Broker) -> None:
    worker = hold(side, 3)
    before = broker.client.zrange("celeray:lease-deadlines", 0, -1, withscores=True)
    assert worker.channel.leases.renew() == []
    after = broker.client.zrange("celeray:lease-deadlines", 0, -1, withscores=True)
    assert all(new[1] > old[1] for old, new in zip(before, after, strict=True))
    broker.trust_server()
    assert worker.channel.restore_expired().restored == 0


def test_the_keeper_renews_by_itself(side: Any, broker: Broker, eventually: Any) -> None:
    worker = hold(side, lease_s=0.3)
    [(_, first)] = broker.client.zrange("celeray:lease-deadlines", 0, -1, withscores=True)
    eventually(
        lambda: broker.client.zrange("celeray:lease-deadlines", 0, -1, withscores=True)[0][1] > first + 1
    )
    worker.got[0].ack()
    assert broker.nothing_held()


def test_rejected_without_requeue_it_is_gone_with_it_is_behind_the_others(side: Any, broker: Broker) -> None:
    worker = hold(side, 3)
    worker.got[0].reject()
    worker.got[1].reject(requeue=True)
    worker.got[2].reject(requeue=True)
    assert broker.headers() == [1, 2]
    assert broker.held()["unacked"] == 0
    # Celery's tasks look for it, to reject once and then to go on.
    again = [worker.get(), worker.get()]
    assert [message.delivery_info["redelivered"] for message in again] == [True, True]
    for message in again:
        message.ack()
    assert broker.nothing_held()


def test_recover_puts_everything_back_in_order(side: Any, broker: Broker) -> None:
    worker = hold(side, 3)
    worker.got[1].ack()
    worker.channel.basic_recover(requeue=True)
    assert broker.headers() == [0, 2]
    assert broker.nothing_held()


def test_a_closed_channel_gives_back_what_has_not_begun_and_acks_what_runs(side: Any, broker: Broker) -> None:
    worker = hold(side, 3)
    worker.channel.qos.begun(worker.got[1].delivery_tag)
    keeper: LeaseKeeper = worker.channel.lease_keeper
    worker.connection.close()
    assert broker.headers() == [0, 2]
    assert broker.held()["unacked"] == 1
    assert keeper.alive
    worker.got[1].ack()
    assert broker.nothing_held()


def test_what_a_pool_will_run_stays_with_it_when_its_channel_closes(side: Any, broker: Broker) -> None:
    worker = hold(side, 2)
    worker.channel.qos.handed_over(worker.got[1].delivery_tag)
    worker.connection.close()
    assert broker.headers() == [0]
    assert broker.held()["unacked"] == 1
    worker.got[1].ack()
    assert broker.nothing_held()


def test_before_anything_goes_back_the_pool_is_heard(side: Any, broker: Broker) -> None:
    worker = hold(side, 2)
    qos = worker.channel.qos
    qos.leases.before_return.append(lambda: qos.begun(worker.got[1].delivery_tag))
    worker.connection.close()
    assert broker.headers() == [0]
    assert broker.held()["unacked"] == 1
    worker.got[1].ack()
    assert broker.nothing_held()


def test_what_a_forgetful_pool_had_counts_as_begun(side: Any, broker: Broker) -> None:
    worker = hold(side, 2)
    worker.channel.leases.pool_forgets = True
    worker.channel.qos.handed_over(worker.got[1].delivery_tag)
    worker.connection.close()
    assert broker.headers() == [0, 1]
    assert broker.held()["unacked"] == 0
    other = side()
    flags = [other.get().delivery_info.get("redelivered") for _ in range(2)]
    # Prefork's child may run it, though nobody was told: the next run asks for what it left.
    assert flags == [None, True]


def test_the_keeper_ends_with_the_last_lease(side: Any, eventually: Any) -> None:
    worker = hold(side, lease_s=0.3)
    keeper: LeaseKeeper = worker.channel.lease_keeper
    worker.channel.qos.begun(worker.got[0].delivery_tag)
    worker.connection.close()
    assert keeper.alive
    worker.got[0].ack()
    eventually(lambda: not keeper.alive)
    keeper.join(1)


def test_a_run_that_was_no_attempt_is_taken_back_alone_and_the_next_one_counts(
    side: Any, broker: Broker
) -> None:
    worker = hold(side)
    qos, book, tag = worker.channel.qos, worker.channel.leases, worker.got[0].delivery_tag
    broker.client.hset("celeray:begun", book.get(tag).tag, 1)
    counts = []
    for told in (qos.begun, qos.begun_in_vain, qos.begun_in_vain, qos.begun, qos.begun):
        told(tag)
        counts += broker.client.hvals("celeray:begun")
    assert counts == [b"2", b"1", b"1", b"2", b"2"], "of earlier deliveries' runs it takes none"
    for notes, count in (
        ((book.note_in_vain, book.note_begun), b"2"),
        ((book.note_in_vain, book.note_begun, book.note_in_vain), b"1"),
        ((book.note_begun, book.note_in_vain), b"1"),
    ):
        for note in notes:
            note(tag)
        qos.flush()
        assert broker.client.hvals("celeray:begun") == [count], "told in one go"
    worker.got[0].ack()
    assert broker.nothing_held()


def test_at_exit_everything_goes_back(side: Any, broker: Broker) -> None:
    worker = hold(side, 2)
    worker.channel.qos.begun(worker.got[0].delivery_tag)
    worker.channel.qos._at_exit()
    assert broker.headers() == [0, 1]
    assert broker.client.hvals("celeray:begun") == [b"1"]


def test_an_ack_while_redis_is_away_is_sent_later(side: Any, broker: Broker, monkeypatch: Any) -> None:
    worker = hold(side)
    book: LeaseBook = worker.channel.leases
    here, book.client = book.client, redis.Redis(port=1)
    worker.got[0].ack()
    assert book.has_settlements
    book.client = here
    worker.channel.lease_keeper.stop()
    worker.channel.lease_keeper.run_once()
    assert broker.nothing_held()


def test_an_ack_whose_reply_was_lost_is_not_reported(side: Any, broker: Broker) -> None:
    worker = hold(side)
    book: LeaseBook = worker.channel.leases
    refused: list[str] = []
    book.on_refused.append(refused.extend)
    book.note_ack(worker.got[0].delivery_tag)
    told = book.take_settlements()
    broker.client.delete("celeray:leases")
    book.untold(told)
    book.flush()
    assert refused == []
    assert book.idle


@pytest.mark.parametrize("prefix", ["", "team-a:"])
def test_moved_in_one_step(side: Any, broker: Broker, prefix: str) -> None:
    worker = hold(side, global_keyprefix=prefix)
    broker.prefix = prefix
    tag, raw = worker.got[0].delivery_tag, worker.got[0]._raw
    assert worker.channel.move_held(tag, "elsewhere", raw, front=False)
    assert not worker.channel.move_held(tag, "elsewhere", raw, front=False)
    assert broker.headers("elsewhere") == [0]
    assert broker.nothing_held()


def test_acks_from_many_threads(side: Any, broker: Broker) -> None:
    worker = hold(side, 60)
    threads = [
        threading.Thread(target=lambda part=part: [message.ack() for message in worker.got[part::3]])
        for part in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broker.nothing_held()
