"""`default`: the price of what a placement destroys.

Three losses are added. The residue: what the device's rest was worth before, less what it is worth after and the task's
own price (`prices.worth_table`). The balance: idle GPU that the node's idle CPU can't feed any more, at the workload's
mean of CPU per GPU. The gangs: whole devices of one node that tasks on several devices need. The sum is rounded, so
that near ties go to the tightest device, and then to the first node in the fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from celeray.scheduler.model import ResourceRequest
from celeray.scheduler.placement.policy import Policy
from celeray.scheduler.placement.prices import WHOLE, worth_table
from celeray.scheduler.placement.prior import Prior
from celeray.scheduler.placement.rooms import PARTS, Ints, Rooms
from celeray.scheduler.placement.scores.score import View, total

ROUNDED_TO = 40 * WHOLE // 1000
"""Losses closer than this are alike. Anything from 20 to 80 milli devices does as well (measured)."""
TIGHTNESS_BITS = 24
"""Of the tie-break below the loss: MiB left on the devices."""
TIGHTNESS = (1 << TIGHTNESS_BITS) - 1


class ResiduePrice:
    """Least loss of what usual tasks could still use."""

    def __init__(self, rooms: Rooms, policy: Policy) -> None:
        self._rooms = rooms
        self._worth = [_worth(policy.prior, mib) for _, mib in rooms.kinds]
        median = int(np.median(rooms.total)) if rooms.total.size else 0
        self._cpus_per_gpu = cpus_per_gpu(policy.prior, median) if policy.prior and median else 0
        self._gang_worth = gang_worth(policy.prior, rooms.width)
        self._has_gangs = bool(self._gang_worth.any())
        self._tables: dict[ResourceRequest, _Tables] = {}
        self._unfed = np.zeros(len(rooms.counts), dtype=np.int64)
        """Idle GPU less what idle CPUs can feed, in `WHOLE`, by row."""
        self._seen = -1
        """Changes of the rooms that it knows of. -1: none was looked at."""

    def devices(self, view: View) -> Ints:
        losses = self._of(view.request).losses
        found: Ints = losses[self._rooms.places.take(view.rows, axis=0)] + view.room
        return found

    def nodes(self, view: View, columns: Ints, chosen: Ints) -> Ints:
        if not view.request.gpus:
            # The CPUs beside GPUs stay free for those who need both.
            loss = self._of_balance(view, 0)
            return (_rounded(loss) << TIGHTNESS_BITS) + view.rooms.counts[view.rows]
        loss, tightness = total(chosen >> TIGHTNESS_BITS), total(chosen & TIGHTNESS)
        tables = self._of(view.request)
        places = self._rooms.places_of(view.rows, columns)
        if tables.starves:
            loss = loss + self._of_balance(view, total(tables.taken[places]))
        if self._has_gangs:
            loss = loss + self._of_gangs(view, total(tables.whole[places]))
        found: Ints = (_rounded(loss) << TIGHTNESS_BITS) + tightness
        return found

    def _of(self, request: ResourceRequest) -> _Tables:
        known = self._tables.get(request)
        if known is None:
            pairs = [
                _residue(request, worth, mib)
                for worth, (_, mib) in zip(self._worth, self._rooms.kinds, strict=True)
            ]
            losses, taken = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
            whole = np.arange(len(taken), dtype=np.int64) % (PARTS + 1) // PARTS
            starves = self._fed_less(request) > request.gpus * _least_taken(request, self._rooms.kinds)
            known = self._tables[request] = _Tables(losses << TIGHTNESS_BITS, taken, whole, starves)
        return known

    def _fed_less(self, request: ResourceRequest) -> int:
        """Devices that the request's CPUs would have fed, in `WHOLE`."""
        return request.cpus_milli * WHOLE // self._cpus_per_gpu if self._cpus_per_gpu else 0

    def _of_balance(self, view: View, taken: Ints | int) -> Ints:
        """Growth of what the node's CPUs can't feed of its idle devices."""
        if not self._cpus_per_gpu:
            return np.zeros(len(view.rows), dtype=np.int64)
        self._follow()
        growth = self._fed_less(view.request) - taken
        after = np.maximum(self._unfed[view.rows] + growth, 0)
        # max(0, unfed + growth) - max(0, unfed), at least 0.
        found: Ints = np.minimum(after, np.maximum(growth, 0))
        return found

    def _follow(self) -> None:
        """Take over what changed in the rooms."""
        touched = self._rooms.touched
        if self._seen < 0:
            idle = self._rooms.idle_shares * (WHOLE // PARTS)
            self._unfed[:] = idle - self._rooms.free_cpus * WHOLE // self._cpus_per_gpu
            self._seen = len(touched)
        while self._seen < len(touched):
            row = touched[self._seen]
            idle_share, cpus = int(self._rooms.idle_shares[row]), int(self._rooms.free_cpus[row])
            self._unfed[row] = idle_share * (WHOLE // PARTS) - cpus * WHOLE // self._cpus_per_gpu
            self._seen += 1

    def _of_gangs(self, view: View, whole: Ints) -> Ints:
        """What the node's whole devices are worth less to tasks on several of them."""
        before = self._rooms.wholes[view.rows]
        lost = self._gang_worth[before] - self._gang_worth[before - whole]
        return np.maximum(lost - self._gang_worth[view.request.gpus], 0)


@dataclass(frozen=True, slots=True)
class _Tables:
    """Of one request, for each kind of device and idle share of it: `Rooms.places` says where."""

    losses: Ints
    """Shifted above the tie-break."""
    taken: Ints
    """What it takes of the device, in `WHOLE`."""
    whole: Ints
    """1 where the device is idle as a whole, else 0."""
    starves: bool
    """Whether it may take more CPUs, measured by the workload's mean, than VRAM: else it leaves no device unfed."""


def _rounded(loss: Ints) -> Ints:
    found: Ints = (loss + ROUNDED_TO // 2) // ROUNDED_TO
    return found


def _least_taken(request: ResourceRequest, kinds: Sequence[tuple[str | None, int]]) -> int:
    """What it takes of a device at least, where it fits, in `WHOLE`."""
    most_mib = max((mib for _, mib in kinds), default=1)
    return (request.memory_mib or 1) * PARTS // most_mib * (WHOLE // PARTS)


def _residue(request: ResourceRequest, worth: Ints, total_mib: int) -> tuple[Ints, Ints]:
    """By idle share of a device: the loss of its residue's worth, and what is taken of the device in `WHOLE`."""
    shares = np.arange(PARTS + 1, dtype=np.int64)
    need = -(-(request.memory_mib or 0) * PARTS // total_mib)
    needs = shares if request.exclusive else np.minimum(need, shares)
    loss = np.maximum(worth - worth[shares - needs] - worth[needs], 0)
    return loss, needs * (WHOLE // PARTS)


def _worth(prior: Prior | None, total_mib: int) -> Ints:
    """Without a prior a rest is worth its size, and only the tie-breaks decide."""
    if prior is None:
        return np.arange(PARTS + 1, dtype=np.int64) * (WHOLE // PARTS)
    return worth_table(prior, total_mib)


def cpus_per_gpu(prior: Prior, total_mib: int) -> int:
    """Milli CPUs that the workload uses for each device of its GPU work; 0: none.

    Args:
        total_mib: of a usual device.
    """
    gpus = sum(
        shape.weight
        * shape.gpus
        * (total_mib if shape.memory_mib is None else min(shape.memory_mib, total_mib))
        for shape in prior.shapes
    )
    cpus = sum(shape.weight * shape.cpus_milli for shape in prior.shapes if shape.gpus)
    return cpus * total_mib // gpus if gpus else 0


GANG_SHARE = WHOLE // 20
"""Weight of a workload's tasks on several devices against what their devices are worth by themselves."""


def gang_worth(prior: Prior | None, width: int) -> Ints:
    """Worth of 0 to `width` idle whole devices on one node to the workload's tasks on several devices."""
    table = np.zeros(max(width, 1) + 1, dtype=np.int64)
    shapes = [shape for shape in prior.shapes if 1 < shape.gpus <= width] if prior else []
    asked = sum(shape.weight * shape.gpus for shape in prior.shapes) if prior else 0
    for shape in shapes:
        share = GANG_SHARE * shape.weight * shape.gpus // asked
        table += (np.arange(len(table)) // shape.gpus) * shape.gpus * share
    return table
