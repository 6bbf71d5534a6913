"""Where a request's time goes: metrics and spans of the database, by OpenTelemetry's names.

https://opentelemetry.io/docs/specs/semconv/db/. Without an SDK, which `METRICS_PORT` turns on, or
`OTEL_EXPORTER_OTLP_ENDPOINT`, nothing is recorded; neither statements nor values ever are.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from time import monotonic, time, time_ns
from typing import Any
from weakref import WeakSet

from opentelemetry import metrics, trace
from opentelemetry.metrics import Observation
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import Engine, event

from .logs import log_slow_statement
from .retries import on_retry
from .server_errors import error_type
from .slots import Slots

# What SQLAlchemy's dialects do for a session.
DO = ("do_execute", "do_execute_no_params", "do_executemany", "do_commit")

# What a statement does, to which table.
VERB, TABLE = re.compile(r"\w+"), re.compile(r'\b(?:FROM|INTO|UPDATE)\s+([\w."`]+)', re.IGNORECASE)

# Seconds, as the conventions have them for statements.
BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)

meter, tracer = metrics.get_meter("app"), trace.get_tracer("app")
histogram = partial(meter.create_histogram, unit="s", explicit_bucket_boundaries_advisory=BUCKETS)
create_time, wait_time, use_time = (
    histogram(f"db.client.connection.{each}_time") for each in ("create", "wait", "use")
)
duration = histogram("db.client.operation.duration")
retries = meter.create_counter("app.db.retries", "{retry}")


@lru_cache(maxsize=1000)
def summary(sql: str) -> str:
    """Return what a statement does, such as "SELECT users"."""
    found = filter(None, (VERB.search(sql), TABLE.search(sql)))
    return " ".join(match[match.lastindex or 0] for match in found)


on_retry.append(lambda error: retries.add(1, {"error.type": error_type(error)}))


class Watch:
    """Looks at a pool, and at the statements on its connections."""

    def __init__(self, pool: str, engine: Engine, slots: Slots, slow: float | None) -> None:
        self.engine, self.slots, self._slow = engine, slots, slow
        self.name = {"db.client.connection.pool.name": pool}
        slots.on_use = self._on_use
        # Who waited for nothing has waited longest.
        slots.on_timeout = lambda seconds: wait_time.record(seconds, self.name)
        event.listen(engine, "connect", self._on_connect)
        for name in DO:
            setattr(engine.dialect, name, partial(self._run, getattr(engine.dialect, name)))

    def note(self, sql: str, connection: Any, seconds: float, error: Any = None) -> None:
        """Record a statement that has just ended, in the trace of its request too."""
<% if cookiecutter.database == "postgresql" %>
        attributes = self.name | {"db.system.name": "postgresql", "db.query.summary": summary(sql)}
<% else %>
        system = "mariadb" if getattr(self.engine.dialect, "is_mariadb", False) else "mysql"
        attributes = self.name | {"db.system.name": system, "db.query.summary": summary(sql)}
<% endif %>
        if error is not None:
            attributes["error.type"] = error_type(error)
        duration.record(seconds, attributes)
        if trace.get_current_span().is_recording():
            began, kind = time_ns() - round(seconds * 1e9), SpanKind.CLIENT
            span = tracer.start_span(summary(sql), None, kind, attributes, start_time=began)
            span.set_status(StatusCode.UNSET if error is None else StatusCode.ERROR)
            span.end()
        if self._slow is not None and seconds >= self._slow:
            waited = getattr(connection, "record_info", {}).get("waited", 0.0)
            log_slow_statement(sql, seconds, waited)

    def count(self) -> dict[str, int]:
        """Return how many connections are open."""
        pool: Any = self.engine.pool
        return {"idle": pool.checkedin(), "used": pool.checkedout()}

    def _on_connect(self, _: object, record: Any) -> None:
        create_time.record(time() - record.starttime, self.name)

    def _on_use(self, waited: float, used: float) -> None:
        wait_time.record(waited, self.name)
        use_time.record(used, self.name)

    def _run(self, do: Callable[..., None], *said: Any) -> None:
        """Do what a session asks for: to run a statement, or to commit."""
        sql, connection, error = "COMMIT", None, None
        if len(said) > 1:
            _, sql, *_, context = said
            connection = context.root_connection.connection
            # As it was compiled: no value that goes into its text is there yet.
            sql = context.compiled.string if context.compiled else sql
        began = monotonic()
        try:
            do(*said)
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.note(sql, connection, monotonic() - began, error)


watches = WeakSet[Watch]()


def is_silent(provider: Any) -> bool:
    """Return whether a provider is the API's own, which records nothing."""
    return type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


def watch(name: str, engine: Engine, slots: Slots, slow: float | None) -> Any:
    """Return what is to hear of each statement: those of `slow` seconds are logged. Else None."""
    providers = trace.get_tracer_provider(), metrics.get_meter_provider()
    if slow is None and all(map(is_silent, providers)):
        return None
    watches.add(found := Watch(name, engine, slots, slow))
    return found.note


def observe(create: Any, name: str, unit: str, read: Callable[[Any], dict[str, int]]) -> None:
    """Have a number of each pool read when it is exported, by the state of its connections."""

    def callback(_: object) -> Iterator[Observation]:
        for pool in watches:
            for state, number in read(pool).items():
                states = {"db.client.connection.state": state} if state else {}
                yield Observation(number, pool.name | states)

    create(f"db.client.connection.{name}", [callback], unit)


gauge, counter = meter.create_observable_up_down_counter, meter.create_observable_counter
observe(gauge, "count", "{connection}", Watch.count)
observe(gauge, "max", "{connection}", lambda pool: {"": pool.slots.size})
observe(gauge, "idle.max", "{connection}", lambda pool: {"": pool.engine.pool.size()})
observe(gauge, "pending_requests", "{request}", lambda pool: {"": pool.slots.waiting})
observe(counter, "timeouts", "{timeout}", lambda pool: {"": pool.slots.timeouts})
