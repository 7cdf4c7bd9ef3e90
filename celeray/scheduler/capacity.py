"""What the cluster has when idle, as the bridges see it, so that a request that can never fit is refused at publish.

Every bridge writes what it sees to Redis; a producer reads it at most once in a few seconds, and only for tasks that
ask for devices. Not knowing is never a reason to refuse: no bridge, no Redis, or a cluster that may still grow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import redis
from pydantic import TypeAdapter, ValidationError

from celeray.scheduler.clock import Clock, SystemClock
from celeray.scheduler.errors import ConfigurationError, NeverFitsError, RequirementError
from celeray.scheduler.keys import Keys
from celeray.scheduler.model import DeviceState, NodeReading, NodeState, ResourceRequest
from celeray.scheduler.placement.filters import could_fit_idle, type_rank
from celeray.scheduler.placement.policy import Policy

logger = logging.getLogger(__name__)
TTL_S = 60
"""How long what a bridge wrote counts after its last write."""
READ_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class DeviceCapacity:
    """One device."""

    gpu_type: str | None
    total_mib: int | None
    """What an idle device can give out, headroom taken off. None: could not be read."""


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """One node. The CPUs and host memory are the whole node's."""

    cpus_milli: int
    memory_mib: int
    labels: dict[str, str] = field(default_factory=dict)
    devices: tuple[DeviceCapacity, ...] = ()

    @classmethod
    def of(cls, reading: NodeReading, *, headroom_mib: int = 0) -> NodeCapacity:
        """From a bridge's reading of the node."""
        devices = tuple(
            DeviceCapacity(
                item.name, None if item.total_mib is None else max(0, item.total_mib - headroom_mib)
            )
            for item in reading.devices
        )
        return cls(reading.cpus_milli, reading.memory_mib, dict(reading.labels), devices)

    @classmethod
    def of_state(cls, node: NodeState) -> NodeCapacity:
        """From a node with nothing on it."""
        devices = tuple(DeviceCapacity(item.gpu_type, item.schedulable_mib) for item in node.devices)
        return cls(node.cpus_milli, node.memory_mib, dict(node.labels), devices)


@dataclass(frozen=True, slots=True)
class ClusterCapacity:
    """All nodes that one bridge, or all of them, see."""

    nodes: tuple[NodeCapacity, ...] = ()
    may_grow: bool = False
    """An autoscaler may add nodes of other kinds, so nothing can be said to fit never."""


def capacity_key(keys: Keys, bridge_id: str) -> str:
    """String: JSON of a bridge's `ClusterCapacity`; lives `TTL_S` after its last write."""
    return f"{keys.prefix}celeray:capacity:{bridge_id}"


def capacity_index(keys: Keys) -> str:
    """Sorted set: bridge ids by the time, in seconds since the epoch, at which their key is gone."""
    return f"{keys.prefix}celeray:capacity"


_DOCUMENT = TypeAdapter(ClusterCapacity)


class CapacityWriter:
    """Writes for one bridge. Raises `redis.RedisError` when Redis does not answer."""

    def __init__(
        self, client: redis.Redis, bridge_id: str, *, keys: Keys | None = None, clock: Clock | None = None
    ) -> None:
        self._client: Any = client
        self._bridge_id = bridge_id
        self._keys = keys or Keys()
        self._clock = clock or SystemClock()

    def write(self, capacity: ClusterCapacity) -> None:
        """Replace what this bridge said before. Call it more often than every `TTL_S` seconds."""
        now, index = self._clock.time(), capacity_index(self._keys)
        with self._client.pipeline() as pipe:
            pipe.set(capacity_key(self._keys, self._bridge_id), _DOCUMENT.dump_json(capacity), ex=TTL_S)
            pipe.zremrangebyscore(index, "-inf", now)
            pipe.zadd(index, {self._bridge_id: now + TTL_S})
            pipe.expire(index, 2 * TTL_S)
            pipe.execute()

    def withdraw(self) -> None:
        """Take it back: the bridge ends."""
        with self._client.pipeline() as pipe:
            pipe.delete(capacity_key(self._keys, self._bridge_id))
            pipe.zrem(capacity_index(self._keys), self._bridge_id)
            pipe.execute()


