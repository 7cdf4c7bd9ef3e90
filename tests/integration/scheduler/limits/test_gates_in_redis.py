"""The scripts: who passes, who waits where, and who is called next."""

from __future__ import annotations

import pytest

from celeray.scheduler.duties.due_limits import DueLimits
from celeray.scheduler.limits.overview import read_limits
from celeray.scheduler.limits.store import LimitStore, Room, Verdict
from tests.integration.scheduler.limits.conftest import Desk, gate
from tests.integration.scheduler.transport.conftest import SEPARATOR, Broker

TWO = gate(concurrency=2)
LIST = f"q{SEPARATOR}5"


def test_no_more_than_the_limit_pass_and_the_rest_waits_outside_of_any_worker(
    desk: Desk, broker: Broker
) -> None:
    for number in range(4):
        desk.publish(number)
    before = broker.client.lrange(LIST, 0, 1)
    verdicts = [desk.asked(TWO) for _ in range(4)]
    assert verdicts == [(0, Verdict.PASSED), (1, Verdict.PASSED), (2, Verdict.WAITS), (3, Verdict.WAITS)]
    assert broker.held()["celeray:leases"] == broker.held()["unacked"] == 2
    assert desk.take() is None
    kept = sorted(broker.client.hvals("celeray:limits:messages"))
    assert kept == sorted(b"%d\n%s%s" % (len(LIST), LIST.encode(), message) for message in before)
    desk.sweep()
    assert desk.take() is None


def test_room_goes_to_the_most_urgent_then_to_the_oldest(desk: Desk, broker: Broker) -> None:
    one = gate(concurrency=1)
    desk.publish(0)
    running = desk.take()
    assert desk.ask(running, one).verdict is Verdict.PASSED
    for number, priority in ((1, 5), (2, 5), (3, 1), (4, 9)):
        desk.publish(number, priority)
    for _ in range(4):
        desk.asked(one)
    order = []
    while running is not None:
        room = desk.room(running, one)
        running.ack()
        desk.store.release([room])
        running = desk.take()
        if running is not None:
            order.append(running.headers["n"])
            assert desk.ask(running, one).verdict is Verdict.PASSED
    assert order == [3, 1, 2, 4]
    assert broker.nothing_held()
    desk.sweep()
    assert not broker.client.exists("celeray:limits", "celeray:limits:messages", "celeray:limit:t:holders")


def test_of_several_that_are_called_at_once_the_oldest_is_the_first_on_its_list(desk: Desk) -> None:
    for number in range(4):
        desk.publish(number)
    running = [desk.take(), desk.take()]
    for message in running:
        desk.ask(message, TWO)
    assert [desk.asked(TWO), desk.asked(TWO)] == [(2, Verdict.WAITS), (3, Verdict.WAITS)]
    rooms = [desk.room(message, TWO) for message in running]
    for message in running:
        message.ack()
    desk.store.release(rooms)
    assert [desk.asked(TWO), desk.asked(TWO)] == [(2, Verdict.PASSED), (3, Verdict.PASSED)]


def test_a_message_that_was_called_goes_before_a_younger_one_and_gives_way_to_a_more_urgent_one(
    desk: Desk,
) -> None:
    one = gate(concurrency=1)
    desk.publish(0)
    running = desk.take()
    desk.ask(running, one)
    desk.publish(1)
    desk.asked(one)
    desk.publish(2)
    younger = desk.take()
    desk.store.release([desk.room(running, one)])
    running.ack()
    # 1 is back on its list, and 2 asks before it is taken.
    assert desk.ask(younger, one).verdict is Verdict.WAITS
    desk.publish(3, priority=0)
    urgent = desk.take()
    assert urgent.headers["n"] == 3
    assert desk.ask(urgent, one).verdict is Verdict.PASSED
    assert desk.asked(one) == (1, Verdict.WAITS)
    desk.store.release([desk.room(urgent, one)])
    urgent.ack()
    assert desk.asked(one) == (1, Verdict.PASSED)


def test_a_dead_workers_room_is_free_when_its_lease_has_ended(desk: Desk) -> None:
    one = gate(concurrency=1)
    desk.publish(0)
    dead = desk.take()
    desk.ask(dead, one)
    desk.publish(1)
    assert desk.asked(one) == (1, Verdict.WAITS)
    desk.die(dead)
    assert desk.sweep() == 1
    # 0 is back on its list, and 1 was called before it. Who comes first passes, and 0 is still the oldest.
    called, back = desk.take(), desk.take()
    assert [called.headers["n"], back.headers["n"]] == [1, 0]
    assert desk.ask(back, one).verdict is Verdict.PASSED
    assert desk.ask(called, one).verdict is Verdict.WAITS


def test_who_asks_finds_room_of_the_dead_without_a_sweep(desk: Desk) -> None:
    one = gate(concurrency=1)
    desk.publish(0)
    dead = desk.take()
    desk.ask(dead, one)
    desk.die(dead)
    assert desk.asked(one) == (0, Verdict.PASSED)


def test_asking_twice_takes_room_once(desk: Desk) -> None:
    desk.publish(0)
    message = desk.take()
    assert desk.ask(message, TWO).verdict is Verdict.PASSED
    assert desk.ask(message, TWO).verdict is Verdict.PASSED
    desk.publish(1)
    assert desk.asked(TWO) == (1, Verdict.PASSED)


