"""How many runs peaked at how many MiB, in buckets that any number of bridges can add to. Pure.

A bucket is named by its upper bound, which belongs to it, so a quantile is never below the exact one, and at most one
part in 64 above it. Up to 128 MiB each MiB has a bucket; above, each doubling has 64 of equal width, as in Gil Tene's
HdrHistogram. Whole GiB up to 64 are bounds, so the round figures of most allocations are met exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

STEP_BITS = 6
"""64 buckets a doubling."""

Histogram = Mapping[int, int]
"""Count of observations by the upper bound of their bucket in MiB."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A histogram in four figures, in MiB."""

    count: int
    p50_mib: int
    p95_mib: int
    max_mib: int


def bucket(mib: int) -> int:
    """Upper bound of the bucket of an observation, at least `mib`.

    Raises:
        ValueError: `mib` is below 1: nothing used is nothing observed.
    """
    if mib < 1:
        raise ValueError(f"observation of {mib!r} MiB: at least 1")
    step = 1 << max(0, (mib - 1).bit_length() - STEP_BITS - 1)
    return -(-mib // step) * step


def merged(histograms: Iterable[Histogram]) -> dict[int, int]:
    """The sum of all. The order does not count."""
    total: dict[int, int] = {}
    for histogram in histograms:
        for upper, count in histogram.items():
            total[upper] = total.get(upper, 0) + count
    return total


def quantile(histogram: Histogram, percent: int) -> int:
    """The least bound below which, itself included, lie at least `percent` of 100 of the observations (nearest rank).

    Raises:
        ValueError: there are no observations.
    """
    rank = max(1, -(-sum(histogram.values()) * percent // 100))
    seen = 0
    for upper in sorted(histogram):
        seen += histogram[upper]
        if seen >= rank:
            return upper
    raise ValueError("a quantile of no observations")


def summarize(histogram: Histogram) -> Summary | None:
    """None: no observations."""
    if not any(histogram.values()):
        return None
    p50, p95, most = (quantile(histogram, percent) for percent in (50, 95, 100))
    return Summary(sum(histogram.values()), p50, p95, most)
