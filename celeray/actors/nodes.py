"""The nodes as the driver sees them: their agents, their leases, and their readings."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError
from ray.util.placement_group import PlacementGroup

from celeray.actors.device_leases import NodeLease
from celeray.actors.event_port import EventPort
from celeray.actors.node_agent import AgentReading, NodeAgent, agent_options
from celeray.actors.ray_errors import describe
from celeray.scheduler.cluster import NodeLost, NodeRead
from celeray.scheduler.links import matrix_of
from celeray.scheduler.model import MIB, NodeReading

TICK_S = 0.25
"""How often leases move on and idle executors are checked."""
NODES_INTERVAL_S = 0.5
AGENT_RETRY_S = 5.0
"""Between two tries to make the agent of a node on which it fails, over a bad CELERAY_SIMULATE_GPUS, say."""
READ_TIMEOUT_S = 10.0
"""After this a reading that did not come back is given up, and the agent is looked up again."""

ASKS_FIRST_S = 2.0
"""So long a new node is left to what waits for one. Ray tries a waiting group every second at least
(`gcs_create_placement_group_retry_max_interval_ms`), and at once when a node comes."""

logger = logging.getLogger(__name__)

_agent_class = ray.remote(NodeAgent)


@dataclass(slots=True)
class Node:
    """One live node."""

    node_id: str
    info: dict[str, Any]
    """Ray's own entry of the node."""
    lease: NodeLease
    seen_at: float = 0.0
    """When Ray first listed it."""
    agent: Any = None
    asked_at: float | None = None
    """When the reading that is under way was asked for."""
    read_at: float = 0.0
    holds_folder: str | None = None
    reported: bool = False
    reported_at: float = 0.0
    answered: bool = False
    """Whether the agent was ever heard."""
    failing: bool = False
    find_agent_at: float = 0.0
    """Not before this the agent is looked up, or made, again."""
    given_back: bool = False
    """Its devices were given back, so that the autoscaler may take it away."""

    def end_use(self) -> None:
        """End all that keeps it busy for Ray. That is the agent too: Ray counts a node with any actor as busy."""
        self.lease.release()
        if self.agent is not None:
            ray.kill(self.agent)
            self.agent = None

    def failed(self, reason: str, *, find_again_at: float | None) -> None:
        """Note that a reading failed; said once in a row. None: the agent stays, it is only cut off."""
        if not self.failing:
            logger.warning("node %s can't be read: %s", self.node_id, reason.splitlines()[0])
        self.failing, self.asked_at = True, None
        if find_again_at is not None:
            self.agent, self.find_agent_at = None, find_again_at


