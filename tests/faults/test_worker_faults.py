"""Workers that are killed and stopped."""

from __future__ import annotations

import random
import signal
import time
from typing import Any

import pytest

from tests.faults.application import LEASE_S
from tests.faults.checker import check
from tests.faults.rig import Rig
from tests.faults.servers import until

TRIES = 10


def waits_in_brpop(rig: Rig) -> bool:
    with rig.broker.client() as client:
        return any("b" in item["flags"] for item in client.client_list())


def publish_to_a_stopped_worker(rig: Rig) -> None:
    """Stop an idle worker, publish, kill it; on stock until a message was handed to it."""
    worker = rig.worker("-P", "solo")
    submitter = rig.submitter()
    for _ in range(TRIES):
        if not rig.leased:
            until(lambda: waits_in_brpop(rig), "the worker waits in BRPOP")
        worker.signal(signal.SIGSTOP)
        submitter.work()
        # The BRPOP, which waits a second, may have ended just before: then the message is still there.
        if rig.leased or not rig.left():
            break
        worker.signal(signal.SIGCONT)
        rig.drain()
    rig.fault("idle worker killed")
    worker.kill()
    rig.worker("-P", "solo")


FAULT_IDLE = "idle worker SIGSTOP, publish, SIGKILL"


@pytest.mark.parametrize("transport", ["kombu", "leased"])
def test_publish_to_a_stopped_idle_worker(make_rig: Any, settle: Any, transport: str) -> None:
    rig = make_rig(transport)
    publish_to_a_stopped_worker(rig)
    found = settle(rig, FAULT_IDLE)
    if transport == "kombu":
        assert len(found.lost) == 1


FAULT_KILL = "worker SIGKILL at random under load"
KILLS = 4


def kill_at_random(rig: Rig) -> None:
    """Two workers under load; one after the other is killed, with its children and without them, and replaced."""
    chance = random.Random(7)
    rig.start_workers(2)
    with rig.load(rate=25):
        for number in range(KILLS):
            time.sleep(chance.uniform(0.5, 1.5))
            rig.fault("worker killed")
            rig.workers[-2].kill(group=number % 2 == 0)
            rig.worker()


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["kombu", "leased"])
def test_workers_killed_at_random(make_rig: Any, settle: Any, transport: str) -> None:
    for _ in range(TRIES if transport == "kombu" else 1):
        rig = make_rig(transport)
        kill_at_random(rig)
        found = settle(rig, FAULT_KILL)
        if found.lost or found.doubled_count:
            break
    if transport == "kombu":
        assert found.lost or found.doubled_count


FAULT_STOP = "worker SIGSTOP longer than the lease, then SIGCONT"


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False], ids=["with-its-pool", "main-process-only"])
@pytest.mark.parametrize("transport", ["kombu", "leased"])
def test_a_worker_stopped_for_longer_than_its_lease(
    make_rig: Any, settle: Any, transport: str, whole: bool
) -> None:
    rig = make_rig(transport)
    stopped, other = rig.start_workers(2)
    submitter = rig.submitter()
    for _ in range(8):
        submitter.work(1.5)
    rig.await_event("start", 4)
    rig.fault("worker stopped")
    stopped.signal(signal.SIGSTOP, group=whole)
    # What it held runs elsewhere, while it still believes that it holds it.
    # Those that had ended on a child of it are not started again where a fence can tell so.
    until(lambda: repeated(rig) or not rig.left(), "its messages are taken over", 40, 0.1)
    stopped.signal(signal.SIGCONT, group=whole)
    found = settle(rig, FAULT_STOP)
    assert stopped.alive
    assert other.alive
    if transport == "kombu":
        assert found.doubled_count > 0


def repeated(rig: Rig) -> int:
    return check(rig.history.read()).repeated_starts


FAULT_LONG = "task of 3 times the visibility timeout, nothing crashes"


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["kombu", "leased"])
def test_a_task_longer_than_the_visibility_timeout(make_rig: Any, settle: Any, transport: str) -> None:
    rig = make_rig(transport)
    rig.start_workers(2)
    rig.submitter().work(3.2 * LEASE_S)
    found = settle(rig, FAULT_LONG)
    if transport == "kombu":
        assert found.repeated_starts >= 2
        assert found.doubled_count > 0


FAULT_CLOCK = "another worker's clock is 120 s ahead, nothing crashes"


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["kombu", "leased"])
def test_a_clock_that_is_ahead(make_rig: Any, settle: Any, transport: str) -> None:
    rig = make_rig(transport, options={"visibility_timeout": 60})
    rig.begin_worker("-P", "prefork", "-c", "2")
    rig.begin_worker("-P", "prefork", "-c", "2", clock_shift_s=120.0)
    for worker in rig.workers:
        worker.await_ready()
    submitter = rig.submitter()
    for _ in range(6):
        submitter.work(4.0)
    found = settle(rig, FAULT_CLOCK)
    if transport == "kombu":
        assert found.repeated_starts > 0


FAULT_MIXED = "stock and celeray workers on one queue, a celeray worker killed"


@pytest.mark.slow
def test_stock_and_leased_workers_on_one_queue(make_rig: Any, settle: Any) -> None:
    rig = make_rig("leased", options={"visibility_timeout": 20})
    rig.shared_with_stock = True
    leased = rig.begin_worker()
    rig.begin_worker(config=rig.config(transport="kombu"))
    for worker in rig.workers:
        worker.await_ready()
    with rig.load(rate=25):
        rig.await_event("start", 30)
        for _ in range(3):
            rig.fault("celeray worker killed")
            leased.kill()
            leased = rig.worker()
            time.sleep(1.0)
    settle(rig, FAULT_MIXED)
    fenced = [record["fence"] is not None for record in rig.history.read() if record["event"] == "start"]
    assert any(fenced), "celeray's had its share"
    assert not all(fenced), "and stock, which knows no fence"
