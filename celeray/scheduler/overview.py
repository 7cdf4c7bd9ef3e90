"""The whole cluster from what every bridge wrote and what lies on the broker. Pure but for `read_overview`.

REST and `celeray get` show the same models, so that `-o json` is the same whichever way it came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from celeray.scheduler.counters import Counters
from celeray.scheduler.draining import SubjectKind, read_drained
from celeray.scheduler.elastic.overview import over_bridges
from celeray.scheduler.keepers import read_keepers
from celeray.scheduler.model import Health, Reason
from celeray.scheduler.pausing import read_paused
from celeray.scheduler.problems import problems
from celeray.scheduler.settings import Settings
from celeray.scheduler.standing import Drained
from celeray.scheduler.status import (
    UNFINISHED,
    BridgeQueue,
    BridgeStatus,
    BridgeSummary,
    ClusterStatus,
    DeviceStatus,
    KeeperSummary,
    NodeStatus,
    QueueKind,
    QueueStatus,
    TaskRecord,
    TaskState,
)
from celeray.scheduler.status_store import StatusStore
from celeray.scheduler.suspensions import Drain, Pause
from celeray.scheduler.transport.scheduling import count_scheduled

T = TypeVar("T")
D = TypeVar("D", DeviceStatus, NodeStatus)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class QueueList(_Frozen):
    queues: tuple[QueueStatus, ...]


class DeviceList(_Frozen):
    devices: tuple[DeviceStatus, ...]


class NodeList(_Frozen):
    nodes: tuple[NodeStatus, ...]


class TaskPage(_Frozen):
    tasks: tuple[TaskRecord, ...]
    next: str | None = None
    """Cursor of the next page. None: this is the last one."""


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything that Redis knows at one instant."""

    at: float
    """Seconds since the epoch."""
    bridges: Sequence[BridgeStatus]
    summaries: Sequence[BridgeSummary]
    depths: Mapping[str, Mapping[int, int]]
    unacked: int
    totals: Counters
    paused: Mapping[str, Pause] = field(default_factory=dict)
    keepers: Sequence[KeeperSummary] = ()
    scheduled: Mapping[str, int] = field(default_factory=dict)
    """Messages with a far eta, by queue."""
    dead_letters: int = 0
    """Parked messages."""
    drained: Drained = field(default_factory=Drained)


def read_overview(store: StatusStore, settings: Settings, at: float) -> Overview:
    """Read it all.

    Raises:
        redis.RedisError: Redis does not answer.
        UnreadableStatusError: a bridge of an incompatible version writes there.
    """
    bridges = store.read_bridges()
    paused = read_paused(store.client, store.keys)
    held = (queue.name for bridge in bridges for queue in bridge.queues)
    names = list(dict.fromkeys([*settings.queues, *held, *paused]))
    counts = count_scheduled(store.client, store.keys)
    return Overview(
        at=at,
        bridges=bridges,
        summaries=store.summaries(bridges, at),
        depths=store.queue_depths(names),
        unacked=store.unacked(),
        totals=store.read_totals(),
        paused=paused,
        keepers=read_keepers(store.client, store.keys),
        scheduled={name: sum(counts.get(key, 0) for key in store.keys.queue_lists(name)) for name in names},
        dead_letters=store.dead_letters(),
        drained=read_drained(store.client, store.keys),
    )


def queue_statuses(overview: Overview, settings: Settings) -> tuple[QueueStatus, ...]:
    """One status a queue, in the order of the settings; queues that only a bridge names come last."""
    held: dict[str, list[BridgeQueue]] = {}
    for queue in (queue for bridge in overview.bridges for queue in bridge.queues):
        held.setdefault(queue.name, []).append(queue)
    return tuple(
        _queue_status(name, queue_kind(name, settings), by_priority, held.get(name, []), overview)
        for name, by_priority in overview.depths.items()
    )


def _queue_status(
    name: str,
    kind: QueueKind,
    by_priority: Mapping[int, int],
    held: Iterable[BridgeQueue],
    overview: Overview,
) -> QueueStatus:
    waiting = running = 0
    reasons: Counter[Reason] = Counter()
    oldest: list[float] = []
    for part in held:
        waiting += part.waiting
        running += part.running
        reasons.update(part.reasons)
        if part.oldest_received_at is not None:
            oldest.append(part.oldest_received_at)
    return QueueStatus(
        name=name,
        kind=kind,
        depth=sum(by_priority.values()),
        depth_by_priority=dict(by_priority),
        waiting=waiting,
        running=running,
        scheduled=overview.scheduled.get(name, 0),
        paused=overview.paused.get(name),
        oldest_age_s=max(0.0, overview.at - min(oldest)) if oldest else None,
        reasons=dict(reasons),
    )


def queue_kind(name: str, settings: Settings) -> QueueKind:
    """Who consumes a queue, by its name."""
    if name == settings.dead_letter_queue:
        return QueueKind.DLQ
    if name == settings.priority_queue:
        return QueueKind.PRIORITY
    if settings.is_gpu_queue(name):
        return QueueKind.GPU
    return {"cpu": QueueKind.CPU, "io": QueueKind.IO}.get(name.partition(".")[0], QueueKind.OTHER)


