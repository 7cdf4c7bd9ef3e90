"""The working copy of a snapshot within one cycle: what is left after the placements decided so far.

Only a cycle uses it; the snapshot itself never changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from celeray.scheduler.model import (
    DeviceState,
    NodeState,
    ResourceRequest,
    Snapshot,
    WaitingTask,
    WarmExecutor,
)


@dataclass(slots=True)
class BoardDevice:
    """A device with what is left on it in this cycle."""

    state: DeviceState
    column: int
    """Position on its node: the fixed order that breaks ties."""
    room_mib: int
    holders: int
    exclusive: bool
    held: bool = False
    """Its room is promised to an earlier task that waits for memory to come back."""
    spare_mib: int | None = None
    """Where room is reserved: what may be given to runs that don't end before it is needed. None: all of it."""

    def room_for(self, *, lasting: bool) -> int:
        """MiB that a run may get; a lasting one does not end before a reservation begins."""
        if lasting and self.spare_mib is not None:
            return min(self.room_mib, self.spare_mib)
        return self.room_mib


@dataclass(slots=True)
class BoardNode:
    """A node with what is left on it in this cycle."""

    state: NodeState
    row: int
    """Position in the snapshot: the fixed order that breaks ties."""
    devices: list[BoardDevice]
    cpus_milli: int
    memory_mib: int
    starts: int
    spare_cpus_milli: int | None = None
    """As a device's `spare_mib`."""
    spare_memory_mib: int | None = None

    def cpus_for(self, *, lasting: bool) -> int:
        """Milli CPUs that a run may get."""
        spare = self.spare_cpus_milli if lasting else None
        return self.cpus_milli if spare is None else min(self.cpus_milli, spare)

    def memory_for(self, *, lasting: bool) -> int:
        """MiB of host memory that a run may get."""
        spare = self.spare_memory_mib if lasting else None
        return self.memory_mib if spare is None else min(self.memory_mib, spare)


