"""The best place for a request on the board as it is now, without looking at everything again.

The score of a node for a request depends on that node alone. So each request keeps its scores, and only nodes that
changed since it was last asked for are scored again. Ties go to the first node, in the snapshot's fixed order: that
consolidates, and is worth more than most scores (ATC '23 trace: the same score with ties broken at random loses 6
points of allocation).
"""

from __future__ import annotations

import numpy as np

from celeray.scheduler.model import ResourceRequest
from celeray.scheduler.placement.board import Board, BoardDevice, BoardNode
from celeray.scheduler.placement.closeness import Closeness
from celeray.scheduler.placement.policy import Policy
from celeray.scheduler.placement.rooms import UNWANTED, Bools, Ints, Rooms
from celeray.scheduler.placement.scores import SCORES, View

NOWHERE = np.iinfo(np.int64).max
RANK = 1 << 48
"""Weight of one place in the preference of device types: more than any score."""
FEW = 16
"""Of more nodes those that have no room are left out first: for fewer that costs more than it saves."""


class _Ranking:
    """Scores of all nodes for one request, lower is better, and which devices they would be."""

    def __init__(self, request: ResourceRequest, nodes: int, *, lasting: bool) -> None:
        self.request = request
        self.lasting = lasting
        self.scores: Ints = np.full(nodes, NOWHERE, dtype=np.int64)
        self.columns: Ints = np.zeros((nodes, request.gpus), dtype=np.int64)
        self.seen = -1
        """How many changes of the board it knows of. -1: it has not been made."""


class Candidates:
    """Where requests may go, on one board."""

    def __init__(self, board: Board, rooms: Rooms, policy: Policy) -> None:
        self._board = board
        self._rooms = rooms
        self._score = SCORES[policy.name](rooms, policy)
        self._rankings: dict[tuple[ResourceRequest, bool], _Ranking] = {}
        self._all = np.arange(len(board.nodes), dtype=np.int64)
        self._closeness = Closeness(board, RANK)

    def best(
        self, request: ResourceRequest, *, lasting: bool = False, barred: Bools | None = None
    ) -> tuple[BoardNode, tuple[BoardDevice, ...]] | None:
        """The best node and devices for a new executor; None: nowhere.

        Args:
            lasting: it may use nothing that is reserved.
            barred: by node, where it may not go at all.
        """
        ranking = self._rankings.get((request, lasting))
        if ranking is None:
            ranking = _Ranking(request, len(self._all), lasting=lasting)
            self._rankings[request, lasting] = ranking
        self._update(ranking)
        scores = ranking.scores if barred is None else np.where(barred, NOWHERE, ranking.scores)
        row = int(scores.argmin())
        if scores[row] == NOWHERE:
            return None
        node = self._board.nodes[row]
        return node, tuple(node.devices[column] for column in ranking.columns[row].tolist())

    def _update(self, ranking: _Ranking) -> None:
        touched = self._rooms.touched
        if ranking.seen == len(touched):
            return
        if ranking.seen < 0:
            rows = self._all
        else:
            scores = ranking.scores
            # Within a cycle a node only gets fuller: where the request found no room, it finds none later.
            again = {row for row in touched[ranking.seen :] if scores[row] != NOWHERE}
            rows = np.array(sorted(again), dtype=np.int64)
        ranking.seen = len(touched)
        if len(rows):
            self._rescore(ranking, rows)

    def _rescore(self, ranking: _Ranking, rows: Ints) -> None:
        request, rooms = ranking.request, self._rooms
        fit = rooms.nodes_fit(request, rows, lasting=ranking.lasting)
        if len(rows) > FEW:
            ranking.scores[rows] = NOWHERE
            rows = rows[fit]
            fit = fit[fit]
        if not len(rows) or request.gpus > rooms.width:
            return
        if not request.gpus:
            view = View(request, rows, rooms)
            scores = self._score.nodes(view, ranking.columns[rows], view.none)
            ranking.scores[rows] = np.where(fit, scores, NOWHERE)
            return
        room = rooms.room(request, rows, lasting=ranking.lasting)
        view = View(request, rows, rooms, room)
        fits = room >= max(1, request.memory_mib or 0)
        by_device = self._score.devices(view)
        if request.gpu_types:
            ranks = rooms.ranks(request.gpu_types, rows)
            fits &= ranks < UNWANTED
            by_device = by_device + ranks * RANK
        self._score_nodes(ranking, view, np.where(fits, by_device, NOWHERE), fit)

    def _score_nodes(self, ranking: _Ranking, view: View, by_device: Ints, fit: Bools) -> None:
        columns, chosen = _first(by_device, view.request.gpus)
        if view.request.gpus > 1:
            self._closeness.choose(view.rows, by_device, columns, chosen)
        worst = chosen[:, -1]
        fit = fit & (worst < NOWHERE)
        rank: Ints | int = 0
        if view.request.gpu_types:
            rank = worst // RANK * RANK
            chosen = chosen % RANK
        # Of a node where it does not fit the score is that of a device which can't be had, and is thrown away.
        scores = self._score.nodes(view, columns, chosen) + rank
        if view.request.gpus > 1:
            scores = self._closeness.with_ties(scores, view.rows, columns, fit)
        ranking.scores[view.rows] = np.where(fit, scores, NOWHERE)
        ranking.columns[view.rows] = columns


def _first(by_device: Ints, gpus: int) -> tuple[Ints, Ints]:
    """Columns of the lowest scores of each row, lowest first, and those scores."""
    if gpus == 1:
        columns = by_device.argmin(axis=1)
        rows, width = by_device.shape
        chosen = by_device.ravel()[np.arange(0, rows * width, width) + columns]
        return columns[:, None], chosen[:, None]
    columns = by_device.argsort(axis=1, kind="stable")[:, :gpus]
    return columns, np.take_along_axis(by_device, columns, axis=1)
