"""Whether a device may be used, by what NVML says of it and by what operators drained. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from celeray.scheduler.model import DeviceReading, Health, NodeReading
from celeray.scheduler.suspensions import Drain


class Service(StrEnum):
    """How far a device may be used. Nothing new is placed on any but `IN`."""

    IN = "in"
    UNREADABLE = "unreadable"
    """Its memory can't be read now, which may pass: what is there stays."""
    OUT = "out"
    """Unhealthy or drained: what runs finishes, and idle executors end."""
    LOST = "lost"
    """What runs there can't go on."""


@dataclass(frozen=True, slots=True)
class Drained:
    """What operators took out of use."""

    devices: Mapping[str, Drain] = field(default_factory=dict)
    """By UUID."""
    nodes: Mapping[str, Drain] = field(default_factory=dict)
    """By the node's name, or by its id."""
    forgiven: Mapping[str, float] = field(default_factory=dict)
    """Time of the newest XID by UUID that an operator has looked at: up to it none keeps the device out any more."""

    def of_node(self, name: str, node_id: str) -> Drain | None:
        """The drain that counts for a node; None: it takes work."""
        return self.nodes.get(name) or self.nodes.get(node_id)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a device stands, and why nothing is placed there; None where it is in service."""

    service: Service
    why: str | None = None


def standing(
    device: DeviceReading, node_drain: Drain | None, device_drain: Drain | None, *, readable: bool = True
) -> Standing:
    """How a device stands.

    Args:
        readable: whether its memory is known, by a reading that is new enough.
    """
    if device.lost:
        return Standing(Service.LOST, f"lost: {device.health_reason or 'NVML does not reach it'}")
    if device_drain is not None:
        return Standing(Service.OUT, drained_text("drained", device_drain))
    if node_drain is not None:
        return Standing(Service.OUT, drained_text("its node is drained", node_drain))
    if device.health is Health.UNHEALTHY:
        return Standing(Service.OUT, device.health_reason or "unhealthy")
    if not readable or device.used_mib is None:
        return Standing(Service.UNREADABLE, device.health_reason or "its memory can't be read now")
    return Standing(Service.IN)


def standing_on(
    node: NodeReading, device: DeviceReading, drained: Drained, *, readable: bool = True
) -> Standing:
    """How a device of a node stands, by everything that is drained."""
    node_drain = drained.of_node(node.name, node.node_id)
    return standing(device, node_drain, drained.devices.get(device.uuid), readable=readable)


def drained_text(what: str, drain: Drain) -> str:
    """Why nothing is placed there."""
    return f"{what} by {drain.by}: {drain.why}"
