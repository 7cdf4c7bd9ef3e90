"""Small clusters to place on."""

from __future__ import annotations

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
POLICY = Policy()


def device(uuid: str, total_gib: int = 24, room_gib: int | None = None, **extra: object) -> DeviceState:
    room = total_gib if room_gib is None else room_gib
    return DeviceState(uuid, extra.pop("gpu_type", "A100"), total_gib * GIB, room * GIB, **extra)  # type: ignore[arg-type]


def node(name: str, *devices: DeviceState, cpus: int = 8, **extra: object) -> NodeState:
    values = {"cpus_free_milli": cpus * 1000, "memory_mib": 64 * GIB, "memory_free_mib": 64 * GIB, **extra}
    return NodeState(name, name, cpus * 1000, devices=devices, **values)  # type: ignore[arg-type]


def snapshot(*nodes: NodeState, executors: tuple[WarmExecutor, ...] = ()) -> Snapshot:
    return Snapshot(nodes, executors)


def warm(
    number: int,
    executor_class: str,
    node_id: str,
    *uuids: str,
    gib: int = 8,
    idle: bool = True,
    last_used: float = 0.0,
    **extra: object,
) -> WarmExecutor:
    return WarmExecutor(
        f"e{number}",
        executor_class,
        node_id,
        uuids,
        gib * GIB,
        bool(extra.pop("exclusive", False)),
        idle,
        last_used,
        **extra,  # type: ignore[arg-type]
    )


def gpu(gib: int | None = 8, gpus: int = 1, **extra: object) -> ResourceRequest:
    memory = None if gib is None else gib * GIB
    exclusive = bool(extra.pop("exclusive", gib is None))
    return ResourceRequest(gpus=gpus, memory_mib=memory, exclusive=exclusive, **extra)  # type: ignore[arg-type]


def task(
    sequence: int, request: ResourceRequest, priority: int = 5, executor_class: str | None = None
) -> WaitingTask:
    return WaitingTask(
        f"t{sequence}", executor_class or f"class-{hash(request)}", request, priority, sequence
    )
