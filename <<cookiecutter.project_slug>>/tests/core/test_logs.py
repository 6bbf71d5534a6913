"""A line of the log says for which request it is; the answer says it to the caller."""

import io
import json
import logging
import re
import sys
from datetime import datetime

import pytest
from httpx2 import ASGITransport, AsyncClient

from app.api.middleware import LastResort
from app.core import logs
from app.core.config import load_settings
from tests.core.conftest import started
from tests.core.routes import make
from tests.process import PROJECT, Process

GIVEN = {"X-Request-ID": "order-7", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
ORIGIN = "https://example.com"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health/live", 200),
        ("GET", "/nowhere", 404),
        ("PUT", "/people", 405),
        ("POST", "/people", 422),
        ("GET", "/bug", 500),
    ],
)
async def test_every_answer_has_an_id(
    shared_server: Process, method: str, path: str, status: int
) -> None:
    async with shared_server.client() as client:
        named = await client.request(method, path, headers=GIVEN)
        first, second = [await client.request(method, path) for _ in range(2)]

    assert {each.status_code for each in (named, first, second)} == {status}
    assert named.headers.get_list("x-request-id") == ["order-7"]
    ids = [each.headers["x-request-id"] for each in (first, second)]
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)
    assert ids[0] != ids[1]


@pytest.mark.parametrize("given", [b"", b"a b", b"a" * 129, b"\xe9", b'"}', b"{x}"])
async def test_an_id_that_would_spoil_the_log_is_replaced(given: bytes) -> None:
    async with started() as (client, _):
        response = await client.get("/health/live", headers={b"X-Request-ID": given})

    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


async def test_lines_of_a_request_carry_its_id(shared_server: Process) -> None:
    log = shared_server.log.read_text()
    async with shared_server.client() as client:
        await client.get("/bug", headers=GIVEN | {"X-Request-ID": "order-8"})
    lines = [json.loads(line) for line in shared_server.log.read_text().splitlines()]

    assert all(datetime.fromisoformat(line["time"]).tzinfo for line in lines)
    assert {"level", "logger", "message", "request_id", "trace_id"} <= set.intersection(
        *(set(line) for line in lines)
    )
    ours = [line for line in lines if line["request_id"] == "order-8"]
    assert "order-8" not in log
    assert {line["logger"] for line in ours} == {"app.api.middleware", "uvicorn.access"}
    assert {line["trace_id"] for line in ours} == {"a" * 32}
    assert "ZeroDivisionError" in ours[0]["traceback"]
    started_up = next(line for line in lines if "startup complete" in line["message"])
    assert started_up["request_id"] == "-"


def test_the_level_is_that_of_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(logs.handler, "stream", stream)
    logs.configure_logging("WARNING")
    try:
        for name in ("app.orders", "uvicorn.error"):
            logging.getLogger(name).info("quiet")
            logging.getLogger(name).warning("loud")
    finally:
        logs.configure_logging(load_settings().log_level)
    logging.getLogger("app.orders").info("heard again")

    said = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert said == ["loud", "loud", "heard again"]


def test_a_terminal_gets_text() -> None:
    record = logging.LogRecord("app.orders", logging.INFO, "", 0, "stored %d", (7,), None)
    logs.add_request(record)

    line = logs.TextFormatter(logs.TEXT).format(record)

    assert re.fullmatch(r"\d{4}-\S+ \S+ INFO app\.orders \[-\] stored 7", line)
    assert not sys.stderr.isatty()


def test_a_terminal_gets_the_line_that_asked_below_a_statement() -> None:
    name = "sqlalchemy.engine.Engine"
    record = logging.LogRecord(name, logging.INFO, "", 0, "SELECT 1\nFROM orders", None, None)
    logs.add_request(record)

    lines = logs.TextFormatter(logs.TEXT).format(record).splitlines()

    assert lines[0].endswith(" [-] SELECT 1")
    assert lines[1] == "FROM orders"
    assert re.fullmatch(r"  ↳ tests/core/test_logs\.py:\d+", lines[2])


@pytest.mark.parametrize(
    ("method", "asked"),
    [
        ("GET", "await queries.first(PERSON_BY_ID, person_id=person_id)"),
        ("PATCH", "await transaction.first(LOCKED_PERSON, person_id=person_id)"),
        ("DELETE", "await session.get(Person, person_id, with_for_update=True)"),
    ],
)
async def test_a_statement_names_the_line_that_asked_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], method: str, asked: str
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(logs.handler, "stream", stream)
    async with started(echo_sql=True) as (client, _):
        await client.request(method, "/people/12345", json={})

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    [statement] = [line for line in lines if "FROM _test_people" in line["message"]]
    path, number = statement["source"].split(":")
    assert path == "tests/core/people.py"
    assert asked in (PROJECT / path).read_text().splitlines()[int(number) - 1]
    # Neither a middleware nor the core asks, and values are a statement's.
    sources = {line["source"].split(":")[0] for line in lines if line.get("source")}
    assert sources <= {"app/main.py", "tests/core/people.py", "tests/core/test_logs.py"}
    assert not any("source" in line for line in lines if line["message"].startswith("["))
    # Nothing is written a second time.
    assert not capsys.readouterr().out


async def test_pages_of_other_origins_may_call_only_when_they_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LastResort, "raise_bugs", False)
    async with started() as (client, _):
        silent = await client.get("/health/live", headers={"Origin": ORIGIN})
    app = make(cors_origins=[ORIGIN])
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        live = await client.get("/health/live", headers={"Origin": ORIGIN})
        other = await client.get("/health/live", headers={"Origin": "https://example.org"})
        asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "PATCH"}
        preflight = await client.options("/people/1", headers=asked)
        failed = await client.get("/bug", headers={"Origin": ORIGIN})

    assert "access-control-allow-origin" not in silent.headers
    assert live.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-origin" not in other.headers
    assert "PATCH" in preflight.headers["access-control-allow-methods"]
    assert failed.status_code == 500
    assert failed.headers["access-control-allow-origin"] == ORIGIN
