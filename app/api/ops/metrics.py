"""What is counted, as Prometheus reads it. All of it comes from SQL: any process of the server tells the same."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from app.core.census import Census
from app.core.measures import ALL, BEYOND, SUM, Measure, Part

PREFIX = "imagefleet_"

Numbers = Mapping[Any, float]
"""By the values of the labels, in their order."""


class Told(Collector):
    """Everything that is told: what is there now, and what has happened so far."""

    def __init__(self, census: Census, counters: Mapping[Part, float]) -> None:
        self._census, self._counters = census, counters

    def collect(self) -> Iterable[Metric]:
        """Turn numbers into metrics."""
        now = self._census
        yield _gauge("jobs", "Jobs that wait or are drawn.", ("model", "state"), now.jobs)
        about = "How long the oldest queued job of a model has waited."
        yield _gauge("oldest_queued_seconds", about, ("model",), now.oldest_queued)
        yield _gauge("machines", "Machines by state.", ("state",), now.machines)
        about = "Live machines that are given jobs, by model, and how far they are with it."
        yield _gauge("model_machines", about, ("model", "state"), now.readiness)
        about = "How long the slowest download of a model has stood still."
        yield _gauge("download_standstill_seconds", about, ("model",), now.standstill)
        about = "Memory of what draws: of the GPU, or of the computer where there is none."
        yield _gauge("device_memory_bytes", about, ("machine", "device", "kind"), now.memory)
        yield _gauge("webhooks_owed", "Events that are owed to webhooks.", (), {(): now.webhooks_owed})
        about = "How long the event that is due longest has been so."
        yield _gauge("webhooks_overdue_seconds", about, (), {(): now.webhooks_overdue})
        about = "How long ago a part of the server last said that it lives."
        yield _gauge("part_silent_seconds", about, ("part",), now.silent_parts)
        for measure in ALL:
            grown = {part: value for part, value in self._counters.items() if part.name == measure.name}
            yield _histogram(measure, grown) if measure.buckets else _counter(measure, grown)


def _gauge(name: str, about: str, labels: Sequence[str], values: Numbers) -> Metric:
    metric = GaugeMetricFamily(PREFIX + name, about, labels=labels)
    for key, value in sorted(values.items()):
        metric.add_metric(key, value)
    return metric


def _counter(measure: Measure, grown: Mapping[Part, float]) -> Metric:
    metric = CounterMetricFamily(PREFIX + measure.name, measure.about, labels=measure.labels)
    if not measure.labels and not grown:
        metric.add_metric((), 0)  # it is there from the start, or its first increase would not be seen
    for part, value in sorted(grown.items()):
        metric.add_metric(json.loads(part.labels), value)
    return metric


def _histogram(measure: Measure, grown: Mapping[Part, float]) -> Metric:
    metric = HistogramMetricFamily(PREFIX + measure.name, measure.about, labels=measure.labels)
    series: dict[str, dict[str, float]] = {}
    for part, value in sorted(grown.items()):
        series.setdefault(part.labels, {})[part.part] = value
    for labels, parts in (series or ({} if measure.labels else {"[]": {}})).items():
        metric.add_metric(json.loads(labels), list(_cumulated(measure, parts)), parts.get(SUM, 0.0))
    return metric


def _cumulated(measure: Measure, parts: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Add up the buckets: Prometheus wants to know how many took at most so long."""
    total = 0.0
    for bound in [*map(str, measure.buckets), BEYOND]:
        total += parts.get(bound, 0.0)
        yield bound, total


def to_text(census: Census, counters: Mapping[Part, float], accept: str) -> tuple[bytes, str]:
    """Write it all as the asker reads it, Prometheus' text format or OpenMetrics; returns it with its media type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Told(census, counters))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type
