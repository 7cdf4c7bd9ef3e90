"""What usually comes: the shapes of tasks with their weights, by which what a placement leaves over is priced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from celeray.scheduler.model import ResourceRequest


@dataclass(frozen=True, slots=True)
class PriorShape:
    """One kind of task."""

    gpus: int
    memory_mib: int | None
    """On each device. None with `gpus`: the whole device."""
    cpus_milli: int
    gpu_types: tuple[str, ...] = ()
    weight: int = 1
    """How many of it came."""


@dataclass(frozen=True, slots=True)
class Prior:
    """A workload, most frequent shape first."""

    shapes: tuple[PriorShape, ...]


def prior_of(requests: Iterable[ResourceRequest]) -> Prior:
    """The workload of a sample or of a history, each request counted once."""
    return prior_of_counts(Counter(requests))


def prior_of_counts(counts: Mapping[ResourceRequest, int]) -> Prior:
    """The workload in which each request came so often."""
    shapes: Counter[tuple[int, int | None, int, tuple[str, ...]]] = Counter()
    for request, count in counts.items():
        shapes[request.gpus, request.memory_mib, request.cpus_milli, request.gpu_types] += count
    # By count, then in an order that does not depend on what came first.
    ordered = sorted(shapes.items(), key=lambda item: (-item[1], repr(item[0])))
    return Prior(tuple(PriorShape(*shape, weight=count) for shape, count in ordered))
