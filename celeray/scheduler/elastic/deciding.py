"""`decide`: how many nodes of each type are wanted, which of those that are there go back, which are taken back.

A task gets a node of its own only where nothing else lets it begin in time. In the order of placement each waiting task
takes the earliest start on what is there, what was given back and is not gone yet, and what was asked for already; ties
in that order. One that would begin later than a node of its type takes to come (`start_s`) opens a new node, and later
tasks may queue on that for as long again. So a burst that is over in less than `start_s` asks for nothing.

Once asked, a node stays wanted as long as a task would begin earlier on it than elsewhere: both times come nearer at
the same pace, so what was asked for a reason is not withdrawn while that reason lasts.

What comes behind the others never changes what they get, so more of it never lowers a figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from celeray.scheduler.elastic.node_types import NodeType
from celeray.scheduler.elastic.timelines import Start, Timeline
from celeray.scheduler.model import NodeState, ResourceRequest, Snapshot, WaitingTask, WarmExecutor
from celeray.scheduler.placement.cycle import place
from celeray.scheduler.placement.filters import could_fit_idle, rank_of_type
from celeray.scheduler.placement.order import order_key
from celeray.scheduler.placement.policy import Policy

LOOKED_AT_MOST = 50_000
"""Devices for each request and nodes for each task that one decision looks at, about 100 ms; what comes behind is left
out until those before it have begun."""
LEASE_MS = 5_000
"""From the arrival of a node, or from taking one back, until its devices are leased and read."""


@dataclass(frozen=True, slots=True)
class NodeUse:
    """A node of a type, as far as this bridge has to do with it."""

    type: str
    idle_s: float = 0.0
    """For how long it has run nothing."""
    leased: bool = True
    """This bridge has all its devices."""
    settling: bool = False
    """It came a short while ago, so its devices may still become this bridge's."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A node that was asked for and has not come."""

    ask_id: str
    type: str
    asked_s: float
    """How long ago."""


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision is made from."""

    waiting: Sequence[WaitingTask]
    snapshot: Snapshot
    policy: Policy
    types: Mapping[str, NodeType]
    nodes: Mapping[str, NodeUse] = field(default_factory=dict)
    """By node id: the nodes of a type that are there and were not given back."""
    away: Mapping[str, str] = field(default_factory=dict)
    """Type by id of the nodes that are being given back, or were and are not gone yet."""
    asks: Sequence[Ask] = ()
    idle_s: float = 300.0
    """So long a node may be idle."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is wanted. Nothing of it has happened yet."""

    wanted: Mapping[str, int]
    """By type, nodes that are still to come, those on their way included; with what is there never above `max`."""
    release: tuple[str, ...] = ()
    """Ids of nodes to give back, idle for longest first."""
    take_back: tuple[str, ...] = ()
    """Ids of nodes that were given back, and are needed after all."""


def decide(situation: Situation) -> Decision:
    """Deterministic: the same input gives the same output."""
    return _Schedule(situation).run()


