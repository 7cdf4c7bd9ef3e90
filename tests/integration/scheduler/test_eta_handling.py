"""What a worker does with a message before Celery sees it, and what it says of the schedule; in this process."""

from __future__ import annotations

import json
import types
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from celery import Celery
from celery.worker import state
from kombu import Queue

from celeray.scheduler import remote_control
from celeray.scheduler.etas import EtaScheduler
from celeray.scheduler.keys import Keys
from celeray.scheduler.overview import cluster_status, queue_statuses, read_overview
from celeray.scheduler.revoking import RevokeBook
from celeray.scheduler.settings import Settings
from celeray.scheduler.status_store import StatusStore
from tests.integration.scheduler.transport.conftest import Broker, Side

TASK = "film.plain"


class Hub:
    """Calls when told to."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def call_soon(self, callback: Any) -> None:
        self.calls.append(callback)

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class Worker:
    """A consumer of one queue on the leased transport; `handled` is what Celery gets."""

    def __init__(self, url: str, *, hub: Hub | None = None, leased: bool = True) -> None:
        self.side = Side(url, leased=leased)
        self.app = Celery("etas", broker=url, set_as_current=False)
        self.handled: list[Any] = []
        self.consumer: Any = types.SimpleNamespace(app=self.app, hub=hub, strategies={TASK: None})
        self.handle = EtaScheduler(self.consumer, self.handled.append, 15.0)

    def send(
        self, in_s: float | None, *, task: str = TASK, task_id: str | None = None, **headers: Any
    ) -> str:
        eta = None if in_s is None else (datetime.now(UTC) + timedelta(seconds=in_s)).isoformat()
        headers = {"task": task, "id": task_id or uuid.uuid4().hex, "eta": eta, **headers}
        self.side.publish([[], {}, {}], **headers)
        return str(headers["id"])

    def receive(self) -> Any:
        message = self.side.get()
        self.handle(message)
        return message

    def close(self) -> None:
        self.side.connection.close()
        self.app.close()


@pytest.fixture(autouse=True)
def own_state() -> Iterator[None]:
    state.reset_state()
    yield
    state.reset_state()


@pytest.fixture
def broker(redis_url: str) -> Iterator[Broker]:
    made = Broker(redis_url)
    yield made
    made.client.close()


@pytest.fixture
def worker(redis_url: str) -> Iterator[Worker]:
    made = Worker(redis_url)
    yield made
    made.close()


def waiting(broker: Broker) -> int:
    return int(broker.client.zcard("celeray:etas"))


def test_a_far_one_waits_in_redis(worker: Worker, broker: Broker) -> None:
    worker.send(16)
    message = worker.receive()
    assert (worker.handled, waiting(broker)) == ([], 1)
    assert broker.nothing_held()
    [(_, due)] = broker.client.zrange("celeray:etas", 0, -1, withscores=True)
    assert 0 <= due - datetime.now(UTC).timestamp() <= 1
    # Settled: an ack by mistake changes nothing.
    assert not worker.side.channel.leases.note_ack(message.delivery_tag)


@pytest.mark.parametrize("in_s", [14, -1, None])
def test_a_near_one_is_celerys(worker: Worker, broker: Broker, in_s: float | None) -> None:
    worker.send(in_s)
    assert [worker.receive()] == worker.handled
    assert (waiting(broker), broker.held()["unacked"]) == (0, 1)


def test_so_is_what_celery_ends_or_refuses_at_once(worker: Worker, broker: Broker) -> None:
    state.revoked.add(worker.send(1000))
    worker.send(1000, task="film.unknown")
    worker.send(None, eta="tomorrow")
    for _ in range(3):
        worker.receive()
    assert len(worker.handled) == 3
    assert waiting(broker) == 0


@pytest.mark.parametrize(
    "headers", [[], "task", None, {}, {"task": TASK, "eta": {}}, {"task": TASK, "eta": 5}]
)
def test_so_is_what_nobody_understands(worker: Worker, broker: Broker, headers: Any) -> None:
    worker.send(None)
    [raw] = broker.client.lrange("q", 0, -1)
    broker.client.delete("q")
    broker.client.lpush("q", json.dumps(json.loads(raw) | {"headers": headers}))
    message = worker.side.get()
    # What kombu can't read is parked before.
    if message is not None:
        worker.handle(message)
        assert worker.handled == [message]
    assert waiting(broker) == 0


def test_so_is_one_of_kombus_own_transport(redis_url: str, broker: Broker) -> None:
    worker = Worker(redis_url, leased=False)
    worker.send(1000)
    assert [worker.receive()] == worker.handled
    assert waiting(broker) == 0
    worker.close()


def test_one_that_was_revoked_elsewhere_is_celerys_and_known_as_such(worker: Worker, broker: Broker) -> None:
    task_id = worker.send(1000)
    RevokeBook(broker.client, Keys()).add([task_id])
    [handled] = [worker.receive()]
    assert worker.handled == [handled]
    assert task_id in state.revoked
    handled.ack()
    worker.side.channel.leases.flush()
    assert (waiting(broker), broker.held()["unacked"]) == (0, 0)


def test_those_of_one_turn_go_together(redis_url: str, broker: Broker) -> None:
    hub = Hub()
    worker = Worker(redis_url, hub=hub)
    for in_s in (1000, None, 2000, 3000):
        worker.send(in_s)
    messages = [worker.receive() for _ in range(4)]
    assert (len(hub.calls), len(worker.handled), waiting(broker)) == (1, 1, 0)
    # Given back meanwhile, as when the connection was lost.
    worker.side.channel.give_back_held(messages[3].delivery_tag)
    calls = broker.calls().get("evalsha", 0) + broker.calls().get("eval", 0)
    hub.turn()
    assert broker.calls().get("evalsha", 0) + broker.calls().get("eval", 0) - calls <= 2
    assert waiting(broker) == 2
    assert [body["headers"]["id"] for body in broker.bodies()] == [messages[3].headers["id"]]
    worker.send(1000)
    worker.receive()
    assert len(hub.calls) == 1
    worker.close()


def test_a_demoted_master_is_a_lost_connection(worker: Worker, broker: Broker) -> None:
    worker.send(1000)
    message = worker.side.get()
    broker.client.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(redis.ConnectionError):
            worker.handle(message)
    finally:
        broker.client.replicaof("NO", "ONE")
    assert worker.side.channel.leases.get(message.delivery_tag) is not None
    assert (worker.handled, waiting(broker), broker.held()["unacked"]) == ([], 0, 1)


def test_inspect_scheduled_lists_some_and_says_how_many_more(
    worker: Worker, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [worker.send(1000 + number, argsrepr=f"({number},)") for number in range(5)]
    for _ in ids:
        worker.receive()
    timer = types.SimpleNamespace(schedule=types.SimpleNamespace(queue=[]))
    consumer = types.SimpleNamespace(channel=worker.side.channel, queues=[Queue("q")])
    told: Any = types.SimpleNamespace(
        hostname="w@h", consumer=types.SimpleNamespace(timer=timer, task_consumer=consumer)
    )
    found = remote_control.scheduled(told)
    assert [item["request"]["id"] for item in found] == ids
    assert found[0]["request"] | {"delivery_info": None} == {
        "id": ids[0],
        "name": TASK,
        "type": TASK,
        "args": "(0,)",
        "kwargs": "",
        "hostname": "w@h",
        "time_start": None,
        "acknowledged": False,
        "worker_pid": None,
        "delivery_info": None,
    }
    monkeypatch.setattr(remote_control, "SHOWN_MOST", 2)
    bounded = remote_control.scheduled(told)
    assert [item["request"]["id"] for item in bounded] == [*ids[:2], "3 more"]
    assert {frozenset(item["request"]) for item in bounded} == {frozenset(found[0]["request"])}
    json.dumps(bounded)
    consumer.queues = [Queue("other")]
    assert remote_control.scheduled(told) == []


def test_the_status_counts_what_waits(worker: Worker, broker: Broker) -> None:
    settings = Settings(queues=(*Settings().queues, "q"))
    for in_s in (1000, 2000, None):
        worker.send(in_s)
    for _ in range(2):
        worker.receive()
    overview = read_overview(StatusStore(broker.client), settings, 0.0)
    found = {queue.name: (queue.scheduled, queue.depth) for queue in queue_statuses(overview, settings)}
    assert found["q"] == (2, 1)
    assert found["cpu.analysis"] == (0, 0)
    assert cluster_status(overview, settings, "v").scheduled == 2
