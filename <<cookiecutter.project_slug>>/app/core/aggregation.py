"""Metrics that are added up as they are recorded, which costs a tenth of what it costs in the SDK.

A request records six, and each takes the SDK (1.45) some 10 µs: with it a worker answers 0.58 of
the requests that it answers without metrics, with this 0.8. The SDK exports them all the same.
"""

import math
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from time import time_ns
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import Exemplar, MeterProvider
from opentelemetry.sdk.metrics import export as sdk

from .telemetry import is_silent

# Those of a request are FastAPI's and ours. Whatever else is measured is the SDK's own.
SCOPES = {"fastapi", "app"}

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")

# Who asks the SDK for metrics of another form gets them from it.
FORMS = (
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
    "OTEL_METRICS_EXEMPLAR_FILTER",
    "OTEL_SDK_DISABLED",
)

# So many combinations of attributes are told apart, as in the SDK: names that never come twice
# would fill the memory.
MOST, OVERFLOW = 2000, frozenset({("otel.metric.overflow", True)})

Attributes = frozenset[tuple[str, Any]]


@dataclass(slots=True)
class Point:
    """The values that have the same attributes."""

    counts: list[int]
    sum: float = 0.0
    min: float = math.inf
    max: float = -math.inf
    # For each bucket the last value of a request that is traced.
    exemplars: dict[int, Exemplar] = field(default_factory=dict)


class Histogram(metrics.Histogram):
    """Counts values by their size, from any thread."""

    def __init__(self, name: str, unit: str, description: str, bounds: Sequence[float]) -> None:
        self._words = name, description, unit
        self._bounds, self._began = tuple(bounds), time_ns()
        self._points: dict[Attributes, Point] = {}
        self._lock = Lock()

    def record(self, amount: float, attributes: Any = None, context: Any = None) -> None:
        """Count a value, unless it is none: when the clock was set back."""
        if not 0 <= amount < math.inf:
            return
        key = frozenset((attributes or {}).items())
        bucket = bisect_left(self._bounds, amount)
        span = trace.get_current_span(context).get_span_context()
        with self._lock:
            point = self._points.get(key) or self._new_point(key)
            point.counts[bucket] += 1
            point.sum += amount
            point.min = min(point.min, amount)
            point.max = max(point.max, amount)
            if span.trace_flags.sampled:
                ids = span.span_id, span.trace_id
                point.exemplars[bucket] = Exemplar({}, amount, time_ns(), *ids)

    def _new_point(self, key: Attributes) -> Point:
        if len(self._points) >= MOST:
            key = OVERFLOW
        return self._points.setdefault(key, Point([0] * (len(self._bounds) + 1)))

    def collect(self) -> sdk.Metric:
        """Return what was counted so far."""
        with self._lock:
            points = [
                sdk.HistogramDataPoint(
                    attributes=dict(key),
                    start_time_unix_nano=self._began,
                    time_unix_nano=time_ns(),
                    count=sum(point.counts),
                    sum=point.sum,
                    bucket_counts=tuple(point.counts),
                    explicit_bounds=self._bounds,
                    min=point.min,
                    max=point.max,
                    exemplars=list(point.exemplars.values()),
                )
                for key, point in self._points.items()
            ]
        data = sdk.Histogram(points, sdk.AggregationTemporality.CUMULATIVE)
        return sdk.Metric(*self._words, data)


class UpDownCounter(metrics.UpDownCounter):
    """Adds up, from any thread; the SDK asks for the sums when it exports."""

    def __init__(self, meter: metrics.Meter, name: str, unit: str, description: str) -> None:
        self._sums: dict[Attributes, float] = {}
        self._lock = Lock()
        meter.create_observable_up_down_counter(name, [self._observe], unit, description)

    def add(self, amount: float, attributes: Any = None, context: Any = None) -> None:
        """Add to the sum of these attributes."""
        key = frozenset((attributes or {}).items())
        with self._lock:
            self._sums[key] = self._sums.get(key, 0) + amount

    def _observe(self, _: object) -> Iterator[Observation]:
        for key, total in self._sums.copy().items():
            yield Observation(total, dict(key))


class Meter:
    """Makes the instruments that a request records by; the others are the SDK's."""

    def __init__(self, meter: metrics.Meter) -> None:
        self._meter = meter
        self.histograms: dict[str, Histogram] = {}
        self._counters: dict[str, UpDownCounter] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._meter, name)

    def create_histogram(
        self, name: str, unit: str = "", description: str = "", **advice: Any
    ) -> metrics.Histogram:
        """Return the histogram of that name: without bounds of its own it is the SDK's."""
        if not (bounds := advice.get("explicit_bucket_boundaries_advisory")):
            return self._meter.create_histogram(name, unit, description, **advice)
        if name not in self.histograms:
            self.histograms[name] = Histogram(name, unit, description, bounds)
        return self.histograms[name]

    def create_up_down_counter(
        self, name: str, unit: str = "", description: str = ""
    ) -> metrics.UpDownCounter:
        """Return the counter of that name."""
        if name not in self._counters:
            self._counters[name] = UpDownCounter(self._meter, name, unit, description)
        return self._counters[name]


class AggregatingMeterProvider(MeterProvider):
    """The SDK's, whose readers read what was added up here as well."""

    def __init__(self) -> None:
        # Its readers are shut down by those who have added them.
        super().__init__(shutdown_on_exit=False)
        self._ours: dict[Any, Meter] = {}

    def get_meter(self, name: str, *said: Any, **more: Any) -> Any:
        """Return what makes the instruments of that name."""
        meter: Any = super().get_meter(name, *said, **more)
        if name not in SCOPES:
            return meter
        return self._ours.setdefault(meter._instrumentation_scope, Meter(meter))

    def add_metric_reader(self, metric_reader: sdk.MetricReader) -> None:
        """Have a reader read all metrics from now on."""
        super().add_metric_reader(metric_reader)
        receive = metric_reader._receive_metrics

        def receive_all(data: sdk.MetricsData, *said: Any, **more: Any) -> None:
            receive(self._complete(data), *said, **more)

        metric_reader._receive_metrics = receive_all  # type: ignore[method-assign, assignment]

    def _complete(self, data: sdk.MetricsData) -> sdk.MetricsData:
        [resource] = data.resource_metrics
        # A scope that comes twice is exported once.
        found = {each.scope: list(each.metrics) for each in resource.scope_metrics}
        for scope, meter in self._ours.items():
            ours = [histogram.collect() for histogram in meter.histograms.values()]
            found[scope] = found.get(scope, []) + ours
        scopes = [sdk.ScopeMetrics(*each, each[0].schema_url or "") for each in found.items()]
        return sdk.MetricsData([replace(resource, scope_metrics=scopes)])


def aggregate_metrics(port: int | None) -> None:
    """Have metrics added up here if they are exported, unless somebody has said how else."""
    exported = port is not None or any(map(os.environ.get, ENDPOINTS))
    if exported and is_silent(metrics.get_meter_provider()) and not any(map(os.environ.get, FORMS)):
        metrics.set_meter_provider(AggregatingMeterProvider())
