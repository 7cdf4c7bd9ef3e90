"""Plain workers whose lease is lost while they run: what becomes of the run, and of what follows from it."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from celery import Celery, chain, signature

from tests.integration.scheduler.transport.conftest import SEPARATOR, Broker

TIMEOUT_S = 60
LEASE_S = 2.0
LIST = f"cpu.analysis{SEPARATOR}5"


def start(start_worker: Any, pool: str, concurrency: int = 2) -> Any:
    arguments = ("-P", pool, "-c", str(concurrency), "-Q", "cpu.analysis", "-I", "tests.apps.front_work")
    return start_worker(*arguments, CELERAY_TRANSPORT="leased", FRONT_LEASE_S=str(LEASE_S))


def steal(broker: Broker) -> None:
    """Take the one held message from its worker and put it back on its list, as a restore does."""
    [(tag, entry)] = broker.client.hgetall("unacked").items()
    [lease] = broker.client.hvals("celeray:leases")
    message = entry[1 : entry.rindex(b', "", "')]
    pipe = broker.client.pipeline()
    for key in ("unacked", "celeray:leases"):
        pipe.hdel(key, tag)
    for key in ("unacked_index", "celeray:lease-deadlines"):
        pipe.zrem(key, tag)
    pipe.rpush(lease.split(b"\n")[2], message)
    pipe.execute()


def span(app: Celery, key: str, seconds: float) -> Any:
    return signature("front.span", (key, seconds), queue="cpu.analysis", immutable=True, app=app)


@pytest.mark.parametrize(("pool", "ended"), [("prefork", b"2"), ("threads", b"3")])
def test_a_run_whose_lease_is_lost_yields_nothing(
    front: Celery, start_worker: Any, broker: Broker, eventually: Any, pool: str, ended: bytes
) -> None:
    """prefork ends it, and threads, which can't, let it go on to its end: of two begins and one callback."""
    start(start_worker, pool)
    sent = chain(span(front, "lost", 4.0), span(front, "after", 0), app=front).apply_async()
    eventually(lambda: broker.client.get("lost:begun") == b"1")
    eventually(lambda: broker.client.hlen("celeray:leases") == 1)
    steal(broker)
    assert sent.get(timeout=TIMEOUT_S) == 1
    assert sent.parent.get(timeout=TIMEOUT_S) == 2
    eventually(broker.nothing_held)
    counted = int(broker.client.get("lost:ended")) + int(broker.client.get("after:ended"))
    assert counted == int(ended)
    assert broker.client.get("after:begun") == b"1"


@pytest.mark.slow
def test_a_worker_goes_on_after_lost_leases(
    front: Celery, start_worker: Any, broker: Broker, eventually: Any
) -> None:
    """A lost message takes no place of the worker's any more, whether or not it had begun."""
    start(start_worker, "prefork", 1)
    for round_ in ("one", "two", "three"):
        sent = span(front, round_, 1.5).apply_async()
        eventually(lambda key=round_: broker.client.get(f"{key}:begun") == b"1")
        eventually(lambda: broker.client.hlen("celeray:leases") == 1)
        steal(broker)
        assert sent.get(timeout=TIMEOUT_S) == 2
    eventually(broker.nothing_held)


def test_a_stopped_worker_finds_its_message_done(
    front: Celery, start_worker: Any, broker: Broker, eventually: Any
) -> None:
    stopped = start(start_worker, "solo")
    sent = chain(span(front, "stop", 1.0), span(front, "after", 0), app=front).apply_async()
    eventually(lambda: broker.client.get("stop:begun") == b"1")
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        start(start_worker, "solo")
        assert sent.get(timeout=TIMEOUT_S) == 1
        assert sent.parent.get(timeout=TIMEOUT_S) == 2
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    eventually(lambda: broker.client.get("stop:ended") == b"2")
    # The woken worker, which takes the next message as any other, has published and stored nothing.
    for number in range(4):
        assert span(front, f"next{number}", 0.2).apply_async().get(timeout=TIMEOUT_S) == 1
    eventually(broker.nothing_held)
    assert broker.client.get("after:begun") == b"1"
    assert sent.parent.get(timeout=TIMEOUT_S) == 2
