"""Devices that go out of service: what runs there, what waits, and what is said of it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from celeray.scheduler.bridge.device_watch import DeviceWatch
from celeray.scheduler.bridge.run import Run
from celeray.scheduler.cluster import EndCause
from celeray.scheduler.model import Health, Isolation, Reason, ResourceRequest
from celeray.scheduler.standing import Drained
from celeray.scheduler.states import ExecutorState
from celeray.scheduler.suspensions import Drain

from .harness import GIB, Harness, port

A, B = "GPU-a", "GPU-b"
DRAIN = Drain(by="ops@h", at=1.0, why="fan")
TWO = {"n1": [(A, "A100", 24 * GIB)], "n2": [(B, "A100", 24 * GIB)]}
WHOLE = ResourceRequest(gpus=1, exclusive=True)


class Bridge(Harness):
    """With two nodes of a device each, and what operators drained."""

    def __init__(self, nodes: Any = None, **settings: Any) -> None:
        self.newest: Drained | None = Drained()
        super().__init__(nodes or TWO, **settings)
        self.watch = DeviceWatch(self.dispatcher, self.cluster, lambda: self.newest)

    def pass_by(self, seconds: float = 1.0) -> None:
        """Time passes, the nodes are read, and the watch looks."""
        self.advance(seconds)
        self.watch.run_once(self.clock.monotonic())
        self.step()

    def drain(self, *devices: str, nodes: tuple[str, ...] = ()) -> None:
        self.newest = Drained(dict.fromkeys(devices, DRAIN), dict.fromkeys(nodes, DRAIN))
        self.pass_by()

    def lose(self, uuid: str) -> None:
        self.cluster.changes[uuid] = {
            "lost": True,
            "health": Health.UNHEALTHY,
            "health_reason": "GPU is lost",
            "total_mib": None,
            "used_mib": None,
            "processes": None,
        }
        self.pass_by()

    def state(self, executor_id: str) -> ExecutorState | None:
        executor = self.dispatcher.fleet.executors.get(executor_id)
        return executor.state if executor else None


def device_of(bridge: Bridge, run: Run) -> str:
    executor = bridge.dispatcher.fleet.executors.get(run.executor_id)
    assert executor is not None
    return executor.device_uuids[0]


def begun(bridge: Bridge, **changes: Any) -> tuple[Run, str, str]:
    """A run that has begun, its executor and its device."""
    run = bridge.submit(request=changes.get("request"))
    executor_id = bridge.begin(run)
    return run, executor_id, device_of(bridge, run)


def next_device(bridge: Bridge) -> str:
    """Where another task of the class begins."""
    run = bridge.submit()
    bridge.begin(run)
    return device_of(bridge, run)


def other(uuid: str) -> str:
    return B if uuid == A else A


def test_what_runs_on_a_drained_device_finishes_and_the_next_one_goes_elsewhere() -> None:
    bridge = Bridge()
    run, executor_id, uuid = begun(bridge)
    bridge.drain(uuid)
    assert bridge.state(executor_id) is ExecutorState.BUSY
    assert next_device(bridge) == other(uuid)
    bridge.cluster.finish(executor_id)
    bridge.pass_by()
    assert port(run).words == ["begun", "succeeded"]
    assert executor_id not in bridge.cluster.executors, "idle there, so it was ended"


def test_an_idle_executor_on_a_drained_device_ends_at_once() -> None:
    bridge = Bridge()
    _, executor_id, uuid = begun(bridge)
    bridge.cluster.finish(executor_id)
    bridge.step()
    bridge.drain(uuid)
    assert executor_id not in bridge.cluster.executors


def test_one_that_starts_there_ends_and_its_task_starts_elsewhere() -> None:
    bridge = Bridge()
    run = bridge.submit()
    bridge.step()
    (first,) = bridge.dispatcher.fleet.executors
    bridge.drain(first.device_uuids[0])
    bridge.pass_by()
    bridge.begin(run)
    assert device_of(bridge, run) == other(first.device_uuids[0])


@pytest.mark.parametrize("name", ["n1", "n2"])
def test_a_drained_node_takes_no_task_even_without_devices(name: str) -> None:
    bridge = Bridge()
    bridge.drain(nodes=(name,))
    for _ in range(3):
        bridge.submit(request=ResourceRequest(cpus_milli=1000))
    run = bridge.submit()
    bridge.begin(run)
    assert {executor.node_id for executor in bridge.dispatcher.fleet.executors} == {"n1", "n2"} - {name}


def test_with_everything_drained_tasks_wait_and_are_not_refused() -> None:
    bridge = Bridge(never_fits_after_s=0)
    bridge.drain(A, B)
    run = bridge.submit(request=WHOLE)
    for _ in range(3):
        bridge.pass_by(60.0)
    assert run.reason is Reason.UNUSABLE
    assert port(run).words == []
    bridge.newest = Drained()
    bridge.pass_by()
    bridge.begin(run)
    assert port(run).words == ["begun"]


def test_with_every_device_lost_tasks_wait_and_are_not_refused() -> None:
    bridge = Bridge(never_fits_after_s=0)
    bridge.lose(A)
    bridge.lose(B)
    run = bridge.submit(request=WHOLE)
    for _ in range(3):
        bridge.pass_by(60.0)
    assert run.reason is Reason.UNUSABLE
    assert port(run).words == []


def test_nothing_is_placed_before_it_is_known_what_is_drained() -> None:
    bridge = Bridge()
    bridge.newest = None
    bridge.watch.follow()
    run = bridge.submit()
    bridge.step()
    assert run.executor_id is None
    assert not list(bridge.dispatcher.fleet.executors)
    bridge.newest = Drained()
    bridge.watch.follow()
    bridge.begin(run)
    assert port(run).words == ["begun"]


def test_a_run_on_an_unhealthy_device_that_answers_may_finish() -> None:
    bridge = Bridge()
    run, executor_id, uuid = begun(bridge)
    bridge.cluster.changes[uuid] = {"health": Health.UNHEALTHY, "health_reason": "XID 79"}
    bridge.pass_by()
    assert bridge.state(executor_id) is ExecutorState.BUSY
    assert next_device(bridge) == other(uuid)
    bridge.cluster.finish(executor_id)
    bridge.pass_by()
    assert port(run).words == ["begun", "succeeded"]
    assert executor_id not in bridge.cluster.executors


def test_a_run_on_a_lost_device_is_lost_with_the_devices_name() -> None:
    bridge = Bridge()
    run, executor_id, uuid = begun(bridge)
    bridge.lose(uuid)
    bridge.pass_by()
    assert port(run).told[-1] == ("lost", f"executor {executor_id}: device {uuid} is lost: GPU is lost")
    assert next_device(bridge) == other(uuid)


def test_an_idle_executor_on_a_lost_device_is_killed() -> None:
    bridge = Bridge()
    _, executor_id, uuid = begun(bridge)
    bridge.cluster.finish(executor_id)
    bridge.step()
    bridge.lose(uuid)
    bridge.pass_by()
    assert executor_id not in bridge.cluster.executors


def test_a_task_of_two_devices_ends_when_one_of_them_is_lost() -> None:
    bridge = Bridge({"n1": [(A, "A100", 24 * GIB), (B, "A100", 24 * GIB)]})
    run = bridge.submit(request=ResourceRequest(gpus=2, exclusive=True))
    bridge.begin(run)
    bridge.lose(B)
    bridge.pass_by()
    assert "lost" in port(run).words
    assert f"device {B} is lost" in port(run).told[-1][1]


def test_a_fresh_task_that_is_starting_is_left_to_finish_on_a_drained_device() -> None:
    bridge = Bridge()
    run = bridge.submit(request=ResourceRequest(gpus=1, memory_mib=GIB, isolation=Isolation.FRESH))
    bridge.step()
    assert run.executor_id is not None
    bridge.drain(device_of(bridge, run))
    bridge.cluster.begin(run.executor_id)
    bridge.cluster.finish(run.executor_id)
    bridge.cluster.end(run.executor_id, EndCause.STOPPED)
    bridge.step()
    assert port(run).words == ["begun", "succeeded"]


def test_forgiven_marks_are_told_to_the_agent_until_it_knows() -> None:
    bridge = Bridge()
    bad = {"health": Health.UNHEALTHY, "health_reason": "XID 79", "marked_at": 50.0}
    bridge.cluster.changes[A] = bad
    bridge.newest = Drained(forgiven={A: 49.0, B: 99.0})
    bridge.pass_by()
    assert bridge.cluster.forgiven == [], "a later XID than the one that was looked at"
    bridge.newest = Drained(forgiven={A: 50.0})
    bridge.pass_by()
    bridge.pass_by()
    assert bridge.cluster.forgiven == [("n1", A, 50.0)] * 2
    bridge.cluster.changes.clear()
    bridge.pass_by()
    assert len(bridge.cluster.forgiven) == 2


def test_what_becomes_of_a_device_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    bridge = Bridge()
    with caplog.at_level(logging.WARNING, "celeray.scheduler.bridge.device_watch"):
        bridge.drain(A)
        bridge.pass_by()
        bridge.newest = Drained()
        bridge.pass_by()
        bridge.pass_by()
    assert [record.getMessage() for record in caplog.records] == [
        f"device {A} is out of service: drained by ops@h: fan",
        f"device {A} is no longer out of service (was: drained by ops@h: fan)",
    ]


def test_a_leak_is_said_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    bridge = Bridge({"n1": [(A, "A100", 24 * GIB)]}, leak_after_s=10.0)
    _, executor_id, _ = begun(bridge)
    bridge.cluster.executors[executor_id].used_mib = 6 * GIB
    bridge.pass_by()
    bridge.cluster.end(executor_id)
    bridge.step()
    bridge.cluster.foreign_mib[A] = 6 * GIB
    with caplog.at_level(logging.WARNING, "celeray.scheduler.bridge.device_watch"):
        for _ in range(4):
            bridge.pass_by(5.0)
        bridge.cluster.foreign_mib[A] = 0
        bridge.pass_by()
        bridge.pass_by()
    assert [record.getMessage() for record in caplog.records] == [
        f"device {A} is leaking: 6144 MiB of ended executors did not come back (no pid that NVML lists)",
        f"device {A} leaks no more",
    ]
