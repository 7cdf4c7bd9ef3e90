"""`/metrics`: renders the values of `celeray.scheduler.metrics` with prometheus_client, in a registry of its own.

The counters live in the bridges and in Redis, so any number of API processes give the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from celeray.scheduler.learned.overview import LearnedTask
from celeray.scheduler.metrics import SPECS, HistogramSample, Picture, Sample, Samples, Spec, collect
from celeray.scheduler.overview import Overview, devices, nodes, queue_statuses
from celeray.scheduler.settings import Settings

CELERY_COMPAT = frozenset({"celery_queue_length"})
"""Metrics that a celery-exporter gives too."""


class StatusCollector(Collector):
    """Yields every metric that has a value now."""

    def __init__(self, picture: Callable[[], Picture], *, celery_compat: bool) -> None:
        self._picture = picture
        self._left_out = frozenset() if celery_compat else CELERY_COMPAT

    def collect(self) -> Iterable[Metric]:
        for name, samples in collect(self._picture()).items():
            if samples and name not in self._left_out:
                yield _family(SPECS[name], samples)

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering reads no Redis."""
        return []


def render(picture: Picture, accept: str, *, celery_compat: bool) -> tuple[bytes, str]:
    """The page for Prometheus and its content type, by the request's Accept header."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(lambda: picture, celery_compat=celery_compat))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def picture_of(
    overview: Overview,
    settings: Settings,
    letters: Mapping[str, int],
    learned: Sequence[LearnedTask] = (),
    retries: int | None = None,
) -> Picture:
    """What the metrics are made from."""
    return Picture(
        versions=(_version("celeray"), _version("celery"), _version("ray")),
        bridges=overview.bridges,
        summaries=overview.summaries,
        queues=queue_statuses(overview, settings),
        devices=devices(overview),
        nodes=nodes(overview),
        totals=overview.totals,
        learned=learned,
        letters=letters,
        retries=retries,
    )


def _family(spec: Spec, samples: Samples) -> Metric:
    family: GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily
    if spec.type == "histogram":
        family = HistogramMetricFamily(spec.name, spec.help, labels=spec.labels)
    elif spec.type == "counter":
        family = CounterMetricFamily(spec.name, spec.help, labels=spec.labels)
    else:
        family = GaugeMetricFamily(spec.name, spec.help, labels=spec.labels)
    for sample in samples:
        if isinstance(sample, HistogramSample) and isinstance(family, HistogramMetricFamily):
            family.add_metric(sample.labels, buckets=list(sample.buckets), sum_value=sample.sum)
        elif isinstance(sample, Sample) and not isinstance(family, HistogramMetricFamily):
            family.add_metric(sample.labels, sample.value)
    return family


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
