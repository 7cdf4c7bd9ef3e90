"""The node types that Ray's autoscaler may add, as the setting `elastic` names them.

Written beside `available_node_types` of cluster.yaml and under the same names. Ray does not tell a bridge what a type's
device is, nor how much VRAM it has, so they are said here and not read there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from celeray.scheduler.errors import RequirementError
from celeray.scheduler.model import DeviceState, NodeState
from celeray.scheduler.requests import parse_layer

GROUP_LABEL = "ray.io/node-group"
"""Ray gives it to the nodes that its autoscaler (v2) or KubeRay starts, with the name of their type."""
RESERVED_RESOURCES = frozenset({"CPU", "GPU", "memory", "object_store_memory"})
"""Of Ray; the type's other keys say them."""


def _amount(key: str, canonical: str, raw: Any) -> int:
    try:
        return int(parse_layer({key: raw})[canonical].value)
    except RequirementError as error:
        raise ValueError(f"expected {error.bound}") from error


def _checked_vram(raw: Any) -> Any:
    _amount("vram_gb", "memory_mib", raw)
    return raw


def _checked_memory(raw: Any) -> Any:
    _amount("memory_gb", "host_memory_mib", raw)
    return raw


Amount = int | float | str


class NodeType(BaseModel):
    """One node of the type, with nothing on it, and how many there may be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus: int = Field(strict=True, ge=1, le=1024)
    gpu_type: str | None = Field(default=None, min_length=1, max_length=253)
    """Name of its devices, as NVML has it. None: only tasks without `gpu_type` ask for the type."""
    vram: Annotated[Amount, BeforeValidator(_checked_vram)]
    """Of each device, as `vram_gb` of a task: GiB, or with a unit."""
    cpus: float = Field(ge=0, le=65_536)
    memory: Annotated[Amount, BeforeValidator(_checked_memory)]
    """Of the host, as `memory_gb` of a task."""
    min: int = Field(default=0, strict=True, ge=0, le=10_000)
    """So many nodes of the type this bridge keeps, idle or not."""
    max: int = Field(strict=True, ge=0, le=10_000)
    """Most nodes of the type in the cluster. 0: none is asked for."""
    start_s: float = Field(gt=0, le=86_400)
    """From asking for a node until tasks can begin on it."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels that its nodes have, and that are asked for with it."""
    resources: dict[str, Annotated[int, Field(strict=True, ge=1)]] = Field(default_factory=dict)
    """Ray's custom resources of one node, which are asked for with its devices."""

    @model_validator(mode="after")
    def _is_one_type(self) -> NodeType:
        if self.min > self.max:
            raise ValueError(f"min={self.min}: at most max={self.max}")
        if named := sorted(RESERVED_RESOURCES & set(self.resources)):
            raise ValueError(f"resources.{named[0]}: said by gpus, cpus and memory, and not here")
        return self

    @property
    def vram_mib(self) -> int:
        """MiB of each device."""
        return _amount("vram_gb", "memory_mib", self.vram)

    @property
    def memory_mib(self) -> int:
        """MiB of the host."""
        return _amount("memory_gb", "host_memory_mib", self.memory)

    @property
    def bundle(self) -> dict[str, float]:
        """What only a whole node of the type has, in Ray's names of resources."""
        return {"GPU": float(self.gpus)} | {key: float(number) for key, number in self.resources.items()}

    def empty(self, name: str, node_id: str, *, headroom_mib: int = 0) -> NodeState:
        """A node of the type with nothing on it, as placement sees it.

        Args:
            name: of the type.
        """
        device, memory = self.vram_mib, self.memory_mib
        return NodeState(
            node_id=node_id,
            name=node_id,
            cpus_milli=round(self.cpus * 1000),
            cpus_free_milli=round(self.cpus * 1000),
            memory_mib=memory,
            memory_free_mib=memory,
            labels={**self.labels, GROUP_LABEL: name},
            devices=tuple(
                DeviceState(f"{node_id}/{index}", self.gpu_type, device, max(0, device - headroom_mib))
                for index in range(self.gpus)
            ),
        )


def empty_nodes(types: Mapping[str, NodeType], *, headroom_mib: int = 0) -> tuple[NodeState, ...]:
    """One empty node of each type of which there may be any."""
    return tuple(
        kind.empty(name, f"elastic/{name}", headroom_mib=headroom_mib)
        for name, kind in sorted(types.items())
        if kind.max
    )
