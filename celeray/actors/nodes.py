"""The nodes as the driver sees them: their agents, their leases, and their readings."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup

from celeray.actors.device_leases import NodeLease
from celeray.actors.event_port import EventPort
from celeray.actors.node_agent import AgentReading, NodeAgent, agent_options
from celeray.actors.ray_errors import describe
from celeray.scheduler.cluster import NodeLost, NodeRead
from celeray.scheduler.model import MIB, NodeReading

TICK_S = 0.25
"""How often leases move on and idle executors are checked."""
NODES_INTERVAL_S = 0.5
READ_TIMEOUT_S = 10.0
"""After this a reading that did not come back is given up, and the agent is looked up again."""

logger = logging.getLogger(__name__)

_agent_class = ray.remote(NodeAgent)


@dataclass(slots=True)
class Node:
    """One live node."""

    node_id: str
    info: dict[str, Any]
    """Ray's own entry of the node."""
    lease: NodeLease
    agent: Any = None
    asked_at: float | None = None
    """When the reading that is under way was asked for."""
    read_at: float = 0.0
    holds_folder: str | None = None
    reported: bool = False


class Nodes:
    """One thread calls `tick`; the others only look things up, in dictionaries that are replaced as a whole."""

    def __init__(self, port: EventPort, simulate_gpus: str | None, reading_interval_s: float) -> None:
        self._port = port
        self._simulate_gpus = simulate_gpus
        self._interval_s = reading_interval_s
        self._nodes: dict[str, Node] = {}
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
            if not node.lease.held:
                node.lease.step(now)
            if node.lease.held:
                self._read_when_due(node, now)

    def read_now(self, node_id: str) -> None:
        """Ask for a reading besides the periodic ones."""
        node = self._nodes.get(node_id)
        if node is not None and node.lease.held and node.agent is not None:
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
        nodes = {node_id: self._nodes.get(node_id) or _new_node(info) for node_id, info in alive.items()}
        for node_id, node in nodes.items():
            node.info = alive[node_id]
        self._nodes = nodes

    def _lose(self, node: Node) -> None:
        self._nodes = {node_id: other for node_id, other in self._nodes.items() if other is not node}
        node.lease.release()
        if node.reported:
            self._port.emit(NodeLost(node.node_id))

    def _read_when_due(self, node: Node, now: float) -> None:
        if node.asked_at is not None:
            if now - node.asked_at < READ_TIMEOUT_S:
                return
            logger.warning("no reading of node %s for %.0f s", node.node_id, now - node.asked_at)
            node.agent = None
        if node.agent is None:
            try:
                node.agent = _agent_class.options(**agent_options(node.node_id)).remote(
                    node.node_id, self._simulate_gpus
                )
            except (RayError, ValueError) as error:
                logger.warning("no agent on node %s: %s", node.node_id, describe(error))
                return
        if now - node.read_at >= self._interval_s:
            self._read(node, now)

    def _read(self, node: Node, now: float) -> None:
        node.asked_at, node.read_at = now, now
        node.agent.read.remote().future().add_done_callback(partial(self._on_read, node, now))

    def _on_read(self, node: Node, requested_at: float, future: Future[AgentReading]) -> None:
        if node.asked_at == requested_at:
            node.asked_at = None
        if (error := future.exception()) is not None:
            logger.warning("reading node %s failed: %s", node.node_id, describe(error))
            return
        if self._nodes.get(node.node_id) is not node:
            return
        reading = future.result()
        node.holds_folder = reading.holds_folder
        node.reported = True
        self._port.emit(NodeRead(compose(node, reading, requested_at)))


def compose(node: Node, reading: AgentReading, requested_at: float) -> NodeReading:
    """The node as the scheduler sees it: Ray's capacities, and of the devices only those that are leased."""
    info, resources = node.info, node.info["Resources"]
    given_name = info["NodeName"] != info["NodeManagerAddress"]
    return NodeReading(
        node_id=node.node_id,
        name=info["NodeName"] if given_name else info["NodeManagerHostname"],
        address=info["NodeManagerAddress"],
        cpus_milli=round(resources.get("CPU", 0) * 1000),
        memory_mib=int(resources.get("memory", reading.memory_mib * MIB) // MIB),
        labels=dict(info["Labels"]),
        devices=node.lease.leased(reading.devices),
        requested_at=requested_at,
        pids_visible=reading.pids_visible,
        driver_version=reading.driver_version,
        simulated=reading.holds_folder is not None,
    )


def _new_node(info: dict[str, Any]) -> Node:
    gpus = int(info["Resources"].get("GPU", 0))
    return Node(info["NodeID"], info, NodeLease(info["NodeID"], gpus))
