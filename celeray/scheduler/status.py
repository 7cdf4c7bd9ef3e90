"""The picture of the cluster that the bridge writes, Redis keeps, and REST, CLI and /metrics show. Frozen values only.

Memory is integer MiB, CPUs are milli, times are seconds since the epoch, durations are seconds. `None` means
unknown, which is never the same as zero. A reader ignores fields that a newer bridge added.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from celeray.scheduler.counters import Counters, TaskCount
from celeray.scheduler.elastic.overview import ElasticStatus
from celeray.scheduler.frozen import Frozen
from celeray.scheduler.model import Attribution, Health, Reason
from celeray.scheduler.states import ExecutorState
from celeray.scheduler.suspensions import Drain, Pause

DETAIL_MAX_CHARS = 1_000


class TaskState(StrEnum):
    """What became of one run of a task, as operators see it."""

    WAITING = "waiting"
    """Held by a bridge, not begun."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRIED = "retried"
    LOST = "lost"
    """Its executor died; the message runs again or ends by the app's settings."""
    REVOKED = "revoked"
    TIMEOUT = "timeout"
    REJECTED = "rejected"
    """Ended without a run: it can never fit, or can't be understood."""


UNFINISHED = frozenset({TaskState.WAITING, TaskState.RUNNING})


class QueueKind(StrEnum):
    """Who consumes a queue."""

    GPU = "gpu"
    CPU = "cpu"
    IO = "io"
    PRIORITY = "priority"
    DLQ = "dlq"
    OTHER = "other"


class DeviceStatus(Frozen):
    """One GPU."""

    uuid: str
    index: int
    node_id: str
    node_name: str
    name: str | None = None
    total_mib: int | None = None
    used_mib: int | None = None
    """What NVML shows, whoever holds it."""
    reserved_mib: int = 0
    """Held by the ledger for executors."""
    foreign_mib: int | None = None
    """Used by processes that are no executors."""
    schedulable_mib: int = 0
    """What placement will still give."""
    health: Health = Health.UNKNOWN
    health_reason: str | None = None
    lost: bool = False
    """NVML can't reach it any more, or only after a reset. What ran there was ended."""
    remedy: str | None = None
    """What takes it back into use after an XID."""
    unusable: str | None = None
    """Why nothing is placed there: drained, unhealthy, lost or unreadable. None: it is in use."""
    drained: Drain | None = None
    """None: no operator drained it."""
    leaking_mib: int = 0
    """Memory of ended executors that did not come back in `leak_after_s`; a part of `foreign_mib`."""
    leaking_pids: tuple[int, ...] = ()
    """Of them and their children, as far as NVML still lists them."""
    xids: dict[int, int] = {}
    """Driver errors by their XID, with how often each came since the node agent started."""
    marked_at: float | None = None
    """When the newest XID came that keeps it out, by the node's clock. None: none does."""
    utilization_pct: int | None = None
    temperature_c: int | None = None
    power_mw: int | None = None
    executors: tuple[str, ...] = ()
    """Ids of the executors with a reservation on it."""


class NodeStatus(Frozen):
    """One machine of the cluster."""

    node_id: str
    name: str
    address: str
    cpus_milli: int
    cpus_free_milli: int
    memory_mib: int
    memory_free_mib: int
    labels: dict[str, str] = {}
    draining: bool = False
    """Its bridge places nothing there, since an operator drained it."""
    drained: Drain | None = None
    """None: no operator drained it."""
    reading_age_s: float | None = None
    """Age of the newest reading. None: none came yet."""
    simulated: bool = False
    attribution: Attribution = Attribution.PID
    """How use of a device is told apart by executor: by the pids that NVML lists, or by reservations where those are of
    another namespace."""
    driver_version: str | None = None
    devices: tuple[str, ...] = ()
    """Their uuids."""
    links: tuple[tuple[str, ...], ...] = ()
    """How each device is connected to each, row and column in the order of `devices`, by the names of `nvidia-smi topo
    -m`: `NV4`, `PIX`, `SYS` and so on; `-`: not known. Empty: nothing is known."""


