"""Tasks of a trace: the public format of 2023 (CSV), or a history that `celeray record` wrote (JSON lines)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from celeray.scheduler.model import Isolation, ResourceRequest
from celeray.scheduler.simulation.history import read_history
from celeray.scheduler.simulation.reading import Row, TraceError, begins_with, csv_rows
from celeray.scheduler.simulation.tasks import SERVICE_PRIORITIES, TraceTask

WHOLE_MILLI = 1_000
"""Thousandths of a device."""
SHARED_DEVICE_MIB = 16_000
"""VRAM of a whole device where the trace has shares only. A thousandth is 16 MiB then, so no share is rounded."""
COLUMNS = (
    *("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec", "qos"),
    *("creation_time", "deletion_time", "scheduled_time"),
)


def read_trace(path: Path, *, device_mib: int = SHARED_DEVICE_MIB) -> tuple[TraceTask, ...]:
    """The tasks of a file, in its order.

    Args:
        device_mib: what a whole device is in the public format, which has thousandths of devices.

    Raises:
        TraceError: names file, line, column and value.
    """
    found = tuple(read_history(path)) if begins_with(path, "{") else tuple(_read_public(path, device_mib))
    if not found:
        raise TraceError(str(path), 0, "", None, "no tasks")
    return found


def without_cpus(tasks: Iterable[TraceTask]) -> tuple[TraceTask, ...]:
    """The same tasks, asking for no CPUs and no host memory."""
    kept: dict[ResourceRequest, ResourceRequest] = {}
    found = []
    for task in tasks:
        if (request := kept.get(task.request)) is None:
            request = kept[task.request] = replace(task.request, cpus_milli=0, host_memory_mib=0)
        found.append(replace(task, request=request))
    return tuple(found)


def with_service_priorities(tasks: Iterable[TraceTask]) -> tuple[TraceTask, ...]:
    """The same tasks, with the priority of their class of service where it has one."""
    return tuple(
        replace(task, priority=SERVICE_PRIORITIES.get(task.service, task.priority)) for task in tasks
    )


def _read_public(path: Path, device_mib: int) -> Iterable[TraceTask]:
    # One value for tasks that ask for the same: placement compares requests often.
    requests: dict[ResourceRequest, ResourceRequest] = {}
    for row in csv_rows(path, COLUMNS):
        request = _request(row, device_mib)
        yield TraceTask(
            name=row.text("name"),
            request=requests.setdefault(request, request),
            arrived_s=row.seconds("creation_time"),
            run_s=_run_s(row),
            service=row.text("qos", ""),
        )


def _request(row: Row, device_mib: int) -> ResourceRequest:
    gpus, milli = row.whole("num_gpu"), row.whole("gpu_milli")
    if gpus and not 1 <= milli <= WHOLE_MILLI:
        raise row.error("gpu_milli", f"expected 1 to {WHOLE_MILLI}, since num_gpu is {gpus}")
    return ResourceRequest(
        gpus=gpus,
        # Down: two shares of a whole must fit on it.
        memory_mib=max(1, milli * device_mib // WHOLE_MILLI) if gpus else None,
        gpu_types=tuple(filter(None, row.text("gpu_spec", "").split("|"))),
        cpus_milli=row.whole("cpu_milli"),
        host_memory_mib=row.whole("memory_mib"),
        isolation=Isolation.FRESH,
    )


def _run_s(row: Row) -> float | None:
    begun, ended = row.seconds("scheduled_time"), row.seconds("deletion_time")
    if begun is None or ended is None:
        return None
    if ended < begun:
        raise row.error("deletion_time", f"before scheduled_time={begun:.0f}")
    return ended - begun
