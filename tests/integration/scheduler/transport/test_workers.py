"""Celery workers on the leased transport: what survives a killed one, and everyday work."""

from __future__ import annotations

import os
import random
import signal
import string
from typing import Any

import pytest
from celery import Celery
from kombu import pools

from tests.integration.scheduler.transport.conftest import SEPARATOR, Broker

pytestmark = pytest.mark.unmeasured

TIMEOUT_S = 60
TRIES = 10
MORE = ("-I", "tests.apps.front_work")
LIST = f"cpu.analysis{SEPARATOR}5"


def test_stock_loses_what_a_stopped_worker_was_handed(
    front: Celery, start_worker: Any, broker: Broker, eventually: Any
) -> None:
    worker = start_worker("-P", "solo", "-Q", "cpu.analysis", CELERAY_TRANSPORT="kombu")
    for _ in range(TRIES):
        eventually(lambda: any("b" in client["flags"] for client in broker.client.client_list()))
        os.kill(worker.pid, signal.SIGSTOP)
        sent = front.tasks["front.seen"].apply_async()
        if broker.client.llen(LIST) == 0:
            break  # Redis handed the message to the worker's BRPOP; it is in nobody's hands now.
        # The BRPOP, which waits a second, had ended just before.
        os.kill(worker.pid, signal.SIGCONT)
        assert sent.get(timeout=TIMEOUT_S)["queue"] == "cpu.analysis"
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    assert broker.client.llen(LIST) + broker.client.hlen("unacked") == 0


def test_leased_keeps_what_is_published_to_a_stopped_worker(
    front: Celery, start_worker: Any, broker: Broker
) -> None:
    worker = start_worker("-P", "solo", "-Q", "cpu.analysis", CELERAY_TRANSPORT="leased")
    os.kill(worker.pid, signal.SIGSTOP)
    sent = front.tasks["front.seen"].apply_async()
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    assert broker.client.llen(LIST) + broker.client.hlen("unacked") == 1
    start_worker("-P", "solo", "-Q", "cpu.analysis", CELERAY_TRANSPORT="leased")
    assert sent.get(timeout=TIMEOUT_S)["queue"] == "cpu.analysis"


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_worker_works_and_leaves_nothing(
    front: Celery, start_worker: Any, broker: Broker, eventually: Any, pool: str
) -> None:
    start_worker("-P", pool, "-c", "2", "-Q", "cpu.analysis,priority", CELERAY_TRANSPORT="leased")
    sent = [front.tasks["front.seen"].apply_async(priority=1 + number % 10) for number in range(40)]
    sent += [front.tasks["front.seen"].apply_async(headers={"priority_task": True})]
    assert {item.get(timeout=TIMEOUT_S)["queue"] for item in sent} == {"cpu.analysis", "priority"}
    eventually(broker.nothing_held)
    moved = front.tasks["front.generate_image"].apply_async(headers={"priority_task": True})
    eventually(lambda: broker.client.llen("gpu.generation") == 1)
    assert broker.bodies("gpu.generation")[0]["headers"]["id"] == moved.id
    eventually(broker.nothing_held)


def test_stock_and_leased_workers_share_a_queue(
    front: Celery, start_worker: Any, broker: Broker, eventually: Any
) -> None:
    start_worker("-P", "threads", "-c", "2", "-Q", "cpu.analysis", CELERAY_TRANSPORT="leased")
    start_worker("-P", "threads", "-c", "2", "-Q", "cpu.analysis", CELERAY_TRANSPORT="kombu")
    sent = [front.tasks["front.seen"].apply_async() for _ in range(100)]
    assert all(item.get(timeout=TIMEOUT_S) for item in sent)
    eventually(broker.nothing_held)


def send(front: Celery, name: str, *args: Any) -> Any:
    return front.send_task(f"front.{name}", args, queue="cpu.analysis")


def test_ten_mebibytes_pass_as_argument_and_as_result(
    front: Celery, start_worker: Any, broker: Broker, eventually: Any
) -> None:
    start_worker("-P", "prefork", "-c", "1", "-Q", "cpu.analysis", *MORE, CELERAY_TRANSPORT="leased")
    body = "".join(random.Random(1).choices(string.printable, k=1024)) * 10 * 1024
    assert send(front, "echo", body).get(timeout=TIMEOUT_S) == body
    eventually(broker.nothing_held)


def test_a_warm_shutdown_gives_back_what_has_not_begun(
    front: Celery, start_worker: Any, broker: Broker, eventually: Any
) -> None:
    worker = start_worker("-P", "prefork", "-c", "1", "-Q", "cpu.analysis", *MORE, CELERAY_TRANSPORT="leased")
    for _ in range(3):
        send(front, "work", "counted", 1.0)
    eventually(lambda: broker.client.get("counted") == b"1")
    worker.terminate()
    worker.wait(30)
    assert broker.nothing_held()
    assert broker.client.llen(LIST) == 3 - int(broker.client.get("counted"))


def test_a_lost_connection_neither_repeats_nor_loses(
    front: Celery, start_worker: Any, broker: Broker, eventually: Any
) -> None:
    start_worker("-P", "threads", "-c", "2", "-Q", "cpu.analysis", *MORE, CELERAY_TRANSPORT="leased")
    sent = [send(front, "work", "counted", 1.0) for _ in range(6)]
    eventually(lambda: broker.client.get("counted") == b"2")
    broker.client.client_kill_filter(_type="normal", skipme=True)
    # Producers of this process that kombu has pooled.
    pools.reset()
    for item in sent:
        assert item.get(timeout=TIMEOUT_S)
    eventually(broker.nothing_held)
    assert int(broker.client.get("counted")) == 6


def test_a_task_that_kills_its_process_is_parked_after_three_runs(
    front: Celery, start_worker: Any, broker: Broker, eventually: Any
) -> None:
    start_worker("-P", "prefork", "-c", "1", "-Q", "cpu.analysis", *MORE, CELERAY_TRANSPORT="leased")
    deadly = send(front, "deadly", "died")
    eventually(broker.parked, 60)
    [record] = broker.parked()
    assert record["reason"] == b"poison"
    assert deadly.id.encode() in record["message"]
    assert int(broker.client.get("died")) == 3
    assert send(front, "picky", "rejected", 5).get(timeout=TIMEOUT_S)
    eventually(broker.nothing_held)
