"""The values that the scheduler's parts hand to each other. All frozen; memory is integer MiB, CPUs are milli.

`None` in a reading means that it could not be read. It is never the same as zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from operator import attrgetter

from celeray.scheduler.links import Matrix

MIB = 1024 * 1024


class Isolation(StrEnum):
    """Whether an executor outlives the task that it runs."""

    WARM = "warm"
    FRESH = "fresh"


class OnOom(StrEnum):
    """What a task wants when its device runs out of memory."""

    RETRY_LARGER = "retry_larger"
    FAIL = "fail"


class Basis(StrEnum):
    """What the VRAM of a request goes by."""

    DECLARED = "declared"
    LEARNED = "learned"
    """What earlier runs of the task used; what is declared counts until enough is known."""


class Attribution(StrEnum):
    """How it is known that memory of a device is an executor's."""

    PID = "pid"
    """NVML lists its processes."""
    RESERVATION = "reservation"
    """NVML lists pids of another namespace: what is used on a device that it has alone is its own."""
    ALLOCATOR = "allocator"
    """Its own allocator tells; of the rest nothing is known."""


class Health(StrEnum):
    """What NVML says about a device. `UNKNOWN` is usable: most consumer cards report nothing."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


class _HashedOnce:
    """Keeps the hash of a value with many fields. No part of the value: it is neither compared, copied nor pickled."""

    __slots__ = ("_hash",)
    _hash: int


@dataclass(frozen=True, slots=True)
class ResourceRequest(_HashedOnce):
    """What a task asks for, merged and validated. Tables of waiting tasks go by it, so its hash is made once."""

    gpus: int = 0
    """Devices, all on one node. 0: the task needs none."""
    memory_mib: int | None = None
    """VRAM on each device. None with `gpus`: the whole device."""
    exclusive: bool = False
    """Share the device with no other executor. Always true where `memory_mib` is None and `gpus` > 0."""
    gpu_types: tuple[str, ...] = ()
    """Acceptable device types, most wanted first. Empty: any."""
    cpus_milli: int = 0
    host_memory_mib: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    """Node labels that must match, sorted by key."""
    executor: str | None = None
    """Name of a class of executors to share. None: the task's own."""
    isolation: Isolation = Isolation.WARM
    on_oom: OnOom = OnOom.RETRY_LARGER
    memory_mib_max: int | None = None
    """How far `on_oom` and `basis` may raise `memory_mib`. None: the largest device."""
    basis: Basis = Basis.DECLARED
    expected_ms: int | None = field(default=None, compare=False, repr=False)
    """How long it says that it runs. None: it does not. No part of what it needs, so requests that differ in it alone
    are equal."""
    preemptible: bool = field(default=False, compare=False, repr=False)
    """A run of it may be ended, and its message put back, for a more urgent task. No part of what it needs."""

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            object.__setattr__(self, "_hash", hash(_NEEDS(self)))
            return self._hash


_NEEDS = attrgetter(*(each.name for each in fields(ResourceRequest) if each.compare))


@dataclass(frozen=True, slots=True)
class DeviceProcess:
    """A process that holds memory of a device, as NVML lists it."""

    pid: int
    used_mib: int | None
    parents: tuple[int, ...] = ()
    """Its ancestors' pids, the nearest first, as far as they can be seen."""


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """One device, read once."""

    uuid: str
    index: int
    """For display, and for the token that Ray hands out; not stable across reboots."""
    name: str | None
    total_mib: int | None
    used_mib: int | None
    processes: tuple[DeviceProcess, ...] | None
    health: Health = Health.UNKNOWN
    health_reason: str | None = None
    remedy: str | None = None
    """What takes the device back into use after an XID. None: nothing but what made it unhealthy going away."""
    lost: bool = False
    """NVML can't reach it any more, or only after a reset: what runs there can't go on."""
    utilization_pct: int | None = None
    temperature_c: int | None = None
    power_mw: int | None = None
    exclusive_process: bool = False
    """Compute mode EXCLUSIVE_PROCESS: the driver refuses a second process."""
    card_uuid: str | None = None
    """Of a MIG slice: the card that it is a part of."""
    xids: tuple[tuple[int, int], ...] = ()
    """Driver errors by their XID with how often each came since the node agent started, lowest XID first."""
    marked_at: float | None = None
    """When the newest XID came that keeps the device out, in epoch seconds of the node's clock. None: none does."""
    unified_memory: bool = False
    """The device shares the host's memory: `total_mib` and `used_mib` are the host's."""