class ExecutorStatus(Frozen):
    """One process on the cluster that runs tasks."""

    executor_id: str
    executor_class: str
    state: ExecutorState
    node_id: str
    device_uuids: tuple[str, ...] = ()
    memory_mib: int = 0
    """Reserved on each device."""
    pid: int | None = None
    tasks: tuple[str, ...] = ()
    """Ids of the tasks that it runs now."""
    runs: int = 0
    """Tasks that it has begun since its start."""


class QueueStatus(Frozen):
    """One queue: what lies on the broker, and what bridges hold of it."""

    name: str
    kind: QueueKind = QueueKind.OTHER
    depth: int = 0
    """Messages on the broker that nobody has taken, all priorities."""
    depth_by_priority: dict[int, int] = {}
    """By API priority, 1 to 10; priorities without messages are left out."""
    scheduled: int = 0
    """Messages whose eta is far: they come back to the broker's list shortly before it."""
    waiting: int = 0
    """Held by bridges, not begun."""
    running: int = 0
    """Running in bridges. Celery workers' own runs are not known here."""
    paused: Pause | None = None
    """None: workers take from it."""
    oldest_age_s: float | None = None
    """Since a bridge received the oldest task that still waits. Messages on the broker carry no time."""
    reasons: dict[Reason, int] = {}
    """Why waiting tasks wait."""


class BridgeQueue(Frozen):
    """What one bridge holds of one queue."""

    name: str
    waiting: int = 0
    running: int = 0
    oldest_received_at: float | None = None
    """When the bridge received the oldest task that still waits."""
    reasons: dict[Reason, int] = {}


class OutOfMemoryRecord(Frozen):
    """A run of a task whose GPU memory ran out, so that the task was placed again with more."""

    at: float
    reserved_mib: int | None = None
    """What it had on each device. None: not known."""
    node_id: str | None = None
    node_name: str | None = None
    device_uuids: tuple[str, ...] = ()


class PreemptedRecord(Frozen):
    """A run was ended for an urgent task, and its message put back."""

    at: float
    for_task: str
    """Id of the urgent task."""


class TaskRecord(Frozen):
    """One run of a task in a bridge: where, when, and how it ended."""

    task_id: str
    name: str
    queue: str
    priority: int
    """1 to 10, 10 most urgent."""
    tenant: str | None = None
    """Whom it is for. None: its message names nobody."""
    state: TaskState
    bridge_id: str
    hostname: str
    """Celery node name of the bridge."""
    node_id: str | None = None
    node_name: str | None = None
    device_uuids: tuple[str, ...] = ()
    gpus: int = 0
    vram_mib: int | None = None
    """Asked for on each device. None: whole devices where `gpus` > 0, else none."""
    gpu_types: tuple[str, ...] = ()
    """Acceptable device types, most wanted first. Empty: any."""
    exclusive: bool = False
    """Whole devices though `vram_mib` is given."""
    cpus_milli: int = 0
    host_memory_mib: int = 0
    out_of_memory: tuple[OutOfMemoryRecord, ...] = ()
    """Its runs in this bridge whose GPU memory ran out, oldest first. The task's own retries do not count them."""
    raised_mib: int | None = None
    """What it asks for on each device since then. None: what its message asks."""
    preempted: PreemptedRecord | None = None
    """Of this run, or of the one before it. None: neither was put back."""
    reserved_mib: int | None = None
    """What its executor has reserved on each device. None: not begun."""
    peak_mib: int | None = None
    """Most that it was seen to use on one device. None: not known."""
    peak_attribution: Attribution | None = None
    """How that is known to be its own."""
    executor_id: str | None = None
    executor_class: str | None = None
    warm: bool | None = None
    """Whether the executor had run before. None: not begun."""
    received_at: float
    started_at: float | None = None
    ended_at: float | None = None
    wait_s: float | None = None
    """From received to started."""
    run_s: float | None = None
    """From started to ended."""
    reason: str | None = None
    detail: str | None = None

    @property
    def changed_at(self) -> float:
        """When it last changed, to the microsecond; lists of tasks are sorted by it."""
        return round(self.ended_at or self.started_at or self.received_at, 6)

    def stored(self) -> StoredRecord:
        """The record as Redis keeps it."""
        return StoredRecord(self.task_id, self.changed_at, self.ended_at is not None, self.model_dump_json())


