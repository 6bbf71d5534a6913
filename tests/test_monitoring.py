"""What the service brings for Prometheus and Grafana. That its names are those which the service
exports is a test of the service's own.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import DATABASES, TEMPLATE, VARIANTS, Render, Variant, run
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

# A panel's place in a grid that is 24 columns wide.
PLACES = [{"x": x, "y": y, "w": 8, "h": 8} for y in (0, 8, 16, 24) for x in (0, 8, 16)]


@pytest.fixture
def monitoring(render: Render) -> Path:
    """Return the folder, as a service has it."""
    return render() / "monitoring"


def dashboard(folder: Path) -> dict[str, Any]:
    """Return the dashboard."""
    read: dict[str, Any] = json.loads((folder / "dashboard.json").read_text(encoding="utf-8"))
    return read


def test_each_alert_fires_when_it_should_and_not_before(monitoring: Path) -> None:
    run("promtool", "check", "rules", "--lint-fatal", "alerts.yml", cwd=monitoring)
    run("promtool", "test", "rules", "alerts_test.yml", cwd=monitoring)
    [group] = yaml.safe_load((monitoring / "alerts.yml").read_text())["groups"]
    tests = (monitoring / "alerts_test.yml").read_text()
    for rule in group["rules"]:
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert f'alertname="{rule["alert"]}", alertstate="firing"' in tests


def test_prometheus_understands_what_the_dashboard_asks(monitoring: Path, tmp_path: Path) -> None:
    asked = [
        target["expr"].replace("$__rate_interval", "1m").replace("$job", "shop")
        for panel in dashboard(monitoring)["panels"]
        for target in panel["targets"]
    ]
    rules = [{"record": f"asked:{n}", "expr": expr} for n, expr in enumerate(asked)]
    path = tmp_path / "asked.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    said = run("promtool", "check", "rules", path, cwd=tmp_path).stdout
    assert f"{len(asked)} rules found" in said


def assert_within(whole: Any, part: Any) -> None:
    """Assert that all of a part is there; defaults may have been added."""
    if isinstance(part, dict):
        for name, value in part.items():
            assert_within(whole[name], value)
    elif isinstance(part, list):
        for one, other in zip(whole, part, strict=True):
            assert_within(one, other)
    else:
        assert whole == part


def test_grafana_knows_all_that_the_dashboard_says(monitoring: Path) -> None:
    said = dashboard(monitoring)
    assert_within(json.loads(json.dumps(Dashboard.from_json(said), cls=JSONEncoder)), said)


def test_the_dashboard_can_be_imported_anywhere(monitoring: Path) -> None:
    board = dashboard(monitoring)
    assert "id" not in board
    assert "uid" not in board
    assert [each["name"] for each in board["templating"]["list"]] == ["datasource", "job"]
    assert [panel["gridPos"] for panel in board["panels"]] == PLACES
    assert [panel["id"] for panel in board["panels"]] == [*range(1, len(PLACES) + 1)]
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"] in {
            "s",
            "short",
            "reqps",
            "ops",
            "percentunit",
        }
        for asks in (panel, *panel["targets"]):
            assert asks["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert target["expr"].count('job="$job"') == target["expr"].count("{")
            assert target["legendFormat"]


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_every_variant_has_the_same(variant: Variant, monitoring: Path, render: Render) -> None:
    other = render(**variant.answers, project_slug="other") / "monitoring"
    names = {path.name for path in monitoring.iterdir()}
    assert {path.name for path in other.iterdir()} == names
    for name in names:
        assert (other / name).read_bytes() == (monitoring / name).read_bytes()


@pytest.mark.parametrize("database", DATABASES)
def test_a_run_is_drawn(database: str, monitoring: Path, tmp_path: Path) -> None:
    picture = tmp_path / "dashboard.svg"
    words = [f"--database={database}", "--scale=0.3", f"--picture={picture}"]
    run(sys.executable, TEMPLATE / "benchmarks" / "dashboard.py", *words, cwd=tmp_path)
    shown = set(re.findall(">([^<>]+)</text>", picture.read_text()))
    assert {panel["title"] for panel in dashboard(monitoring)["panels"]} <= shown
    # Each of these is a series that something has happened in.
    assert {"200", "503", "GET /reports/names", "SELECT users", "COMMIT"} <= shown
    assert {"waiting for a connection", "waiting for the database", "the service itself"} <= shown
    assert {"503 No database connection was free in time", "503 The database is away"} <= shown
    assert {
        "primary used",
        "primary idle",
        "40P01" if database == "postgresql" else "1213",
    } <= shown


def test_the_picture_in_the_readme_is_of_this_dashboard(monitoring: Path) -> None:
    picture = monitoring / "dashboard.svg"
    assert picture.stat().st_size < 200_000
    shown = set(re.findall(">([^<>]+)</text>", picture.read_text()))
    assert {panel["title"] for panel in dashboard(monitoring)["panels"]} <= shown
    assert f"(monitoring/{picture.name})" in (monitoring.parent / "README.md").read_text()
