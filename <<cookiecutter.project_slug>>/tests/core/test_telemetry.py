"""Where a request's time goes is told to whoever asks, by the usual names, and to nobody else."""

import asyncio
import re
import time
from contextlib import suppress
from typing import Any

import pytest
from httpx2 import AsyncClient
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sqlalchemy import String, bindparam, literal_column, select
from sqlalchemy.exc import DBAPIError

from app.core import telemetry
from app.core.config import load_settings
from app.core.db import Database
from app.core.queries import Queries, Read
from app.core.server_errors import error_type
from tests.core.conftest import started, until
from tests.core.receiver import attributes, points, receiving
from tests.core.routes import SLEEP
from tests.core.tables import Person
from tests.process import serve

# By https://opentelemetry.io/docs/specs/semconv/db/database-metrics/ and, from http on, by FastAPI
# and by us.
UNITS = {
    "db.client.connection.count": "{connection}",
    "db.client.connection.max": "{connection}",
    "db.client.connection.idle.max": "{connection}",
    "db.client.connection.pending_requests": "{request}",
    "db.client.connection.timeouts": "{timeout}",
    "db.client.connection.create_time": "s",
    "db.client.connection.wait_time": "s",
    "db.client.connection.use_time": "s",
    "db.client.operation.duration": "s",
    "http.server.request.duration": "s",
    "http.server.active_requests": "{request}",
    "app.db.retries": "{retry}",
    "app.http.unavailable": "{response}",
}
<% if cookiecutter.database == "postgresql" %>
DEADLOCK, UNKNOWN_COLUMN, SYSTEMS = "40P01", "42703", {"postgresql"}
<% else %>
DEADLOCK, UNKNOWN_COLUMN, SYSTEMS = "1213", "1054", {"mysql", "mariadb"}
<% endif %>
SECRET = "nobody-should-see-this@example.com"
POOL, STATE = "db.client.connection.pool.name", "db.client.connection.state"


async def get_into_everything(client: AsyncClient) -> None:
    """Have each metric count something."""
    created = await client.post("/people", json={"email": SECRET})
    person = created.json()["id"]
    assert (await client.get(f"/people/{person}")).status_code == 200
    assert (await client.patch(f"/people/{person}", json={"full_name": SECRET})).status_code == 200
    assert (await client.post("/people", json={"email": SECRET})).status_code == 409
    assert (await client.delete(f"/people/{person}")).status_code == 204
    assert (await client.post("/people", json={"full_name": SECRET})).status_code == 422
    assert (await client.get(f"/fail/{DEADLOCK}")).status_code == 503
    # Its connection is cut before the commit.
    cut = await client.post("/people-then/cut", params={"email": "cut@example.com"})
    assert cut.status_code == 503
    assert (await client.get("/crowded")).status_code == 503


async def test_all_is_exported_by_its_name_with_its_unit_and_without_values(
    database: Database, clean: None
) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    settings = {"DATABASE_READ_URL": url, "POOL_SIZE": "1", "POOL_TIMEOUT": "20"}
<% if cookiecutter.sync_bridge == "yes" %>
    settings |= {"POOL_SIZE": "2", "SYNC_POOL_SIZE": "1"}