class CapacityReader:
    """Reads with a few seconds of memory. Safe from any thread: at worst two read at the same time."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._read_at: float | None = None
        self._known: ClusterCapacity | None = None

    def current(self, connect: Callable[[], tuple[redis.Redis, Keys]]) -> ClusterCapacity | None:
        """What all bridges together see. None: unknown.

        Args:
            connect: gives a client of celeray's database; called only when it is time to read. Errors of
                connecting and reading mean unknown, since a publish must not fail by them.
        """
        now = self._clock.monotonic()
        if self._read_at is None or now - self._read_at >= READ_EVERY_S:
            self._read_at = now
            try:
                self._known = read_capacity(*connect())
            except (redis.RedisError, OSError, ConfigurationError) as error:
                logger.debug("the cluster's capacity can't be read: %r", error)
                self._known = None
        return self._known


def read_capacity(client: redis.Redis, keys: Keys) -> ClusterCapacity | None:
    """Read what all bridges wrote. None: no bridge wrote lately, or none of them sees a node."""
    reader: Any = client
    ids = reader.zrange(capacity_index(keys), 0, -1)
    if not ids:
        return None
    names = [item.decode() if isinstance(item, bytes) else item for item in ids]
    documents = reader.mget([capacity_key(keys, name) for name in names])
    found = [parsed for document in documents if document and (parsed := _parse(document))]
    nodes = tuple(node for capacity in found for node in capacity.nodes)
    return ClusterCapacity(nodes, any(item.may_grow for item in found)) if nodes else None


def _parse(document: bytes | str) -> ClusterCapacity:
    try:
        return _DOCUMENT.validate_json(document)
    except ValidationError as error:
        logger.warning("a bridge of another version wrote a capacity that can't be read: %s", error)
        # It may have what the others lack.
        return ClusterCapacity(may_grow=True)


def could_ever_fit(request: ResourceRequest, capacity: ClusterCapacity | None) -> RequirementError | None:
    """The error where no node could hold the request even when idle; None where one could or nobody knows."""
    if capacity is None or capacity.may_grow or not capacity.nodes or not request.gpus:
        return None
    nodes = [_state(node) for node in capacity.nodes]
    if any(could_fit_idle(request, node, Policy()) for node in nodes):
        return None
    return _never_fits(request, nodes)


def _state(node: NodeCapacity) -> NodeState:
    devices = tuple(
        # Placement takes 0 as unread: such a device might hold anything.
        DeviceState("", device.gpu_type, device.total_mib or 0, device.total_mib or 0)
        for device in node.devices
    )
    return NodeState(
        "", "", node.cpus_milli, node.cpus_milli, node.memory_mib, node.memory_mib, node.labels, devices
    )


def _never_fits(request: ResourceRequest, nodes: list[NodeState]) -> NeverFitsError:
    """Name the first need that no node or device meets by itself, else that no node meets all at once."""
    devices = [device for node in nodes for device in node.devices]
    typed = [device for device in devices if type_rank(request, device) is not None]
    checks = (
        _labels_error(request, nodes),
        None if typed else _type_error(request, devices),
        _vram_error(request, typed),
        _most("gpu", request.gpus, [len(node.devices) for node in nodes], "devices"),
        _most("cpus", request.cpus_milli / 1000, [node.cpus_milli / 1000 for node in nodes], "CPUs"),
        _most("memory_gb", request.host_memory_mib / 1024, [node.memory_mib / 1024 for node in nodes], "GiB"),
    )
    found = next((error for error in checks if error), None)
    return found or NeverFitsError(
        "gpu", request.gpus, f"no node has all of it at once: {_describe(request)}"
    )


def _labels_error(request: ResourceRequest, nodes: list[NodeState]) -> NeverFitsError | None:
    if any(all(node.labels.get(name) == value for name, value in request.labels) for node in nodes):
        return None
    return NeverFitsError("labels", dict(request.labels), "no node of the cluster has them")


def _type_error(request: ResourceRequest, devices: list[DeviceState]) -> NeverFitsError:
    if not devices:
        return NeverFitsError("gpu", request.gpus, "the cluster has no devices")
    present = ", ".join(sorted({device.gpu_type or "unnamed" for device in devices}))
    return NeverFitsError("gpu_type", list(request.gpu_types), f"the cluster has {present}")


def _vram_error(request: ResourceRequest, devices: list[DeviceState]) -> NeverFitsError | None:
    totals = [device.total_mib for device in devices]
    if not totals or 0 in totals or (request.memory_mib or 1) <= max(totals):
        return None
    kind = f" of type {' or '.join(request.gpu_types)}" if request.gpu_types else ""
    asked = _number((request.memory_mib or 0) / 1024)
    return NeverFitsError("vram_gb", asked, f"the largest device{kind} has {_number(max(totals) / 1024)} GiB")


def _most(key: str, asked: float, present: Iterable[float], unit: str) -> NeverFitsError | None:
    largest = max(present)
    if asked <= largest:
        return None
    return NeverFitsError(key, _number(asked), f"the largest node has {_number(largest)} {unit}")


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else round(value, 3)


def _describe(request: ResourceRequest) -> str:
    parts = [f"{request.gpus} devices"]
    if request.gpu_types:
        parts.append(f"of type {' or '.join(request.gpu_types)}")
    if request.memory_mib:
        parts.append(f"with {_number(request.memory_mib / 1024)} GiB each")
    parts.append(
        f"{_number(request.cpus_milli / 1000)} CPUs, {_number(request.host_memory_mib / 1024)} GiB of memory"
    )
    return ", ".join([*parts, *(f"{name}={value}" for name, value in request.labels)])
