"""The nodes of a simulated cluster: the public CSV of 2023, or a JSON list of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celeray.scheduler.model import DeviceState, NodeState
from celeray.scheduler.simulation.reading import Row, TraceError, begins_with, csv_rows, json_document
from celeray.scheduler.simulation.trace import SHARED_DEVICE_MIB

COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu", "model")


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One device."""

    total_mib: int
    gpu_type: str | None = None


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node, with nothing on it."""

    name: str
    cpus_milli: int
    memory_mib: int
    devices: tuple[DeviceSpec, ...]
    labels: Mapping[str, str] = field(default_factory=dict)

    def idle(self) -> NodeState:
        """As placement sees it; devices are `NAME/0` and so on."""
        return NodeState(
            node_id=self.name,
            name=self.name,
            cpus_milli=self.cpus_milli,
            cpus_free_milli=self.cpus_milli,
            memory_mib=self.memory_mib,
            memory_free_mib=self.memory_mib,
            labels=self.labels,
            devices=tuple(
                DeviceState(f"{self.name}/{index}", device.gpu_type, device.total_mib, device.total_mib)
                for index, device in enumerate(self.devices)
            ),
        )


def read_nodes(path: Path, *, device_mib: int = SHARED_DEVICE_MIB) -> tuple[NodeSpec, ...]:
    """The nodes of a file, in its order.

    Args:
        device_mib: VRAM of each device in the public format, which has thousandths of devices.

    Raises:
        TraceError: names file, line or node, column and value.
    """
    public = not begins_with(path, "[", "{")
    found = tuple(_read_public(path, device_mib) if public else _read_json(path))
    seen: set[str] = set()
    for node in found:
        if node.name in seen:
            raise TraceError(str(path), 0, "name", node.name, "two nodes of one name")
        seen.add(node.name)
    if not any(node.devices for node in found):
        raise TraceError(str(path), 0, "", None, "no devices")
    return found


def capacity_mib(nodes: Iterable[NodeSpec]) -> int:
    """VRAM of all devices."""
    return sum(device.total_mib for node in nodes for device in node.devices)


def device_count(nodes: Iterable[NodeSpec]) -> int:
    return sum(len(node.devices) for node in nodes)


def _read_public(path: Path, device_mib: int) -> Iterator[NodeSpec]:
    for row in csv_rows(path, COLUMNS):
        device = DeviceSpec(device_mib, row.text("model", "") or None)
        yield NodeSpec(
            row.text("sn"),
            row.whole("cpu_milli"),
            row.whole("memory_mib"),
            (device,) * row.whole("gpu"),
        )


def _read_json(path: Path) -> Iterator[NodeSpec]:
    document = json_document(path)
    if not isinstance(document, list):
        raise TraceError(str(path), 0, "", document, "expected a JSON list of nodes")
    for number, entry in enumerate(document, start=1):
        row = _entry(f"{path}: node {number}", entry)
        name, count = row.text("name"), row.whole("count", least=1, default=1)
        for index in range(count):
            yield NodeSpec(
                name if count == 1 else f"{name}-{index}",
                row.whole("cpus_milli"),
                row.whole("memory_mib"),
                tuple(_devices(row)),
                _labels(row),
            )


def _entry(where: str, entry: Any) -> Row:
    if not isinstance(entry, Mapping):
        raise TraceError(where, 0, "", entry, f"expected a JSON object, not {entry!r}")
    return Row(where, 0, entry)


def _devices(node: Row) -> Iterator[DeviceSpec]:
    listed = node.values.get("devices", [])
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise node.error("devices", "expected a list")
    for entry in listed:
        row = _entry(f"{node.path}: devices", entry)
        device = DeviceSpec(row.whole("total_mib", least=1), row.text("gpu_type", "") or None)
        yield from (device,) * row.whole("count", least=1, default=1)


def _labels(node: Row) -> Mapping[str, str]:
    labels = node.values.get("labels", {})
    if not isinstance(labels, Mapping) or not all(isinstance(value, str) for value in labels.values()):
        raise node.error("labels", "expected an object of texts")
    return dict(labels)
