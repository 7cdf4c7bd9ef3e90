"""Tells producers and other bridges what this bridge's nodes can hold, and learns what those of the others can."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import redis

from celeray.scheduler.capacity import (
    CapacityWriter,
    ClusterCapacity,
    NodeCapacity,
    could_ever_fit,
    read_capacity,
)
from celeray.scheduler.errors import NeverFitsError, RequirementError
from celeray.scheduler.keys import Keys
from celeray.scheduler.model import ResourceRequest

logger = logging.getLogger(__name__)

EXCHANGE_EVERY_S = 2.0


class CapacityExchange(threading.Thread):
    """Start it, `offer` to it, ask it, `stop` it."""

    def __init__(self, bridge_id: str, connect: Callable[[], redis.Redis], keys: Keys) -> None:
        """
        Args:
            connect: opens a client of celeray's database; called once, on the thread.
        """
        super().__init__(name="celeray-capacity", daemon=True)
        self._bridge_id = bridge_id
        self._connect = connect
        self._keys = keys
        self._own = ClusterCapacity()
        self._everyone: ClusterCapacity | None = None
        self._changed = threading.Event()
        self._stopping = False

    def offer(self, capacity: ClusterCapacity) -> None:
        """What this bridge's nodes have. Never blocks."""
        if capacity != self._own:
            self._own = capacity
            self._changed.set()

    def refusal(self, request: ResourceRequest) -> RequirementError | None:
        """The error for a request that no node of any bridge could ever hold; None where one could."""
        if not request.gpus:
            # Producers don't ask the bridges about work without devices, so only this bridge's nodes count.
            return too_large(request, self._own.nodes)
        return could_ever_fit(request, self._everyone or self._own)

    def stop(self, timeout_s: float = 2.0) -> None:
        """Take back what was told, and end."""
        self._stopping = True
        self._changed.set()
        if self.is_alive():
            self.join(timeout_s)

    def run(self) -> None:
        client = self._connect()
        writer = CapacityWriter(client, self._bridge_id, keys=self._keys)
        while not self._stopping:
            self._changed.wait(EXCHANGE_EVERY_S)
            self._changed.clear()
            try:
                if self._own.nodes:
                    writer.write(self._own)
                self._everyone = read_capacity(client, self._keys)
            except redis.RedisError as error:
                logger.debug("capacity is not exchanged: %s", error)
            except Exception:
                # A thread that ends here would let producers believe for ever what was true once.
                logger.exception("capacity is not exchanged")
        try:
            writer.withdraw()
        except redis.RedisError as error:
            logger.debug("capacity stays until it expires: %s", error)
        client.close()


def too_large(request: ResourceRequest, nodes: tuple[NodeCapacity, ...]) -> NeverFitsError | None:
    """The error for work without devices that none of the nodes could hold; None where one could."""
    labels = dict(request.labels)
    fitting = [node for node in nodes if labels.items() <= node.labels.items()]
    if not fitting:
        return NeverFitsError("labels", labels, "no node of the cluster has them")
    cpus = max(node.cpus_milli for node in fitting)
    memory = max(node.memory_mib for node in fitting)
    if request.cpus_milli > cpus:
        return NeverFitsError("cpus", request.cpus_milli / 1000, f"the largest node has {cpus / 1000:g} CPUs")
    if request.host_memory_mib > memory:
        asked = request.host_memory_mib / 1024
        return NeverFitsError("memory_gb", asked, f"the largest node has {memory / 1024:g} GiB")
    if any(n.cpus_milli >= request.cpus_milli and n.memory_mib >= request.host_memory_mib for n in fitting):
        return None
    return NeverFitsError(
        "cpus", request.cpus_milli / 1000, "no node has as many together with the memory asked"
    )
