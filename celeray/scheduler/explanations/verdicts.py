"""Verdicts and forecasts of one published cycle as answers. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from celeray.scheduler.explanations import words
from celeray.scheduler.explanations.answers import (
    DeviceAnswer,
    HolderAnswer,
    NodeAnswer,
    ReservationAnswer,
    StartAnswer,
)
from celeray.scheduler.explanations.published import PublishedCycle
from celeray.scheduler.model import ResourceRequest, WarmExecutor
from celeray.scheduler.placement import explain
from celeray.scheduler.placement.explaining import DeviceVerdict
from celeray.scheduler.placement.forecasting import Forecast
from celeray.scheduler.placement.virtual_cluster import NEW
from celeray.scheduler.status import BridgeStatus


class Picture:
    """One bridge: what it published, and what its status adds."""

    def __init__(self, published: PublishedCycle, status: BridgeStatus) -> None:
        self.published = published
        self.status = status
        self.running: Mapping[str, tuple[str, ...]] = {e.executor_id: e.tasks for e in status.executors}
        """Task ids by executor."""
        self.names: Mapping[str, str] = {node.node_id: node.name for node in published.cycle.snapshot.nodes}
        self._tasks = {task.sequence: task.task_id for task in published.cycle.waiting}

    def age_s(self, now: float) -> float:
        """Of what was published; `now` is seconds since the epoch."""
        return max(0.0, now - self.published.at)

    def reservation(self, own: int | None) -> ReservationAnswer | None:
        """What the bridge keeps for a task. None: nothing, or for one that is not published.

        Args:
            own: sequence number of the task that is asked about.
        """
        found = self.published.reserved
        task_id = None if found is None else self._tasks.get(found.sequence)
        if found is None or task_id is None:
            return None
        return ReservationAnswer(
            task_id=task_id,
            own=found.sequence == own,
            node_name=self.names.get(found.node_id, found.node_id),
            device_uuids=found.device_uuids,
            starts_in_s=None if found.starts_in_ms is None else found.starts_in_ms / 1000,
        )

    def nodes(self, request: ResourceRequest, executor_class: str | None) -> tuple[NodeAnswer, ...]:
        """The verdict of every node and device for a request, whatever else waits."""
        cycle = self.published.cycle
        kept = self.reservation(None)
        found = explain(request, cycle.snapshot, cycle.policy, executor_class)
        return tuple(
            NodeAnswer(
                node_id=node.node_id,
                name=node.name,
                reason=node.reason,
                words=words.of_reason(node.reason),
                could_ever=node.could_ever,
                devices=tuple(self._device(device, kept) for device in node.devices),
            )
            for node in found.nodes
        )

    def _device(self, device: DeviceVerdict, kept: ReservationAnswer | None) -> DeviceAnswer:
        return DeviceAnswer(
            uuid=device.uuid,
            gpu_type=device.gpu_type,
            reason=device.reason,
            words=words.of_reason(device.reason),
            total_mib=device.total_mib,
            schedulable_mib=device.schedulable_mib,
            foreign_mib=device.foreign_mib,
            reserved_for=kept.task_id if kept is not None and device.uuid in kept.device_uuids else None,
            held_by=tuple(self._holder(executor) for executor in device.held_by),
        )

    def _holder(self, executor: WarmExecutor) -> HolderAnswer:
        return HolderAnswer(
            executor_id=executor.executor_id,
            executor_class=executor.executor_class,
            memory_mib=executor.memory_mib,
            exclusive=executor.exclusive,
            idle=executor.idle,
            tasks=self.running.get(executor.executor_id, ()),
            ends_in_s=None if executor.ends_in_ms is None else executor.ends_in_ms / 1000,
        )

    def start(self, found: Forecast) -> StartAnswer:
        """A forecast of this bridge."""
        placed = found.placement
        there = (
            placed is not None and placed.executor_id is not None and not placed.executor_id.startswith(NEW)
        )
        if found.starts_in_ms is None:
            assert found.why is not None
            text = words.NO_FORECAST[found.why]
        else:
            text = words.of_start(found.starts_in_ms / 1000, found.known)
        return StartAnswer(
            starts_in_s=None if found.starts_in_ms is None else found.starts_in_ms / 1000,
            known=found.known,
            why=found.why,
            words=text,
            node_name=self.names.get(placed.node_id) if placed else None,
            device_uuids=placed.device_uuids if placed else (),
            executor_id=placed.executor_id if placed and there else None,
        )
