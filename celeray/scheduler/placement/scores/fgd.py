"""`fgd`: fragmentation-gradient descent, the published anchor.

Source: Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent",
USENIX ATC 2023. A node's fragment is what of its idle GPU the usual tasks can't use, in the mean over those tasks; the
placement is chosen that makes it grow least.
"""

from __future__ import annotations

import math

import numpy as np

from celeray.scheduler.placement.policy import Policy
from celeray.scheduler.placement.prior import Prior, PriorShape
from celeray.scheduler.placement.rooms import UNWANTED, Bools, Ints, Rooms
from celeray.scheduler.placement.scores.score import View

COVERED_PERCENT = 95
"""So much of the workload the usual shapes stand for; rarer ones are left out, as published."""
WEIGHTS = 1_000_000
"""Sum of the shapes' weights."""
STEPS: Ints = np.array(
    [math.ceil(1000 * WEIGHTS * math.log(s / (100 - s))) for s in range(1, 100)], dtype=np.int64
)
"""Decrease of the fragment, in milli devices times `WEIGHTS`, from which a score of 1 to 99 is reached. The published
score is floor(100 * sigmoid(decrease / 1000 milli)). Its rounding makes near ties, which the fixed order
consolidates."""


class FragmentationGradient:
    """Least growth of the fragment."""

    def __init__(self, rooms: Rooms, policy: Policy) -> None:
        shapes = usual(policy.prior) if policy.prior else ()
        total = sum(shape.weight for shape in shapes)
        self._weights = np.array([shape.weight * WEIGHTS // total for shape in shapes], dtype=np.int64)
        self._gpus = np.array([shape.gpus for shape in shapes], dtype=np.int64)
        self._cpus = np.array([shape.cpus_milli for shape in shapes], dtype=np.int64)
        self._needs = np.array([shape.memory_mib or 0 for shape in shapes], dtype=np.int64)
        self._whole = np.array([shape.memory_mib is None for shape in shapes], dtype=np.bool_)
        self._types = [shape.gpu_types for shape in shapes]

    def devices(self, view: View) -> Ints:
        """The node's fragment after a placement on each device."""
        return self._fragments(view, self._taken_one_by_one(view), view.request.cpus_milli)

    def nodes(self, view: View, columns: Ints, chosen: Ints) -> Ints:
        none = np.zeros((len(view.rows), 1, view.rooms.width), dtype=np.int64)
        before = self._fragments(view, none, 0)[:, 0]
        if view.request.gpus == 1:
            after = chosen[:, 0]
        else:
            taken = none.copy()
            if view.request.gpus:
                needs = np.take_along_axis(view.needs, columns, axis=1)
                np.put_along_axis(taken[:, 0, :], columns, needs, axis=1)
            after = self._fragments(view, taken, view.request.cpus_milli)[:, 0]
        return 100 - np.searchsorted(STEPS, before - after, side="right")

    @staticmethod
    def _taken_one_by_one(view: View) -> Ints:
        """What would be taken of each device (last axis), by the device that is chosen (middle axis)."""
        width = view.room.shape[1]
        return view.needs[:, None, :] * np.eye(width, dtype=np.int64)[None, :, :]

    def _fragments(self, view: View, taken: Ints, cpus_milli: int) -> Ints:
        """Fragment by row and choice, in milli devices times `WEIGHTS`."""
        total = view.rooms.total[view.rows][:, None, :, None]
        idle = np.maximum(view.rooms.idle(view.rows)[:, None, :] - taken, 0)[..., None]
        usable = self._usable(view, idle, total)
        shares = (idle * 1000 // total)[..., 0]
        cpus = view.rooms.free_cpus[view.rows] - cpus_milli
        hosts = (usable.sum(axis=2) >= self._gpus) & (cpus[:, None, None] >= self._cpus) & (self._gpus > 0)
        unused = np.einsum("rcw,rcwm->rcm", shares, ~usable, dtype=np.int64, casting="unsafe")
        fragment = np.where(hosts, unused, shares.sum(axis=2)[..., None])
        found: Ints = fragment @ self._weights
        return found

    def _usable(self, view: View, idle: Ints, total: Ints) -> Bools:
        usable: Bools = idle >= np.where(self._whole, total, np.maximum(self._needs, 1))
        for place, gpu_types in enumerate(self._types):
            if gpu_types:
                fitting = view.rooms.ranks(gpu_types, view.rows) < UNWANTED
                usable[..., place] &= fitting[:, None, :]
        return usable


def usual(prior: Prior) -> tuple[PriorShape, ...]:
    """The most frequent shapes that make up `COVERED_PERCENT` of a workload."""
    total, seen, found = sum(shape.weight for shape in prior.shapes), 0, []
    for shape in prior.shapes:
        if seen * 100 >= COVERED_PERCENT * total:
            break
        found.append(shape)
        seen += shape.weight
    return tuple(found)
