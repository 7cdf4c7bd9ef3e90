"""A snapshot that goes on: what is placed begins, what runs ends, and room comes back. On a virtual clock, in no time.

An executor starts, and the room of one that ended comes back, at once: how long either takes is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from celeray.scheduler.model import (
    DeviceState,
    Isolation,
    NodeState,
    Placement,
    ResourceRequest,
    Snapshot,
    WaitingTask,
    WarmExecutor,
)

NEW = "new-"
"""Ids of executors that do not exist yet begin so."""


class VirtualCluster:
    """Nodes and executors that change as placements are carried out."""

    def __init__(self, snapshot: Snapshot, starting_cpus: Mapping[str, int]) -> None:
        """
        Args:
            starting_cpus: by executor class, the milli CPUs that its starting executors have booked.
        """
        self._nodes = {node.node_id: node for node in snapshot.nodes}
        self._absent = snapshot.absent
        self._preemptions = snapshot.preemptions
        self._executors = {executor.executor_id: executor for executor in snapshot.executors}
        self._booked = {
            executor.executor_id: starting_cpus.get(executor.executor_class, 0)
            for executor in snapshot.executors
            if executor.starting
        }
        self._fresh: set[str] = set()
        self._starting: list[str] = []
        """The node of each fresh process that began since things last settled."""
        self._evicted: list[WarmExecutor] = []
        self._used_last = max((executor.last_used for executor in snapshot.executors), default=0.0)
        self._started = 0
        self._reclaims = True

    def snapshot(self, now_ms: int, ends_in_ms: Mapping[str, int]) -> Snapshot:
        """As placement sees it.

        Args:
            now_ms: since the snapshot that it began with.
            ends_in_ms: by executor id, when what it runs is known to end, from now.
        """
        executors = tuple(
            _seen(executor, now_ms, ends_in_ms.get(executor.executor_id))
            for executor in self._executors.values()
        )
        nodes = tuple(self._nodes.values())
        return Snapshot(nodes, executors, self._absent, preemptions=self._preemptions)

    def begin(self, task: WaitingTask, placement: Placement) -> str:
        """A placed task begins, in the idle executor that was chosen or in a fresh process. Returns the executor."""
        executor_id = placement.executor_id or self.start(task, placement)
        executor = self._executors[executor_id]
        if placement.executor_id is not None:
            self._change_node(executor.node_id, cpus=-task.request.cpus_milli)
        else:
            self._fresh.add(executor_id)
            self._starting.append(executor.node_id)
        self._executors[executor_id] = replace(
            executor, idle=False, starting=False, cpus_milli=task.request.cpus_milli
        )
        return executor_id

    def start(self, task: WaitingTask, placement: Placement) -> str:
        """A new executor takes its room, and will be idle when it is up. Returns its id."""
        self._started += 1
        request, executor_id = task.request, f"{NEW}{self._started}"
        self._executors[executor_id] = WarmExecutor(
            executor_id=executor_id,
            executor_class=task.executor_class,
            node_id=placement.node_id,
            device_uuids=placement.device_uuids,
            memory_mib=placement.memory_mib,
            exclusive=request.exclusive,
            idle=False,
            last_used=self._used_last,
            host_memory_mib=request.host_memory_mib,
            starting=request.isolation is Isolation.WARM,
        )
        self._booked[executor_id] = request.cpus_milli
        self._take(placement, request)
        return executor_id

    def evict(self, executor_ids: Iterable[str]) -> None:
        """Idle executors are told to end."""
        self._evicted += [self._executors.pop(executor_id) for executor_id in executor_ids]

    def preempt(self, executor_ids: Iterable[str]) -> None:
        """Busy executors are killed. What they ran goes back to the broker, which this does not know."""
        for executor_id in executor_ids:
            executor = self._executors.pop(executor_id)
            self._fresh.discard(executor_id)
            self._change_node(executor.node_id, cpus=executor.cpus_milli)
            self._evicted.append(executor)

    def settle(self, now_ms: int) -> bool:
        """What is under way is done: starting executors are up, and ended ones have given their room back.

        An executor that has just come up stays for this instant, or starts and ends could alternate in it for ever.

        Returns:
            Whether anything was under way.
        """
        fresh, self._starting = self._starting, []
        for node_id in fresh:
            self._change_node(node_id, starts=1)
        starting = [executor for executor in self._executors.values() if executor.starting]
        for executor in starting:
            self._executors[executor.executor_id] = replace(
                executor, starting=False, idle=True, stays_ms=now_ms + 1
            )
            cpus = self._booked.pop(executor.executor_id, 0)
            self._change_node(executor.node_id, cpus=cpus, starts=1)
        evicted, self._evicted = self._evicted, []
        for executor in evicted:
            self._release(executor)
        came_back = self._reclaims and self._reclaim()
        self._preemptions = ()
        return bool(fresh or starting or evicted or came_back)

    def end(self, executor_id: str, now_ms: int) -> None:
        """The task that it runs is over, unless the executor was ended before."""
        executor = self._executors.get(executor_id)
        if executor is None:
            return
        self._change_node(executor.node_id, cpus=executor.cpus_milli)
        if executor_id in self._fresh:
            self._fresh.remove(executor_id)
            self._release(self._executors.pop(executor_id))
            return
        used = self._used_last + now_ms / 1000
        self._executors[executor_id] = replace(
            executor, idle=True, cpus_milli=0, last_used=used, ends_in_ms=None
        )

    def _reclaim(self) -> bool:
        self._reclaims = False
        found = False
        for node in list(self._nodes.values()):
            if node.reclaiming_memory_mib:
                found = True
                self._change_node(node.node_id, memory=node.reclaiming_memory_mib)
                self._nodes[node.node_id] = replace(self._nodes[node.node_id], reclaiming_memory_mib=0)
            coming = [d for d in node.devices if d.reclaiming_holders or d.reclaiming_mib]
            for device in coming:
                found = True
                self._put(node.node_id, _released(device, device.reclaiming_mib, device.reclaiming_holders))
        return found

    def _take(self, placement: Placement, request: ResourceRequest) -> None:
        self._change_node(
            placement.node_id, cpus=-request.cpus_milli, memory=-request.host_memory_mib, starts=-1
        )
        for device in self._devices(placement.node_id, placement.device_uuids):
            changed = replace(
                device,
                schedulable_mib=device.schedulable_mib - placement.memory_mib,
                holders=device.holders + 1,
                exclusive=device.exclusive or request.exclusive,
            )
            self._put(placement.node_id, changed)

    def _release(self, executor: WarmExecutor) -> None:
        self._change_node(executor.node_id, memory=executor.host_memory_mib)
        for device in self._devices(executor.node_id, executor.device_uuids):
            self._put(executor.node_id, _released(device, executor.memory_mib, 1))

    def _devices(self, node_id: str, uuids: Iterable[str]) -> list[DeviceState]:
        node, wanted = self._nodes.get(node_id), set(uuids)
        return [device for device in node.devices if device.uuid in wanted] if node else []

    def _put(self, node_id: str, changed: DeviceState) -> None:
        node = self._nodes[node_id]
        devices = tuple(changed if device.uuid == changed.uuid else device for device in node.devices)
        self._nodes[node_id] = replace(node, devices=devices)

    def _change_node(self, node_id: str, *, cpus: int = 0, memory: int = 0, starts: int = 0) -> None:
        # An executor may be on a node of which there is no reading.
        node = self._nodes.get(node_id)
        if node is not None:
            self._nodes[node_id] = _changed(node, cpus, memory, starts)


def _seen(executor: WarmExecutor, now_ms: int, ends_in_ms: int | None) -> WarmExecutor:
    if executor.idle:
        left = max(0, executor.stays_ms - now_ms)
        return executor if left == executor.stays_ms else replace(executor, stays_ms=left)
    if executor.starting:
        return executor
    # Of one whose end was known and was not one to wait for, that stays so.
    awaited = executor.free_in_ms is not None or executor.ends_in_ms is None
    return replace(executor, ends_in_ms=ends_in_ms, free_in_ms=ends_in_ms if awaited else None)


def _changed(node: NodeState, cpus: int, memory: int, starts: int) -> NodeState:
    return replace(
        node,
        cpus_free_milli=min(node.cpus_milli, node.cpus_free_milli + cpus),
        memory_free_mib=min(node.memory_mib, node.memory_free_mib + memory),
        starts_free=node.starts_free + starts,
    )


def _released(device: DeviceState, mib: int, holders: int) -> DeviceState:
    """What is over its total comes back to nobody; the rest may be given out again."""
    room = device.schedulable_mib - device.overrun_mib + mib
    left = max(0, device.holders - holders)
    return replace(
        device,
        schedulable_mib=max(0, room),
        overrun_mib=max(0, -room),
        holders=left,
        exclusive=device.exclusive and left > 0,
        reclaiming_mib=0,
        reclaiming_holders=0,
    )
