"""The load test of each database's service works from end to end; how fast it is, is not tested."""

import json
import os
import re
from pathlib import Path

import pytest
from conftest import Service, copy_service, environment, python, run

READ, LIST = "GET /users/{user_id}", "GET /users"
CREATE, CHANGE = "POST /users", "PATCH /users/{user_id}"
QUICK = ("--rounds=1",)

# A service without the example, whose routes need each other's rows, a token, and a text that no
# schema tells.
SHOP = """
import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal
from app.core.config import load_settings
from app.core.prometheus import serving_metrics
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

def allow(token: Annotated[str, Header()] = "") -> None:
    if token != "secret":
        raise HTTPException(401)

router = APIRouter(dependencies=[Depends(allow)])
shelves: dict[uuid.UUID, dict[int, str]] = {}

class Shelf(BaseModel):
    kind: Literal["wood", "steel"]
    height: Annotated[int, Field(ge=5, le=9)]
    colour: str | None = None

class Book(BaseModel):
    isbn: Annotated[str, Field(pattern="^[0-9]{3}-[0-9]+$")]

class Loan(BaseModel):
    shelf_id: uuid.UUID
    days: list[int]

class Tag(BaseModel):
    slug: str

tags: set[str] = set()

@router.post("/tags", status_code=201)
async def create_tag(data: Tag) -> Tag:
    if data.slug in tags:
        raise HTTPException(409)
    tags.add(data.slug)
    return data

@router.get("/tags/{slug}")
async def read_tag(slug: str) -> bool:
    return slug in tags

@router.post("/shelves", status_code=201)
async def create_shelf(data: Shelf) -> dict[str, str]:
    shelves[key := uuid.uuid4()] = {}
    return {"id": str(key)}

@router.post("/shelves/{shelf_id}/books", status_code=201)
async def create_book(shelf_id: uuid.UUID, data: Book) -> dict[str, int]:
    books = shelves[shelf_id]
    if data.isbn in books.values():
        raise HTTPException(409)
    books[number := len(books)] = data.isbn
    return {"id": number}

@router.get("/shelves/{shelf_id}/books/{number}")
async def read_book(shelf_id: uuid.UUID, number: int) -> str:
    return shelves[shelf_id][number]

@router.post("/loans")
async def lend(data: Loan) -> None:
    shelves[data.shelf_id]

@router.get("/rooms")
async def list_rooms() -> dict[str, list[dict[str, str]]]:
    return {"items": [{"id": "hall"}]}

@router.get("/rooms/{room}")
async def read_room(room: Literal["hall"], floor: int) -> str:
    return room

@router.delete("/rooms/{room}")
async def delete_room(room: str) -> None: ...

@router.get("/broken")
async def broken() -> None:
    raise HTTPException(418, "a teapot")

class Node(BaseModel):
    children: list["Node"]

@router.post("/tree")
async def plant(data: Node) -> None: ...

@router.head("/rooms")
async def has_rooms() -> None: ...

async def ticks() -> AsyncIterator[str]:
    while True:
        yield "tick"
        await asyncio.sleep(0.1)

@router.get("/events")
async def listen() -> StreamingResponse:
    return StreamingResponse(ticks())

@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with serving_metrics(load_settings().metrics_port):
        yield

app = FastAPI(lifespan=lifespan, telemetry={"auto_configure": True})
app.include_router(router)
"""

# Routes that take their time in one place each.
SLOW = """
import asyncio
import time

from fastapi import APIRouter
from sqlalchemy import text

from app.core.deps import SessionDep

router = APIRouter()

@router.get("/database")
async def ask(session: SessionDep) -> None:
    await session.execute(text("SELECT {sleep}(0.02)"))

@router.get("/task")
async def wait() -> None:
    await asyncio.sleep(0.02)

@router.get("/worker")
async def compute(session: SessionDep) -> None:
    await session.execute(text("SELECT 1"))
    end = time.monotonic() + 0.01
    while time.monotonic() < end:
        pass
"""
HEADERS = "    return {}"


