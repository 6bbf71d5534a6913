"""Metrics for Prometheus, which comes and asks for them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from opentelemetry import metrics

logger = logging.getLogger(__name__)

# From METRICS_PORT on, so many ports are tried: each worker takes the next that is free.
PORTS = 100


@contextmanager
def serving_metrics(port: int | None) -> Iterator[None]:
    """Serve `/metrics` while the block runs, at the first free port from that on, if there is one.

    Raises RuntimeError when none is free.
    """
    if port is None:
        yield
        return
    # These are there after `uv sync --group telemetry` only.
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.sdk.metrics import MeterProvider
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    for free in range(port, port + PORTS):
        with suppress(OSError):
            server, thread = start_http_server(free, registry=registry)
            break
    else:
        raise RuntimeError(f"METRICS_PORT: none of {port} to {port + PORTS - 1} is free")
    reader = PrometheusMetricReader(registry=registry, scope_info_enabled=False)
    provider = metrics.get_meter_provider()
    if isinstance(provider, MeterProvider):
        # It exports by OTLP already.
        provider.add_metric_reader(reader)
    else:
        metrics.set_meter_provider(MeterProvider([reader]))
    logger.info("Metrics: http://0.0.0.0:%d/metrics", free)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
