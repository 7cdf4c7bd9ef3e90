"""What the rest of a device is worth, given what usually comes.

The prices of a workload's sizes are the dual values of its fractional cutting-stock problem: what a size is worth when
devices are cut as well as possible (Gilmore and Gomory, "A linear programming approach to the cutting-stock problem",
Operations Research 9, 1961). A size that fills a device alone is worth a whole one, two that pair are worth a half
each, and what fits into the leftovers of others is worth nothing. A rest is worth the best set of sizes that fits
into it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from celeray.scheduler.placement.prior import Prior
from celeray.scheduler.placement.rooms import PARTS, Ints

WHOLE = 1_000_000
"""Worth of a whole device."""
EPSILON = 1e-12
"""Of a whole device: sums that differ by less are equal."""
TOLERANCE = 1e-7
"""By so much a pattern may be worth more than the device before it counts."""
PATTERNS_MOST = 500
"""Columns that are generated at most; a workload of 40 sizes needs about 60."""


@lru_cache(maxsize=64)
def worth_table(prior: Prior, total_mib: int) -> Ints:
    """Worth of a rest of 0 to `PARTS` parts of a device with `total_mib`. Takes up to half a second the first time."""
    sizes: dict[int, int] = {}
    for shape in prior.shapes:
        if shape.gpus and shape.memory_mib is not None and 0 < shape.memory_mib <= total_mib:
            size = -(-shape.memory_mib * PARTS // total_mib)
            sizes[size] = sizes.get(size, 0) + shape.weight * shape.gpus
    shared = {size: weight for size, weight in sizes.items() if size < PARTS}
    prices = {**cutting_prices(tuple(sorted(shared.items()))), PARTS: float(WHOLE)}
    table, _ = _fill(prices)
    worth = np.array([int(value + 0.5) for value in table], dtype=np.int64)
    worth.flags.writeable = False
    return worth


def cutting_prices(demand: tuple[tuple[int, int], ...]) -> dict[int, float]:
    """Dual value of each size, of `WHOLE` for a device.

    Args:
        demand: sizes, in parts of a device, with how often each is asked for.
    """
    from scipy.optimize import linprog

    if not demand:
        return {}
    sizes = [size for size, _ in demand]
    asked = np.array([count for _, count in demand], dtype=float)
    patterns = [[PARTS // size if other == size else 0 for other in sizes] for size in sizes]
    duals = np.zeros(len(sizes))
    for _ in range(PATTERNS_MOST):
        # max asked * price, with no pattern of one device worth more than the device.
        solved = linprog(
            -asked, A_ub=np.array(patterns), b_ub=np.ones(len(patterns)), bounds=(0, None), method="highs"
        )
        duals = solved.x
        table, cuts = _fill(dict(zip(sizes, duals, strict=True)))
        if table[PARTS] <= 1 + TOLERANCE:
            break
        patterns.append(_pattern(cuts, sizes))
    return {size: float(dual) * WHOLE for size, dual in zip(sizes, duals, strict=True)}


def _fill(prices: dict[int, float]) -> tuple[list[float], list[int]]:
    """Worth of every rest, and the size that is cut first there (0: none): the unbounded knapsack."""
    sizes = np.array(sorted(prices), dtype=np.int64)
    worth = np.array([prices[int(size)] for size in sizes])
    table, cuts = np.zeros(PARTS + 1), [0] * (PARTS + 1)
    for rest in range(1, PARTS + 1):
        fitting = int(np.searchsorted(sizes, rest, side="right"))
        table[rest] = table[rest - 1]
        if not fitting:
            continue
        cut = table[rest - sizes[:fitting]] + worth[:fitting]
        best = int(cut.argmax())
        if cut[best] > table[rest] + EPSILON:
            table[rest], cuts[rest] = cut[best], int(sizes[best])
    return [float(value) for value in table], cuts


def _pattern(cuts: list[int], sizes: list[int]) -> list[int]:
    counts = dict.fromkeys(sizes, 0)
    rest = PARTS
    while rest > 0:
        if cuts[rest]:
            counts[cuts[rest]] += 1
            rest -= cuts[rest]
        else:
            rest -= 1
    return [counts[size] for size in sizes]