<% endif %>
    export = {"OTEL_METRIC_EXPORT_INTERVAL": "100", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with receiving() as receiver:
        export["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.url
        with serve("tests.core.routes:app", **settings, **export) as process:
            async with process.client() as client:
                await get_into_everything(client)
                await until(lambda: receiver.metrics.keys() >= UNITS.keys())
        # At its end it sends the rest.
        metrics, spans = receiver.metrics, receiver.spans
        sent = b"".join(body for _, body in receiver.bodies)

    assert {name: metric.unit for name, metric in metrics.items()} == UNITS

<% if cookiecutter.sync_bridge == "yes" %>
    pools = {"primary": 1, "replica": 2, "sync": 1}
<% else %>
    pools = {"primary": 1, "replica": 1}
<% endif %>
    most = {each[POOL]: number for each, number in points(metrics["db.client.connection.max"])}
    assert most == pools
    counts = points(metrics["db.client.connection.count"])
    states = [(each[POOL], each[STATE]) for each, _ in counts]
    assert sorted(states) == sorted((pool, state) for pool in pools for state in ("idle", "used"))
    timeouts = points(metrics["db.client.connection.timeouts"])
    # Who looks whether the replica is behind may have waited in vain as well, once.
    assert {each[POOL]: number for each, number in timeouts}["primary"] in (1, 2)
    assert points(metrics["app.db.retries"]) == [({"error.type": DEADLOCK}, 4)]
    reasons = {each["reason"]: number for each, number in points(metrics["app.http.unavailable"])}
    assert sorted(reasons.values()) == [1, 1, 1]
    assert "No database connection was free in time" in reasons

    statements = points(metrics["db.client.operation.duration"])
    assert {each["db.system.name"] for each, _ in statements} <= SYSTEMS
    counted: dict[str, float] = {}
    for each, number in statements:
        name = each["db.query.summary"]
        counted[name] = counted.get(name, 0) + number
    # By single statements, in a transaction of them, and by a session.
    assert counted["INSERT _test_people"] == 3
    assert counted["UPDATE _test_people"] == 1
    assert counted["DELETE _test_people"] == 1
    assert counted["COMMIT"] >= 2
    errors = [each for each, _ in statements if "error.type" in each]
    failed = {each["db.query.summary"]: each["error.type"] for each in errors}
    assert DEADLOCK in failed.values()
    assert "COMMIT" in failed

    [request] = [span for span in spans if span.name == "PATCH /people/{person_id}"]
    inside = [span for span in spans if span.parent_span_id == request.span_id]
    names = [span.name for span in sorted(inside, key=lambda span: span.start_time_unix_nano)]
<% if cookiecutter.database == "postgresql" %>
    # Each is prepared first, once.
    names = [name for name in names if not name.startswith("PREPARE")]
<% endif %>
    assert names == ["BEGIN", "SELECT _test_people", "UPDATE _test_people", "COMMIT"]
    assert all(request.start_time_unix_nano <= span.start_time_unix_nano for span in inside)
    assert {attributes(span.attributes)["db.system.name"] for span in inside} <= SYSTEMS

    # Logs hold what people send.
    assert {path for path, _ in receiver.bodies} == {"/v1/metrics", "/v1/traces"}
    assert SECRET.encode() not in sent
    if password := database.engine.url.password:
        assert password.encode() not in sent


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> InMemoryMetricReader:
    """Return what reads the metrics of this process, of one test."""
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("test")
    for name in ("create_time", "wait_time", "use_time", "duration"):
        monkeypatch.setattr(telemetry, name, meter.create_histogram(name, "s"))
    return reader


def totals(reader: InMemoryMetricReader) -> dict[str, tuple[int, float]]:
    """Return how often each time was measured, and their sum."""
    data: Any = reader.get_metrics_data()
    [resource] = data.resource_metrics
    return {
        metric.name: (
            sum(point.count for point in metric.data.data_points),
            sum(point.sum for point in metric.data.data_points),
        )
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def watched(database: Database, slow: float | None = None) -> telemetry.Watch:
    """Look at a database as telemetry does where it is on."""
    engine, slots = database.engine.sync_engine, database.pool.slots
    watch = telemetry.Watch("primary", engine, slots, slow)
    database.on_statement = watch.note
    return watch


async def test_a_thousand_clients_wait_as_long_as_is_said(reader: InMemoryMetricReader) -> None:
    async with started(pool_size=20, max_overflow=0, pool_timeout=30) as (_, database):
        watch = watched(database)
        # All are open.
        await asyncio.gather(*(database.ping() for _ in range(20)))
        before = totals(reader)

        async def ask() -> float:
            began = time.monotonic()
            async with database.session() as session:
                await session.execute(SLEEP, {"seconds": 0.02})
            return time.monotonic() - began

        clients = [asyncio.create_task(ask()) for _ in range(1000)]
        await until(lambda: watch.slots.waiting > 900)
        seen = sum(await asyncio.gather(*clients))
        after = totals(reader)

    waited, used = (after[name][1] - before[name][1] for name in ("wait_time", "use_time"))
    assert after["wait_time"][0] - before["wait_time"][0] == 1000
    assert waited + used == pytest.approx(seen, rel=0.1)
    assert waited > 0.8 * seen
    assert watch.slots.waiting == 0


async def test_what_goes_from_hand_to_hand_is_counted_once(reader: InMemoryMetricReader) -> None:
    async with started(pool_size=1, max_overflow=0, pool_timeout=30) as (_, database):
        watched(database)
        queries, emails = Queries(database), Read(str, select(Person.email))
        await queries.all(emails)
        before, began = totals(reader), time.monotonic()
        asked = (queries.all(emails) for _ in range(100))
        await asyncio.gather(*asked)
        elapsed, after = time.monotonic() - began, totals(reader)

    for name in ("wait_time", "use_time"):
        assert after[name][0] - before[name][0] == 100
    # There was one connection, which only one has at a time.
    assert 0 < after["use_time"][1] - before["use_time"][1] <= elapsed


async def test_a_slow_statement_is_logged_without_its_values(
    caplog: pytest.LogCaptureFixture, clean: None
) -> None:
    async with started(slow_statement=0.0) as (client, database):
        # This value is put into the text, and sent as a part of it.
        literal: Any = bindparam("email", SECRET, literal_execute=True)
        async with database.session() as session:
            await session.execute(select(Person.id).where(Person.email == literal))
        headers = {"X-Request-ID": "order-9"}
        created = await client.post("/people", json={"email": SECRET}, headers=headers)
        person = created.json()["id"]
        assert (await client.delete(f"/people/{person}", headers=headers)).status_code == 204
    said = [each for each in caplog.records if "Slow statement" in each.getMessage()]
    said = [each for each in said if vars(each)["request_id"] == "order-9"]
    of_request = [each.getMessage() for each in said]

    for method, path, verb in (
        ("POST", "/people", "INSERT INTO"),
        ("DELETE", "/people/{person_id}", "DELETE FROM"),
    ):
        form = rf"Slow statement: [\d.]+ s, after [\d.]+ s .*, for {method} {re.escape(path)}: "
        form += f"{verb} _test_people "
        assert any(re.match(form, line) for line in of_request)
    sources = {str(vars(each)["source"]).partition(":")[0] for each in said}
    assert "tests/core/people.py" in sources
    assert SECRET not in caplog.text


async def test_what_is_fast_enough_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with started(slow_statement=0.2) as (client, _):
        assert (await client.get("/people")).status_code == 200
        assert "Slow statement" not in caplog.text
        assert (await client.get("/sleep/0.2")).status_code == 200
    [line] = [each for each in caplog.messages if "Slow statement" in each]
    assert "GET /sleep/{seconds}" in line


async def test_both_ways_say_the_same() -> None:
    heard: list[tuple[str, str | None]] = []

    class Listening(telemetry.Watch):
        def note(
            self, sql: str, connection: Any, seconds: float, error: BaseException | None = None
        ) -> None:
            kind = None if error is None else error_type(error)
            heard.append((telemetry.summary(sql), kind))

    async with started() as (_, database):
        watch = Listening("primary", database.engine.sync_engine, database.pool.slots, None)
        database.on_statement = watch.note
        missing = select(literal_column("missing", String)).select_from(Person)
        for read in (select(Person.email), missing):
            with suppress(DBAPIError):
                await Queries(database).all(Read(str, read))
            with suppress(DBAPIError):
                async with database.session() as session:
                    await session.execute(read)
        # A statement that is cancelled has ended too.
        with suppress(TimeoutError):
            async with database.session() as session:
                await session.execute(SLEEP, {"seconds": 0})
                async with asyncio.timeout(0.1):
                    await session.execute(SLEEP, {"seconds": 20})

    assert heard.count(("SELECT _test_people", None)) == 2
<% if cookiecutter.database == "postgresql" %>
    # A single statement is prepared first, once.
    assert heard[0] == ("PREPARE _test_people", None)
    assert heard.count(("PREPARE _test_people", UNKNOWN_COLUMN)) == 1
    assert heard.count(("SELECT _test_people", UNKNOWN_COLUMN)) == 1
<% else %>
    assert heard.count(("SELECT _test_people", UNKNOWN_COLUMN)) == 2
<% endif %>
    # A session's transaction ends with it; a single statement is one of its own.
    assert heard.count(("COMMIT", None)) == 1
    assert ("SELECT", "CancelledError") in heard


async def test_where_nobody_looks_nothing_listens(database: Database) -> None:
    engine = database.engine.sync_engine
    assert database.on_statement is None
    assert engine not in [watch.engine for watch in telemetry.watches]
    assert not engine.pool.dispatch.checkout


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.core.config.find_spec", lambda name: None)
    monkeypatch.setenv("METRICS_PORT", "9464")
    with pytest.raises(SystemExit, match=r"METRICS_PORT: .*uv sync --group telemetry"):
        load_settings()
