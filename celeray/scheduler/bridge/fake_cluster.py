"""A cluster in memory, for tests and simulation: it does what it is told, when it is told.

Nothing happens by itself, unless it is `automatic`: the `started`, `finish`, `end`, ... methods make the events that a
real cluster would send.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from celeray.scheduler.cluster import (
    ClusterDown,
    ClusterUp,
    EndCause,
    ExecutorEnded,
    ExecutorSpec,
    ExecutorStarted,
    Listener,
    NodeAsk,
    NodeGranted,
    NodeLost,
    NodeRead,
    Progress,
    RunEnded,
    RunOutOfMemory,
    RunReturned,
    RunSpec,
    RunStarted,
)
from celeray.scheduler.links import Matrix
from celeray.scheduler.model import Attribution, DeviceProcess, DeviceReading, NodeReading


@dataclass(slots=True)
class FakeExecutor:
    """An executor of the fake."""

    spec: ExecutorSpec
    pid: int
    started: bool = False
    runs: list[RunSpec] = field(default_factory=list)
    """What it was given and has not ended, in order."""
    used_mib: int = 0
    """VRAM that its process uses on each of its devices."""
    signals: list[int] = field(default_factory=list)


class FakeCluster:
    """Implements `Cluster`. `nodes` maps a node id to its devices: uuid, type and total MiB."""

    def __init__(
        self,
        nodes: dict[str, Iterable[tuple[str, str, int]]],
        *,
        cpus: int = 8,
        memory_mib: int = 65_536,
        automatic: bool = False,
    ) -> None:
        """
        Args:
            automatic: every command succeeds at once: executors start, and runs return "None".
        """
        self.nodes = {node: tuple(devices) for node, devices in nodes.items()}
        self.executors: dict[str, FakeExecutor] = {}
        self.foreign_mib: dict[str, int] = {}
        self.stopped = False
        self.reads: list[str] = []
        self.forgiven: list[tuple[str, str, float]] = []
        self.changes: dict[str, dict[str, Any]] = {}
        """Fields of a device's next readings by UUID, where they differ from those of a healthy one."""
        self.closeness: dict[str, Matrix] = {}
        """Of a node's devices, by node; none is known of others."""
        self.renewals: list[tuple[float, float]] = []
        self.asks: dict[str, NodeAsk] = {}
        """What the newest `scale` asks for."""
        self.granted: set[str] = set()
        self.released: frozenset[str] = frozenset()
        """What it gives back."""
        self.labels: dict[str, dict[str, str]] = {}
        """Labels of nodes, where they have any."""
        self._automatic = automatic
        self._cpus_milli = cpus * 1000
        self._memory_mib = memory_mib
        self._listener: Listener | None = None
        self._next_pid = 1000

    # Cluster

    def start(self, listener: Listener) -> None:
        self._listener = listener
        if self._automatic:
            self.up(time.monotonic())

    def stop(self, timeout_s: float) -> None:
        self.stopped = True

    def start_executor(self, spec: ExecutorSpec) -> None:
        self._next_pid += 1
        self.executors[spec.executor_id] = FakeExecutor(spec, self._next_pid)
        if self._automatic and not spec.fresh:
            self.started(spec.executor_id)

    def run(self, executor_id: str, *runs: RunSpec) -> None:
        executor = self.executors.get(executor_id)
        if executor is None:
            return
        executor.runs += runs
        if not self._automatic:
            return
        if executor.spec.fresh:
            self.begin(executor_id)
        for _ in runs:
            self.finish(executor_id)
        if executor.spec.fresh:
            self.end(executor_id, EndCause.STOPPED)

    def stop_executor(self, executor_id: str, *, force: bool) -> None:
        executor = self.executors.get(executor_id)
        if executor is not None and (force or not executor.runs):
            self.end(executor_id, EndCause.STOPPED)

    def signal_executor(self, executor_id: str, signum: int) -> None:
        if executor := self.executors.get(executor_id):
            executor.signals.append(signum)

    def keep_alive(self, sent_at: float, lease_s: float) -> None:
        self.renewals.append((sent_at, lease_s))

    def forgive(self, node_id: str, uuid: str, up_to: float) -> None:
        self.forgiven.append((node_id, uuid, up_to))

    def scale(self, asks: Sequence[NodeAsk], released: Collection[str]) -> None:
        self.asks = {ask.ask_id: ask for ask in asks}
        self.granted &= self.asks.keys()
        self.released = frozenset(released)
        free = next((node_id for node_id in self.nodes if node_id in self.released), None)
        for ask_id in (self.asks.keys() - self.granted) if self._automatic and free else ():
            self.granted.add(ask_id)
            self._send(NodeGranted(ask_id, str(free)))

    def read_node(self, node_id: str) -> None:
        self.reads.append(node_id)
        if self._automatic and node_id in self.nodes and node_id not in self.released:
            self._send(NodeRead(self.reading(node_id, time.monotonic())))

    # What a test makes happen

    def up(self, now: float) -> None:
        """The cluster answers, and every node is read."""
        self._send(ClusterUp("fake"))
        self.read_all(now)

    def down(self, detail: str = "gone") -> None:
        """The cluster is lost with every executor."""
        self.executors.clear()
        self._send(ClusterDown(detail))

    def read_all(self, now: float) -> None:
        """A reading of every node, taken at `now`."""
        for node_id in self.nodes:
            if node_id not in self.released:
                self._send(NodeRead(self.reading(node_id, now)))

    def grant(self, ask_id: str, node_id: str, devices: Iterable[tuple[str, str, int]], now: float) -> None:
        """A node comes for an ask: its devices by uuid, type and total MiB."""
        assert ask_id in self.asks, f"nobody asks {ask_id}"
        assert ask_id not in self.granted, f"{ask_id} was granted before"
        self.granted.add(ask_id)
        self.nodes[node_id] = tuple(devices)
        self._send(NodeGranted(ask_id, node_id))
        self._send(NodeRead(self.reading(node_id, now)))

    def remove(self, node_id: str) -> None:
        """A node goes away with everything on it."""
        del self.nodes[node_id]
        for executor_id, executor in list(self.executors.items()):
            if executor.spec.node_id == node_id:
                self.end(executor_id, EndCause.NODE_LOST)
        self._send(NodeLost(node_id))

    def reading(self, node_id: str, now: float) -> NodeReading:
        """What the node shows: what executors use, and what was set as foreign."""
        return NodeReading(
            node_id=node_id,
            name=node_id,
            address="127.0.0.1",
            cpus_milli=self._cpus_milli,
            memory_mib=self._memory_mib,
            labels=self.labels.get(node_id, {}),
            devices=tuple(
                self._device(index, uuid, name, total)
                for index, (uuid, name, total) in enumerate(self.nodes[node_id])
            ),
            requested_at=now,
            simulated=True,
            closeness=self.closeness.get(node_id, ()),
        )

    def _device(self, index: int, uuid: str, name: str, total: int) -> DeviceReading:
        processes = tuple(
            DeviceProcess(executor.pid, executor.used_mib)
            for executor in self.executors.values()
            if uuid in executor.spec.device_uuids and executor.used_mib
        )
        used = sum(process.used_mib or 0 for process in processes) + self.foreign_mib.get(uuid, 0)
        reading = DeviceReading(uuid, index, name, total, used, processes)
        return replace(reading, **self.changes.get(uuid, {}))

    def started(self, executor_id: str) -> None:
        """The executor is up."""
        executor = self.executors[executor_id]
        executor.started = True
        self._send(ExecutorStarted(executor_id, executor.pid))

    def start_all(self) -> None:
        """Every warm executor that was asked for is up."""
        for executor_id, executor in list(self.executors.items()):
            if not executor.started and not executor.spec.fresh:
                self.started(executor_id)

    def begin(self, executor_id: str) -> None:
        """A fresh executor's process has begun its task."""
        executor = self.executors[executor_id]
        assert executor.runs, f"{executor_id} has no run"
        self._send(RunStarted(executor_id, executor.runs[0].run_id, executor.pid))

    def finish(
        self,
        executor_id: str,
        retval: Any = "None",
        *,
        failed: bool = False,
        rss_mib: int | None = None,
        seconds: float | None = None,
        peak_mib: int | None = None,
        attribution: Attribution = Attribution.PID,
    ) -> None:
        """The first of the executor's runs comes back."""
        executor = self.executors[executor_id]
        assert executor.runs, f"{executor_id} has no run"
        run = executor.runs.pop(0)
        outcome = pickle.dumps((int(failed), retval, 0.1))
        by = None if peak_mib is None else attribution.value
        self._send(RunEnded(executor_id, run.run_id, outcome, rss_mib, seconds, peak_mib, by))

    def run_out(self, executor_id: str, detail: str = "out of memory") -> None:
        """The GPU memory of the first of the executor's runs runs out; the others come back."""
        run = self.executors[executor_id].runs.pop(0)
        assert run.may_place_again, f"{run.task_id} would fail"
        self._send(RunOutOfMemory(executor_id, run.run_id, detail))
        self.give_back(executor_id)

    def give_back(self, executor_id: str) -> None:
        """The executor gives back all that it was given and has not begun."""
        runs, self.executors[executor_id].runs = self.executors[executor_id].runs, []
        for run in runs:
            self._send(RunReturned(executor_id, run.run_id))

    def end(
        self,
        executor_id: str,
        cause: EndCause = EndCause.DIED,
        detail: str = "",
        progress: Progress | None = None,
    ) -> None:
        """The executor is gone, with its runs and its memory."""
        if self.executors.pop(executor_id, None):
            self._send(ExecutorEnded(executor_id, cause, detail or cause, progress))

    def _send(self, event: Any) -> None:
        assert self._listener is not None, "the cluster was not started"
        self._listener(event)
