"""`spread`: the emptiest node, and on it the emptiest device."""

from __future__ import annotations

import numpy as np

from celeray.scheduler.placement.policy import Policy
from celeray.scheduler.placement.rooms import Ints, Rooms
from celeray.scheduler.placement.scores.score import View

MOST = 1 << 43
"""More MiB, and more milli CPUs, than any node has."""


class Spread:
    """Most memory left over, at both levels; less interference, more fragments."""

    def __init__(self, rooms: Rooms, policy: Policy) -> None:
        del rooms, policy

    def devices(self, view: View) -> Ints:
        return MOST - np.maximum(view.room, 0)

    def nodes(self, view: View, columns: Ints, chosen: Ints) -> Ints:
        free = (
            view.rooms.idle(view.rows).sum(axis=1) if view.request.gpus else view.rooms.free_cpus[view.rows]
        )
        return MOST - free
