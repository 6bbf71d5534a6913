"""What is added up here is exported as the SDK exports it."""

import math
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from operator import attrgetter
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from app.core.aggregation import MOST, SCOPES, AggregatingMeterProvider, aggregate_metrics
from app.core.telemetry import is_silent
from app.main import create_app, settings

BOUNDS = (0.0, 0.5, 1.0)


class Both:
    """The same instruments twice, ours and the SDK's, and what both export."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.provider, self._reader = AggregatingMeterProvider(), InMemoryMetricReader()
        self.provider.add_metric_reader(self._reader)
        more = "1", "https://example.com"
        meters = [self.provider.get_meter(name, *more) for name in ("app", "other")]
        self.times = [
            meter.create_histogram(
                "time", unit="s", description="All", explicit_bucket_boundaries_advisory=BOUNDS
            )
            for meter in meters
        ]
        self.active = [meter.create_up_down_counter("active", unit="{it}") for meter in meters]
        self.plain = [meter.create_histogram("plain") for meter in meters]
        self.totals = [meter.create_counter("total") for meter in meters]

    def exported(self) -> list[Any]:
        """Return what each scope exports, without its times."""
        data: Any = self._reader.get_metrics_data()
        [resource] = data.resource_metrics
        scopes = {each.scope.name: each for each in resource.scope_metrics}
        assert {each.schema_url for each in scopes.values()} == {"https://example.com"}
        return [
            {
                (metric.name, metric.unit, metric.description): (
                    getattr(metric.data, "aggregation_temporality", None),
                    sorted(map(timeless, metric.data.data_points), key=repr),
                )
                for metric in scope.metrics
            }
            for _, scope in sorted(scopes.items())
        ]


def timeless(point: Any) -> Any:
    """Return a point as if there were no time, and no order where none is meant."""
    times: dict[str, Any] = {"start_time_unix_nano": 0, "time_unix_nano": 0}
    exemplars = [
        replace(each, time_unix_nano=0, filtered_attributes=None) for each in point.exemplars
    ]
    return replace(
        point,
        **times,
        attributes=dict(sorted(point.attributes.items())),
        exemplars=sorted(exemplars, key=attrgetter("value")),
    )


@pytest.mark.parametrize("seed", range(5))
def test_ours_are_as_the_sdks(seed: int) -> None:
    both = Both(seed)
    choose = both.random.choice
    tracer = TracerProvider().get_tracer("test")
    for _ in range(300):
        attributes = {"route": choose(["/a", "/b"]), "status": choose([200, 503])}
        if choose([True, False]):
            attributes = dict(reversed(attributes.items()))
        value = choose([*BOUNDS, both.random.uniform(-1, 2), math.nan, math.inf])
        some = choose([attributes, {}, None])
        number = choose([-1, 1])
        for index in range(2):
            both.active[index].add(number, some)
            both.plain[index].record(number + 1, some)
            both.totals[index].add(number + 1, some)
        if choose([True, False]):
            with tracer.start_as_current_span("traced"):
                for time in both.times:
                    time.record(value, some)
        else:
            for time in both.times:
                time.record(value, some)
    ours, theirs = both.exported()
    assert len(ours) == 4
    assert ours == theirs


def test_names_without_end_are_counted_as_one() -> None:
    both = Both()
    for number in range(MOST + 50):
        for time in both.times:
            time.record(0.1, {"number": number})
    ours, theirs = both.exported()
    assert ours == theirs
    _, points = ours["time", "s", "All"]
    assert len(points) == MOST + 1


@pytest.fixture
def quick_turns() -> Iterator[None]:
    """Have threads interrupt each other as often as they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("quick_turns")
def test_threads_lose_nothing() -> None:
    both = Both()

    def use(_: int) -> None:
        for number in range(1000):
            both.times[0].record(number % 3, {"rest": number % 5})
            both.active[0].add(1)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(8)))
    ours = both.exported()[0]
    assert sum(point.count for point in ours["time", "s", "All"][1]) == 8000
    [point] = ours["active", "{it}", ""][1]
    assert point.value == 8000


def test_who_asks_twice_gets_the_same() -> None:
    provider = AggregatingMeterProvider()
    first, second = (provider.get_meter("fastapi") for _ in range(2))
    for make in ("create_up_down_counter", "create_histogram"):
        more = {"explicit_bucket_boundaries_advisory": BOUNDS} if "histogram" in make else {}
        assert getattr(first, make)("x", **more) is getattr(second, make)("x", **more)


def test_what_others_measure_is_the_sdks() -> None:
    meter = AggregatingMeterProvider().get_meter("shop")
    made = meter.create_histogram("price", explicit_bucket_boundaries_advisory=BOUNDS)
    assert isinstance(made, Histogram)
    assert "shop" not in SCOPES


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[MeterProvider]:
    """Return the providers that are set, of which a process has one for good."""
    chosen: list[MeterProvider] = []
    monkeypatch.setattr(metrics, "set_meter_provider", chosen.append)
    return chosen


def test_metrics_are_added_up_for_whoever_exports_them(
    monkeypatch: pytest.MonkeyPatch, chosen: list[MeterProvider]
) -> None:
    aggregate_metrics(None)
    assert chosen == []
    aggregate_metrics(9464)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    aggregate_metrics(None)
    assert [type(each) for each in chosen] == [AggregatingMeterProvider] * 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "base2_exponential_bucket_histogram",
        ),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "always_on"),
        ("OTEL_SDK_DISABLED", "true"),
    ],
)
def test_who_wants_another_form_gets_it_from_the_sdk(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, chosen: list[MeterProvider]
) -> None:
    monkeypatch.setenv(name, value)
    aggregate_metrics(9464)
    assert chosen == []


def test_who_has_a_provider_keeps_it(
    monkeypatch: pytest.MonkeyPatch, chosen: list[MeterProvider]
) -> None:
    monkeypatch.setattr(metrics, "get_meter_provider", MeterProvider)
    aggregate_metrics(9464)
    assert chosen == []


def test_without_the_sdk_the_application_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.main.find_spec", lambda name: None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    create_app(settings)
    assert is_silent(metrics.get_meter_provider())
