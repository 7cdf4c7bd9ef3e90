"""Counters as flat series and back: the form in which Redis adds them up over bridges. Pure.

A series is a JSON list: `["finished", queue, name, outcome]`, `["out_of_memory", queue, name]`,
`["preempted", queue, name]`, `["tenant", "", name]`, or `[kind, queue, name, "sum"]` and
`[kind, queue, name, "le", bound]` with kind `placement` or `execution`, bound a number or `"+Inf"`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping

from celeray.scheduler.counters import Counters, FinishedCount, TaskCount, TaskHistogram, TenantUse

INF = "+Inf"
HISTOGRAMS = ("placement", "execution")
COUNTS = ("out_of_memory", "preempted")


def to_series(counters: Counters) -> dict[str, float]:
    """Totals by series; buckets that are empty are left out."""
    series: dict[str, float] = {}
    for item in counters.finished:
        series[_key("finished", item.queue, item.name, item.outcome)] = item.count
    for count_of in counters.out_of_memory:
        series[_key("out_of_memory", count_of.queue, count_of.name)] = count_of.count
    for use in counters.tenants:
        series[_key("tenant", "", use.tenant)] = use.mib_s
    for count_of in counters.preempted:
        series[_key("preempted", count_of.queue, count_of.name)] = count_of.count
    for kind, histograms in (("placement", counters.placement), ("execution", counters.execution)):
        for histogram in histograms:
            series[_key(kind, histogram.queue, histogram.name, "sum")] = histogram.sum
            edges: list[float | str] = [*histogram.bounds, INF]
            for bound, count in zip(edges, histogram.counts, strict=True):
                if count:
                    series[_key(kind, histogram.queue, histogram.name, "le", bound)] = count
    return series


def from_series(series: Mapping[str, float], bounds: Mapping[str, tuple[float, ...]]) -> Counters:
    """The counters that `series` came from.

    Args:
        bounds: the usual bounds by histogram kind. Bounds that only the series has, since another version wrote
            them, are added to those of its histogram.
    """
    finished: list[FinishedCount] = []
    counts: dict[str, list[TaskCount]] = {kind: [] for kind in COUNTS}
    tenants: list[TenantUse] = []
    sums: dict[tuple[str, str, str], float] = {}
    buckets: dict[tuple[str, str, str], dict[float | str, int]] = defaultdict(dict)
    for key, value in sorted(series.items()):
        kind, queue, name, *rest = json.loads(key)
        if kind == "finished":
            finished.append(FinishedCount(queue=queue, name=name, outcome=rest[0], count=round(value)))
        elif kind in counts:
            counts[kind].append(TaskCount(queue=queue, name=name, count=round(value)))
        elif kind == "tenant":
            tenants.append(TenantUse(tenant=name, mib_s=value))
        elif rest[0] == "sum":
            sums[kind, queue, name] = value
        else:
            buckets[kind, queue, name][rest[1]] = round(value)
    made: dict[str, list[TaskHistogram]] = {kind: [] for kind in HISTOGRAMS}
    for (kind, queue, name), total in sums.items():
        made[kind].append(_histogram(queue, name, total, buckets[kind, queue, name], bounds[kind]))
    return Counters(
        finished=tuple(finished),
        out_of_memory=tuple(counts["out_of_memory"]),
        preempted=tuple(counts["preempted"]),
        placement=tuple(made["placement"]),
        execution=tuple(made["execution"]),
        tenants=tuple(tenants),
    )


def _histogram(
    queue: str, name: str, total: float, buckets: Mapping[float | str, int], bounds: tuple[float, ...]
) -> TaskHistogram:
    edges = tuple(sorted({*bounds, *(edge for edge in buckets if not isinstance(edge, str))}))
    counts = (*(buckets.get(edge, 0) for edge in edges), buckets.get(INF, 0))
    return TaskHistogram(queue=queue, name=name, bounds=edges, counts=counts, sum=total)


def _key(*parts: str | float) -> str:
    return json.dumps(parts, separators=(",", ":"))