class _Schedule:
    def __init__(self, situation: Situation) -> None:
        self._now = situation
        self._policy = situation.policy
        self._types = situation.types
        self._fitting: dict[ResourceRequest, tuple[str, ...]] = {}
        self._late: set[ResourceRequest] = set()
        self._requests = {task.request for task in situation.waiting}
        self._executors: dict[str, list[WarmExecutor]] = {}
        for executor in situation.snapshot.executors:
            self._executors.setdefault(executor.node_id, []).append(executor)
        there = self._there()
        self._back = {
            node_id: self._line(name, node_id, LEASE_MS) for node_id, name in sorted(situation.away.items())
        }
        self._coming = [self._ask_line(ask) for ask in situation.asks if ask.type in self._types]
        self._opened: list[tuple[str, Timeline]] = []
        self._lines = [*there, *self._back.values(), *(line for _, line in self._coming)]
        self._arrived = len(there)
        count = Counter(use.type for use in situation.nodes.values())
        count.update(situation.away.values())
        self._room = {name: kind.max - count[name] for name, kind in self._types.items()}
        """By type, how many may be on their way."""
        asked = Counter(name for name, _ in self._coming)
        self._may_open = {name: room - asked[name] for name, room in self._room.items()}

    def run(self) -> Decision:
        for task in self._in_order():
            if task.request not in self._late:
                self._serve(task)
        wanted = Counter(name for name, line in (*self._coming, *self._opened) if line.used)
        return Decision(
            {name: max(0, min(wanted[name], self._room[name])) for name in sorted(self._types)},
            self._released(),
            tuple(node_id for node_id, line in self._back.items() if line.used),
        )

    # What there is

    def _there(self) -> list[Timeline]:
        lines = []
        for node in self._now.snapshot.nodes:
            if node.node_id in self._now.away:
                continue
            use = self._now.nodes.get(node.node_id)
            if use is not None and use.settling and not use.leased:
                lines.append(self._line(use.type, node.node_id, LEASE_MS))
                continue
            lines.append(Timeline(node, self._executors.get(node.node_id, ()), self._policy))
        return lines

    def _line(self, name: str, node_id: str, from_ms: int) -> Timeline:
        return Timeline(self._empty(name, node_id), (), self._policy, from_ms=from_ms)

    def _empty(self, name: str, node_id: str) -> NodeState:
        return self._types[name].empty(name, node_id, headroom_mib=self._policy.headroom_mib)

    def _ask_line(self, ask: Ask) -> tuple[str, Timeline]:
        """One that is overdue by its whole time counts as asked for just now: Ray may have none to give."""
        start_s = self._types[ask.type].start_s
        left_s = start_s - ask.asked_s
        due_s = start_s if left_s < -start_s else max(0.0, left_s)
        return ask.type, self._line(ask.type, f"asked/{ask.ask_id}", round(due_s * 1000))

    # What waits

    def _in_order(self) -> Iterator[WaitingTask]:
        order, looked_at = self._policy.order, 0
        devices = sum(1 + len(line.node.devices) for line in self._lines)
        seen: set[ResourceRequest] = set()
        for task in sorted(self._now.waiting, key=lambda t: order_key(t, order)):
            if looked_at > LOOKED_AT_MOST:
                return
            looked_at += len(self._lines) if task.request in seen else devices
            seen.add(task.request)
            yield task

    def _serve(self, task: WaitingTask) -> None:
        found = self._earliest(task.request)
        fitting = self._fitting_types(task.request)
        patience_ms = self._patience_ms(fitting)
        if found is not None:
            line, start = found
            if start.at_ms <= line.from_ms + patience_ms:
                line.book(task.request, start, self._run_ms(task))
                return
        name = next((name for name in fitting if self._may_open[name] > 0), None)
        if name is None:
            # Those behind it of its kind would begin no earlier, and what may be opened only gets less.
            self._late.add(task.request)
            return
        line = self._line(name, f"new/{len(self._opened)}", round(self._types[name].start_s * 1000))
        new_start = line.start(task.request)
        if new_start is None:
            self._late.add(task.request)
            return
        self._may_open[name] -= 1
        self._opened.append((name, line))
        self._lines.append(line)
        line.book(task.request, new_start, self._run_ms(task))

    def _earliest(self, request: ResourceRequest) -> tuple[Timeline, Start] | None:
        best: tuple[Timeline, Start] | None = None
        for line in self._lines:
            start = line.start(request)
            if start is not None and (best is None or start.at_ms < best[1].at_ms):
                best = line, start
                if start.at_ms == 0:
                    break
        return best

    def _patience_ms(self, fitting: Sequence[str]) -> int:
        """How late a task may begin on what is there, and after the arrival of what is not."""
        names = fitting[:1] or tuple(self._types)
        return round(min((self._types[name].start_s for name in names), default=0.0) * 1000)

    def _run_ms(self, task: WaitingTask) -> int:
        return self._policy.order.unknown_run_ms if task.expected_ms is None else task.expected_ms

    def _fitting_types(self, request: ResourceRequest) -> tuple[str, ...]:
        """Types that can hold the request: the preferred device first, then what wastes the least VRAM."""
        known = self._fitting.get(request)
        if known is None:
            fitting = [name for name in self._types if self._fits(request, name)]
            known = self._fitting[request] = tuple(
                sorted(fitting, key=lambda name: self._price(request, name))
            )
        return known

    def _fits(self, request: ResourceRequest, name: str) -> bool:
        if not self._types[name].max:
            return False
        task = WaitingTask("", "", request, 1, 0, 0)
        return bool(place((task,), Snapshot((self._empty(name, name),)), self._policy).placements)

    def _price(self, request: ResourceRequest, name: str) -> tuple[int, int, int, str]:
        kind = self._types[name]
        rank = rank_of_type(request.gpu_types, kind.gpu_type) or 0
        taken = 0 if request.exclusive else (request.memory_mib or 0)
        return rank, kind.vram_mib - taken, kind.gpus, name

    # What goes back

    def _released(self) -> tuple[str, ...]:
        by_id = {line.node.node_id: line for line in self._lines[: self._arrived]}
        kept = Counter(use.type for use in self._now.nodes.values() if use.leased)
        found = []
        for node_id, use in sorted(self._now.nodes.items(), key=lambda item: (-item[1].idle_s, item[0])):
            line = by_id.get(node_id)
            if line is None or use.type not in self._types or not self._may_go(use, line):
                continue
            if kept[use.type] > self._types[use.type].min:
                kept[use.type] -= 1
                found.append(node_id)
        return tuple(found)

    def _may_go(self, use: NodeUse, line: Timeline) -> bool:
        """Idle for long enough, with nothing on it that is not idle, and nothing waits that it could run."""
        node, reserved = line.node, self._now.snapshot.reserved
        if not use.leased or use.idle_s < self._now.idle_s or node.draining or line.used:
            return False
        if reserved is not None and reserved.node_id == node.node_id:
            return False
        if any(not executor.idle for executor in self._executors.get(node.node_id, ())):
            return False
        return not any(could_fit_idle(request, node, self._policy) for request in self._requests)