class StoredRecord(NamedTuple):
    """A `TaskRecord` as Redis keeps it."""

    task_id: str
    changed_at: float
    ended: bool
    document: str
    """JSON of the record."""


class BridgeTenant(Frozen):
    """How one bridge sees a tenant."""

    tenant: str
    waiting: int = 0
    running: int = 0
    used_mib_s: float = 0.0
    """In all bridges that it knows of, MiB times seconds, halved with each half-life: what turns go by."""


class TenantStatus(Frozen):
    """A tenant of the cluster."""

    tenant: str
    """Empty: all tasks that name none."""
    weight: float
    waiting: int = 0
    """Held by bridges, not begun."""
    running: int = 0
    used_mib_s: float = 0.0
    """MiB times seconds, halved with each half-life."""
    share: float | None = None
    """Its part of what all tenants have used so. None: none has used anything."""
    total_mib_s: float = 0.0
    """MiB times seconds over all bridges that ever were."""


class BridgeStatus(Frozen):
    """Everything that one bridge knows at one instant."""

    bridge_id: str
    hostname: str
    """Celery node name."""
    pid: int
    version: str
    written_at: float
    started_at: float
    cluster_up: bool
    cluster_address: str | None = None
    cluster_detail: str | None = None
    """Why the cluster is down."""
    window: int
    waiting: int = 0
    running: int = 0
    queues: tuple[BridgeQueue, ...] = ()
    nodes: tuple[NodeStatus, ...] = ()
    devices: tuple[DeviceStatus, ...] = ()
    executors: tuple[ExecutorStatus, ...] = ()
    elastic: tuple[ElasticStatus, ...] = ()
    running_tasks: tuple[TaskCount, ...] = ()
    tenants: tuple[BridgeTenant, ...] = ()
    """Those with something waiting or running, and then those that have used most; at most 500."""
    counters: Counters = Counters()
    """Since this bridge started."""
    records_dropped: int = 0
    """Task records that were never written since Redis was away for too long."""
    records_skipped: int = 0
    """Task records left out since more runs succeeded than are worth a record each; they are counted all the same."""


class BridgeSummary(Frozen):
    """One bridge in the cluster's status."""

    bridge_id: str
    hostname: str
    up: bool
    version: str | None = None
    pid: int | None = None
    cluster_up: bool | None = None
    cluster_address: str | None = None
    cluster_detail: str | None = None
    age_s: float | None = None
    """Since it last wrote."""
    waiting: int = 0
    running: int = 0
    window: int | None = None


class KeeperSummary(Frozen):
    """One keeper in the cluster's status."""

    name: str
    """Host, process id, and what tells it from an earlier one."""
    up: bool
    age_s: float
    """Since its last round."""


class ClusterStatus(Frozen):
    """The whole, on one screen."""

    version: str
    state: str
    """`ok`, or `degraded` with `problems`."""
    problems: tuple[str, ...] = ()
    paused: dict[str, Pause] = {}
    """Queues that are paused on purpose, which is no problem."""
    drained: dict[str, Drain] = {}
    """What is drained on purpose, by `device UUID` or `node NAME`."""
    redis_ok: bool
    ray_connected: bool
    bridges: tuple[BridgeSummary, ...] = ()
    keepers: tuple[KeeperSummary, ...] = ()
    """Those that are up; where none is, those that were within the last hour."""
    queued: int = 0
    """On the broker, all queues but the dead letters."""
    scheduled: int = 0
    """Messages whose eta is far, all queues."""
    dead_letters: int = 0
    """Parked messages, and what lies on the dead letter queue."""
    unacked: int = 0
    """Taken by any worker and not yet acknowledged."""
    waiting: int = 0
    running: int = 0
    nodes: int = 0
    devices: int = 0
    devices_healthy: int = 0
    """Those that NVML does not call unhealthy."""
    vram_total_mib: int = 0
    vram_schedulable_mib: int = 0
    executors: int = 0
    elastic: tuple[ElasticStatus, ...] = ()
    """Over all bridges, by type."""
    age_s: float | None = None
    """Of the oldest bridge document that was counted."""