@dataclass(frozen=True, slots=True)
class NodeReading:
    """One node and the devices on it that this bridge has leased, read once."""

    node_id: str
    name: str
    address: str
    cpus_milli: int
    memory_mib: int
    labels: Mapping[str, str]
    devices: tuple[DeviceReading, ...]
    requested_at: float
    """Monotonic seconds of the bridge's host, taken before the reading began."""
    pids_visible: bool = True
    """False where NVML lists pids of another namespace: use is then attributed by reservation."""
    driver_version: str | None = None
    simulated: bool = False
    unleased: int = 0
    """Devices that Ray has on the node and this bridge does not, or not yet. What they are is not known."""
    closeness: Matrix = ()
    """How close the devices are, row and column in the order of `devices`; `celeray.scheduler.links` has the table."""


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A device as placement sees it."""

    uuid: str
    gpu_type: str | None
    total_mib: int
    schedulable_mib: int
    """What may still be reserved: total - foreign - sum(max(reserved, measured)) - headroom, at least 0."""
    holders: int = 0
    """Executors with a reservation on the device, ending ones included."""
    exclusive: bool = False
    """Held by an exclusive executor."""
    foreign_mib: int = 0
    usable: bool = True
    """False: unhealthy, draining or unreadable."""
    exclusive_process: bool = False
    reclaiming_mib: int = 0
    """Reserved by executors that are ending: comes back soon."""
    reclaiming_holders: int = 0
    overrun_mib: int = 0
    """By how much foreign use and reservations exceed what it has; more than 0: not even its holders may run."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node as placement sees it."""

    node_id: str
    name: str
    cpus_milli: int
    cpus_free_milli: int
    memory_mib: int
    memory_free_mib: int
    labels: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[DeviceState, ...] = ()
    draining: bool = False
    reclaiming_memory_mib: int = 0
    """Host memory of executors that are ending: comes back soon."""
    starts_free: int = 1_000_000
    """Executors that may still begin to start on the node at this time."""
    closeness: Matrix = ()
    """As of the reading. Devices beyond it are close to none."""


@dataclass(frozen=True, slots=True)
class WarmExecutor:
    """A live executor as placement sees it."""

    executor_id: str
    executor_class: str
    node_id: str
    device_uuids: tuple[str, ...]
    memory_mib: int
    """Reserved on each device."""
    exclusive: bool
    idle: bool
    """Takes a task at once. Neither idle nor starting: busy."""
    last_used: float
    """Monotonic seconds; the least recently used is evicted first."""
    host_memory_mib: int = 0
    starting: bool = False
    """Will be idle soon, so it counts for a waiting task of its class."""
    cpus_milli: int = 0
    """Booked by what it runs."""
    start_ms: int = 0
    """What its start took, and loading in its first run: the price of ending it, and of starting its like. 0: not
    known."""
    stays_ms: int = 0
    """So long from now it is not ended for others while tasks of its class wait."""
    ends_in_ms: int | None = None
    """Of a busy one: when its task is expected to end, from now. None: not known."""
    free_in_ms: int | None = None
    """Of a busy one: when it is expected to take its next task. None: not known, or its task should be over already."""
    preemptible: bool = False
    """Of a busy one: what it runs is one task, and may be put back for a more urgent one."""
    priority: int = 10
    """Of a preemptible one: the priority of its task, as it was sent."""
    ran_ms: int = 0
    """Of a preemptible one: how long its task has run, which is lost with its end."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """Room that is kept for the first task that has no place, so that what goes before it never delays it."""

    sequence: int
    """Of the task."""
    node_id: str
    device_uuids: tuple[str, ...]
    starts_in_ms: int | None
    """When the room is expected to be free, from now. None: not known, since what runs there isn't."""


