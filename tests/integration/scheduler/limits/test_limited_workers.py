"""Two plain workers and stock producers: limits hold over both, whatever becomes of a run."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable
from typing import Any

import pytest
from celery import Celery

from celeray.scheduler.keys import Keys
from celeray.scheduler.limits.overview import LimitStatus, read_limits
from celeray.scheduler.limits.store import CALL_S
from tests.integration.scheduler.transport.conftest import Broker

pytestmark = pytest.mark.unmeasured
TIMEOUT_S = 60
LEASE_S = 1.5
SLACK_S = 0.25
WORKER = ("-Q", "cpu.analysis", "-I", "tests.apps.front_limited", "-P", "prefork", "-c", "3")


@pytest.fixture
def two_workers(start_worker: Any) -> list[Any]:
    environment = {"CELERAY_TRANSPORT": "leased", "FRONT_LEASE_S": str(LEASE_S)}
    return [start_worker(*WORKER, **environment) for _ in range(2)]


def send(producer: Celery, name: str, *args: Any, **kwargs: Any) -> Any:
    return producer.send_task(f"limited.{name}", args, kwargs, queue="cpu.analysis")


def notes(broker: Broker) -> list[dict[str, Any]]:
    return sorted((json.loads(line) for line in broker.client.lrange("notes", 0, -1)), key=lambda n: n["at"])


def most_at_once(of: Iterable[dict[str, Any]]) -> int:
    """Runs that were under way together, by what they noted themselves."""
    now = most = 0
    for line in of:
        now += 1 if line["what"] == "begin" else -1
        most = max(most, now)
    return most


def most_in(window_s: float, times: list[float]) -> int:
    return max(sum(start <= at < start + window_s for at in times) for start in times)


def shown(broker: Broker) -> dict[tuple[str, str | None], LimitStatus]:
    return {(limit.name, limit.value): limit for limit in read_limits(broker.client, Keys()).limits}


def test_concurrency_and_rate_hold_over_both_workers(
    two_workers: Any, front: Celery, stock: Celery, broker: Broker, eventually: Any
) -> None:
    few = [send(producer, "few", 0.1) for producer in (front, stock) for _ in range(10)]
    eventually(lambda: shown(broker)["limited.few", None].waiting > 5)
    assert all(item.get(timeout=TIMEOUT_S) for item in few)
    lines = notes(broker)
    assert len(lines) == 40
    assert most_at_once(lines) == 2
    assert len({line["pid"] for line in lines}) == 2

    broker.client.delete("notes")
    paced = [send(producer, "paced") for producer in (front, stock) for _ in range(15)]
    assert all(item.get(timeout=TIMEOUT_S) for item in paced)
    times = [line["at"] for line in notes(broker)]
    assert len(times) == 30
    # 20 a second, and 2 at once. A slow machine may take its time from the gate to the note.
    assert times[-1] - times[0] >= 28 / 20 - SLACK_S
    for window_s in (0.25, 0.5):
        assert most_in(window_s, times) <= 20 * (window_s + SLACK_S) + 2
    eventually(broker.nothing_held)
    assert broker.client.hlen("celeray:limits:messages") == 0


def test_each_way_a_run_ends_gives_the_next_its_turn(
    two_workers: Any, front: Celery, stock: Celery, broker: Broker, eventually: Any
) -> None:
    endings = ("good", "bad", "again", "good")
    sent = [
        send(producer, "alone", user=user, ending=ending)
        for producer in (front, stock)
        for user in ("ann", "bob")
        for ending in endings
    ]
    for item in sent:
        item.get(timeout=TIMEOUT_S, propagate=False)
    lines = notes(broker)
    assert len(lines) == 2 * (len(sent) + 4)
    for user in ("ann", "bob"):
        assert most_at_once(line for line in lines if line["user"] == user) == 1
    assert most_at_once(lines) == 2

    slow = send(front, "alone", user="ann", ending="slow")
    eventually(lambda: shown(broker)["limited.alone", "ann"].running == 1)
    revoked = send(front, "alone", user="ann")
    last = send(stock, "alone", user="ann")
    eventually(lambda: shown(broker)["limited.alone", "ann"].waiting == 2)
    assert shown(broker)["limited.alone", "ann"].holders[0].task_id == slow.id
    front.control.revoke(revoked.id)
    front.control.revoke(slow.id, terminate=True)
    # Sooner than the room of the revoked one, which was called and never came, would be free by itself.
    eventually(last.ready, CALL_S * 0.8)
    eventually(broker.nothing_held)
    assert broker.client.hlen("celeray:limits:messages") == 0


def test_a_killed_worker_gives_its_room_back_when_its_lease_ends(
    two_workers: Any, front: Celery, stock: Celery, broker: Broker, eventually: Any
) -> None:
    slow = send(front, "alone", user="ann", ending="slow")
    [begun] = eventually(lambda: notes(broker))
    waiting = [send(stock, "alone", user="ann") for _ in range(3)]
    eventually(lambda: shown(broker)["limited.alone", "ann"].waiting == 3)
    dead = next(worker for worker in two_workers if worker.pid == begun["pid"])
    os.killpg(dead.pid, signal.SIGKILL)
    dead.wait()
    # The killed run comes again, and keeps its rank; its first one has noted no end.
    again = eventually(lambda: [line for line in notes(broker) if line["id"] == slow.id][1:])
    assert again[0]["pid"] != begun["pid"]
    assert shown(broker)["limited.alone", "ann"].running == 1
    front.control.revoke(slow.id, terminate=True)
    for item in waiting:
        assert item.get(timeout=TIMEOUT_S)
    assert most_at_once(line for line in notes(broker) if line["id"] != slow.id) == 1
    eventually(broker.nothing_held)