class Board:
    """Mutable picture of one cycle, built from a snapshot."""

    def __init__(self, snapshot: Snapshot, waiting: Iterable[WaitingTask] = ()) -> None:
        self._most_urgent: dict[str, int] = {}
        """Highest priority of the waiting tasks, by executor class."""
        for task in waiting:
            known = self._most_urgent.get(task.executor_class, 0)
            self._most_urgent[task.executor_class] = max(known, task.priority)
        self.nodes: list[BoardNode] = []
        self.devices: dict[str, BoardDevice] = {}
        for row, node in enumerate(snapshot.nodes):
            devices = []
            for column, device in enumerate(node.devices):
                entry = BoardDevice(device, column, device.schedulable_mib, device.holders, device.exclusive)
                self.devices[device.uuid] = entry
                devices.append(entry)
            self.nodes.append(
                BoardNode(node, row, devices, node.cpus_free_milli, node.memory_free_mib, node.starts_free)
            )
        self.taken: dict[str, int | None] = {}
        """Executors that got a task in this cycle, and how long it is expected to run."""
        self._builds: tuple[list[int], list[NodeState]] | None = None
        self._node_by_id = {node.state.node_id: node for node in self.nodes}
        self._idle_by_class: dict[str, list[WarmExecutor]] = {}
        self._soon_free: dict[str, list[WarmExecutor]] = {}
        self.starting_by_class: dict[str, int] = {}
        for executor in sorted(snapshot.executors, key=lambda e: (e.last_used, e.executor_id)):
            if executor.starting:
                count = self.starting_by_class.get(executor.executor_class, 0)
                self.starting_by_class[executor.executor_class] = count + 1
            elif executor.idle:
                self._idle_by_class.setdefault(executor.executor_class, []).append(executor)
            elif executor.free_in_ms is not None:
                self._soon_free.setdefault(executor.executor_class, []).append(executor)
        for executors in self._soon_free.values():
            executors.sort(key=lambda e: (e.free_in_ms, e.executor_id))

        idle = {e.node_id for executors in self._idle_by_class.values() for e in executors}
        self.clearable = [node for node in self.nodes if node.state.node_id in idle or _reclaims(node)]
        """Nodes where room may come back when idle executors end, or comes back already."""

    def node(self, node_id: str) -> BoardNode | None:
        """The node, or None where the snapshot has no reading of it."""
        return self._node_by_id.get(node_id)

    def builds(self) -> tuple[list[int], list[NodeState]]:
        """Nodes that are alike but for what runs there: of each node its place among them, and one of each."""
        if self._builds is None:
            places: dict[tuple[object, ...], int] = {}
            found: list[NodeState] = []
            alike = []
            for node in self.nodes:
                build = _build(node.state)
                if build not in places:
                    places[build] = len(found)
                    found.append(node.state)
                alike.append(places[build])
            self._builds = alike, found
        return self._builds

    def is_idle(self, executor: WarmExecutor) -> bool:
        """Whether it is idle still."""
        return executor.idle and executor.executor_id not in self.taken

    def idle_of_class(self, executor_class: str) -> Sequence[WarmExecutor]:
        """Idle executors of a class, least recently used first."""
        return self._idle_by_class.get(executor_class, ())

    def soon_free(self, executor_class: str) -> list[WarmExecutor]:
        """Busy executors of a class that nobody waits for yet, the first to be free first. Whoever waits takes one."""
        return self._soon_free.get(executor_class, [])

    def idle_on(self, node_id: str) -> list[WarmExecutor]:
        """All idle executors of a node, least recently used first."""
        found = [e for idle in self._idle_by_class.values() for e in idle if e.node_id == node_id]
        return sorted(found, key=lambda e: (e.last_used, e.executor_id))

    def stays(self, executor: WarmExecutor, priority: int) -> bool:
        """Whether an idle executor is not to end for a task of this priority.

        Two classes that both have tasks waiting, and room for one of them, would otherwise do nothing but load. With a
        stay of three times the start at most a quarter of a device's time goes into starts.
        """
        return executor.stays_ms > 0 and self._most_urgent.get(executor.executor_class, 0) >= priority

    def take_executor(
        self, place: int, executor: WarmExecutor, task: WaitingTask, *, lasting: bool
    ) -> BoardNode:
        """An idle executor gets a task: it is idle no more, and its node has fewer CPUs.

        Args:
            place: of the executor in `idle_of_class`.
            lasting: the run does not end before what is reserved begins.
        """
        del self._idle_by_class[executor.executor_class][place]
        self.taken[executor.executor_id] = task.expected_ms
        request, node = task.request, self._node_by_id[executor.node_id]
        node.cpus_milli -= request.cpus_milli
        if lasting:
            self._spend(
                node, map(self.devices.__getitem__, executor.device_uuids), request, executor.memory_mib
            )
        return node

    def take_room(
        self,
        node: BoardNode,
        devices: Sequence[BoardDevice],
        request: ResourceRequest,
        memory_mib: int,
        *,
        lasting: bool = False,
    ) -> None:
        """A new executor takes memory on the devices, and CPUs, host memory and a start of the node."""
        for device in devices:
            device.room_mib -= memory_mib
            device.holders += 1
            device.exclusive = device.exclusive or request.exclusive
        node.cpus_milli -= request.cpus_milli
        node.memory_mib -= request.host_memory_mib
        node.starts -= 1
        if lasting:
            self._spend(node, devices, request, memory_mib)

    @staticmethod
    def _spend(
        node: BoardNode, devices: Iterable[BoardDevice], request: ResourceRequest, memory_mib: int
    ) -> None:
        for device in devices:
            if device.spare_mib is not None:
                device.spare_mib -= memory_mib
        if node.spare_cpus_milli is not None:
            node.spare_cpus_milli -= request.cpus_milli
        if node.spare_memory_mib is not None:
            node.spare_memory_mib -= request.host_memory_mib

    def evict(self, executor: WarmExecutor) -> None:
        """An idle executor is told to end; its room is not free yet."""
        self._idle_by_class[executor.executor_class].remove(executor)

    def hold(self, devices: Iterable[BoardDevice]) -> None:
        """Keep the devices' room for a task that waits for memory to come back."""
        for device in devices:
            device.held = True


def _reclaims(node: BoardNode) -> bool:
    if node.state.reclaiming_memory_mib:
        return True
    return any(device.state.reclaiming_mib or device.state.reclaiming_holders for device in node.devices)


def _build(node: NodeState) -> tuple[object, ...]:
    devices = tuple((device.gpu_type, device.total_mib) for device in node.devices)
    return (node.cpus_milli, node.memory_mib, tuple(sorted(node.labels.items())), devices)
