"""The census as Prometheus reads it. All values come from SQL: any process of the server gives the same ones."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.core.census import Census
from app.core.counters import JOBS_TAKEN_ALONG, STALE_RESULTS_REFUSED
from app.core.lifecycle import DeliveryState

COUNTERS = {
    STALE_RESULTS_REFUSED: "Pictures and endings refused because their attempt no longer held the job.",
    JOBS_TAKEN_ALONG: "Jobs that were given to a machine to be drawn in the same pass as another one.",
}
"""Counters that are there from the start, at 0, and what they count."""


Value = tuple[tuple[str, ...], float]
"""The values of the labels, and the number."""


class _Counted(Collector):
    def __init__(self, census: Census) -> None:
        self._census = census

    def collect(self) -> Iterable[Metric]:
        """Turn the census into metrics."""
        found = self._census
        jobs = [((model_id, state.value), count) for (model_id, state), count in found.jobs.items()]
        yield _gauge("jobs", "Jobs by model and state.", ("model", "state"), jobs)
        waiting = [((model_id,), seconds) for model_id, seconds in found.oldest_queued.items()]
        yield _gauge("oldest_queued_seconds", "How long the oldest queued job of a model waits.", ("model",), waiting)
        machines = [((state,), count) for state, count in found.machines.items()]
        yield _gauge("machines", "Machines by state.", ("state",), machines)
        deliveries = [((state.value,), found.deliveries.get(state, 0)) for state in DeliveryState]
        yield _gauge("webhook_deliveries", "Events owed to webhooks, by state.", ("state",), deliveries)
        yield from _counters(found.counters)


def _gauge(name: str, about: str, labels: Sequence[str], values: Iterable[Value]) -> Metric:
    metric = GaugeMetricFamily(f"imagefleet_{name}", about, labels=labels)
    for key, value in sorted(values):
        metric.add_metric(key, value)
    return metric


def _counters(values: Mapping[str, int]) -> Iterator[Metric]:
    for name in sorted(COUNTERS.keys() | values.keys()):
        yield CounterMetricFamily(f"imagefleet_{name}", COUNTERS.get(name, name), value=values.get(name, 0))


def to_text(census: Census) -> bytes:
    """Write the census in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Counted(census))
    return generate_latest(registry)
