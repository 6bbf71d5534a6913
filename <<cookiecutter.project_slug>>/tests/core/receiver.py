"""What a service exports by OTLP, received by HTTP as a collector receives it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Receiver(ThreadingHTTPServer):
    """Keeps all that arrives."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.bodies: list[tuple[str, bytes]] = []

    @property
    def metrics(self) -> dict[str, Metric]:
        """Return the newest of each metric, by name."""
        requests = [
            ExportMetricsServiceRequest.FromString(body)
            for path, body in list(self.bodies)
            if path == "/v1/metrics"
        ]
        return {
            metric.name: metric
            for request in requests
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    @property
    def spans(self) -> list[Span]:
        """Return all spans."""
        requests = [
            ExportTraceServiceRequest.FromString(body)
            for path, body in list(self.bodies)
            if path == "/v1/traces"
        ]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class Handler(BaseHTTPRequestHandler):
    """Takes what is sent."""

    server: Receiver

    def do_POST(self) -> None:
        """Keep a body; there is nothing to say to it."""
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.bodies.append((self.path, body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Receive for as long as the block runs."""
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join()


def attributes(of: Iterator[KeyValue]) -> dict[str, str]:
    """Return attributes that are texts."""
    return {each.key: each.value.string_value for each in of}


def points(metric: Metric) -> list[tuple[dict[str, str], float]]:
    """Return what a metric counts, with its attributes: of a histogram how often."""
    if metric.HasField("histogram"):
        return [(attributes(each.attributes), each.count) for each in metric.histogram.data_points]
    return [
        (attributes(each.attributes), each.as_int or each.as_double)
        for each in metric.sum.data_points
    ]
