"""Which devices of a node a task on several of them gets, where it is known how close they are.

Of the devices that fit: none of a less wanted type than needed; of those sets the one whose least close pair is the
closest, then with the greatest sum over its pairs, then with the lowest sum of the policy's scores, then the first
columns. Up to `SETS_MAX` sets of a node's devices all are looked at; beyond that a set is grown from each device by
the one that is closest to it, in the same order, and the best of those is taken: at most as many sets as devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from celeray.scheduler.links import Matrix
from celeray.scheduler.model import NodeState
from celeray.scheduler.placement.board import Board, BoardNode
from celeray.scheduler.placement.rooms import Bools, Ints

SETS_MAX = 1_000
"""All sets of 8 devices, 70 at most, and those of up to 3 of 16."""
DISTANCES = 16
"""How many steps of closeness tell nodes of equal score apart. With more different ones the least close are alike."""
_NONE = np.iinfo(np.int64).max


def closest(closeness: Ints, fits: Bools, tiers: Ints, scores: Ints, gpus: int) -> Ints:
    """The devices of each row that a task gets, as columns in ascending order.

    Args:
        closeness: of the columns to each other; the rows are nodes that are connected alike.
        fits: which devices may be taken, at least `gpus` of each row.
        tiers: what comes before closeness, lower is better: a set has the lowest sum that it can have.
        scores: what comes after it, lower is better. Sums of `gpus` of them stay below 2**63.
        gpus: how many, at least 2.
    """
    width = fits.shape[1]
    allowed: Bools = fits
    if comb(width, gpus) > SETS_MAX:
        sets = _grown(closeness, fits, tiers, scores, gpus)
    else:
        sets = _all_sets(width, gpus)[None]
        allowed = np.all(fits[:, sets[0]], axis=-1)
    least, total = _of_sets(closeness, sets)
    rows = np.arange(len(fits))[:, None, None]
    place = _first_of(
        allowed, tiers[rows, sets].sum(axis=-1), -least, -total, scores[rows, sets].sum(axis=-1)
    )
    chosen = sets[rows[:, 0, 0] if len(sets) > 1 else 0, place]
    found: Ints = np.sort(chosen, axis=-1)
    return found


@lru_cache(maxsize=64)
def _all_sets(width: int, gpus: int) -> Ints:
    """Set by set, the first columns first."""
    return np.array(list(combinations(range(width), gpus)), dtype=np.int64)


def _of_sets(closeness: Ints, sets: Ints) -> tuple[Ints, Ints]:
    """Closeness of the least close pair of each set, and the sum over its pairs."""
    one, other = np.triu_indices(sets.shape[-1], 1)
    pairs = closeness[sets[..., one], sets[..., other]]
    return pairs.min(axis=-1), pairs.sum(axis=-1)


def _first_of(allowed: Bools, *costs: Ints) -> Ints:
    """Place along the last axis of what is allowed and lowest by the first cost, ties by the next; then the first."""
    for cost in costs:
        lowest = np.where(allowed, cost, _NONE).min(axis=-1, keepdims=True)
        allowed = allowed & (cost == lowest)
    found: Ints = allowed.argmax(axis=-1)
    return found


def _grown(closeness: Ints, fits: Bools, tiers: Ints, scores: Ints, gpus: int) -> Ints:
    """A set from each device, by row and that device; what begins with a device that does not fit says nothing."""
    rows, width = fits.shape
    sets = np.empty((rows, width, gpus), dtype=np.int64)
    sets[..., 0] = np.arange(width)
    taken = np.repeat(np.eye(width, dtype=np.bool_)[None], rows, axis=0)
    least = total = np.repeat(closeness[None], rows, axis=0)
    for size in range(1, gpus):
        allowed = fits[:, None, :] & ~taken
        added = _first_of(allowed, tiers[:, None, :], -least, -total, scores[:, None, :])
        sets[..., size] = added
        np.put_along_axis(taken, added[..., None], True, axis=-1)
        near = closeness[added]
        least, total = np.minimum(least, near), total + near
    return sets


def closest_of(
    options: Sequence[tuple[int, tuple[Any, ...], tuple[Any, ...]]], node: NodeState, gpus: int
) -> list[int]:
    """Columns of the devices that a task gets, of at least `gpus` of one node.

    Args:
        options: column, and what comes before closeness and after it, lower is better; no two are alike in all.
    """
    ordered = sorted(options, key=lambda option: option[1:])
    if gpus < 2 or not node.closeness:
        return [column for column, _, _ in ordered[:gpus]]
    columns = np.array([column for column, _, _ in ordered], dtype=np.int64)
    before = sorted({option[1] for option in ordered})
    tiers = np.array([[before.index(option[1]) for option in ordered]], dtype=np.int64)
    after = sorted(option[2] for option in ordered)
    scores = np.array([[after.index(option[2]) for option in ordered]], dtype=np.int64)
    closeness = padded(node.closeness, len(node.devices))[np.ix_(columns, columns)]
    found = closest(closeness, np.ones_like(tiers, dtype=np.bool_), tiers, scores, gpus)
    chosen: list[int] = columns[found[0]].tolist()
    return chosen


class Closeness:
    """What the nodes of one board tell of it; read when a task on several devices first asks."""

    def __init__(self, board: Board, rank: int) -> None:
        """
        Args:
            rank: a device's score is its type's place in the request's preference, times this, and the policy's score.
        """
        self._nodes = board.nodes
        self._rank = rank
        self._kind: Ints | None = None
        """Which of `_kinds` each node is; -1: it does not tell. None: not looked at yet."""
        self._kinds: list[Ints] = []
        self._levels: Ints = np.zeros(0, dtype=np.int64)

    def choose(self, rows: Ints, by_device: Ints, columns: Ints, chosen: Ints) -> None:
        """Put the closest devices, and their scores, in the place of those with the lowest, where it is known.

        Args:
            rows: nodes of the board.
            by_device: score of each device by row and column; the greatest integer where it does not fit.
            columns: what the policy alone would take, by row, lowest score first. Written.
            chosen: their scores. Written.
        """
        for closeness, at in self._groups(rows):
            at = at[chosen[at, -1] < _NONE]
            if not len(at) or _alike(closeness):
                continue
            scores = by_device[at, : len(closeness)]
            fits = scores < _NONE
            found = closest(closeness, fits, scores // self._rank, scores % self._rank, columns.shape[1])
            of_found = np.take_along_axis(scores, found, axis=1)
            order = of_found.argsort(axis=1, kind="stable")
            columns[at] = np.take_along_axis(found, order, axis=1)
            chosen[at] = np.take_along_axis(of_found, order, axis=1)

    def with_ties(self, scores: Ints, rows: Ints, columns: Ints, fit: Bools) -> Ints:
        """Scores of nodes, of which equal ones are told apart by their chosen devices: the closer ones are lower.

        A node that does not tell is the least close. Where none does, the scores are what they were.

        Args:
            scores: below 2**58, which is what four bits more leave room for.
            fit: of the others nothing is said.
        """
        if not self._known():
            return scores
        distances = np.full(len(rows), DISTANCES - 1, dtype=np.int64)
        for closeness, at in self._groups(rows):
            at = at[fit[at]]
            least, _ = _of_sets(closeness, columns[at])
            steps = len(self._levels) - 1 - np.searchsorted(self._levels, least)
            distances[at] = np.minimum(steps, DISTANCES - 1)
        return scores * DISTANCES + distances

    def _groups(self, rows: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Places in `rows` of the nodes that are connected alike, with their closeness."""
        if not self._known():
            return
        assert self._kind is not None
        kinds = self._kind[rows]
        for kind in np.unique(kinds[kinds >= 0]).tolist():
            yield self._kinds[kind], np.flatnonzero(kinds == kind)

    def _known(self) -> bool:
        """Whether any node tells."""
        if self._kind is None:
            places: dict[tuple[Matrix, int], int] = {}
            self._kind = np.array([_place(node, places) for node in self._nodes], dtype=np.int64)
            self._kinds = [padded(matrix, width) for matrix, width in places]
            self._levels = np.unique(np.concatenate([np.zeros(1, np.int64), *map(np.ravel, self._kinds)]))
        return bool(self._kinds)


def _place(node: BoardNode, places: dict[tuple[Matrix, int], int]) -> int:
    matrix = node.state.closeness
    return places.setdefault((matrix, len(node.devices)), len(places)) if matrix else -1


def padded(matrix: Matrix, width: int) -> Ints:
    """The matrix as an array for `width` devices; those beyond it are close to none."""
    found = np.zeros((width, width), dtype=np.int64)
    known = np.array(matrix, dtype=np.int64)
    found[: len(known), : len(known)] = known
    return found


def _alike(closeness: Ints) -> bool:
    """Whether every set is as close as every other: all on one NVSwitch, say."""
    values = closeness[np.triu_indices(len(closeness), 1)]
    return not len(values) or bool((values == values[0]).all())
