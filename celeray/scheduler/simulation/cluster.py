"""The simulated cluster's book: what is free on each node. Kept apart from the code that places, and checks it.

A node's state is an immutable value that is replaced when something begins or ends there; the others stay the same
objects from snapshot to snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from celeray.scheduler.errors import CelerayError
from celeray.scheduler.model import (
    DeviceState,
    NodeState,
    Placement,
    ResourceRequest,
    Snapshot,
    WarmExecutor,
)
from celeray.scheduler.simulation.nodes import NodeSpec


class SimulationError(CelerayError):
    """A placement that the cluster can't hold: a defect of the code that places."""


class SimulatedCluster:
    """Nodes, and what the placements so far have taken of them. The order of the nodes is the one that breaks ties."""

    def __init__(self, nodes: Sequence[NodeSpec]) -> None:
        self._nodes = [node.idle() for node in nodes]
        self._index = {node.node_id: index for index, node in enumerate(self._nodes)}
        self.capacity_mib = sum(device.total_mib for node in self._nodes for device in node.devices)
        self.used_mib = 0

    @property
    def nodes(self) -> Sequence[NodeState]:
        """As they are now. Not to be changed."""
        return self._nodes

    def node(self, node_id: str) -> NodeState:
        return self._nodes[self._index[node_id]]

    def snapshot(self, executors: Iterable[WarmExecutor] = ()) -> Snapshot:
        """The cluster as `place` takes it."""
        return Snapshot(tuple(self._nodes), tuple(executors))

    def take(self, placement: Placement, request: ResourceRequest) -> None:
        """A task begins where it was placed.

        Raises:
            SimulationError: there is no room for it, or the placement is not what was asked for.
        """
        node = self.node(placement.node_id)
        chosen = set(placement.device_uuids)
        if len(chosen) != request.gpus or len(placement.device_uuids) != request.gpus:
            raise SimulationError(f"{placement}: {request.gpus} device(s) were asked for")
        self._change(node, chosen, lambda device: _taken(device, placement, request), request, -1)
        self.used_mib += placement.memory_mib * request.gpus

    def give_back(self, placement: Placement, request: ResourceRequest) -> None:
        """A task that `take` began has ended."""
        node = self.node(placement.node_id)
        chosen = set(placement.device_uuids)
        self._change(node, chosen, lambda device: _given_back(device, placement), request, 1)
        self.used_mib -= placement.memory_mib * request.gpus

    def _change(
        self,
        node: NodeState,
        chosen: set[str],
        changed: Callable[[DeviceState], DeviceState],
        request: ResourceRequest,
        sign: int,
    ) -> None:
        cpus = node.cpus_free_milli + sign * request.cpus_milli
        memory = node.memory_free_mib + sign * request.host_memory_mib
        if cpus < 0 or memory < 0:
            raise SimulationError(f"{node.name}: {-cpus} mCPU or {-memory} MiB of host memory too much")
        found = chosen & {device.uuid for device in node.devices}
        if found != chosen:
            raise SimulationError(f"{node.name} has no device {', '.join(sorted(chosen - found))}")
        devices = tuple(changed(device) if device.uuid in chosen else device for device in node.devices)
        self._nodes[self._index[node.node_id]] = replace(
            node, cpus_free_milli=cpus, memory_free_mib=memory, devices=devices
        )


def _taken(device: DeviceState, placement: Placement, request: ResourceRequest) -> DeviceState:
    left = device.schedulable_mib - placement.memory_mib
    wanted = device.total_mib if request.exclusive else request.memory_mib or 0
    if left < 0 or device.exclusive or (request.exclusive and device.holders):
        raise SimulationError(f"{device.uuid} has {device.schedulable_mib} MiB left: {placement}")
    if placement.memory_mib < wanted:
        raise SimulationError(f"{device.uuid}: {wanted} MiB were asked for: {placement}")
    return replace(device, schedulable_mib=left, holders=device.holders + 1, exclusive=request.exclusive)


def _given_back(device: DeviceState, placement: Placement) -> DeviceState:
    return replace(
        device,
        schedulable_mib=device.schedulable_mib + placement.memory_mib,
        holders=device.holders - 1,
        exclusive=False,
    )