class Nodes:
    """One thread calls `tick`; the others only look things up, in dictionaries that are replaced as a whole."""

    def __init__(
        self,
        port: EventPort,
        simulate_gpus: str | None,
        *,
        reading_interval_s: float,
        canary_interval_s: float = 0.0,
        asking: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            asking: whether a node is asked for that has not come.
        """
        self._port = port
        self._asking = asking
        self._canary_interval_s = canary_interval_s
        self._simulate_gpus = simulate_gpus
        self._interval_s = reading_interval_s
        self._nodes: dict[str, Node] = {}
        self._lock = Lock()
        self._released: frozenset[str] = frozenset()
        self._listed_at = 0.0
        self.answered_at = time.monotonic()
        """When Ray last answered; the watchdog compares."""

    def tick(self) -> None:
        """Look for nodes, move leases on and ask for the readings that are due."""
        now = time.monotonic()
        if now - self._listed_at >= NODES_INTERVAL_S:
            self._list(now)
        self.answered_at = time.monotonic()
        for node in list(self._nodes.values()):
            if self._is_given_back(node):
                continue
            if not node.lease.held and (now - node.seen_at >= ASKS_FIRST_S or not self._asking()):
                node.lease.step(now)
            self._read_when_due(node, now)
            if not node.answered and now - node.reported_at >= self._interval_s:
                self._report_unread(node, now)

    def give_back(self, released: frozenset[str]) -> None:
        """The nodes that are not leased and not read from the next tick on; the others are."""
        self._released = released

    def _is_given_back(self, node: Node) -> bool:
        if node.node_id not in self._released:
            node.given_back = False
        elif not node.given_back:
            logger.info("node %s is given back", node.node_id)
            with self._lock:
                node.given_back, node.answered, node.asked_at = True, False, None
            # Without the lock: Ray's own thread may wait for it with a reading, and has to answer these.
            node.end_use()
        return node.given_back

    def read_now(self, node_id: str) -> None:
        """Ask for a reading besides the periodic ones."""
        node = self._nodes.get(node_id)
        if node is not None and node.agent is not None:
            self._read(node, time.monotonic())

    def forgive(self, node_id: str, uuid: str, up_to: float) -> None:
        """Tell the node's agent, and read the node after it. Of a node without an agent nothing is known anyway.

        The bridge says so again until a reading shows it, so one that hangs must still run into its timeout.
        """
        node = self._nodes.get(node_id)
        if node is not None and node.agent is not None:
            node.agent.forgive.remote(uuid, up_to)
            if node.asked_at is None:
                self._read(node, time.monotonic())

    def is_alive(self, node_id: str, *, ask: bool = False) -> bool:
        """Whether Ray lists the node as alive; `ask`: now, not as of the last look."""
        if not ask:
            return node_id in self._nodes
        return any(info["NodeID"] == node_id and info["Alive"] for info in ray.nodes())

    def agent(self, node_id: str) -> Any:
        """Handle of the node's agent, or None."""
        node = self._nodes.get(node_id)
        return None if node is None else node.agent

    def agents(self) -> dict[str, Any]:
        """Handles of all agents, by node."""
        return {node_id: node.agent for node_id, node in self._nodes.items() if node.agent is not None}

    def group(self, node_id: str, uuid: str) -> PlacementGroup | None:
        """The placement group of a leased device."""
        node = self._nodes.get(node_id)
        return None if node is None else node.lease.group(uuid)

    def holds_folder(self, node_id: str) -> str | None:
        """Folder of the node's simulated holds, or None."""
        node = self._nodes.get(node_id)
        return None if node is None else node.holds_folder

    def _list(self, now: float) -> None:
        alive = {info["NodeID"]: info for info in ray.nodes() if info["Alive"]}
        self._listed_at = now
        for node_id in self._nodes.keys() - alive.keys():
            self._lose(self._nodes[node_id])
        nodes = {node_id: self._nodes.get(node_id) or _new_node(info, now) for node_id, info in alive.items()}
        for node_id, node in nodes.items():
            node.info = alive[node_id]
        self._nodes = nodes

    def _lose(self, node: Node) -> None:
        # Under the lock, so that no reading which is under way comes after the loss.
        with self._lock:
            self._nodes = {node_id: other for node_id, other in self._nodes.items() if other is not node}
            if node.reported:
                self._port.emit(NodeLost(node.node_id))
        node.lease.release()

    def _read_when_due(self, node: Node, now: float) -> None:
        if node.asked_at is not None:
            if now - node.asked_at < READ_TIMEOUT_S:
                return
            node.failed(f"no answer for {READ_TIMEOUT_S:.0f} s", find_again_at=now)
        if node.agent is None and now >= node.find_agent_at:
            self._find_agent(node, now)
        if node.agent is not None and now - node.read_at >= self._interval_s:
            self._read(node, now)

    def _report_unread(self, node: Node, now: float) -> None:
        """Say what Ray itself knows of a node, so that nobody takes its devices for missing while its agent starts."""
        # Not newer than the reading that is under way: a later one than that would outdate it.
        requested_at = now if node.asked_at is None else node.asked_at
        with self._lock:
            if not node.answered and self._nodes.get(node.node_id) is node:
                node.reported, node.reported_at = True, now
                self._port.emit(NodeRead(compose(node, None, requested_at)))

    def _find_agent(self, node: Node, now: float) -> None:
        actor_class = _agent_class.options(**agent_options(node.node_id))
        try:
            node.agent = actor_class.remote(node.node_id, self._simulate_gpus, watch=True)
        except ValueError as error:
            # Another bridge's was found and died at the same moment.
            node.failed(describe(error), find_again_at=now + AGENT_RETRY_S)

    def _read(self, node: Node, now: float) -> None:
        node.asked_at, node.read_at = now, now
        node.agent.read.remote(self._canary_interval_s).future().add_done_callback(
            partial(self._on_read, node, now)
        )

    def _on_read(self, node: Node, requested_at: float, future: Future[AgentReading]) -> None:
        if node.asked_at == requested_at:
            node.asked_at = None
        if node.given_back:
            return
        if (error := future.exception()) is not None:
            cut_off = isinstance(error, ActorUnavailableError)
            node.failed(describe(error), find_again_at=None if cut_off else requested_at + AGENT_RETRY_S)
            return
        reading = future.result()
        with self._lock:
            if self._nodes.get(node.node_id) is node and not node.given_back:
                node.holds_folder, node.answered, node.failing = reading.holds_folder, True, False
                node.reported = True
                self._port.emit(NodeRead(compose(node, reading, requested_at)))


def compose(node: Node, reading: AgentReading | None, requested_at: float) -> NodeReading:
    """The node as the scheduler sees it: Ray's capacities, and of the devices only those that are leased.

    Args:
        node: as Ray lists it.
        reading: its agent's; None: there was none yet, so no device is known.
        requested_at: monotonic seconds before the reading began.
    """
    info, resources = node.info, node.info["Resources"]
    host_mib = reading.memory_mib if reading else 0
    devices = node.lease.leased(reading.devices) if reading else ()
    given_name = info["NodeName"] != info["NodeManagerAddress"]
    return NodeReading(
        node_id=node.node_id,
        name=info["NodeName"] if given_name else info["NodeManagerHostname"],
        address=info["NodeManagerAddress"],
        cpus_milli=round(resources.get("CPU", 0) * 1000),
        memory_mib=int(resources.get("memory", host_mib * MIB) // MIB),
        labels=dict(info["Labels"]),
        devices=devices,
        requested_at=requested_at,
        pids_visible=reading.pids_visible if reading else True,
        driver_version=reading.driver_version if reading else None,
        simulated=reading is not None and reading.holds_folder is not None,
        unleased=node.lease.gpus - len(devices),
        closeness=matrix_of([device.uuid for device in devices], reading.closeness) if reading else (),
    )


def _new_node(info: dict[str, Any], now: float) -> Node:
    gpus = int(info["Resources"].get("GPU", 0))
    return Node(info["NodeID"], info, NodeLease(info["NodeID"], gpus), now)
