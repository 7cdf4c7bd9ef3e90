"""The broker's server restarts, stands still, forgets its scripts, throws its clients out, or is demoted."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.faults.rig import Rig
from tests.faults.servers import Broker, until

QUICK_TO_NOTICE = {"polling_interval": 0.5, "health_check_interval": 0.5}
"""A silent server is given up after 1 s instead of 26."""
STILL_S = 2.0
"""Less than a lease: no run loses its own."""


def command(rig: Rig, *words: Any) -> None:
    with rig.broker.client() as client:
        client.execute_command(*words)


FAULT_RESTART = "server SIGKILL and restart, appendfsync always"


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["kombu", "leased"])
def test_a_server_that_is_killed_and_restarts(
    make_rig: Any, settle: Any, tmp_path: Any, transport: str
) -> None:
    broker = Broker(tmp_path / "durable", "--appendfsync", "always")
    rig = make_rig(transport, broker)
    rig.start_workers(2)
    with rig.load(rate=25):
        for _ in range(3):
            time.sleep(1.5)
            rig.fault("server killed")
            broker.kill()
            time.sleep(0.5)
            broker.start()
    settle(rig, FAULT_RESTART)


FAULT_FLUSH = "SCRIPT FLUSH in mid-run"


@pytest.mark.parametrize("transport", [pytest.param("kombu", marks=pytest.mark.slow), "leased"])
def test_scripts_flushed(make_rig: Any, settle: Any, transport: str) -> None:
    rig = make_rig(transport)
    rig.worker("-P", "threads", "-c", "4")
    with rig.load(rate=40, seconds=0.05):
        for _ in range(10):
            time.sleep(0.2)
            rig.fault("scripts flushed", crash=False)
            command(rig, "SCRIPT", "FLUSH")
    settle(rig, FAULT_FLUSH)


FAULT_KILL = "CLIENT KILL TYPE normal under load"


@pytest.mark.parametrize("transport", [pytest.param("kombu", marks=pytest.mark.slow), "leased"])
def test_clients_killed(make_rig: Any, settle: Any, transport: str) -> None:
    rig = make_rig(transport)
    rig.worker("-P", "threads", "-c", "4")
    with rig.load(rate=30, seconds=0.05):
        for _ in range(5):
            time.sleep(0.5)
            rig.fault("clients killed", crash=False)
            command(rig, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    settle(rig, FAULT_KILL)


FAULT_PAUSE = "CLIENT PAUSE for 2 s, idle workers"
FAULT_SLEEP = "DEBUG SLEEP 2, under load"


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["kombu", "leased"])
def test_clients_paused(make_rig: Any, settle: Any, transport: str) -> None:
    rig = make_rig(transport, options=QUICK_TO_NOTICE)
    rig.start_workers(2, "-P", "threads", "-c", "2")
    submitter = rig.submitter()
    for _ in range(3):
        rig.fault("clients paused", crash=False)
        command(rig, "CLIENT", "PAUSE", int(STILL_S * 1000))
        # These wait for the server, as the workers do; whoever hung up meanwhile has left its request behind.
        for _ in range(6):
            submitter.work(0.05)
        rig.drain()
    settle(rig, FAULT_PAUSE)


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["kombu", "leased"])
def test_a_server_that_sleeps(make_rig: Any, settle: Any, transport: str) -> None:
    rig = make_rig(transport, options=QUICK_TO_NOTICE)
    rig.start_workers(2, "-P", "threads", "-c", "2")
    with rig.load(rate=20):
        for _ in range(3):
            rig.fault("server asleep", crash=False)
            command(rig, "DEBUG", "SLEEP", STILL_S)
            time.sleep(1.0)
    settle(rig, FAULT_SLEEP)


FAULT_DEMOTED = "REPLICAOF under a blocked worker, for 1 s"


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["kombu", "leased"])
def test_a_server_that_is_demoted_for_a_while(make_rig: Any, settle: Any, transport: str) -> None:
    stock = transport == "kombu"
    # Celery's default; celeray.install turns it on.
    rig = make_rig(transport, conf={"broker_channel_error_retry": False} if stock else {})
    worker = rig.worker("-P", "threads", "-c", "2")
    with rig.load(rate=20):
        rig.await_event("end", 10)
        time.sleep(0.5)
    rig.drain()
    # Idle, so the stock worker waits in BRPOP.
    rig.fault("server demoted", crash=False)
    command(rig, "REPLICAOF", "127.0.0.1", "1")
    time.sleep(1.0)
    command(rig, "REPLICAOF", "NO", "ONE")
    if stock:
        until(lambda: not worker.alive, "the stock worker has ended, with an unrecoverable error")
        rig.worker("-P", "threads", "-c", "2")
    with rig.load(rate=20):
        time.sleep(1.0)
    settle(rig, FAULT_DEMOTED)
    assert worker.alive != stock
