"""Ending the runs of a bridge that can't renew its leases any more, before anybody else may run their messages.

A bridge that is stopped, or cut off from Redis, can't end its own runs. So after each renewal it tells its driver, the
driver tells the node agents how long its executors may go on, and an agent kills them when that time is over.

The inequality that holds, with monotonic clocks alone and however long a message between the processes takes:

    Redis restores a message no earlier than  R + lease_s   where R is when the last renewal reached the server
    the bridge takes T before it sends that renewal:                    T <= R
    an agent's answer says its own clock A; it was read before the driver got the answer at D, and only answers with
    D <= T count (bridge and driver share one host, so one CLOCK_MONOTONIC):   A was read at some time <= D <= T <= R
    so the deadline A + lease_s - margin on the agent's clock comes at least `margin` before the message is restored

The margin is for the kill itself. What is left open: clocks that run at different speeds, by 10^-4 at the most, which
the margin covers, and a node agent that is itself stopped; the fence holds then. A late message only makes the
deadline come early: a run is then ended in vain, and runs again. An agent that was restarted knows nothing until the
next call, which carries everything.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Condition, Lock, Thread
from typing import Any

from celeray.actors.processes import ProcessId

MARGIN_SHARE, MARGIN_MAX_S = 0.1, 2.0
CALLS_A_LEASE = 12
CALL_MIN_S = 0.25
CALL_UNRENEWED_S = 0.5
"""Before the first renewal, so that an answer of each agent is there when it comes."""
ENDED_MAX = 1000
"""Processes that an agent remembers having ended."""

logger = logging.getLogger(__name__)


def margin_s(lease_s: float) -> float:
    """How long before the end of a lease its run is ended."""
    return min(lease_s * MARGIN_SHARE, MARGIN_MAX_S)


@dataclass(frozen=True, slots=True)
class Renewal:
    """The last one that succeeded."""

    sent_at: float
    """Monotonic seconds on the bridge's host, before it was sent."""
    lease_s: float


@dataclass(slots=True)
class AgentClock:
    """What the driver knows of one agent's clock."""

    answers: deque[tuple[float, float]] = field(default_factory=deque)
    """Pairs of when an answer came here and what it said, oldest first."""

    def add(self, received_at: float, clock: float) -> None:
        """Note an answer."""
        self.answers.append((received_at, clock))

    def forget_all_but_last(self) -> None:
        """Older answers are not needed any more."""
        while len(self.answers) > 1:
            self.answers.popleft()

    def deadline(self, renewal: Renewal) -> float | None:
        """On the agent's clock; None: no answer of it is old enough yet."""
        # Renewals only get later, so an older answer than the last that counts never counts again.
        while len(self.answers) > 1 and self.answers[1][0] <= renewal.sent_at:
            self.answers.popleft()
        if not self.answers or self.answers[0][0] > renewal.sent_at:
            return None
        return self.answers[0][1] + renewal.lease_s - margin_s(renewal.lease_s)


