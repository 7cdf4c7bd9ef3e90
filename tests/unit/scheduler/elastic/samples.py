"""Node types, tasks and situations to decide about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celeray.scheduler.elastic.deciding import Ask, NodeUse, Situation
from celeray.scheduler.elastic.node_types import NodeType
from celeray.scheduler.model import (
    DeviceState,
    NodeState,
    ResourceRequest,
    Snapshot,
    WaitingTask,
    WarmExecutor,
)
from celeray.scheduler.placement import Policy

GIB = 1024
START_S = 100.0
HEAD = NodeState("head", "head", 4000, 4000, 8 * GIB, 8 * GIB)


def kind(gpus: int = 2, vram: str = "24GiB", most: int = 3, **extra: Any) -> NodeType:
    fields = {
        "gpu_type": "A10",
        "cpus": 16,
        "memory": "64GiB",
        "start_s": START_S,
        "max": most,
        "gpus": gpus,
        "vram": vram,
    }
    return NodeType(**(fields | extra))


TYPES = {"a10": kind()}


def task(number: int, gib: int | None = 8, run_s: float | None = 60.0, **extra: Any) -> WaitingTask:
    memory = None if gib is None else gib * GIB
    request = ResourceRequest(gpus=extra.pop("gpus", 1), memory_mib=memory, exclusive=gib is None, **extra)
    expected = None if run_s is None else round(run_s * 1000)
    return WaitingTask(f"t{number}", f"c{gib}", request, 5, number, 0, expected)


def tasks(count: int, gib: int | None = 8, run_s: float | None = 60.0, begin: int = 0) -> list[WaitingTask]:
    return [task(begin + number, gib, run_s) for number in range(count)]


def node(name: str, gpus: int = 2, gib: int = 24, room_gib: int | None = None) -> NodeState:
    room = gib if room_gib is None else room_gib
    devices = tuple(DeviceState(f"{name}/{index}", "A10", gib * GIB, room * GIB) for index in range(gpus))
    return NodeState(name, name, 16_000, 16_000, 64 * GIB, 64 * GIB, {}, devices)


def executor(number: int, device: str, gib: int, *, idle: bool, ends_s: float | None = None) -> WarmExecutor:
    return WarmExecutor(
        executor_id=f"e{number}",
        executor_class=f"c{gib}",
        node_id=device.split("/")[0],
        device_uuids=(device,),
        memory_mib=gib * GIB,
        exclusive=False,
        idle=idle,
        last_used=0.0,
        ends_in_ms=None if ends_s is None else round(ends_s * 1000),
    )


def situation(
    waiting: Sequence[WaitingTask] = (),
    *nodes: NodeState,
    executors: Sequence[WarmExecutor] = (),
    types: Mapping[str, NodeType] = TYPES,
    uses: Mapping[str, NodeUse] | None = None,
    away: Mapping[str, str] | None = None,
    asks: Sequence[Ask] = (),
    idle_s: float = 300.0,
) -> Situation:
    known = {item.node_id: NodeUse("a10") for item in nodes} if uses is None else uses
    snapshot = Snapshot((HEAD, *nodes), tuple(executors))
    return Situation(waiting, snapshot, Policy(), types, known, away or {}, asks, idle_s)
