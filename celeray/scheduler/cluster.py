"""What the scheduler needs from a cluster: commands that never block, and events that tell what came of them.

`celeray.actors.cluster:RayCluster` implements it on Ray; `celeray.scheduler.bridge.fake_cluster:FakeCluster`
in memory, for tests and simulation. One contract suite (tests/cluster_contract.py) runs against both.

Events come from any thread, in the order in which they happened to one executor. After `ClusterDown` every
executor and every run of before is gone, whether or not an event said so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from celeray.scheduler.model import NodeReading


@dataclass(frozen=True, slots=True)
class AppSpec:
    """How an executor loads the Celery app: the same way as the bridge did."""

    app: str
    """The value of ``-A``, as `celery.app.utils.find_app` takes it."""
    working_dir: str
    hostname: str
    """Node name of the bridge, which tasks see as ``request.hostname``."""
    loglevel: int = 30
    redirect_stdouts: bool = True
    redirect_stdouts_level: str = "WARNING"
    include: tuple[str, ...] = ()
    """Modules that the worker was told to import besides the app's own."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """Variables of the bridge that an executor gets where its node does not set them itself."""
    settings: str | None = None
    """The bridge's settings as JSON, so that what an executor publishes is routed the same way. None: its own."""


@dataclass(frozen=True, slots=True)
class ExecutorSpec:
    """A process to start. Its devices are already reserved in the ledger."""

    executor_id: str
    executor_class: str
    node_id: str
    device_uuids: tuple[str, ...]
    share: float
    """`num_gpus` in the first device's placement group: 0 without devices, else 0.0001 to 1."""
    memory_mib: int
    """VRAM reserved on each device."""
    app: AppSpec
    cpus: int = 0
    """Whole CPUs of the request, for thread pools of numeric libraries; 0: unspecified."""
    fresh: bool = False
    """Run exactly one task and end with it."""
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    limit_vram: bool = False
    """Keep the frameworks in it that can be told so within `memory_mib`."""
    peak_interval_s: float = 0.0
    """How often it looks at the VRAM that it uses, while it runs something. 0: never."""


class RunSpec(NamedTuple):
    """One task to run. A tuple, since thousands a second are pickled."""

    run_id: int
    """Unique in one bridge."""
    task_id: str
    payload: bytes
    """Pickled arguments of Celery's trace function."""
    soft_time_limit: float | None = None
    """Seconds, counted from the begin of the run. The bridge enforces the hard limit itself."""
    may_place_again: bool = False
    """Out of GPU memory ends it as `RunOutOfMemory`, and not as the task's failure."""


@dataclass(frozen=True, slots=True)
class NodeAsk:
    """A node that is wanted from the cluster's autoscaler."""

    ask_id: str
    """Unique in one bridge."""
    bundle: Mapping[str, float]
    """What only such a node has, in Ray's names of resources."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that it has to have."""


@dataclass(frozen=True, slots=True)
class ClusterUp:
    """The cluster answers. Nodes follow as readings."""

    address: str


@dataclass(frozen=True, slots=True)
class ClusterDown:
    """The cluster can't be reached; `RayCluster` keeps trying. All executors are lost."""

    detail: str


@dataclass(frozen=True, slots=True)
class NodeRead:
    reading: NodeReading


@dataclass(frozen=True, slots=True)
class NodeLost:
    """The node is gone or no longer leased. `ExecutorEnded` of its executors comes by itself."""

    node_id: str


@dataclass(frozen=True, slots=True)
class NodeGranted:
    """What an ask wants is there, on a node that came for it or on one that was free. The ask is over."""

    ask_id: str
    node_id: str


@dataclass(frozen=True, slots=True)
class ExecutorStarted:
    """The app is loaded; the executor takes runs."""

    executor_id: str
    pid: int


class EndCause(StrEnum):
    """Why an executor is gone."""

    STOPPED = "stopped"
    """It was told to."""
    START_FAILED = "start_failed"
    """It never became ready, for instance since the app can't be imported on the node."""
    DIED = "died"
    NODE_LOST = "node_lost"
    LEASE_LOST = "lease_lost"
    """Its node ended it, since the bridge did not renew its leases: the messages that it had are others' by now."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a dead executor was with the runs of its last call."""

    running: int | None = None
    """The run whose code was running. None: none was."""
    unstored: tuple[int, ...] = ()
    """Ran to their end, but what they returned died with the process."""