class Heartbeat:
    """The driver's side: calls each agent often, with everything that it must know.

    Without a renewal, as with a transport that has no leases, agents are asked for their clock and told no deadline.
    """

    def __init__(self, bridge_id: str) -> None:
        self._bridge_id = bridge_id
        self._lock = Lock()
        self._renewal: Renewal | None = None
        self._clocks: dict[str, AgentClock] = {}
        self._told: dict[str, tuple[float, frozenset[ProcessId]]] = {}
        """When each node's agent was called last, and about which processes."""

    def renewed(self, renewal: Renewal) -> None:
        """The bridge has renewed its leases. The next `tick` calls all agents."""
        with self._lock:
            self._renewal = renewal
            self._told = {node_id: (0.0, processes) for node_id, (_, processes) in self._told.items()}

    def tick(self, agents: dict[str, Any], processes: dict[str, frozenset[ProcessId]]) -> None:
        """Call the agents that are due: by time, or since their node has other executors than before.

        Args:
            agents: handle of the agent by node.
            processes: executors of this bridge by node.
        """
        with self._lock:
            renewal, now = self._renewal, time.monotonic()
            self._clocks = {node_id: self._clocks.get(node_id) or AgentClock() for node_id in agents}
            due = {
                node_id: (self._deadline(node_id), processes.get(node_id, frozenset()))
                for node_id in agents
                if self._is_due(node_id, processes.get(node_id, frozenset()), now - _every_s(renewal))
            }
            self._told |= {node_id: (now, mine) for node_id, (_, mine) in due.items()}
        for node_id, (deadline, mine) in due.items():
            self._call(node_id, agents[node_id], deadline, tuple(mine))

    def _deadline(self, node_id: str) -> float | None:
        clock = self._clocks[node_id]
        if self._renewal is None:
            # The renewal that comes is later than any answer that is here.
            clock.forget_all_but_last()
            return None
        return clock.deadline(self._renewal)

    def _is_due(self, node_id: str, processes: frozenset[ProcessId], before: float) -> bool:
        told_at, told = self._told.get(node_id, (0.0, frozenset()))
        return told_at <= before or told != processes

    def _call(
        self, node_id: str, agent: Any, deadline: float | None, processes: tuple[ProcessId, ...]
    ) -> None:
        def on_answer(future: Any) -> None:
            # An agent that restarts, or a node that is gone: its next answer counts.
            if future.exception() is None:
                with self._lock:
                    if (clock := self._clocks.get(node_id)) is not None:
                        clock.add(time.monotonic(), future.result())

        agent.keep_alive.remote(self._bridge_id, processes, deadline).future().add_done_callback(on_answer)


def _every_s(renewal: Renewal | None) -> float:
    """How often an agent is called."""
    return CALL_UNRENEWED_S if renewal is None else max(CALL_MIN_S, renewal.lease_s / CALLS_A_LEASE)


@dataclass(slots=True)
class _Bridge:
    processes: tuple[ProcessId, ...]
    deadline: float


class Supervisor:
    """The agent's side. Thread-safe."""

    def __init__(
        self, kill: Callable[[ProcessId], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            kill: ends an executor of this node at once; whether there was one.
        """
        self._kill = kill
        self._clock = clock
        self._changed = Condition()
        self._bridges: dict[str, _Bridge] = {}
        self._ended: OrderedDict[ProcessId, None] = OrderedDict()
        self._thread: Thread | None = None

    def keep_alive(self, bridge_id: str, processes: Sequence[ProcessId], deadline: float | None) -> float:
        """The executors of a bridge may go on until `deadline` on this clock; None: as before. Returns the clock."""
        with self._changed:
            known = self._bridges.get(bridge_id)
            if deadline is None:
                deadline = known.deadline if known else None
            if deadline is not None:
                self._bridges[bridge_id] = _Bridge(tuple(processes), deadline)
                self._changed.notify()
                if self._thread is None:
                    self._thread = Thread(target=self._run, name="celeray-supervisor", daemon=True)
                    self._thread.start()
        return self._clock()

    def was_ended(self, process: ProcessId) -> bool:
        """Whether this process was killed here since its bridge did not renew."""
        with self._changed:
            return process in self._ended

    def end_overdue(self) -> float | None:
        """Kill what is overdue; returns the next deadline, None where nothing runs."""
        with self._changed:
            now = self._clock()
            overdue = {name: it for name, it in self._bridges.items() if it.deadline <= now}
            for name, bridge in overdue.items():
                del self._bridges[name]
                # Before the kill, since its death may be asked about at once.
                self._ended.update(dict.fromkeys(bridge.processes))
            while len(self._ended) > ENDED_MAX:
                self._ended.popitem(last=False)
            following = self._following()
        for name, bridge in overdue.items():
            ended = [process.pid for process in bridge.processes if self._kill(process)]
            if ended:
                logger.warning("bridge %s does not renew its leases: ended its executors %s", name, ended)
        return following

    def _run(self) -> None:
        while True:
            with self._changed:
                # Looked at under the same lock as the wait, so that no call comes in between.
                following = self._following()
                left = None if following is None else following - self._clock()
                if left is None or left > 0:
                    self._changed.wait(left)
            self.end_overdue()

    def _following(self) -> float | None:
        return min((bridge.deadline for bridge in self._bridges.values()), default=None)
