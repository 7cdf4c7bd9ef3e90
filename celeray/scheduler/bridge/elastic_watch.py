"""Asks Ray's autoscaler for nodes and gives idle ones back, as `elastic.deciding` decides from what the bridge holds.

Giving back takes two steps. First the node is leaving: nothing new is placed there, and its idle executors end with
Celery's shutdown signals. When none is left the devices go back, and the node is forgotten here; until Ray has taken it
away it can be taken back at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from celeray.scheduler.bridge.dispatcher import Dispatcher
from celeray.scheduler.bridge.node_uses import NodeUses
from celeray.scheduler.cluster import Cluster, ClusterDown, ClusterEvent, NodeAsk, NodeGranted, NodeLost
from celeray.scheduler.elastic.deciding import Ask, Decision, Situation, decide
from celeray.scheduler.elastic.node_types import NodeType
from celeray.scheduler.elastic.overview import ElasticStatus
from celeray.scheduler.model import WaitingTask
from celeray.scheduler.settings import Settings
from celeray.scheduler.states import ExecutorState

logger = logging.getLogger(__name__)

EVERY_S = 2.0
"""Between two decisions. A node is asked for when two in a row want it, so a moment's picture asks for none."""
EXPECTED_S = 20.0
"""So long a node that was granted or taken back counts as one that is about to come, before a reading shows it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A node that was asked for and has not come."""

    ask: NodeAsk
    type: str
    at: float
    """Monotonic seconds."""


