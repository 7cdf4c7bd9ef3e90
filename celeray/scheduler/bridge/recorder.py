"""What happened to each run in this bridge, collected on the consumer thread and taken twice a second.

The dispatcher tells of a run three times: `received` returns a handle, `started` and `ended` (or `given_back`)
take it. Each is a few assignments: no lock, no JSON, no Redis. Not thread-safe: only `TaskFacts.stored`
is meant for another thread, and only on facts that `take` handed out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from celeray.scheduler.bridge.peaks import Peak
from celeray.scheduler.bridge.tallies import Tally, counters_of
from celeray.scheduler.counters import Counters, TaskCount
from celeray.scheduler.model import ResourceRequest
from celeray.scheduler.preempted import PutBack
from celeray.scheduler.status import DETAIL_MAX_CHARS, StoredRecord, TaskState

OOM = "oom"
"""The one outcome that is not a `TaskState`: a run that failed since its device ran out of memory."""
PREEMPTED = "preempted"
"""Reason of a run that was ended for an urgent task."""
UNEVENTFUL_MAX = 1_000
"""Most runs a take that succeeded within it and so were never shown: at thousands a second, writing each would cost
more than running it, and Redis keeps the newest 10,000 only."""


class Begin:
    """Where a run begins. One value serves an executor's first run, and another one all later runs."""

    __slots__ = ("fields",)

    def __init__(
        self,
        *,
        node_id: str,
        node_name: str,
        device_uuids: tuple[str, ...],
        executor_id: str,
        executor_class: str,
        warm: bool,
        reserved_mib: int | None = None,
    ) -> None:
        """
        Args:
            warm: whether the executor had run a task before.
            reserved_mib: VRAM that the executor has reserved on each device. None: it has no device.
        """
        self.fields: dict[str, Any] = {
            "node_id": node_id,
            "node_name": node_name,
            "device_uuids": device_uuids,
            "executor_id": executor_id,
            "executor_class": executor_class,
            "warm": warm,
            "reserved_mib": reserved_mib,
        }


class TaskFacts:
    """One run, while the bridge holds it."""

    __slots__ = (
        "asks_mib",
        "begin",
        "changed",
        "detail",
        "ended_at",
        "out_of_memory",
        "peak",
        "preempted",
        "priority",
        "reason",
        "received_at",
        "request",
        "run_s",
        "shown",
        "started_at",
        "state",
        "tally",
        "task_id",
        "tenant",
    )

    def __init__(
        self, task_id: str, tally: Tally, priority: int, request: ResourceRequest, received_at: float
    ) -> None:
        self.task_id = task_id
        self.tally = tally
        self.priority = priority
        self.request = request
        self.received_at = received_at
        self.state = TaskState.WAITING
        self.begin: Begin | None = None
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.run_s: float | None = None
        """As the executor measured it; None: from begin to end as the bridge saw them."""
        self.out_of_memory: tuple[dict[str, Any], ...] = ()
        """Of each run whose GPU memory ran out, as `status.OutOfMemoryRecord` has it."""
        self.tenant: str | None = None
        self.asks_mib: int | None = None
        """VRAM on each device that it asks for since then. None: what its message asks."""
        self.reason: str | None = None
        self.detail: str | None = None
        self.preempted: PutBack | None = None
        """The message was put back for an urgent task: by this run, or by the one before it."""
        self.peak: Peak | None = None
        """Of the VRAM that it used; set before its end is told. None: not known."""
        self.changed = True
        self.shown = False
        """Whether an earlier take handed it out."""

    @property
    def told_more(self) -> bool:
        """Whether something happened to it besides its run."""
        return bool(self.out_of_memory) or self.preempted is not None

    def copy(self) -> TaskFacts:
        """The facts as they are now."""
        twin = TaskFacts.__new__(TaskFacts)
        for slot in self.__slots__:
            setattr(twin, slot, getattr(self, slot))
        return twin

    def stored(self, bridge_id: str, hostname: str) -> StoredRecord:
        """The facts as Redis keeps them: JSON of a `TaskRecord`, made without building one, which costs thrice."""
        started, ended = self.started_at, self.ended_at
        record: dict[str, Any] = {
            "task_id": self.task_id,
            "name": self.tally.name,
            "queue": self.tally.queue,
            "priority": self.priority,
            "state": self.state,
            "bridge_id": bridge_id,
            "hostname": hostname,
            "gpus": self.request.gpus,
            "vram_mib": self.request.memory_mib,
            "received_at": self.received_at,
            "started_at": started,
            "ended_at": ended,
            "reason": self.reason,
            "detail": self.detail and self.detail[:DETAIL_MAX_CHARS],
        }
        record |= _rarely_asked(self.request)
        if self.tenant is not None:
            record["tenant"] = self.tenant
        if self.begin is not None:
            record |= self.begin.fields
        if self.out_of_memory:
            record |= {"out_of_memory": self.out_of_memory, "raised_mib": self.asks_mib}
        if self.preempted is not None:
            record |= {"preempted": {"at": self.preempted.at, "for_task": self.preempted.for_task}}
        if self.peak is not None:
            record |= {"peak_mib": self.peak.mib, "peak_attribution": self.peak.by}
        if started is not None:
            record["wait_s"] = max(0.0, started - self.received_at)
            seen = None if ended is None else max(0.0, ended - started)
            record["run_s"] = seen if self.run_s is None else self.run_s
        changed_at = ended or started or self.received_at
        return StoredRecord(self.task_id, changed_at, ended is not None, to_json(record).decode())