@dataclass(frozen=True, slots=True)
class Preemption:
    """Runs that are ended, and put back, so that an urgent task gets their room."""

    sequence: int
    """Of the urgent task."""
    node_id: str
    device_uuids: tuple[str, ...]
    """Where it will have its room. Empty: it needs no device."""
    executor_ids: tuple[str, ...]
    """Busy executors to end, the one first that loses least."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An immutable picture of the cluster at one instant. Dumps to JSON and replays."""

    nodes: tuple[NodeState, ...]
    executors: tuple[WarmExecutor, ...] = ()
    absent: tuple[NodeState, ...] = ()
    """Nodes that went away a short while ago. Nothing is placed there, but what fits there is not said to fit never."""
    reserved: Reserved | None = None
    """What the cycle before kept for a task; it is kept on while that serves the task as well as another place."""
    tenants: Mapping[str, int] = field(default_factory=dict)
    """What each waiting tenant has used, in MiB times milliseconds, with what its runs are expected to use yet."""
    preemptions: tuple[Preemption, ...] = ()
    """Of earlier cycles, while their room is not back: it is kept for the task, and nothing else is ended for it."""


@dataclass(frozen=True, slots=True)
class WaitingTask:
    """A message that waits for a place."""

    task_id: str
    executor_class: str
    request: ResourceRequest
    priority: int
    """1 to 10, 10 most urgent."""
    sequence: int
    """Order of arrival in this bridge; smaller is older."""
    arrived_ms: int = 0
    """When it came, on a clock that is the same for all tasks of a cycle. Aging goes by it."""
    expected_ms: int | None = None
    """How long it is expected to run. None: not known."""
    overtaken: int = 0
    """How often a task of lower priority was placed while it waited, where it could have run too."""
    tenant: str | None = None
    """Whom it is for. None: its message names nobody."""
    first: bool = False
    """Runs were ended for it: it comes before all that are not so until it has its place."""


class Reason(StrEnum):
    """Why a task has no place. The list is closed; docs/architecture.md explains each."""

    CLUSTER_DOWN = "cluster_down"
    NEVER_FITS = "never_fits"
    GPU_TYPE = "gpu_type"
    LABELS = "labels"
    UNUSABLE = "unusable"
    EXCLUSIVE = "exclusive"
    VRAM = "vram"
    DEVICES = "devices"
    CPUS = "cpus"
    HOST_MEMORY = "host_memory"
    WARM = "warm"
    """Idle executors hold the room that started a short while ago, and tasks of their class wait."""
    BUSY = "busy"
    """An executor of its class is expected to be free before a new one would be up."""
    RESERVED = "reserved"
    """There is room, and it is kept for a task that comes first."""
    RECLAIMING = "reclaiming"
    STARTING = "starting"
    EXECUTOR_FAILED = "executor_failed"
    """Executors of its class do not start; the next try comes after a backoff."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a task goes: into a warm executor, or into a new one on the named devices."""

    task_id: str
    node_id: str
    device_uuids: tuple[str, ...]
    memory_mib: int
    """To reserve on each device; the whole schedulable amount where the request is exclusive."""
    executor_id: str | None = None
    """The idle executor to use. None: start one."""
    sequence: int = 0
    """Of the task, which tells two deliveries of one task id apart."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """What one placement cycle decided. Nothing of it has happened yet."""

    placements: tuple[Placement, ...] = ()
    evictions: tuple[str, ...] = ()
    """Idle executors to stop, so that a waiting task gets their room."""
    waiting: Mapping[int, Reason] = field(default_factory=dict)
    """Reason by sequence, for every task that was not placed. `NEVER_FITS`: not even on an idle cluster."""
    reserved: Reserved | None = None
    """What is kept for the first task without a place. None: all have one, or a reservation would not help."""
    overtaken: Mapping[tuple[ResourceRequest, int], int] = field(default_factory=dict)
    """How many tasks of lower priority were placed where tasks of this request and priority, which wait, could run."""
    preemptions: tuple[Preemption, ...] = ()
    """Runs to end and put back. At most one a cycle: the next one sees what it frees."""

    def reasons(self) -> dict[Reason, int]:
        """Count of waiting tasks by reason."""
        counts: dict[Reason, int] = {}
        for reason in self.waiting.values():
            counts[reason] = counts.get(reason, 0) + 1
        return counts
