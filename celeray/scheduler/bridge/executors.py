"""The executors that this bridge has on the cluster, and which class an executor belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

from celeray.scheduler.model import Basis, Isolation, ResourceRequest, WarmExecutor
from celeray.scheduler.states import ALIVE, EXECUTOR_TRANSITIONS, ExecutorState, transition

CPU_CLASS = "cpu"
"""The one class of an app for all work that needs no device."""


@lru_cache(maxsize=4096)
def executor_class(task_name: str, request: ResourceRequest) -> str:
    """The class of executors that may run the task: the shared name if it asks for one, else its own.

    Readable in the status: `film.generate_image@1x12288MiB#3f2a90c1d4b7`; the digest tells apart requests that differ
    in what the text does not show.
    """
    fresh = "fresh:" if request.isolation is Isolation.FRESH else ""
    if request.executor is not None:
        return f"{fresh}shared:{request.executor}"
    if request.gpus == 0 and not fresh:
        return CPU_CLASS
    room = "whole" if request.memory_mib is None else f"{request.memory_mib}MiB"
    if request.basis is Basis.LEARNED:
        # The figure moves from task to task, and an executor serves whoever finds enough room reserved in it.
        request, room = replace(request, memory_mib=None), "learned"
    digest = hashlib.sha256(repr(request).encode()).hexdigest()[:12]
    return f"{fresh}{task_name}@{request.gpus}x{room}#{digest}"


@dataclass(slots=True, eq=False)
class Executor:
    """One process on the cluster."""

    executor_id: str
    executor_class: str
    node_id: str
    device_uuids: tuple[str, ...]
    memory_mib: int
    exclusive: bool
    host_memory_mib: int
    fresh: bool
    changed_at: float
    """Monotonic time of the last change of state."""
    state: ExecutorState = ExecutorState.STARTING
    pid: int | None = None
    run_ids: list[int] = field(default_factory=list)
    """What it has now, in order: one run, or a batch. It gets no more before all of them have ended."""
    call_size: int = 0
    """How many runs its last call carried."""
    runs: int = 0
    fate: str | None = None
    """Why it was ended while it may have had something to run. None: it was not, or that needs no reason."""
    recycle: bool = False
    """To end after the current run."""
    gpu_type: str | None = None
    """Of its first device. None: it has none, or its name can't be read."""
    device_mib: int | None = None
    """What that device gives out when idle."""
    alone: bool = True
    """No other executor ever had a reservation on one of its devices while it lived."""
    cpus_milli: int = 0
    """Booked for what it has now."""
    preemptible: bool = False
    """What it has now is one run, which may be put back for an urgent task."""
    priority: int = 10
    """Of that run."""
    ends_at: float | None = None
    """Monotonic time when what it has now is expected to be over. None: not known."""
    up_at: float | None = None
    """Monotonic time when it was first idle. None: it starts, or is fresh."""
    start_s: float = 0.0
    """What its start took, and the loading in its first run."""
    seen_mib: int | None = None
    """Most VRAM on one device that readings showed of its processes since it is busy; see bridge/peaks.py."""
    view: WarmExecutor = field(init=False)

    def __post_init__(self) -> None:
        self.view = WarmExecutor(
            executor_id=self.executor_id,
            executor_class=self.executor_class,
            node_id=self.node_id,
            device_uuids=self.device_uuids,
            memory_mib=self.memory_mib,
            exclusive=self.exclusive,
            idle=False,
            starting=not self.fresh,
            last_used=self.changed_at,
            host_memory_mib=self.host_memory_mib,
        )

    def move(self, state: ExecutorState, now: float) -> None:
        """Go to the next state.

        Raises:
            ValueError: the table of transitions has no such step.
        """
        self.state = transition(EXECUTOR_TRANSITIONS, self.state, state)
        self.changed_at = now
        if state is ExecutorState.BUSY:
            self.seen_mib = None
        self.view = replace(
            self.view,
            idle=state is ExecutorState.IDLE,
            starting=state is ExecutorState.STARTING and not self.fresh,
            last_used=now,
        )


class ExecutorTable:
    """All executors that hold devices, by id."""

    def __init__(self) -> None:
        self._executors: dict[str, Executor] = {}

    def __iter__(self) -> Iterator[Executor]:
        return iter(list(self._executors.values()))

    def __len__(self) -> int:
        return len(self._executors)

    def add(self, executor: Executor) -> None:
        """Enter a new executor."""
        for other in self._executors.values():
            if not set(other.device_uuids).isdisjoint(executor.device_uuids):
                other.alone = executor.alone = False
        self._executors[executor.executor_id] = executor

    def get(self, executor_id: str | None) -> Executor | None:
        """The executor, or None where it is gone."""
        return self._executors.get(executor_id) if executor_id is not None else None

    def drop(self, executor_id: str) -> None:
        """Forget an executor whose room was given back."""
        self._executors.pop(executor_id, None)

    def alive(self) -> list[Executor]:
        """Those that run or will run tasks."""
        return [executor for executor in self._executors.values() if executor.state in ALIVE]

    def views(self, now: float, min_stay: float = 0.0) -> tuple[WarmExecutor, ...]:
        """The live executors as placement sees them.

        Args:
            now: monotonic seconds.
            min_stay: times its start that an executor is to stay.
        """
        alive = (executor for executor in self._executors.values() if executor.state in ALIVE)
        return tuple(_seen(executor, now, min_stay) for executor in alive)

    def starting_nodes(self) -> list[str]:
        """The node of each executor that starts, for the bound on concurrent starts."""
        return [e.node_id for e in self._executors.values() if e.state is ExecutorState.STARTING]


UNUSED_STAY_S = 5.0
"""An executor that has run nothing yet stays so long for what it was started for: else the two could alternate."""
OVERDUE_PART = 4
"""A run that should be over is taken to last for one more such part of the time that it has taken."""


def _seen(executor: Executor, now: float, min_stay: float) -> WarmExecutor:
    match executor.state:
        case ExecutorState.IDLE if executor.up_at is not None:
            least_s = 0.0 if executor.runs else UNUSED_STAY_S
            stays_s = max(0.0, executor.up_at + max(least_s, min_stay * executor.start_s) - now)
            return replace(executor.view, start_ms=_start_ms(executor), stays_ms=round(1000 * stays_s))
        case ExecutorState.BUSY:
            overdue = executor.ends_at is not None and executor.ends_at <= now
            ends_in_ms = _ends_in_ms(executor, now)
            view = replace(
                executor.view,
                cpus_milli=executor.cpus_milli,
                start_ms=_start_ms(executor),
                ends_in_ms=ends_in_ms,
                free_in_ms=None if overdue or executor.recycle or executor.fresh else ends_in_ms,
            )
            return _preemptible(view, executor, now) if executor.preemptible else view
        case _:
            return executor.view


def _start_ms(executor: Executor) -> int:
    return round(1000 * executor.start_s)


def _preemptible(view: WarmExecutor, executor: Executor, now: float) -> WarmExecutor:
    ran_ms = round(1000 * max(0.0, now - executor.changed_at))
    return replace(view, preemptible=True, priority=executor.priority, ran_ms=ran_ms)


def _ends_in_ms(executor: Executor, now: float) -> int | None:
    if executor.ends_at is None:
        return None
    left = executor.ends_at - now
    return round(1000 * (left if left > 0 else (now - executor.changed_at) / OVERDUE_PART))
