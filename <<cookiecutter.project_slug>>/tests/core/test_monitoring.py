"""What the dashboard and the alerts ask Prometheus for is what the service exports, and is true."""

import json
import os
import random
import re
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.core import telemetry
from app.core.db import Database
from app.core.queries import Queries
from tests.core.conftest import be_impatient, started, until
from tests.core.people import PERSON_BY_ID
from tests.process import PROJECT, serve

MONITORING = PROJECT / "monitoring"

# What Prometheus adds to all it has scraped.
ADDED = {"job", "instance"}

# A metric, the labels that it is chosen by, and those that its sum is taken apart by, as in
# `sum by (le, http_route) (rate(http_server_request_duration_seconds_bucket{job="shop"}[5m]))`.
ASKED = re.compile(r"(?:by \(([^)]*)\) )?\(?(?:rate\()?\b(\w+)(?:\{([^}]*)\}|\[)")
<% if cookiecutter.database == "postgresql" %>
DEADLOCK = "40P01"
<% else %>
DEADLOCK = "1213"
<% endif %>


def targets() -> list[dict[str, Any]]:
    """Return what the panels ask for."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    return [target for panel in dashboard["panels"] for target in panel["targets"]]


def asked(text: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each metric that is asked for, with its labels."""
    for labels, name, chosen in ASKED.findall(text):
        yield name, {*re.findall(r"\w+", labels), *re.findall(r'(\w+)(?:=|!=|=~|!~)"', chosen)}


def exported(page: str) -> dict[str, set[str]]:
    """Return the labels of all that is on a page for Prometheus."""
    lines = re.findall(r"^(\w+)(?:\{(.*)\})? ", page, re.MULTILINE)
    return {name: set(re.findall(r'(\w+)="', labels)) for name, labels in lines}


async def test_the_dashboard_and_the_alerts_ask_for_what_each_worker_exports(
    database: Database,
) -> None:
    port = str(random.randrange(20_000, 30_000))
    with serve("tests.core.routes:app", "--workers", "2", METRICS_PORT=port) as server:
        await until(lambda: server.log.read_text().count("startup complete") == 2)
        addresses = re.findall(r"Metrics: (http://[\w.:/]+)", server.log.read_text())
        async with server.client() as client:
            assert (await client.get("/people")).status_code == 200
            # Run again in vain, and answered 503: with that, everything has been counted once.
            assert (await client.get(f"/fail/{DEADLOCK}")).status_code == 503
            pages = [(await client.get(address)).text for address in addresses]
        # As Ctrl-C does, all at once: SIGTERM, by which one ends another, waits for the balancer.
        for pid in re.findall(r"Started server process \[(\d+)\]", server.log.read_text()):
            os.kill(int(pid), signal.SIGINT)
    assert len(set(addresses)) == 2
    instances = [re.findall('service_instance_id="([^"]+)"', each) for each in pages]
    assert instances[0] != instances[1]
    assert all("db_client_connection_max" in each for each in pages)
    page = "".join(pages)
    there = exported(page)

    dashboard = "\n".join(target["expr"] for target in targets())
    alerts = (MONITORING / "alerts.yml").read_text()
    for name, labels in [*asked(dashboard), *asked(alerts)]:
        assert name in there
        assert labels - ADDED <= there[name], name

    shown = {name for name, _ in asked(dashboard)}
    for name in re.findall(r"^# TYPE ((?:db|app)_\w+) ", page, re.MULTILINE):
        assert {name, f"{name}_bucket", f"{name}_sum"} & shown, name


def test_all_that_is_asked_for_is_seen_here_and_no_name_is_empty() -> None:
    """What the pattern above passes by would be in nobody's sight."""
    texts = [(target["expr"], target["legendFormat"]) for target in targets()]
    rules = (MONITORING / "alerts.yml").read_text().split("- alert: ")[1:]
    texts += [(rule, rule) for rule in rules]
    for expression, names in texts:
        found = ASKED.findall(expression)
        assert expression.count(" by (") == sum(labels != "" for labels, _, _ in found)
        assert expression.count("rate(") <= len(found)
        kept = set().union(*(labels for _, labels in asked(expression)))
        assert set(re.findall(r"(?:\{\{|\$labels\.)(\w+)", names)) <= kept


async def test_a_wait_for_nothing_is_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    record = SimpleNamespace(record=lambda seconds, attributes: waits.append(seconds))
    monkeypatch.setattr(telemetry, "wait_time", record)

    async with started(pool_size=1, max_overflow=0) as (_, database):
        watch = telemetry.Watch("primary", database.engine.sync_engine, database.pool.slots, None)
        async with database.session() as session:
            await session.connection()
            be_impatient(database, 0.1)
            with pytest.raises(PoolTimeoutError):
                async with database.session() as other:
                    await other.connection()
            with pytest.raises(PoolTimeoutError):
                await Queries(database).first(PERSON_BY_ID, person_id=1)

    assert waits[:2] == [0.1, 0.1]
    assert watch.slots.timeouts == 2
