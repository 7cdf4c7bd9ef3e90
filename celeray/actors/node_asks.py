"""Nodes that are wanted from Ray's autoscaler: one pending placement group each.

Ray's autoscaler adds nodes for placement groups that no node can hold. A group of one bundle with all devices of a node
is such a demand. As soon as it has its place it is removed again, so that the groups of the node's lease, one a device,
get them (device_leases.py); for the moment between Ray sees the node as free, which is far below any idle timeout.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from celeray.actors.event_port import EventPort
from celeray.scheduler.cluster import NodeAsk, NodeGranted

logger = logging.getLogger(__name__)


class NodeAsks:
    """`want` is called by one thread, `step` by another."""

    def __init__(self, port: EventPort) -> None:
        self._port = port
        self._wanted: dict[str, NodeAsk] = {}
        self._groups: dict[str, PlacementGroup] = {}
        self._granted: set[str] = set()
        """Asks that are over, and that the bridge may not know to be."""

    def want(self, asks: Iterable[NodeAsk]) -> None:
        """Replace what is wanted."""
        self._wanted = {ask.ask_id: ask for ask in asks}

    def pending(self) -> bool:
        """Whether any has not got its place: a new node is left to it for a moment, or Ray would bring another one."""
        return bool(self._groups)

    def step(self) -> None:
        """Make and remove groups, and tell which have their place."""
        wanted = self._wanted
        for ask_id in self._groups.keys() - wanted.keys():
            remove_placement_group(self._groups.pop(ask_id))
        self._granted &= wanted.keys()
        for ask_id in wanted.keys() - self._groups.keys() - self._granted:
            self._groups[ask_id] = _group(wanted[ask_id])
        for ask_id, group in list(self._groups.items()):
            self._grant_when_placed(ask_id, group)

    def _grant_when_placed(self, ask_id: str, group: PlacementGroup) -> None:
        table = placement_group_table(group)
        if table.get("state") != "CREATED":
            return
        node_id = next(iter(table["bundles_to_node_id"].values()))
        remove_placement_group(self._groups.pop(ask_id))
        self._granted.add(ask_id)
        logger.info("what was asked for as %s is there, on node %s", ask_id, node_id)
        self._port.emit(NodeGranted(ask_id, node_id))


def _group(ask: NodeAsk) -> PlacementGroup:
    selector = [dict(ask.labels)] if ask.labels else None
    return placement_group(
        [dict(ask.bundle)], bundle_label_selector=selector, name=f"celeray-ask-{ask.ask_id}"
    )
