"""A master under three Sentinels that dies, stands still, hands over, or is cut off from its replicas.

celeray publishes with `durable_replicas`: of the two replicas one, which is enough where the master is gone, since
Sentinels promote the one that has most; and both for a planned failover, in which the old master goes on taking writes
for a moment, and the replica that is not promoted would confirm them. Everyone reaches the
first master through a proxy, so the replication link can be stalled alone, and the machine can be gone as a whole.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.rig import Rig
from tests.faults.servers import REPLICAS, ReplicatedBroker

DURABLE = {"durable_replicas": 1, "durable_timeout_s": 0.5}
DURABLE_ON_ALL = {**DURABLE, "durable_replicas": REPLICAS}
GOES_ON = 20
"""So many publishes are acknowledged after the failover before a test looks at the result."""
QUICK_TO_NOTICE = {"socket_timeout": 2, "polling_interval": 0.5, "health_check_interval": 1}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]


@pytest.fixture(params=["kombu", "leased"])
def replicated(request: Any, make_rig: Any, tmp_path: Any) -> Callable[..., Rig]:
    """Makes a rig on a replicated broker, without workers."""

    def make(settings: dict[str, Any]) -> Rig:
        broker = ReplicatedBroker(tmp_path / "replicated")
        return make_rig(request.param, broker, options=QUICK_TO_NOTICE, settings=settings)

    return make


def goes_on(rig: Rig) -> None:
    """After a promotion: until the submitters are served again."""
    before = len([record for record in rig.history.read() if record["event"] == "submit-ok"])
    rig.await_event("submit-ok", before + GOES_ON, 60)


FAULT_KILL = "Sentinel: master SIGKILL under load"


def test_a_master_that_is_killed(replicated: Any, settle: Any) -> None:
    rig = replicated(DURABLE)
    rig.start_workers(2)
    with rig.load(rate=25):
        rig.await_event("end", 20)
        rig.fault("master killed")
        rig.broker.kill_master()
        rig.broker.await_promotion()
        goes_on(rig)
    settle(rig, FAULT_KILL)


FAULT_FAILOVER = "SENTINEL FAILOVER under load"


def test_a_planned_failover(replicated: Any, settle: Any) -> None:
    rig = replicated(DURABLE_ON_ALL)
    rig.start_workers(2)
    with rig.load(rate=25):
        rig.await_event("end", 20)
        rig.fault("failover")
        rig.broker.failover()
        rig.broker.await_promotion()
        goes_on(rig)
    settle(rig, FAULT_FAILOVER)


FAULT_STOP = "Sentinel: master SIGSTOP for 8 s, then SIGCONT"


def test_a_master_that_stands_still(replicated: Any, settle: Any) -> None:
    rig = replicated(DURABLE)
    rig.start_workers(2)
    with rig.load(rate=25):
        rig.await_event("end", 20)
        rig.fault("master stopped")
        rig.broker.master.signal(signal.SIGSTOP)
        time.sleep(8.0)
        rig.broker.master.signal(signal.SIGCONT)
        rig.broker.await_promotion()
        goes_on(rig)
    settle(rig, FAULT_STOP)


FAULT_STALL = "Sentinel: replication link stalled, then master SIGKILL"


def test_a_master_that_dies_behind_a_stalled_link(replicated: Any, settle: Any) -> None:
    rig = replicated(DURABLE)
    rig.worker()
    submitter = rig.submitter()
    for _ in range(10):
        submitter.work(0.1)
    rig.await_event("end", 10, role="callback")
    rig.broker.proxy.stall(lambda link: link.replicates)
    for _ in range(12):
        submitter.work(0.1)
        time.sleep(0.05)
    rig.fault("master killed")
    rig.broker.kill_master()
    rig.broker.await_promotion()
    for _ in range(10):
        submitter.work(0.1)
    found = settle(rig, FAULT_STALL)
    if rig.leased:
        assert found.unknown >= 12, "what the replica did not have was not acknowledged"
    else:
        assert found.lost, "stock acknowledged what did not survive"
