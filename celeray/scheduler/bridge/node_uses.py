"""Since when each node of an elastic type runs nothing, as the bridge sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from celeray.scheduler.bridge.executors import Executor
from celeray.scheduler.elastic.deciding import NodeUse
from celeray.scheduler.elastic.matching import type_of
from celeray.scheduler.elastic.node_types import NodeType
from celeray.scheduler.model import NodeReading
from celeray.scheduler.states import ExecutorState

SETTLING_S = 60.0
"""So long after it was first seen, a node's devices may still become this bridge's; later another bridge has them."""


@dataclass(slots=True)
class _Seen:
    type: str
    first_at: float
    used_at: float
    leased: bool


class NodeUses:
    """Belongs to the consumer thread. Times are monotonic seconds."""

    def __init__(self, types: Mapping[str, NodeType]) -> None:
        self._types = types
        self._seen: dict[str, _Seen] = {}
        self._first: dict[str, float] = {}
        """When each node was first seen, those of no type too."""
        self._others: tuple[str, ...] = ()
        """Nodes of no type with devices that are not leased."""

    def look(
        self, readings: Iterable[NodeReading], executors: Iterable[Executor], now: float
    ) -> tuple[str, ...]:
        """Take in how things stand; nodes that are in no reading are forgotten. Returns those that are newly leased."""
        leased_now = []
        before, self._seen, others = self._seen, {}, []
        first, self._first = self._first, {}
        for reading in readings:
            self._first[reading.node_id] = first.get(reading.node_id, now)
            name = type_of(reading, self._types)
            if name is None and reading.unleased:
                others.append(reading.node_id)
            if name is not None:
                seen = before.get(reading.node_id) or _Seen(name, now, now, leased=False)
                seen.type, leased = name, bool(reading.devices) and not reading.unleased
                if leased and not seen.leased:
                    seen.used_at = now
                    leased_now.append(reading.node_id)
                seen.leased = leased
                self._seen[reading.node_id] = seen
        self._others = tuple(others)
        for executor in executors:
            idle = executor.state is ExecutorState.IDLE
            self.used(executor.node_id, executor.changed_at if idle else now)
        return tuple(leased_now)

    def used(self, node_id: str, at: float) -> None:
        """Something ran there at that time."""
        if seen := self._seen.get(node_id):
            seen.used_at = max(seen.used_at, at)

    def of_nodes(self, now: float) -> dict[str, NodeUse]:
        """The nodes of a type, by id."""
        return {
            node_id: NodeUse(
                seen.type, max(0.0, now - seen.used_at), seen.leased, now - seen.first_at < SETTLING_S
            )
            for node_id, seen in self._seen.items()
        }

    def settling(self, now: float) -> bool:
        """Whether a node of no type came a short while ago, and is not leased yet: what it gives is not known."""
        return any(now - self._first[node_id] < SETTLING_S for node_id in self._others)

    def type_of(self, node_id: str) -> str | None:
        """None: it is of none, or not there."""
        seen = self._seen.get(node_id)
        return None if seen is None else seen.type

    def forget(self, node_id: str) -> None:
        """It is given back, or comes as a new one."""
        self._seen.pop(node_id, None)

    def clear(self) -> None:
        """The cluster is gone."""
        self._seen, self._first, self._others = {}, {}, ()
