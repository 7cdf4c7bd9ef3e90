"""Status values that several tests use: two nodes, three devices, one of them unhealthy, and what bridges hold."""

from __future__ import annotations

from typing import Any

from celeray.scheduler.counters import Counters, FinishedCount, TaskCount, TaskHistogram
from celeray.scheduler.model import Health, Reason
from celeray.scheduler.states import ExecutorState
from celeray.scheduler.status import (
    BridgeQueue,
    BridgeStatus,
    DeviceStatus,
    ExecutorStatus,
    NodeStatus,
    TaskRecord,
    TaskState,
)

NOW = 1_700_000_000.0


def device(uuid: str = "GPU-a", **changes: Any) -> DeviceStatus:
    values: dict[str, Any] = {
        "uuid": uuid,
        "index": 0,
        "node_id": "n1",
        "node_name": "node-1",
        "name": "NVIDIA A100-SXM4-80GB",
        "total_mib": 81920,
        "used_mib": 2048,
        "reserved_mib": 12288,
        "foreign_mib": 1024,
        "schedulable_mib": 68608,
        "health": Health.HEALTHY,
        "utilization_pct": 37,
        "temperature_c": 61,
        "power_mw": 250_500,
        "executors": ("e1",),
    }
    return DeviceStatus(**values | changes)


def node(node_id: str = "n1", **changes: Any) -> NodeStatus:
    values: dict[str, Any] = {
        "node_id": node_id,
        "name": f"node-{node_id[1:]}",
        "address": "10.0.0.11",
        "cpus_milli": 8000,
        "cpus_free_milli": 7000,
        "memory_mib": 65536,
        "memory_free_mib": 60000,
        "reading_age_s": 0.4,
        "driver_version": "550.54.14",
        "devices": ("GPU-a",),
    }
    return NodeStatus(**values | changes)


def bridge(bridge_id: str = "b1", **changes: Any) -> BridgeStatus:
    values: dict[str, Any] = {
        "bridge_id": bridge_id,
        "hostname": f"gpu-{bridge_id}@host",
        "pid": 4242,
        "version": "0.1.0",
        "written_at": NOW,
        "started_at": NOW - 60,
        "cluster_up": True,
        "cluster_address": "127.0.0.1:6380",
        "window": 256,
        "waiting": 3,
        "running": 1,
        "queues": (
            BridgeQueue(
                name="gpu.generation",
                waiting=3,
                running=1,
                oldest_received_at=NOW - 12,
                reasons={Reason.VRAM: 2, Reason.NEVER_FITS: 1},
            ),
        ),
        "nodes": (node(),),
        "devices": (device(),),
        "executors": (
            ExecutorStatus(
                executor_id="e1", executor_class="film.generate", state=ExecutorState.BUSY, node_id="n1"
            ),
        ),
        "running_tasks": (TaskCount(queue="gpu.generation", name="film.generate_image", count=1),),
        "counters": counters(),
    }
    return BridgeStatus(**values | changes)


def counters(succeeded: int = 2) -> Counters:
    return Counters(
        finished=(
            FinishedCount(
                queue="gpu.generation", name="film.generate_image", outcome="succeeded", count=succeeded
            ),
        ),
        out_of_memory=(TaskCount(queue="gpu.generation", name="film.generate_image", count=succeeded),),
        preempted=(TaskCount(queue="gpu.generation", name="film.upscale", count=succeeded),),
        placement=(
            TaskHistogram(
                queue="gpu.generation",
                name="film.generate_image",
                bounds=(0.5, 1.0),
                counts=(succeeded, 0, 1),
                sum=9.5,
            ),
        ),
    )


def record(task_id: str = "t1", **changes: Any) -> TaskRecord:
    values: dict[str, Any] = {
        "task_id": task_id,
        "name": "film.generate_image",
        "queue": "gpu.generation",
        "priority": 5,
        "state": TaskState.SUCCEEDED,
        "bridge_id": "b1",
        "hostname": "gpu-b1@host",
        "node_id": "n1",
        "node_name": "node-1",
        "device_uuids": ("GPU-a",),
        "gpus": 1,
        "vram_mib": 12288,
        "executor_id": "e1",
        "executor_class": "film.generate_image",
        "warm": True,
        "received_at": NOW - 10,
        "started_at": NOW - 8,
        "ended_at": NOW - 1,
        "wait_s": 2.0,
        "run_s": 7.0,
    }
    return TaskRecord(**values | changes)
