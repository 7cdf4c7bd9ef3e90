"""The working copy of a snapshot within one cycle: what is left after the placements decided so far.

Only `cycle.place` uses it; the snapshot itself never changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from celeray.scheduler.model import DeviceState, NodeState, ResourceRequest, Snapshot, WarmExecutor


@dataclass(slots=True)
class BoardDevice:
    """A device with what is left on it in this cycle."""

    state: DeviceState
    order: int
    """Position in the snapshot: the fixed order that breaks ties."""
    room_mib: int
    holders: int
    exclusive: bool
    held: bool = False
    """Its room is promised to an earlier task that waits for memory to come back."""


@dataclass(slots=True)
class BoardNode:
    """A node with what is left on it in this cycle."""

    state: NodeState
    devices: list[BoardDevice]
    cpus_milli: int
    memory_mib: int
    starts: int


class Board:
    """Mutable picture of one cycle, built from a snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.nodes: list[BoardNode] = []
        self.devices: dict[str, BoardDevice] = {}
        order = 0
        for node in snapshot.nodes:
            devices = []
            for device in node.devices:
                entry = BoardDevice(device, order, device.schedulable_mib, device.holders, device.exclusive)
                self.devices[device.uuid] = entry
                devices.append(entry)
                order += 1
            self.nodes.append(
                BoardNode(node, devices, node.cpus_free_milli, node.memory_free_mib, node.starts_free)
            )
        self._node_by_id = {node.state.node_id: node for node in self.nodes}
        self._executors = {executor.executor_id: executor for executor in snapshot.executors}
        self._idle_by_class: dict[str, list[WarmExecutor]] = {}
        self.starting_by_class: dict[str, int] = {}
        for executor in sorted(snapshot.executors, key=lambda e: (e.last_used, e.executor_id)):
            if executor.starting:
                count = self.starting_by_class.get(executor.executor_class, 0)
                self.starting_by_class[executor.executor_class] = count + 1
            elif executor.idle:
                self._idle_by_class.setdefault(executor.executor_class, []).append(executor)

    def node(self, node_id: str) -> BoardNode | None:
        """The node, or None where the snapshot has no reading of it."""
        return self._node_by_id.get(node_id)

    def idle_of_class(self, executor_class: str) -> list[WarmExecutor]:
        """Idle executors of a class, least recently used first."""
        return self._idle_by_class.get(executor_class, [])

    def idle_on(self, node_id: str) -> list[WarmExecutor]:
        """All idle executors of a node, least recently used first."""
        found = [e for idle in self._idle_by_class.values() for e in idle if e.node_id == node_id]
        return sorted(found, key=lambda e: (e.last_used, e.executor_id))

    def take_executor(self, executor: WarmExecutor, request: ResourceRequest) -> None:
        """An idle executor gets a task: it is idle no more, and its node has fewer CPUs."""
        self._idle_by_class[executor.executor_class].remove(executor)
        node = self._node_by_id[executor.node_id]
        node.cpus_milli -= request.cpus_milli

    def take_room(
        self, node: BoardNode, devices: Iterable[BoardDevice], request: ResourceRequest, memory_mib: int
    ) -> None:
        """A new executor takes memory on the devices, and CPUs, host memory and a start of the node."""
        for device in devices:
            device.room_mib -= memory_mib
            device.holders += 1
            device.exclusive = device.exclusive or request.exclusive
        node.cpus_milli -= request.cpus_milli
        node.memory_mib -= request.host_memory_mib
        node.starts -= 1

    def evict(self, executor: WarmExecutor) -> None:
        """An idle executor is told to end; its room is not free yet."""
        self._idle_by_class[executor.executor_class].remove(executor)

    def hold(self, devices: Iterable[BoardDevice]) -> None:
        """Keep the devices' room for a task that waits for memory to come back."""
        for device in devices:
            device.held = True
