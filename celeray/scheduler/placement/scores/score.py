"""What a policy implements, and what it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from celeray.scheduler.model import ResourceRequest
from celeray.scheduler.placement.rooms import Ints, Rooms


def _no_room() -> Ints:
    return np.zeros((0, 0), dtype=np.int64)


@dataclass(slots=True)
class View:
    """Nodes that may have room for a request. Arrays are by row, or by row and device."""

    request: ResourceRequest
    rows: Ints
    """Which nodes, as rows of `rooms`."""
    rooms: Rooms
    room: Ints = field(default_factory=_no_room)
    """MiB that the request may use. Of a task without devices: empty."""

    @property
    def none(self) -> Ints:
        """Scores of the chosen devices where none are asked for."""
        return np.zeros((len(self.rows), 0), dtype=np.int64)

    @property
    def needs(self) -> Ints:
        """MiB that it takes of each device: what it asks, or all that is left of a whole one."""
        if self.request.exclusive:
            return self.room
        return np.full_like(self.room, self.request.memory_mib or 0)


class Score(Protocol):
    """A placement policy. Integers only, and the same for the same input.

    Some of the nodes in a view have no room. What is said of these is never looked at.
    """

    def devices(self, view: View) -> Ints:
        """A score for each device, at least 0 and below 2**44; what does not fit is left out afterwards."""
        ...

    def nodes(self, view: View, columns: Ints, chosen: Ints) -> Ints:
        """A score for each node, at least 0 and below 2**48, with the devices that `devices` made best.

        Args:
            columns: the devices, best first. Of a task without devices: none.
            chosen: their scores.
        """
        ...


def total(chosen: Ints) -> Ints:
    """Sum over the chosen devices of each node."""
    return chosen[:, 0] if chosen.shape[1] == 1 else chosen.sum(axis=1)