def test_bench(service: Service, tmp_path: Path) -> None:
    project = copy_service(service, tmp_path / "my-service")
    # These are another database's, whatever `.env` says.
    (project / ".env").write_text("MIGRATION_DATABASE_URL=wrong\nDATABASE_READ_URL=wrong\n")
    words = f"{' '.join(QUICK)} --pool-sizes 2 5"
    said = run("make", "bench", f"ARGS={words}", cwd=project).stdout
    outcome = json.loads((project / "bench/results.json").read_text())

    assert set(outcome["routes"]) == {LIST, CREATE, READ, CHANGE}
    fastest = max(row["rate"] for row in outcome["routes"].values())
    for name, row in outcome["routes"].items():
        assert row["rate"] > 0
        assert 0 < row["p50"] <= row["p99"]
        assert row["errors"] == 0
        assert row["share"] > 0
        assert min(row["waiting"], row["database"], row["rest"]) >= 0
        assert row["waiting"] + row["database"] + row["rest"] == pytest.approx(1)
        parts = " +".join(f"{row[part]:.0%}" for part in ("waiting", "database", "rest"))
        [bar] = re.findall(rf"  {re.escape(name)} +{row['rate']:,.0f} .* {parts}  (w*d*r*)\n", said)
        assert abs(len(bar) - 40 * row["rate"] / fastest) < 2
        assert abs(bar.count("d") - row["database"] * len(bar)) < 2
    assert f"Left out: DELETE {READ.partition(' ')[2]}: a row can be deleted only once\n" in said
    assert list(outcome["pool_sizes"]) == ["2", "5"]
    assert all(row["errors"] == 0 for row in outcome["pool_sizes"].values())
    assert outcome["enough"] in (2, 5)
    assert f"POOL_SIZE={outcome['enough']} is enough" in said
    for size, row in outcome["pool_sizes"].items():
        assert re.search(
            rf"^  {size} +{row['rate']:,.0f} .* {row['waiting']:.0%} +\d+%  w*r*$",
            said,
            re.MULTILINE,
        )
    workers = outcome["max_connections"] // outcome["enough"]
    assert f"connections: {workers} workers of {outcome['enough']}; with more" in said


def test_it_says_where_the_time_goes(service: Service, tmp_path: Path) -> None:
    project = copy_service(service, tmp_path / "my-service")
    sleep = "pg_sleep" if service.project.parent.name == "postgresql" else "sleep"
    (project / "app" / "api" / "slow.py").write_text(SLOW.replace("{sleep}", sleep))
    main = project / "app" / "main.py"
    main.write_text(main.read_text().replace("users", "slow"))
    run("make", "bench", f"ARGS={' '.join(QUICK)} --pool-sizes 2 50", cwd=project)

    outcome = json.loads((project / "bench" / "results.json").read_text())
    routes = outcome["routes"]
    assert routes["GET /database"]["database"] > 0.7
    assert routes["GET /task"]["rest"] > 0.9
    # Where several ask, one waits while another one computes: not for the database.
    assert routes["GET /worker"]["rest"] > 0.6
    assert outcome["pool_sizes"]["2"]["waiting"] > 0.6 > outcome["pool_sizes"]["50"]["waiting"]


def test_a_sleep_in_a_route_is_caught_by_name(service: Service, tmp_path: Path) -> None:
    project = copy_service(service, tmp_path / "my-service")
    scenario = project / "bench" / "scenario.py"
    none = "WEIGHTS: dict[str, int] = {}"
    text = scenario.read_text()
    assert none in text
    # Two routes take half as long.
    weights = {LIST: 0, CREATE: 0}
    scenario.write_text(text.replace(none, none.replace("{}", str(weights))))
    bench = ("-m", "bench", "--rounds=2")
    assert "--save" in python(project, *bench, "--check", code=1)
    python(project, *bench, "--save")
    file = project / "bench" / "baseline.json"
    baseline = json.loads(file.read_text())
    assert set(baseline) == {READ, CHANGE}

    users = project / "app" / "api" / "users.py"
    read = "    user = await queries.first(USER_BY_ID"
    text = users.read_text()
    assert read in text
    users.write_text(
        f"import asyncio\n{text}".replace(read, f"    await asyncio.sleep(0.02)\n{read}")
    )
    said = python(project, *bench, "--check", code=1).partition("Slower than before:")[2]
    assert re.search(rf"^  {re.escape(READ)}: \d+% of its baseline$", said, re.MULTILINE)

    # How much noise this machine makes is not tested: half as fast is fast enough here.
    file.write_text(json.dumps({name: share / 2 for name, share in baseline.items()}))
    users.write_text(text)
    assert "No route is slower than its baseline." in python(project, *bench, "--check")
    users.write_text(text.replace('@router.patch("/{user_id}"', '@router.patch("/{user_id}/all"'))
    said = python(project, *bench, "--check", code=1).partition("Slower than before:")[2]
    assert said.strip() == f"{CHANGE}: not measured"


