"""Every metric of celeray: its name, type, labels and buckets, and its value from what the bridges wrote. Pure.

Base units, `_total` on counters, no task id or pid in a label. What is unknown has no sample. docs/metrics.md
explains each metric and is checked against `SPECS` by a test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from celeray.scheduler.counters import Counters, TaskHistogram
from celeray.scheduler.elastic.overview import over_bridges
from celeray.scheduler.learned.overview import LearnedTask
from celeray.scheduler.model import MIB, Health, Reason
from celeray.scheduler.status import BridgeStatus, BridgeSummary, DeviceStatus, NodeStatus, QueueStatus

PLACEMENT_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Seconds; celery-exporter's wait-time buckets, so that both can be compared."""
EXECUTION_BOUNDS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0)
BOUNDS: Mapping[str, tuple[float, ...]] = {"placement": PLACEMENT_BOUNDS, "execution": EXECUTION_BOUNDS}

PENDING_REASONS: Mapping[Reason, str] = {
    Reason.NEVER_FITS: "no_fit_ever",
    Reason.CLUSTER_DOWN: "cluster_down",
}
"""Alerts distinguish these; every other reason is `no_fit_now`. REST gives the exact reason."""

GPU = ("node", "gpu", "uuid")


@dataclass(frozen=True, slots=True)
class Spec:
    """What a metric is."""

    name: str
    type: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """A value of a gauge or counter."""

    labels: tuple[str, ...]
    value: float


@dataclass(frozen=True, slots=True)
class HistogramSample:
    """A distribution: cumulative counts by upper bound, `+Inf` last."""

    labels: tuple[str, ...]
    buckets: tuple[tuple[str, float], ...]
    sum: float


Samples = Sequence[Sample] | Sequence[HistogramSample]

