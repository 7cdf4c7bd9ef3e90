"""Held messages with a far eta: into the schedule under their lease, back to their list, listed, revoked."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from celeray.scheduler.keys import Keys
from celeray.scheduler.revoking import RevokeBook
from celeray.scheduler.transport import scheduling
from celeray.scheduler.transport.keeping import LeaseKeeper
from celeray.scheduler.transport.scheduling import FarEta, Verdict, bring_back, list_scheduled, schedule
from tests.integration.scheduler.transport.conftest import SEPARATOR, Broker
from tests.integration.scheduler.transport.test_settling import expire, hold

pytestmark = pytest.mark.usefixtures("no_lease_threads")


def away(side: Any, message: Any, back_in_s: float = 100.0, task_id: str | None = None) -> Verdict:
    """Take one held message into the schedule."""
    lease = side.channel.leases.get(message.delivery_tag)
    number = message.headers.get("n")
    item = FarEta(lease, back_in_s, task_id or f"task-{number}", json.dumps({"n": number}))
    [verdict] = schedule(side.channel.leases, [item])
    if verdict is not Verdict.REVOKED:
        side.channel.qos.forget(message.delivery_tag)
    return verdict


def schedule_sizes(broker: Broker, keys: Keys) -> tuple[int, ...]:
    due, entries, messages, ids, lists = keys.schedule()
    client = broker.client
    counts = sum(int(count) for count in client.hvals(lists))
    return client.zcard(due), client.hlen(entries), client.hlen(messages), client.zcard(ids), counts


@pytest.mark.parametrize("prefix", ["", "film:"])
def test_there_and_back_byte_for_byte(side: Any, redis_url: str, prefix: str) -> None:
    broker, keys = Broker(redis_url, prefix), Keys(prefix=prefix)
    worker = side(global_keyprefix=prefix)
    worker.publish("x", priority=3, n=0, stamps=[], large=2**60)
    key = f"{prefix}q{SEPARATOR}3"
    [before] = broker.client.lrange(key, 0, -1)
    message = worker.get()
    assert away(worker, message) is Verdict.SCHEDULED
    assert broker.nothing_held()
    assert broker.client.llen(key) == 0
    assert schedule_sizes(broker, keys) == (1,) * 5
    assert worker.channel.leases.renew() == []
    assert bring_back(broker.client, keys) == 0
    assert bring_back(broker.client, keys, time.time() + 101) == 1
    assert broker.client.lrange(key, 0, -1) == [before]
    assert schedule_sizes(broker, keys) == (0,) * 5
    assert bring_back(broker.client, keys, time.time() + 101) == 0
    assert {name for name in broker.client.keys("*") if not name.startswith(prefix.encode())} == set()
    broker.client.close()


def test_it_takes_no_place_in_the_window(side: Any, broker: Broker) -> None:
    worker = hold(side, 2)
    worker.channel.basic_qos(0, 2, False)
    worker.publish("next", n="next")
    assert not worker.channel.qos.can_consume()
    for message in worker.got[:2]:
        away(worker, message)
    assert worker.drain() == ["next"]


def test_the_first_that_is_due_is_in_front_and_all_before_what_waits(side: Any, broker: Broker) -> None:
    worker = hold(side, 4)
    for message, back_in_s in zip(worker.got, (30, 10, 40, 20), strict=True):
        away(worker, message, back_in_s)
    worker.connection.close()
    side().publish("waits", n="waits")
    assert bring_back(broker.client, Keys(), time.time() + 35) == 3
    assert broker.headers() == [1, 3, 0, "waits"]


def test_a_lost_lease_schedules_nothing(side: Any, broker: Broker) -> None:
    worker, other = hold(side), side()
    lease = worker.channel.leases.get(worker.got[0].delivery_tag)
    expire(broker)
    other.channel.restore_expired()
    assert schedule(worker.channel.leases, [FarEta(lease, 9, "t", "{}")]) == [Verdict.GONE]
    assert broker.headers() == [0]
    assert schedule_sizes(broker, Keys()) == (0,) * 5


def test_a_refused_call_leaves_it_held(side: Any, broker: Broker) -> None:
    worker = hold(side)
    broker.client.set("celeray:etas:entries", "no hash")
    with pytest.raises(Exception, match="WRONGTYPE"):
        away(worker, worker.got[0])
    broker.client.delete("celeray:etas:entries")
    assert worker.channel.leases.held()
    assert away(worker, worker.got[0]) is Verdict.SCHEDULED
    assert bring_back(broker.client, Keys(), time.time() + 200) == 1
    assert broker.headers() == [0]


def test_a_revoke_brings_it_back_at_once(side: Any, broker: Broker) -> None:
    worker, book = hold(side, 3), RevokeBook(broker.client, Keys())
    for message, task_id in zip(worker.got, ("a", "a", "ab"), strict=True):
        away(worker, message, 9_000, task_id)
    assert book.add(["a", "unknown"]) == 2
    assert bring_back(broker.client, Keys()) == 2
    # Under the same revoke it is not scheduled again, and stays held for its consumer to end it.
    again = side()
    message = again.get()
    assert away(again, message, 9_000, "a") is Verdict.REVOKED
    assert again.channel.leases.renew() == []
    message.ack()
    assert broker.held()["unacked"] == 0


def test_listed_are_only_ones_own_lists_and_at_most_so_many(side: Any, broker: Broker) -> None:
    worker, keys = hold(side, 5), Keys()
    for message in worker.got:
        away(worker, message, 100 - message.headers["n"])
    worker.publish("other", queue="other", n="other")
    away(worker, worker.get("other"))
    found = list_scheduled(broker.client, keys, keys.queue_lists("q"), 3)
    assert [json.loads(text)["n"] for text in found.shown] == [4, 3, 2]
    assert found.total == 5
    assert list_scheduled(broker.client, keys, keys.queue_lists("other"), 3).total == 1
    assert list_scheduled(broker.client, keys, [], 3).total == 0


def test_many_come_back_in_one_run(side: Any, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = hold(side, 25)
    leases = [worker.channel.leases.get(message.delivery_tag) for message in worker.got]
    items = [FarEta(lease, index, f"t{index}", "{}") for index, lease in enumerate(leases)]
    monkeypatch.setattr(scheduling, "MESSAGES_A_SCRIPT", 10)
    assert schedule(worker.channel.leases, items) == [Verdict.SCHEDULED] * 25
    monkeypatch.setattr(scheduling, "SCRIPTS_A_RUN", 2)
    assert bring_back(broker.client, Keys(), time.time() + 100) == 20
    monkeypatch.setattr(scheduling, "BYTES_A_SCRIPT", 1)
    assert bring_back(broker.client, Keys(), time.time() + 100) == 2


def test_the_lease_thread_brings_back_what_is_due(side: Any, broker: Broker) -> None:
    worker = hold(side)
    away(worker, worker.got[0], -1)
    keeper = LeaseKeeper(worker.channel.leases, lambda: None)
    keeper.run_once()
    assert broker.headers() == [0]


class Crowd:
    """Workers and movers in threads, over messages that are done after so many rounds through the schedule."""

    def __init__(self, messages: int, rounds: int) -> None:
        self.messages = messages
        self.rounds = rounds
        self.done: list[int] = []
        self.seen: Counter[int] = Counter()
        self.errors: list[BaseException] = []
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        return len(self.done) < self.messages and not self.errors

    def run(self, steps: Sequence[Callable[[], object]]) -> None:
        """Each step over and over in a thread of its own, until all is done."""
        threads = [threading.Thread(target=self._repeat, args=(step,)) for step in steps]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    def _repeat(self, step: Callable[[], object]) -> None:
        try:
            while self.busy:
                step()
        except BaseException as error:  # noqa: BLE001 - told to the test
            self.errors.append(error)

    def work(self, worker: Any) -> None:
        if (message := worker.get()) is None:
            return
        number = message.headers["n"]
        with self._lock:
            self.seen[number] += 1
            last = self.seen[number] == self.rounds
        if last:
            message.ack()
            self.done.append(number)
        else:
            assert away(worker, message, (number % 3) * 0.01) is Verdict.SCHEDULED


def test_movers_and_workers_at_once_double_nothing(
    side: Any, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd, producer = Crowd(60, 4), side()
    for number in range(crowd.messages):
        producer.publish(number, n=number)
    monkeypatch.setattr(scheduling, "MESSAGES_A_SCRIPT", 7)
    workers = [partial(crowd.work, side()) for _ in range(2)]
    crowd.run([*workers, *[partial(bring_back, broker.client, Keys())] * 2])
    assert crowd.errors == []
    assert sorted(crowd.done) == list(range(crowd.messages))
    assert set(crowd.seen.values()) == {crowd.rounds}
    assert broker.nothing_held()
    assert schedule_sizes(broker, Keys()) == (0,) * 5