# Its routes ask for no database.
@pytest.mark.parametrize("service", ["postgresql"], indirect=True)
def test_bench_of_other_routes(service: Service, tmp_path: Path) -> None:
    project = copy_service(service, tmp_path / "my-service")
    (project / "app" / "main.py").write_text(SHOP)
    bench = ("-m", "bench", *QUICK, "--save")
    scenario = project / "bench" / "scenario.py"
    text = scenario.read_text()
    assert HEADERS in text
    said = python(project, *bench, code=1)
    assert "Left out: POST /shelves: answered 401" in said
    assert "There is no route to measure: see bench/scenario.py" in said

    text = text.replace(HEADERS, '    return {"token": "secret"}')
    scenario.write_text(text)
    said = python(project, *bench)
    left = dict(re.findall("^Left out: (.+?): (.+)$", said, re.MULTILINE))
    books = "/shelves/{shelf_id}/books"
    assert left.keys() == {
        *(f"POST {books}", f"GET {books}/{{number}}"),
        *("DELETE /rooms/{room}", "HEAD /rooms", "GET /broken", "POST /tree", "GET /events"),
    }
    assert "its schema has no end" in left["POST /tree"]
    assert "it gave no whole answer within 3 s" in left["GET /events"]
    assert "no text for isbn found that matches ^[0-9]{3}-[0-9]+$" in left[f"POST {books}"]
    assert 'answered 418: {"detail":"a teapot"}' in left["GET /broken"]
    assert "wrk waits for the body" in left["HEAD /rooms"]
    assert measured(project, said) == {
        *("POST /shelves", "POST /tags", "GET /tags/{slug}"),
        *("POST /loans", "GET /rooms", "GET /rooms/{room}"),
    }

    text = text.replace(
        "BODIES: dict[str, Callable[[int], Any]] = {}",
        (
            "BODIES: dict[str, Callable[[int], Any]] = "
            f'{{"POST {books}": lambda n: {{"isbn": f"123-{{n}}"}}}}'
        ),
    ).replace(
        "WEIGHTS: dict[str, int] = {}",
        'WEIGHTS = {"GET /rooms": 0, "GET /events": 0}',
    )
    scenario.write_text(text)
    assert measured(project, python(project, *bench)) == {
        *("POST /shelves", "POST /tags", "GET /tags/{slug}"),
        *("POST /loans", "GET /rooms/{room}"),
        *(f"POST {books}", f"GET {books}/{{number}}"),
    }

    scenario.write_text(text.replace("GET /rooms", "GET /room"))
    assert "the service has no GET /room\n" in python(project, *bench, code=1)


def test_bench_without_any_route_measures_the_probes(service: Service, tmp_path: Path) -> None:
    project = copy_service(service, tmp_path / "my-service")
    main = project / "app" / "main.py"
    main.write_text(main.read_text().replace("    app.include_router(users.router)\n", ""))
    said = python(project, "-m", "bench", *QUICK, "--save")
    assert measured(project, said) == {"GET /health/live", "GET /health/ready"}


def measured(project: Path, said: str) -> set[str]:
    """Return the routes of the baseline, which were all answered without an error."""
    rows = re.findall(
        r"^  ([A-Z]+ \S+) +[\d,]+ +[\d.]+ +[\d.]+ +(\d+) +[\d.]+$", said, re.MULTILINE
    )
    assert {errors for _, errors in rows} == {"0"}
    assert {name for name, _ in rows} == set(
        json.loads((project / "bench" / "baseline.json").read_text())
    )
    return {name for name, _ in rows}


def test_what_cannot_be_measured_is_refused(service: Service) -> None:
    for words, reason in {
        "--rounds 0": "take numbers above 0",
        "--seconds nan": "invalid int value",
        "--pool-sizes 5 1001": "take numbers above 0, up to 1000",
        "--save --check": "not allowed with argument",
    }.items():
        assert reason in python(service.project, "-m", "bench", *words.split(), code=2)
    said = python(service.project, "-m", "bench", "--pool-sizes", "301", "500", code=1)
    assert "\n--pool-sizes: the server allows 300 connections\n" in f"\n{said}"
    assert "Traceback" not in said


def test_bench_without_wrk_says_how_to_get_it(service: Service, tmp_path: Path) -> None:
    folders = os.environ["PATH"].split(os.pathsep)
    kept = [folder for folder in folders if not Path(folder, "wrk").exists()]
    (tools := tmp_path / "bin").mkdir()
    env = environment(PATH=os.pathsep.join([str(tools), *kept]))
    said = python(service.project, "-m", "bench", env=env, code=1)
    assert "apt-get install wrk" in said
