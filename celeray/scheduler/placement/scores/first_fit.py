"""`first_fit`: the first node with room, in the snapshot's fixed order."""

from __future__ import annotations

import numpy as np

from celeray.scheduler.placement.policy import Policy
from celeray.scheduler.placement.rooms import Ints, Rooms
from celeray.scheduler.placement.scores.score import View


class FirstFit:
    """The first device of the first node. A fixed order consolidates better than it looks."""

    def __init__(self, rooms: Rooms, policy: Policy) -> None:
        del rooms, policy

    def devices(self, view: View) -> Ints:
        return np.broadcast_to(np.arange(view.room.shape[1], dtype=np.int64), view.room.shape)

    def nodes(self, view: View, columns: Ints, chosen: Ints) -> Ints:
        return np.zeros(len(view.rows), dtype=np.int64)
