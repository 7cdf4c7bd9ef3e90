"""A bridge with two nodes, what runs and waits there, as it publishes it: for tests of what explains it."""

from __future__ import annotations

import time
from typing import Any

from celeray.scheduler.bridge.executors import executor_class
from celeray.scheduler.explanations.published import PublishedCycle, PublishedCycles
from celeray.scheduler.model import (
    DeviceState,
    NodeState,
    Reason,
    Reserved,
    ResourceRequest,
    Snapshot,
    WaitingTask,
    WarmExecutor,
)
from celeray.scheduler.placement import CycleInput, Policy
from celeray.scheduler.states import ExecutorState
from celeray.scheduler.status import BridgeStatus, ExecutorStatus, TaskState
from celeray.scheduler.status_store import StatusStore
from tests.status_samples import bridge, record

GIB = 1024
WHOLE = ResourceRequest(gpus=1, exclusive=True)
PAIR = ResourceRequest(gpus=2, memory_mib=20 * GIB)


def device(uuid: str, gib: int, free_gib: int, **extra: Any) -> DeviceState:
    return DeviceState(uuid, extra.pop("gpu_type", "A100"), gib * GIB, free_gib * GIB, **extra)


def node(name: str, *devices: DeviceState, **extra: Any) -> NodeState:
    return NodeState(
        name, f"node-{name}", 8_000, 8_000, 64 * GIB, 64 * GIB, {}, devices, starts_free=2, **extra
    )


def cluster() -> Snapshot:
    """Node a: one device taken whole for 5 s, one with 4 of 24 GiB left for 9 s. Node b: a T4 of 16 GiB, idle."""
    return Snapshot(
        (
            node("a", device("a0", 24, 0, holders=1, exclusive=True), device("a1", 24, 4, holders=1)),
            node("b", device("b0", 16, 16, gpu_type="T4")),
        ),
        (
            WarmExecutor("e1", "film.generate", "a", ("a0",), 24 * GIB, True, False, 0.0, ends_in_ms=5_000),
            WarmExecutor("e2", "film.style", "a", ("a1",), 20 * GIB, False, False, 0.0, ends_in_ms=9_000),
        ),
    )


def waiting(task_id: str, sequence: int, request: ResourceRequest, **extra: Any) -> WaitingTask:
    name = executor_class("film.generate_image", request)
    return WaitingTask(task_id, name, request, extra.pop("priority", 5), sequence, **extra)


def published(*tasks: WaitingTask, bridge_id: str = "b1", **changes: Any) -> PublishedCycle:
    values: dict[str, Any] = {
        "bridge_id": bridge_id,
        "at": time.time(),
        "now_ms": 0,
        "cycle": CycleInput(tasks, changes.pop("snapshot", cluster()), Policy()),
    }
    return PublishedCycle(**values | changes)


def running(**changes: Any) -> BridgeStatus:
    """The status that belongs to it."""
    executors = (
        ExecutorStatus(
            executor_id=f"e{n}",
            executor_class="x",
            state=ExecutorState.BUSY,
            node_id="a",
            tasks=(f"run-{n}",),
        )
        for n in (1, 2)
    )
    return bridge(executors=tuple(executors), written_at=time.time(), **changes)


def fill(store: StatusStore) -> None:
    """A bridge in which `big` waits for a pair, the pair's room is kept for it, and `next` waits behind it."""
    big = waiting("big", 7, PAIR, expected_ms=60_000)
    behind = waiting("next", 8, PAIR)
    found = published(
        behind,
        big,
        reasons={7: Reason.EXCLUSIVE, 8: Reason.EXCLUSIVE},
        reserved=Reserved(7, "a", ("a0", "a1"), 9_000),
    )
    now = time.time()
    held = {"state": TaskState.WAITING, "received_at": now - 3, "started_at": None, "ended_at": None}
    asked = {"gpus": 2, "vram_mib": 20 * GIB}
    records = [
        record("big", **held, **asked, node_id=None, device_uuids=()),
        record("next", **held, **asked, node_id=None, device_uuids=()),
        record("elsewhere", **held, **asked, bridge_id="b2", hostname="gpu-b2@host"),
        record("late", **held, **asked),
        record("run-1", started_at=now - 65, ended_at=None, state=TaskState.RUNNING),
        record("done", received_at=now - 9, started_at=now - 8, ended_at=now - 1),
    ]
    store.publish(running(), [one.stored() for one in records])
    store.publish(running(bridge_id="b2", hostname="gpu-b2@host"), [])
    PublishedCycles(store.client, store.keys).write(found, 60_000)