@dataclass(frozen=True, slots=True)
class ExecutorEnded:
    """The process is gone; every run that it had is lost unless its `RunEnded` came before."""

    executor_id: str
    cause: EndCause
    detail: str
    progress: Progress | None = None
    """Of its batch: a run that it does not name had not begun. None: not known, or it had no batch."""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A fresh process has begun its task. Warm executors begin at once and send none."""

    executor_id: str
    run_id: int
    pid: int


class RunEnded(NamedTuple):
    """The trace function came back. A tuple, as `RunSpec` is.

    `payload` is a pickled `(failed, retval, runtime)`, what Celery's trace function returns; `retval` is an
    `ExceptionInfo` where `failed`. It stays bytes up to the consumer thread, so that one
    return value that can't be read fails one task.
    """

    executor_id: str
    run_id: int
    payload: bytes
    rss_mib: int | None = None
    """Resident memory of the executor after the run, or after its whole batch."""
    seconds: float | None = None
    """How long the executor was busy with it; None: not measured."""
    peak_mib: int | None = None
    """Most VRAM that it used on one of its devices, or that its whole batch did; None: not known."""
    attribution: str | None = None
    """How that is known to be its own, an `Attribution`; None: the peak is not known."""


class RunReturned(NamedTuple):
    """The executor gives a run of its batch back that it has not begun, since those before it took too long."""

    executor_id: str
    run_id: int


class RunOutOfMemory(NamedTuple):
    """The GPU memory of a run that may be placed again ran out. Nothing of it was stored or told.

    The executor gives back what else it had of the batch, and is to be replaced: its allocator may be in pieces.
    """

    executor_id: str
    run_id: int
    detail: str
    """The exception, at most 300 characters."""


ClusterEvent = (
    ClusterUp
    | ClusterDown
    | NodeRead
    | NodeLost
    | NodeGranted
    | ExecutorStarted
    | ExecutorEnded
    | RunStarted
    | RunEnded
    | RunReturned
    | RunOutOfMemory
)
Listener = Callable[[ClusterEvent], None]


class Cluster(Protocol):
    """Commands. None of them blocks; a command for an executor that is gone is ignored."""

    def start(self, listener: Listener) -> None:
        """Connect in the background and report events to `listener` from then on."""
        ...

    def stop(self, timeout_s: float) -> None:
        """End all executors, give the devices back and disconnect, within about `timeout_s` seconds."""
        ...

    def start_executor(self, spec: ExecutorSpec) -> None: ...

    def run(self, executor_id: str, *runs: RunSpec) -> None:
        """Run tasks one after the other, in one call; a `RunEnded`, `RunReturned` or `RunOutOfMemory`
        follows for each.

        A fresh executor takes exactly one, and this starts its process.
        """
        ...

    def stop_executor(self, executor_id: str, *, force: bool) -> None:
        """End an executor: after its current run with Celery's shutdown signals, or at once with `force`."""
        ...

    def signal_executor(self, executor_id: str, signum: int) -> None:
        """Send a signal that does not end a process by itself, such as SIGUSR1."""
        ...

    def keep_alive(self, sent_at: float, lease_s: float) -> None:
        """The bridge has renewed its leases. From the first call on, executors are ended before these can expire.

        Args:
            sent_at: monotonic seconds, before the renewal was sent.
            lease_s: seconds that a lease lasts from when Redis has renewed it.
        """
        ...

    def forgive(self, node_id: str, uuid: str, up_to: float) -> None:
        """Let no XID keep a device out any more that came up to a time, and read the node.

        Args:
            up_to: a `DeviceReading.marked_at`, so by the node's own clock.
        """
        ...

    def scale(self, asks: Sequence[NodeAsk], released: Collection[str]) -> None:
        """Ask the autoscaler for nodes, and give others back. Each call replaces what the one before said.

        Args:
            asks: a `NodeGranted` follows once for each, unless a later call leaves it out before.
            released: ids of nodes whose devices are given back, and which are not read or leased until they are left
                out. Nothing of this bridge may run there. A `NodeLost` follows when one is gone.
        """
        ...

    def read_node(self, node_id: str) -> None:
        """Ask for a `NodeRead` as soon as possible, besides the periodic ones."""
        ...