class ElasticWatch:
    """Of one bridge. Belongs to the consumer thread. Without any type it does nothing."""

    def __init__(self, dispatcher: Dispatcher, cluster: Cluster, settings: Settings) -> None:
        self._dispatcher = dispatcher
        self._fleet = dispatcher.fleet
        self._cluster = cluster
        self._types: Mapping[str, NodeType] = settings.elastic
        self._idle_s = settings.elastic_idle_s
        self._uses = NodeUses(self._types)
        self._asked: dict[str, Asked] = {}
        self._expected: dict[str, tuple[str, float]] = {}
        """Type and since when, by node id: granted or taken back, and not leased yet."""
        self._numbers = count(1)
        self._wanted: Mapping[str, int] = {}
        """By the last decision."""
        self._leaving: dict[str, str] = {}
        """Type by node id: its executors end."""
        self._released: dict[str, str] = {}
        """Type by node id: given back, and not gone as far as is known."""
        self._decided_at: float | None = None

    def note(self, event: ClusterEvent) -> None:
        """Take an event of the cluster, before the dispatcher does."""
        match event:
            case NodeGranted(ask_id, node_id):
                if asked := self._asked.pop(ask_id, None):
                    self._expected[node_id] = asked.type, self._dispatcher.now()
                    self._came(asked.type, node_id)
            case NodeLost(node_id):
                self._leaving.pop(node_id, None)
                self._expected.pop(node_id, None)
                if self._released.pop(node_id, None):
                    logger.info("node %s, which was given back, is gone", node_id)
                self._mark()
            case ClusterDown():
                # The next cluster may know none of these nodes, and its autoscaler begins anew.
                self._asked, self._leaving, self._released, self._wanted = {}, {}, {}, {}
                self._uses.clear()
                self._expected.clear()
                self._mark()

    def run_once(self, now: float) -> None:
        """Do all of it. `now` is monotonic seconds."""
        ledger = self._fleet.ledger
        if not self._types or not self._dispatcher.cluster.up or not ledger.readings():
            return
        for node_id in self._uses.look(ledger.readings(), self._fleet.executors, now):
            self._answer(node_id)
        self._give_back_what_is_empty()
        if self._decided_at is None or now - self._decided_at >= EVERY_S:
            self._decided_at = now
            self._carry_out(decide(self._situation(now)), now)
        self._cluster.scale([asked.ask for asked in self._asked.values()], self._released.keys())

    def status(self, now: float) -> tuple[ElasticStatus, ...]:
        """How it stands with each type; `now` is monotonic seconds."""
        uses = self._uses.of_nodes(now)
        found = []
        for name, kind in sorted(self._types.items()):
            asked = [entry.at for entry in self._asked.values() if entry.type == name]
            there = [node_id for node_id, use in uses.items() if use.type == name and use.leased]
            found.append(
                ElasticStatus(
                    type=name,
                    min=kind.min,
                    max=kind.max,
                    there=sum(node_id not in self._leaving for node_id in there),
                    asked=len(asked),
                    asked_since=time.time() - (now - min(asked)) if asked else None,
                    leaving=sum(of == name for of in self._leaving.values()),
                    released=sum(of == name for of in self._released.values()),
                )
            )
        return tuple(found)

    def _came(self, name: str, node_id: str) -> None:
        """One less is wanted, and that another one is has to be seen twice: this node may not be read yet."""
        logger.info("a node of type %s came: %s", name, node_id)
        self._wanted = {**self._wanted, name: max(0, self._wanted.get(name, 0) - 1)}

    def _answer(self, node_id: str) -> None:
        """A node is newly leased. Where no ask got it, since its leases were first, it answers the oldest one."""
        if self._expected.pop(node_id, None):
            return
        name = self._uses.type_of(node_id)
        ask_id = next((key for key, entry in self._asked.items() if entry.type == name), None)
        if ask_id is not None and name is not None:
            del self._asked[ask_id]
            self._came(name, node_id)

    # Decide

    def _situation(self, now: float) -> Situation:
        known = self._uses.of_nodes(now)
        expected = {
            node_id: name
            for node_id, (name, since) in self._expected.items()
            if node_id not in known and now - since < EXPECTED_S
        }
        away = self._leaving | self._released | expected
        uses = {node_id: use for node_id, use in known.items() if node_id not in away}
        return Situation(
            waiting=self._waiting(now),
            snapshot=self._dispatcher.snapshot(now),
            policy=self._dispatcher.policy,
            types=self._types,
            nodes=uses,
            away=away,
            asks=[Ask(key, entry.type, now - entry.at) for key, entry in self._asked.items()],
            idle_s=self._idle_s,
        )

    def _waiting(self, now: float) -> list[WaitingTask]:
        """Without those whose executors don't start: more nodes would not help them."""
        times, blocked = self._dispatcher.times.expected, self._fleet.starts.blocked
        return [
            run.task_with_expected(times.expected_ms(run.name))
            for run in self._dispatcher.waiting
            if not blocked(run.task.executor_class, now)
        ]

    # Act

    def _carry_out(self, decided: Decision, now: float) -> None:
        for node_id in decided.take_back:
            if node_id not in self._expected:
                self._take_back(node_id, now)
        for name, wanted in decided.wanted.items():
            self._ask(name, wanted, now)
        self._wanted = decided.wanted
        for node_id in decided.release:
            self._let_go(node_id)
        self._mark()

    def _ask(self, name: str, wanted: int, now: float) -> None:
        """Have as many asks of the type as are wanted; the newest ones are withdrawn first."""
        of_type = [key for key, entry in self._asked.items() if entry.type == name]
        for key in of_type[wanted:]:
            logger.info("a node of type %s is not needed any more: ask %s is withdrawn", name, key)
            del self._asked[key]
        kind = self._types[name]
        more = 0 if self._uses.settling(now) else min(wanted, self._wanted.get(name, 0)) - len(of_type)
        for _ in range(more):
            key = f"{name}-{next(self._numbers)}"
            self._asked[key] = Asked(NodeAsk(key, kind.bundle, kind.labels), name, now)
            logger.info("a node of type %s is asked for as %s", name, key)

    def _let_go(self, node_id: str) -> None:
        use = self._uses.type_of(node_id)
        if use is None:
            return
        logger.info("node %s of type %s is idle and goes back", node_id, use)
        self._leaving[node_id] = use
        for executor in self._fleet.executors.alive():
            if executor.node_id == node_id and executor.state is ExecutorState.IDLE:
                self._fleet.stop(executor)

    def _take_back(self, node_id: str, now: float) -> None:
        logger.info("node %s is needed after all", node_id)
        self._leaving.pop(node_id, None)
        if name := self._released.pop(node_id, None):
            self._uses.forget(node_id)
            self._expected[node_id] = name, now
        else:
            self._uses.used(node_id, now)
        self._dispatcher.dirty = True

    def _give_back_what_is_empty(self) -> None:
        occupied = {executor.node_id for executor in self._fleet.executors}
        for node_id in self._leaving.keys() - occupied:
            self._released[node_id] = self._leaving.pop(node_id)
            self._uses.forget(node_id)
            self._fleet.lose_node(node_id)
        self._mark()

    def _mark(self) -> None:
        self._fleet.ledger.leaving = frozenset(self._leaving)
        self._dispatcher.cluster.given_back = frozenset(self._released)