SPECS: Mapping[str, Spec] = {
    spec.name: spec
    for spec in (
        Spec("celeray_build_info", "gauge", "Versions in use; always 1.", ("version", "celery", "ray")),
        Spec("celeray_bridge_up", "gauge", "1: the bridge writes its status.", ("instance",)),
        Spec("celeray_ray_connected", "gauge", "1: the bridge reaches its Ray cluster.", ("instance",)),
        Spec(
            "celery_queue_length", "gauge", "Messages on the broker that nobody has taken.", ("queue_name",)
        ),
        Spec("celeray_queue_paused", "gauge", "1: an operator paused the queue.", ("queue_name",)),
        Spec("celeray_dead_letters", "gauge", "Messages that are parked.", ("reason",)),
        Spec("celeray_retries_scheduled", "gauge", "Failed tasks that a retry policy sends again later.", ()),
        Spec("celeray_task_pending", "gauge", "Tasks that a bridge holds back.", ("queue_name", "reason")),
        Spec("celeray_task_running", "gauge", "Tasks that run in bridges.", ("queue_name", "name")),
        Spec(
            "celeray_task_placement_seconds",
            "histogram",
            "From received by the bridge to the start of the task.",
            ("queue_name", "name"),
        ),
        Spec(
            "celeray_task_execution_seconds",
            "histogram",
            "From the start of the task to its end.",
            ("queue_name", "name", "backend"),
        ),
        Spec(
            "celeray_task_finished_total",
            "counter",
            "Runs that ended.",
            ("queue_name", "name", "backend", "outcome"),
        ),
        Spec(
            "celeray_gpu_oom_total",
            "counter",
            "Runs whose GPU memory ran out, and that were placed again with more.",
            ("queue_name", "name"),
        ),
        Spec(
            "celeray_tenant_vram_mib_seconds_total",
            "counter",
            "VRAM that the runs of a tenant held, times how long.",
            ("tenant",),
        ),
        Spec(
            "celeray_preemptions_total",
            "counter",
            "Runs that were ended for an urgent task, and whose messages were put back.",
            ("queue_name", "name"),
        ),
        Spec(
            "celeray_task_vram_peak_bytes",
            "gauge",
            "VRAM that runs used at their peak on one device, by quantile.",
            ("name", "gpu_type", "quantile"),
        ),
        Spec(
            "celeray_task_vram_asked_bytes",
            "gauge",
            "VRAM that the last observed run asked for on each device.",
            ("name", "gpu_type"),
        ),
        Spec(
            "celeray_task_vram_learned_bytes",
            "gauge",
            "VRAM that a request of what was learned gets on each device.",
            ("name", "gpu_type"),
        ),
        Spec(
            "celeray_task_vram_observations",
            "gauge",
            "Runs whose peak was observed and still counts.",
            ("name", "gpu_type"),
        ),
        Spec("celeray_task_records_dropped_total", "counter", "Task records never written.", ("instance",)),
        Spec(
            "celeray_gpu_info",
            "gauge",
            "What a device is; always 1.",
            (*GPU, "model", "driver_version", "mig_profile", "memory_kind"),
        ),
        Spec("celeray_gpu_memory_total_bytes", "gauge", "Installed VRAM.", GPU),
        Spec("celeray_gpu_memory_used_bytes", "gauge", "VRAM in use, whoever holds it.", GPU),
        Spec("celeray_gpu_memory_free_bytes", "gauge", "VRAM that nobody uses.", GPU),
        Spec("celeray_gpu_memory_reserved_bytes", "gauge", "VRAM reserved in the ledger.", GPU),
        Spec("celeray_gpu_memory_foreign_bytes", "gauge", "VRAM used by what is no executor.", GPU),
        Spec("celeray_gpu_leaking_bytes", "gauge", "VRAM of ended executors that did not come back.", GPU),
        Spec("celeray_gpu_schedulable_bytes", "gauge", "VRAM that placement will still give.", GPU),
        Spec("celeray_gpu_utilization_ratio", "gauge", "Share of time with work on the device.", GPU),
        Spec("celeray_gpu_temperature_celsius", "gauge", "Temperature of the device.", GPU),
        Spec("celeray_gpu_power_watts", "gauge", "Power drawn.", GPU),
        Spec("celeray_gpu_health", "gauge", "0: NVML calls the device unhealthy.", (*GPU, "reason")),
        Spec("celeray_gpu_in_service", "gauge", "0: drained, unhealthy, lost or unreadable.", GPU),
        Spec(
            "celeray_gpu_xid_errors_total",
            "counter",
            "Errors that the driver told of, since the node agent started.",
            (*GPU, "xid"),
        ),
        Spec("celeray_gpu_report_age_seconds", "gauge", "Age of the node's newest reading.", ("node",)),
        Spec(
            "celeray_elastic_nodes",
            "gauge",
            "Nodes of a type that Ray's autoscaler may add, by how they stand.",
            ("type", "state"),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that the metrics are made from."""

    versions: tuple[str, str, str]
    """Of celeray, Celery and Ray; empty where it is not installed."""
    bridges: Sequence[BridgeStatus]
    summaries: Sequence[BridgeSummary]
    """Of all bridges, those that vanished included."""
    queues: Sequence[QueueStatus]
    devices: Sequence[DeviceStatus]
    nodes: Sequence[NodeStatus]
    totals: Counters
    """Over all bridges that ever were."""
    learned: Sequence[LearnedTask] = ()
    """By task name and device model."""
    letters: Mapping[str, int] = field(default_factory=dict)
    """Dead letters by reason."""
    retries: int | None = None
    """Failed tasks that wait until their retry policies send them again. None: nobody counted."""


def collect(picture: Picture) -> dict[str, Samples]:
    """Samples by metric name; a metric without samples has an empty sequence."""
    drivers = {node.node_id: node.driver_version for node in picture.nodes}
    samples: dict[str, Samples] = dict.fromkeys(SPECS, ())
    samples["celeray_build_info"] = [Sample(picture.versions, 1.0)]
    samples |= _of_bridges(picture)
    samples |= _of_tasks(picture)
    samples |= _of_learned(picture.learned)
    samples |= _of_devices(picture.devices)
    samples["celeray_gpu_info"] = [
        Sample((*_gpu(device), device.name or "", drivers.get(device.node_id) or "", "", ""), 1.0)
        for device in picture.devices
    ]
    samples["celeray_dead_letters"] = [
        Sample((reason,), float(count)) for reason, count in picture.letters.items()
    ]
    if picture.retries is not None:
        samples["celeray_retries_scheduled"] = [Sample((), float(picture.retries))]
    samples["celeray_gpu_report_age_seconds"] = _report_ages(picture.nodes)
    samples["celeray_elastic_nodes"] = [
        Sample((item.type, state), float(getattr(item, state)))
        for item in over_bridges(item for bridge in picture.bridges for item in bridge.elastic)
        for state in ("there", "asked", "leaving", "released")
    ]
    return samples


def _of_bridges(picture: Picture) -> dict[str, Samples]:
    return {
        "celeray_bridge_up": [Sample((item.hostname,), float(item.up)) for item in picture.summaries],
        "celeray_ray_connected": [
            Sample((item.hostname,), float(item.cluster_up)) for item in picture.bridges
        ],
        "celeray_task_records_dropped_total": [
            Sample((item.hostname,), float(item.records_dropped)) for item in picture.bridges
        ],
        "celery_queue_length": [Sample((queue.name,), float(queue.depth)) for queue in picture.queues],
        "celeray_queue_paused": [
            Sample((queue.name,), float(queue.paused is not None)) for queue in picture.queues
        ],
    }


def _of_tasks(picture: Picture) -> dict[str, Samples]:
    running: dict[tuple[str, ...], float] = {}
    for item in (count for bridge in picture.bridges for count in bridge.running_tasks):
        key = (item.queue, item.name)
        running[key] = running.get(key, 0.0) + item.count
    totals = picture.totals
    return {
        "celeray_task_pending": _pending(picture.queues),
        "celeray_task_running": [Sample(labels, value) for labels, value in sorted(running.items())],
        "celeray_task_placement_seconds": [_histogram(item, ()) for item in totals.placement],
        "celeray_task_execution_seconds": [_histogram(item, ("ray",)) for item in totals.execution],
        "celeray_task_finished_total": [
            Sample((item.queue, item.name, "ray", item.outcome), float(item.count))
            for item in totals.finished
        ],
        "celeray_gpu_oom_total": [
            Sample((item.queue, item.name), float(item.count)) for item in totals.out_of_memory
        ],
        "celeray_tenant_vram_mib_seconds_total": [Sample((use.tenant,), use.mib_s) for use in totals.tenants],
        "celeray_preemptions_total": [
            Sample((item.queue, item.name), float(item.count)) for item in totals.preempted
        ],
    }


def _of_learned(tasks: Iterable[LearnedTask]) -> dict[str, Samples]:
    peaks: list[Sample] = []
    asked: list[Sample] = []
    learned: list[Sample] = []
    observations: list[Sample] = []
    for task in tasks:
        labels, seen = (task.task, task.gpu_type), task.observed
        quantiles = {"0.5": seen.p50_mib, "0.95": seen.p95_mib, "1": seen.max_mib}
        peaks += [Sample((*labels, quantile), float(mib * MIB)) for quantile, mib in quantiles.items()]
        asked += [] if task.asked_mib is None else [Sample(labels, float(task.asked_mib * MIB))]
        learned += [] if task.learned_mib is None else [Sample(labels, float(task.learned_mib * MIB))]
        observations.append(Sample(labels, float(seen.runs)))
    return {
        "celeray_task_vram_peak_bytes": peaks,
        "celeray_task_vram_asked_bytes": asked,
        "celeray_task_vram_learned_bytes": learned,
        "celeray_task_vram_observations": observations,
    }


def _pending(queues: Iterable[QueueStatus]) -> list[Sample]:
    counts: dict[tuple[str, ...], float] = {}
    for queue in queues:
        for reason, count in queue.reasons.items():
            labels = (queue.name, PENDING_REASONS.get(reason, "no_fit_now"))
            counts[labels] = counts.get(labels, 0.0) + count
    return [Sample(labels, value) for labels, value in sorted(counts.items())]


def _histogram(item: TaskHistogram, more: tuple[str, ...]) -> HistogramSample:
    edges = [*(str(float(bound)) for bound in item.bounds), "+Inf"]
    buckets = zip(edges, map(float, accumulate(item.counts)), strict=True)
    return HistogramSample((item.queue, item.name, *more), tuple(buckets), item.sum)


def _of_devices(devices: Iterable[DeviceStatus]) -> dict[str, Samples]:
    samples: dict[str, list[Sample]] = {}
    for device in devices:
        for name, value in _readings(device).items():
            of_metric = samples.setdefault(name, [])
            if value is not None:
                of_metric.append(Sample(_gpu(device), value))
        healthy = float(device.health is not Health.UNHEALTHY)
        labels = (*_gpu(device), device.health_reason or "")
        samples.setdefault("celeray_gpu_health", []).append(Sample(labels, healthy))
        samples.setdefault("celeray_gpu_xid_errors_total", []).extend(
            Sample((*_gpu(device), str(xid)), float(count)) for xid, count in sorted(device.xids.items())
        )
    return dict(samples)


def _readings(device: DeviceStatus) -> dict[str, float | None]:
    total, used = device.total_mib, device.used_mib
    free = None if total is None or used is None else max(0, total - used)
    return {
        "celeray_gpu_memory_total_bytes": _scaled(total, MIB),
        "celeray_gpu_memory_used_bytes": _scaled(used, MIB),
        "celeray_gpu_memory_free_bytes": _scaled(free, MIB),
        "celeray_gpu_memory_reserved_bytes": _scaled(device.reserved_mib, MIB),
        "celeray_gpu_memory_foreign_bytes": _scaled(device.foreign_mib, MIB),
        "celeray_gpu_leaking_bytes": _scaled(device.leaking_mib, MIB),
        "celeray_gpu_schedulable_bytes": _scaled(device.schedulable_mib, MIB),
        "celeray_gpu_in_service": float(device.unusable is None and device.drained is None),
        "celeray_gpu_utilization_ratio": _scaled(device.utilization_pct, 0.01),
        "celeray_gpu_temperature_celsius": _scaled(device.temperature_c, 1.0),
        "celeray_gpu_power_watts": _scaled(device.power_mw, 0.001),
    }


def _scaled(value: int | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _gpu(device: DeviceStatus) -> tuple[str, str, str]:
    return device.node_name, str(device.index), device.uuid


def _report_ages(nodes: Iterable[NodeStatus]) -> list[Sample]:
    return [Sample((node.name,), node.reading_age_s) for node in nodes if node.reading_age_s is not None]