def test_under_a_lost_lease_nothing_is_taken_or_kept(desk: Desk, broker: Broker) -> None:
    desk.publish(0)
    message = desk.take()
    lease = desk.leases.get(message.delivery_tag)
    broker.client.hdel("celeray:leases", lease.tag)
    answer = desk.store.acquire(lease, [TWO], level=5, task_id="0")
    assert answer.verdict is Verdict.LOST
    assert not broker.client.exists("celeray:limit:t:holders", "celeray:limits:messages")


def test_of_several_gates_all_are_passed_or_none(desk: Desk, broker: Broker) -> None:
    wide, narrow = gate("wide", concurrency=2), gate("narrow", concurrency=1)
    for number in range(3):
        desk.publish(number)
    first = desk.take()
    assert desk.ask(first, wide, narrow).verdict is Verdict.PASSED
    assert desk.asked(wide, narrow) == (1, Verdict.WAITS)
    assert broker.client.hlen("celeray:limit:wide:holders") == 1
    assert desk.asked(wide) == (2, Verdict.PASSED)
    desk.store.release([desk.room(first, wide), desk.room(first, narrow)])
    first.ack()
    assert desk.asked(wide, narrow) == (1, Verdict.PASSED)


def test_a_call_that_nobody_takes_keeps_the_others_waiting_only_until_its_deadline(desk: Desk) -> None:
    desk.store = LimitStore(desk.leases.client, desk.leases.keys, call_s=0.0)
    one = gate(concurrency=1)
    desk.publish(0, queue="alive")
    running = desk.take("alive")
    desk.ask(running, one)
    desk.publish(1, queue="dead")
    desk.asked(one, queue="dead")
    desk.publish(2, queue="alive")
    desk.asked(one, queue="alive")
    desk.store.release([desk.room(running, one)])
    running.ack()
    desk.sweep()
    assert desk.asked(one, queue="alive") == (2, Verdict.PASSED)
    assert desk.asked(one, queue="dead") == (1, Verdict.WAITS)


def test_a_called_message_that_was_revoked_gives_its_room_back(desk: Desk) -> None:
    one = gate(concurrency=1)
    desk.publish(0)
    running = desk.take()
    desk.ask(running, one)
    for number in (1, 2):
        desk.publish(number)
        desk.asked(one)
    desk.store.release([desk.room(running, one)])
    running.ack()
    revoked = desk.take()
    revoked.ack()
    assert desk.take() is None
    desk.store.release([Room(one.id, revoked.properties["delivery_tag"])])
    assert desk.asked(one) == (2, Verdict.PASSED)


def test_a_rate_lets_its_burst_begin_then_one_an_interval(desk: Desk) -> None:
    hourly = gate(rate="2/h", burst=2)
    for number in range(3):
        desk.publish(number)
    verdicts = [desk.asked(hourly) for _ in range(3)]
    assert verdicts == [(0, Verdict.PASSED), (1, Verdict.PASSED), (2, Verdict.WAITS)]
    [shown] = read_limits(desk.leases.client, desk.leases.keys).limits
    assert shown.next_in_s == pytest.approx(1800, abs=5)
    desk.sweep()
    assert desk.take() is None
    arrival = float(desk.broker.client.get("celeray:limit:t:arrival"))
    desk.broker.client.set("celeray:limit:t:arrival", arrival - 1800)
    desk.sweep()
    assert desk.asked(hourly) == (2, Verdict.PASSED)


def test_one_sweeps_while_it_lives(desk: Desk, broker: Broker) -> None:
    other = LimitStore(desk.leases.client, desk.leases.keys)
    assert not desk.store.sweep().other_sweeps
    assert other.sweep().other_sweeps
    broker.client.delete("celeray:limits:sweeper")
    assert not other.sweep().other_sweeps


def test_what_waits_and_who_holds_is_shown(desk: Desk) -> None:
    for number in range(4):
        desk.publish(number)
    messages = [desk.take() for _ in range(4)]
    for message in messages:
        desk.ask(message, TWO)
    found = read_limits(desk.leases.client, desk.leases.keys)
    [shown] = found.limits
    assert (shown.name, shown.value, shown.rate, shown.concurrency) == ("t", None, None, 2)
    assert (shown.waiting, shown.called, shown.running, found.waiting, found.more) == (2, 0, 2, 2, 0)
    assert [holder.task_id for holder in shown.holders] == ["0", "1"]
    assert all(holder.alive for holder in shown.holders)
    assert shown.holders[0].worker == desk.leases.owner.rpartition(":")[0]


def test_a_keeper_does_it_where_no_worker_does(desk: Desk, broker: Broker) -> None:
    duty = DueLimits(desk.leases.client, desk.leases.keys)
    desk.publish(0)
    dead = desk.take()
    desk.ask(dead, TWO)
    desk.publish(1)
    desk.publish(2)
    for _ in range(2):
        desk.asked(TWO)
    desk.die(dead)
    broker.client.zadd("celeray:limits:due", {TWO.id: 1.0})
    assert duty.run_once(0.0) == ""
    # The worker that swept is silent.
    broker.client.delete("celeray:limits:sweeper")
    assert duty.run_once(0.0) == "1 limits looked at"
    assert duty.run_once(0.0) == ""
    assert desk.asked(TWO) == (2, Verdict.PASSED)