def devices(overview: Overview) -> tuple[DeviceStatus, ...]:
    """Every device once, by node and index. What is drained is as it was read now, not as a bridge knew it."""
    newest = _newest(
        (device.uuid, device, bridge) for bridge in overview.bridges for device in bridge.devices
    )
    shown = (_with_drain(device, overview.drained.devices.get(device.uuid)) for device in newest)
    return tuple(sorted(shown, key=lambda device: (device.node_name, device.index, device.uuid)))


def nodes(overview: Overview) -> tuple[NodeStatus, ...]:
    """Every node once, by name. The age of its reading goes on while its bridge does not write."""
    aged = (
        (node.node_id, _aged(node, overview.at - bridge.written_at), bridge)
        for bridge in overview.bridges
        for node in bridge.nodes
    )
    of_node = overview.drained.of_node
    shown = (_with_drain(node, of_node(node.name, node.node_id)) for node in _newest(aged))
    return tuple(sorted(shown, key=lambda node: (node.name, node.node_id)))


def _with_drain(item: D, drain: Drain | None) -> D:
    return item if item.drained == drain else item.model_copy(update={"drained": drain})


def _aged(node: NodeStatus, seconds: float) -> NodeStatus:
    if node.reading_age_s is None:
        return node
    return node.model_copy(update={"reading_age_s": round(node.reading_age_s + max(0.0, seconds), 3)})


def _newest(items: Iterable[tuple[str, T, BridgeStatus]]) -> list[T]:
    """Where two bridges name one thing, what the later writer said."""
    found: dict[str, tuple[float, T]] = {}
    for key, item, bridge in items:
        if key not in found or found[key][0] < bridge.written_at:
            found[key] = bridge.written_at, item
    return [item for _, item in found.values()]


def cluster_status(overview: Overview, settings: Settings, version: str) -> ClusterStatus:
    """The whole, and what is wrong with it."""
    queues, all_devices, all_nodes = queue_statuses(overview, settings), devices(overview), nodes(overview)
    found = tuple(problems(overview, queues, all_devices, all_nodes, settings))
    dead = [queue for queue in queues if queue.kind is QueueKind.DLQ]
    return ClusterStatus(
        version=version,
        state="degraded" if found else "ok",
        problems=found,
        paused=dict(overview.paused),
        drained={
            **{f"{SubjectKind.DEVICE} {uuid}": drain for uuid, drain in overview.drained.devices.items()},
            **{f"{SubjectKind.NODE} {name}": drain for name, drain in overview.drained.nodes.items()},
        },
        redis_ok=True,
        ray_connected=any(bridge.cluster_up for bridge in overview.bridges),
        bridges=tuple(overview.summaries),
        keepers=tuple(overview.keepers),
        queued=sum(queue.depth for queue in queues) - sum(queue.depth for queue in dead),
        scheduled=sum(overview.scheduled.values()),
        dead_letters=overview.dead_letters + sum(queue.depth for queue in dead),
        unacked=overview.unacked,
        waiting=sum(bridge.waiting for bridge in overview.bridges),
        running=sum(bridge.running for bridge in overview.bridges),
        nodes=len(all_nodes),
        devices=len(all_devices),
        devices_healthy=sum(device.health is not Health.UNHEALTHY for device in all_devices),
        vram_total_mib=sum(device.total_mib or 0 for device in all_devices),
        vram_schedulable_mib=sum(device.schedulable_mib for device in all_devices),
        executors=sum(len(bridge.executors) for bridge in overview.bridges),
        elastic=over_bridges(item for bridge in overview.bridges for item in bridge.elastic),
        age_s=max((overview.at - bridge.written_at for bridge in overview.bridges), default=None),
    )


def seen_by(overview: Overview, record: TaskRecord) -> TaskRecord:
    """The record, ended as lost where the bridge that had the run is gone."""
    if record.state not in UNFINISHED or record.bridge_id in {
        bridge.bridge_id for bridge in overview.bridges
    }:
        return record
    return record.model_copy(update={"state": TaskState.LOST, "reason": "bridge_gone"})


def task_page(records: Sequence[TaskRecord], overview: Overview, limit: int) -> TaskPage:
    """A page of at most `limit` records, out of one more where there is a next page."""
    page = records[:limit]
    following = cursor_of(page[-1]) if len(records) > limit else None
    return TaskPage(tasks=tuple(seen_by(overview, record) for record in page), next=following)


def cursor_of(record: TaskRecord) -> str:
    """Where a listing goes on after this record."""
    return f"{record.changed_at!r}:{record.task_id}"


def parse_cursor(text: str) -> tuple[float, str]:
    """What `cursor_of` made.

    Raises:
        ValueError: it is something else.
    """
    time_text, colon, task_id = text.partition(":")
    if not colon or not task_id:
        raise ValueError(f"cursor={text!r}: expected the `next` of the page before")
    return float(time_text), task_id


def to_json(value: BaseModel) -> dict[str, Any]:
    """As REST sends it."""
    return value.model_dump(mode="json")
