"""The newest reading of each node, and the nodes that went away a short while ago. A part of the ledger."""

from __future__ import annotations

from collections.abc import Iterator

from celeray.scheduler.model import DeviceReading, DeviceState, NodeReading, NodeState

ABSENT_S = 300.0
"""How long a lost node counts as one that may come back: a reboot, say."""


class NodeBook:
    """By node id. Devices are found by UUID, whatever their numbers are."""

    def __init__(self) -> None:
        self._readings: dict[str, NodeReading] = {}
        self._node_of_device: dict[str, str] = {}
        self._absent: dict[str, tuple[float, NodeState]] = {}

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._readings

    def __iter__(self) -> Iterator[NodeReading]:
        # A fixed order makes ties deterministic, and consolidates: best fit takes the first of equals.
        return iter(sorted(self._readings.values(), key=lambda reading: (reading.name, reading.node_id)))

    def get(self, node_id: str) -> NodeReading | None:
        """The newest reading of a node, or None."""
        return self._readings.get(node_id)

    def put(self, reading: NodeReading) -> bool:
        """Keep a reading; False: there is a newer one already."""
        previous = self._readings.get(reading.node_id)
        if previous is not None and reading.requested_at < previous.requested_at:
            return False
        for device in previous.devices if previous else ():
            self._node_of_device.pop(device.uuid, None)
        self._readings[reading.node_id] = reading
        self._node_of_device |= dict.fromkeys((device.uuid for device in reading.devices), reading.node_id)
        self._absent = {
            node_id: gone for node_id, gone in self._absent.items() if gone[1].name != reading.name
        }
        return True

    def remove(self, state: NodeState, now: float) -> None:
        """The node is gone; `state` is what is remembered of it."""
        reading = self._readings.pop(state.node_id)
        for device in reading.devices:
            self._node_of_device.pop(device.uuid, None)
        self._absent[state.node_id] = (now, state)

    def absent(self, now: float) -> tuple[NodeState, ...]:
        """Nodes that were lost less than `ABSENT_S` seconds ago and did not come back."""
        return tuple(state for at, state in self._absent.values() if now - at < ABSENT_S)

    def node_of(self, uuid: str) -> str | None:
        """Id of the node that has the device; None: no reading names it."""
        return self._node_of_device.get(uuid)

    def device(self, uuid: str) -> tuple[NodeReading, DeviceReading]:
        """The newest reading of a device, with its node's.

        Raises:
            KeyError: no reading names the device.
        """
        node = self._readings[self._node_of_device[uuid]]
        return node, next(device for device in node.devices if device.uuid == uuid)


def unleased(node_id: str, number: int) -> DeviceState:
    """A device of which only its existence is known."""
    return DeviceState(f"{node_id}/unleased-{number}", None, 0, 0, usable=False)
