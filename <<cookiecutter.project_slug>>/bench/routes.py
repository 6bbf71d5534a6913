"""The routes to measure: from the OpenAPI document and `scenario.py`, with rows to ask for."""

import itertools
import json
import random
import re
from contextlib import suppress
from time import monotonic
from typing import Any
from urllib.parse import quote, urlencode

from httpx2 import Client, HTTPError, Limits

from bench import scenario
from bench.load import Figures, Request, load, spent
from tests.process import Process

# Rows that are made of each kind, for paths such as /orders/{order_id}.
ROWS = 300

# Seconds within which a route is to answer: some, such as a stream of events, never end.
LONGEST = 3

# Texts to try, that of a schema's format first; any of them may match its pattern.
TEXTS = {
    "": "x{n}",
    "digits": "{n}",
    "email": "{n}@example.com",
    "uri": "https://example.com/{n}",
    "phone": "+{n:011}",
    "file": "x{n}.txt",
    "uuid": "00000000-0000-4000-8000-{n:012}",
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "12:00:00",
    "duration": "PT1H",
}

Row = dict[str, str]

numbers = itertools.count(1)


class LeftOut(Exception):
    """A route is not measured, with the reason."""


class Routes:
    """What a running service can be asked: its routes, and rows that it has made."""

    def __init__(self, service: Process) -> None:
        """Ask each route of the OpenAPI document once. Raises RuntimeError."""
        self.service = service
        # It may close a connection after an error, while the next request is on its way.
        limits = Limits(max_keepalive_connections=0)
        self._client = Client(base_url=service.url, limits=limits, timeout=LONGEST)
        answer = self._client.get("/openapi.json")
        if answer.status_code != 200:
            raise RuntimeError("The service gives no /openapi.json to make requests from.")
        self._headers = {"content-type": "application/json", **scenario.headers(self._client)}
        self._client.headers.update(self._headers)
        self._schemas = answer.json().get("components", {}).get("schemas")
        paths = answer.json()["paths"]
        self._operations = {
            f"{verb.upper()} {path}": paths[path][verb] for path in paths for verb in paths[path]
        }
        self._keys = {key for name in self._operations for key in re.findall(r"/{(\w+_id)}", name)}
        # By what ends with a path's last parameter; a path that has none needs no row.
        self._rows: dict[str, list[Row]] = {"": [{}]}
        named = scenario.WEIGHTS.keys() | scenario.BODIES.keys() | scenario.QUERIES.keys()
        if wrong := sorted(named - self._operations.keys()):
            raise RuntimeError(f"bench/scenario.py: the service has no {', '.join(wrong)}")
        # Probes are asked when there is nothing else, or when the scenario has them.
        names = [name for name in self._operations if " /health/" not in name or name in named]
        self.weights: dict[str, int] = {}
        for name in names or self._operations:
            try:
                if name.startswith("DELETE "):
                    raise LeftOut("a row can be deleted only once")
                if name.startswith("HEAD "):
                    raise LeftOut("wrk waits for the body that it has not")
                if weight := scenario.WEIGHTS.get(name, 1):
                    self._ask(name)
                    self.weights[name] = weight
            except LeftOut as reason:
                print(f"Left out: {name}: {reason}", flush=True)
        if not self.weights:
            raise RuntimeError("There is no route to measure: see bench/scenario.py")

    def ask(self, service: Process, names: list[str], clients: int, seconds: float) -> Figures:
        """Ask a service for a mix of routes, by their weights, for some seconds."""
        weights = [self.weights[name] for name in names]
        # More than a worker answers, so that nothing is created twice; reads may come again.
        writes = any(not name.startswith("GET ") for name in names)
        wanted = random.choices(names, weights, k=int(10_000 * (seconds + 0.5)) if writes else 1000)
        return load(service.url, map(self._request, wanted), clients, seconds, **self._headers)

    def divide(self, service: Process, names: list[str], clients: int, seconds: float) -> Figures:
        """Ask, and see in the service's metrics where the time of a request goes."""
        before = spent(service)
        figures = self.ask(service, names, clients, seconds)
        whole, waiting, database = map(float.__sub__, spent(service), before)
        # Statements may run at the same time.
        whole = max(whole, waiting + database) or 1
        rest = 1 - (waiting + database) / whole
        return figures | {"waiting": waiting / whole, "database": database / whole, "rest": rest}

    def _request(self, name: str, row: Row | None = None) -> Request:
        """Return a request for a route. Raises LeftOut."""
        operation, (method, _, path) = self._operations[name], name.partition(" ")
        row = row or self._row(path)
        path = path.format_map({key: quote(value, safe="") for key, value in row.items()})
        given = {
            one["name"]: self._value(one["schema"], one["name"])
            for one in operation.get("parameters", [])
            if one["in"] == "query" and one.get("required") and name not in scenario.QUERIES
        }
        if query := scenario.QUERIES.get(name) or urlencode(given, doseq=True):
            path += f"?{query}"
        if make := scenario.BODIES.get(name):
            return method, path, json.dumps(make(next(numbers)))
        if "requestBody" not in operation:
            return method, path, ""
        content = operation["requestBody"]["content"]
        if "application/json" not in content:
            raise LeftOut(f"it takes {', '.join(content)}; see bench/scenario.py")
        return method, path, json.dumps(self._value(content["application/json"]["schema"]))

    def _ask(self, name: str, row: Row | None = None) -> Any:
        """Ask once; return what the answer holds. Raises LeftOut."""
        try:
            method, path, body = self._request(name, row)
            with self._client.stream(method, path, content=body or None) as answer:
                content, end = b"", monotonic() + LONGEST
                for part in answer.iter_bytes():
                    content += part
                    if monotonic() > end:
                        raise LeftOut(f"its answer goes on for more than {LONGEST} s")
        except HTTPError as error:
            raise LeftOut(f"it gave no answer: {error!r}") from None
        except RecursionError:
            raise LeftOut("its schema has no end; see bench/scenario.py") from None
        if answer.status_code >= 400:
            raise LeftOut(f"answered {answer.status_code}: {content.decode()[:200]}")
        if content and answer.headers.get("content-type") == "application/json":
            return json.loads(content)
        return None

    def _row(self, path: str) -> Row:
        """Return what stands for a path's parameters: made or found once. Raises LeftOut."""
        kind = path[: path.rfind("}") + 1]
        if kind not in self._rows:
            rows = self._rows[kind] = []
            home, _, key = kind[:-1].rpartition("/{")
            for name in (f"POST {home}", f"POST {home}/", f"GET {home}", f"GET {home}/"):
                with suppress(LeftOut):
                    while name in self._operations and len(rows) < ROWS:
                        parent = self._row(home)
                        ids = ids_in(self._ask(name, parent), key)
                        rows += [{**parent, key: str(id_)} for id_ in ids]
                        if not ids or name.startswith("GET "):
                            break
        if not self._rows[kind]:
            raise LeftOut(f"{kind} was neither made nor found; see bench/scenario.py")
        return random.choice(self._rows[kind])

    def _value(self, schema: Any, name: str = "") -> Any:
        """Return a value that a schema allows, each time another one. Raises LeftOut."""
        # A field such as customer_id has one of /customers/{customer_id}.
        for operation in self._operations if name in self._keys else ():
            before, found, _ = operation.partition(f"/{{{name}}}")
            with suppress(LeftOut):
                if found and "type" in schema:
                    value = self._row(before.partition(" ")[2] + found)[name]
                    return int(value) if schema["type"] == "integer" else value
        n = next(numbers)
        match schema:
            case {"$ref": path}:
                return self._value(self._schemas[path.rpartition("/")[2]], name)
            case {"anyOf": forms} | {"oneOf": forms}:
                return self._value(next(one for one in forms if one.get("type") != "null"), name)
            case {"const": value}:
                return value
            case {"enum": values}:
                return random.choice(values)
            case {"type": "boolean"}:
                return True
            case {"type": "array"}:
                count = range(schema.get("minItems", 1))
                return [self._value(schema["items"], name) for _ in count]
            case {"type": "object"}:
                fields = schema.get("properties", {})
                # A change has none that must be there: send one.
                wanted = schema.get("required") or list(fields)[:1]
                return {field: self._value(fields[field], field) for field in wanted}
            case {"type": "integer" | "number"}:
                low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
                high = schema.get("maximum", schema.get("exclusiveMaximum", 2**31) - 1)
                return low + n % max(1, int(high - low) + 1)
        pattern = schema.get("pattern", "")
        for form in (TEXTS.get(schema.get("format", ""), "x{n}"), *TEXTS.values()):
            text = form.format(n=n).rjust(schema.get("minLength", 0), "x")
            text = text[-schema.get("maxLength", 999) :]
            if re.search(pattern, text):
                return text
        raise LeftOut(f"no text for {name} found that matches {pattern}; see bench/scenario.py")


def ids_in(answer: Any, key: str) -> list[Any]:
    """Return the ids in an answer: of one row, or of a list, which may stand in a field."""
    if isinstance(answer, dict) and not {key, "id"} & answer.keys():
        answer = next((value for value in answer.values() if isinstance(value, list)), [])
    rows = answer if isinstance(answer, list) else [answer]
    ids = [row.get(key, row.get("id")) for row in rows if isinstance(row, dict)]
    return [id_ for id_ in ids if id_ is not None]