def _rarely_asked(request: ResourceRequest) -> dict[str, Any]:
    """What most tasks do not ask for, left out where it is not: most records stay as short as they were."""
    asked = {
        "gpu_types": request.gpu_types,
        "exclusive": request.exclusive and request.memory_mib is not None,
        "cpus_milli": request.cpus_milli,
        "host_memory_mib": request.host_memory_mib,
    }
    return {name: value for name, value in asked.items() if value}


@dataclass(frozen=True, slots=True)
class Taken:
    """What `Recorder.take` returns."""

    counters: Counters
    """Since the bridge started."""
    running_tasks: tuple[TaskCount, ...]
    facts: Sequence[TaskFacts]
    """Runs that changed since the last take, each once, in the order of their first change."""
    skipped: int
    """Runs that were counted but not handed out, since the bridge started; see `UNEVENTFUL_MAX`."""


class Recorder:
    """Collects the facts of all runs of one bridge."""

    def __init__(self, *, uneventful_max: int = UNEVENTFUL_MAX) -> None:
        self._uneventful_max = uneventful_max
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._changed: list[TaskFacts] = []
        self._skipped = 0

    def received(
        self, task_id: str, name: str, queue: str, priority: int, request: ResourceRequest, at: float
    ) -> TaskFacts:
        """The bridge holds a message now.

        Args:
            priority: 1 to 10, 10 most urgent.
            at: seconds since the epoch, as every `at` here.

        Returns:
            The handle for the other calls. Two runs with one task id are two handles.
        """
        tally = self._tallies.get((queue, name))
        if tally is None:
            tally = self._tallies[queue, name] = Tally(queue, name)
        facts = TaskFacts(task_id, tally, priority, request, at)
        self._changed.append(facts)
        return facts

    def started(self, facts: TaskFacts, begin: Begin, at: float) -> None:
        """The task's code begins to run."""
        facts.state, facts.begin, facts.started_at = TaskState.RUNNING, begin, at
        facts.tally.running += 1
        facts.tally.placement.observe(at - facts.received_at)
        self._touch(facts)

    def ended(
        self,
        facts: TaskFacts,
        state: TaskState,
        at: float,
        *,
        outcome: str | None = None,
        reason: str | None = None,
        detail: str | None = None,
        run_s: float | None = None,
    ) -> None:
        """The run is over, whether or not it ever began.

        Args:
            run_s: how long it ran, where that is known better than by when its begin and end were told: the runs of
                a batch are told of together.
            outcome: what counts in the metrics where it is not `state` itself, for instance `OOM`.
            reason: one word of a closed list, for instance a `Reason` or an `EndCause`.
            detail: a sentence for the operator; cut after 1,000 characters.
        """
        if facts.state is TaskState.RUNNING:
            facts.tally.running -= 1
            facts.run_s = run_s
            facts.tally.execution.observe(at - (facts.started_at or at) if run_s is None else run_s)
        facts.state, facts.ended_at, facts.reason, facts.detail = state, at, reason, detail
        facts.tally.finished[outcome or state] += 1
        self._touch(facts)

    def waits_again(self, facts: TaskFacts) -> None:
        """The run was begun in vain, and the bridge keeps the message to place it again."""
        if facts.state is TaskState.RUNNING:
            facts.tally.running -= 1
        facts.state, facts.begin, facts.started_at = TaskState.WAITING, None, None
        self._touch(facts)

    def ran_out(self, facts: TaskFacts, larger: ResourceRequest, reserved_mib: int | None, at: float) -> None:
        """The run's GPU memory ran out; it asks for more, and `waits_again` follows.

        Args:
            reserved_mib: what it had on each device. None: not known.
        """
        where = facts.begin.fields if facts.begin else {}
        entry = {name: where.get(name) for name in ("node_id", "node_name")}
        entry |= {"at": at, "reserved_mib": reserved_mib, "device_uuids": where.get("device_uuids", ())}
        facts.out_of_memory = (*facts.out_of_memory, entry)
        facts.asks_mib = larger.memory_mib
        facts.tally.out_of_memory += 1
        self._touch(facts)

    def given_back(self, facts: TaskFacts, at: float) -> None:
        """The message went back to the broker, for instance at shutdown. It counts as nothing finished."""
        if facts.state is TaskState.RUNNING:
            facts.tally.running -= 1
        facts.state, facts.ended_at, facts.reason = TaskState.LOST, at, "given_back"
        self._touch(facts)

    def put_back(self, facts: TaskFacts, mark: PutBack) -> None:
        """The run was ended for an urgent task, and its message went back to the broker. No run has finished."""
        facts.tally.preempted += 1
        facts.preempted = mark
        facts.detail = f"put back for the urgent task {mark.for_task}"
        self.given_back(facts, mark.at)
        facts.reason = PREEMPTED

    def take(self) -> Taken:
        """Everything counted so far, and the runs that changed since the last take."""
        changed, self._changed = self._changed, []
        kept: list[TaskFacts] = []
        uneventful = 0
        for facts in reversed(changed):
            facts.changed = False
            if facts.state is TaskState.SUCCEEDED and not facts.shown and not facts.told_more:
                uneventful += 1
                if uneventful > self._uneventful_max:
                    continue
            facts.shown = True
            # An ended run does not change any more; the others need a copy, since another thread reads it.
            kept.append(facts.copy() if facts.ended_at is None else facts)
        self._skipped += len(changed) - len(kept)
        tallies = self._tallies.values()
        running = tuple(
            TaskCount(queue=tally.queue, name=tally.name, count=tally.running)
            for tally in tallies
            if tally.running
        )
        return Taken(counters_of(tallies), running, kept[::-1], self._skipped)

    def _touch(self, facts: TaskFacts) -> None:
        if not facts.changed:
            facts.changed = True
            self._changed.append(facts)
