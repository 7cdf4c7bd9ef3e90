"""When what waits would begin on a node: a list schedule over expected run times, in the order of placement.

Coarser than `placement/forecasting.py`, which runs whole cycles and may take seconds: here each task is looked at once,
so that a bridge can afford it every few seconds. Room is a list of pieces, each with the time at which it is free. Idle
executors give theirs at once; starts of executors take no time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from celeray.scheduler.model import DeviceState, NodeState, ResourceRequest, WarmExecutor
from celeray.scheduler.placement.filters import could_fit_idle, type_rank
from celeray.scheduler.placement.policy import Policy


class Room:
    """An amount of one resource, in pieces that are free from different times on."""

    def __init__(self, pieces: Iterable[tuple[int, int]]) -> None:
        """
        Args:
            pieces: free from (ms), and how much.
        """
        self._pieces = sorted(piece for piece in pieces if piece[1] > 0)

    def free_at(self, need: int) -> int | None:
        """When `need` is free together, in ms; None: never."""
        if need <= 0:
            return 0
        found = 0
        for at, amount in self._pieces:
            found += amount
            if found >= need:
                return at
        return None

    def all_free_at(self) -> int:
        """When nothing of it is in use."""
        return self._pieces[-1][0] if self._pieces else 0

    def take(self, need: int, at: int, until: int) -> None:
        """Use `need` from `at` until `until`; of the pieces free by then the latest, so that what is free now stays."""
        kept = [piece for piece in self._pieces if piece[0] > at]
        left = need
        for free_from, amount in reversed([piece for piece in self._pieces if piece[0] <= at]):
            used = min(left, amount)
            left -= used
            if amount > used:
                kept.append((free_from, amount - used))
        if need > left:
            kept.append((until, need - left))
        self._pieces = sorted(kept)

    def take_all(self, until: int) -> None:
        """Use the whole until `until`."""
        whole = sum(amount for _, amount in self._pieces)
        self._pieces = [(until, whole)] if whole else []


@dataclass(frozen=True, slots=True)
class Start:
    """Where and when a task would begin."""

    at_ms: int
    devices: tuple[int, ...]
    """Positions on the node."""


class Timeline:
    """One node."""

    def __init__(
        self, node: NodeState, executors: Sequence[WarmExecutor], policy: Policy, *, from_ms: int = 0
    ) -> None:
        """
        Args:
            executors: those on the node.
            from_ms: from when on it can be used.
        """
        self.node = node
        self.from_ms = from_ms
        self.used = False
        """Whether any task was given to it."""
        self._policy = policy
        self._starts: dict[ResourceRequest, Start | None] = {}
        """As long as nothing more was given to it."""
        self._fits: dict[ResourceRequest, bool] = {}
        ends = {executor.executor_id: _end_of(executor, policy) for executor in executors}
        self._devices = [_device_room(device, executors, ends) for device in node.devices]
        self._cpus = Room(
            [(0, node.cpus_free_milli), *((ends[e.executor_id], e.cpus_milli) for e in executors)]
        )
        self._memory = Room(
            [(0, node.memory_free_mib), *((ends[e.executor_id], e.host_memory_mib) for e in executors)]
        )

    def start(self, request: ResourceRequest) -> Start | None:
        """The earliest one, on the devices that are free first; None: the node can't hold the request."""
        if request not in self._starts:
            self._starts[request] = self._find(request)
        return self._starts[request]

    def _find(self, request: ResourceRequest) -> Start | None:
        if not self._could_fit(request):
            return None
        cpus, memory = self._cpus.free_at(request.cpus_milli), self._memory.free_at(request.host_memory_mib)
        if cpus is None or memory is None:
            return None
        options = [
            (at, type_rank(request, self.node.devices[place]) or 0, place)
            for place in (range(len(self._devices)) if request.gpus else ())
            if (at := self._device_free_at(request, place)) is not None
        ]
        if len(options) < request.gpus:
            return None
        chosen = sorted(options)[: request.gpus]
        at = max([self.from_ms, cpus, memory, *(option[0] for option in chosen)])
        return Start(at, tuple(option[-1] for option in chosen))

    def book(self, request: ResourceRequest, start: Start, run_ms: int) -> None:
        """A task takes what `start` found."""
        until = start.at_ms + run_ms
        for place in start.devices:
            if request.exclusive or self.node.devices[place].exclusive_process:
                self._devices[place].take_all(until)
            else:
                self._devices[place].take(request.memory_mib or 0, start.at_ms, until)
        self._cpus.take(request.cpus_milli, start.at_ms, until)
        self._memory.take(request.host_memory_mib, start.at_ms, until)
        self.used = True
        self._starts.clear()

    def _could_fit(self, request: ResourceRequest) -> bool:
        known = self._fits.get(request)
        if known is None:
            usable = not self.node.draining
            known = self._fits[request] = usable and could_fit_idle(request, self.node, self._policy)
        return known

    def _device_free_at(self, request: ResourceRequest, place: int) -> int | None:
        state, room = self.node.devices[place], self._devices[place]
        if not state.usable or type_rank(request, state) is None:
            return None
        if request.exclusive and state.foreign_mib > self._policy.exclusive_foreign_mib:
            return None
        at = room.free_at(max(1, request.memory_mib or 0))
        if at is None or not (request.exclusive or state.exclusive_process):
            return at
        return room.all_free_at()


def _device_room(device: DeviceState, executors: Sequence[WarmExecutor], ends: dict[str, int]) -> Room:
    pieces = [(0, device.schedulable_mib + device.reclaiming_mib)]
    pieces += [(ends[e.executor_id], e.memory_mib) for e in executors if device.uuid in e.device_uuids]
    return Room(pieces)


def _end_of(executor: WarmExecutor, policy: Policy) -> int:
    if executor.idle or executor.starting:
        return 0
    return policy.order.unknown_run_ms if executor.ends_in_ms is None else max(0, executor.ends_in_ms)
