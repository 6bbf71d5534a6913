"""The routes to measure: from the OpenAPI document and `scenario.py`, with rows to ask for."""

import asyncio
import json
import random
import re
from contextlib import suppress
from itertools import count
from typing import Any
from urllib.parse import quote, unquote, urlencode

from httpx2 import Client, HTTPError, Response

from bench import scenario
from bench.load import Figures, Request, load, spent
from tests.process import Process

# Rows that are made of each kind, for paths such as /orders/{order_id}.
ROWS = 300

# Seconds within which a route is to answer: some, such as a stream of events, never end.
LONGEST = 3

# Texts to try, that of a schema's format first; any of them may match its pattern.
TEXTS = {"": "x{n}", "email": "{n}@example.com", "uri": "https://example.com/{n}"}
TEXTS |= {"digits": "{n}", "phone": "+{n:011}", "uuid": "00000000-0000-4000-8000-{n:012}"}
TEXTS |= {"date": "2026-01-01", "date-time": "2026-01-01T00:00:00Z", "time": "12:00:00"}
TEXTS |= {"duration": "PT1H", "file": "x{n}.txt"}

NEVER = {"DELETE": "a row can be deleted only once", "HEAD": "wrk waits for the body it has not"}

numbers = count(1)


class LeftOut(Exception):
    """A route is not measured, with the reason."""


class Routes:
    """What a running service can be asked: its routes, and rows that it has made."""

    def __init__(self, service: Process) -> None:
        """Ask each route of the OpenAPI document once. Raises RuntimeError."""
        self.service = service
        with Client(base_url=service.url) as client:
            answer = client.get("/openapi.json")
            self._headers = {"content-type": "application/json", **scenario.headers(client)}
        if answer.is_error:
            raise RuntimeError("The service gives no /openapi.json to make requests from.")
        document = answer.json()
        self._schemas, paths = document.get("components", {}).get("schemas"), document["paths"]
        self._operations = {
            f"{verb.upper()} {path}": paths[path][verb] for path in paths for verb in paths[path]
        }
        # The paths of rows, such as /orders/1, by /orders/{order_id}.
        self._rows = {"": [""]}
        named = scenario.WEIGHTS.keys() | scenario.BODIES.keys() | scenario.QUERIES.keys()
        if wrong := sorted(named - self._operations.keys()):
            raise RuntimeError(f"bench/scenario.py: the service has no {', '.join(wrong)}")
        # Probes are asked when there is nothing else, or when the scenario has them.
        names = [name for name in self._operations if " /health/" not in name or name in named]
        self.weights: dict[str, int] = {}
        for name in names or self._operations:
            try:
                if weight := scenario.WEIGHTS.get(name, 1):
                    self._ask(name)
                    self.weights[name] = weight
            except LeftOut as reason:
                print(f"Left out: {name}: {reason}", flush=True)
        if not self.weights:
            raise RuntimeError("There is no route to measure: see bench/scenario.py")

    def ask(self, service: Process, names: list[str], clients: int, seconds: int) -> Figures:
        """Ask a service for a mix of routes, by their weights, for some seconds."""
        weights = [self.weights[name] for name in names]
        # More than a worker answers, so that nothing is created twice.
        requests = map(self._request, random.choices(names, weights, k=10_000 * seconds))
        return load(service.url, requests, clients, seconds, **self._headers)

    def divide(self, service: Process, names: list[str], clients: int, seconds: int) -> Figures:
        """Ask, and see in the service's metrics where the time of a request goes."""
        before = spent(service)
        figures = self.ask(service, names, clients, seconds)
        whole, waiting, database = map(float.__sub__, spent(service), before)
        # Statements may run at the same time.
        whole = max(whole, waiting + database) or 1
        rest = 1 - (waiting + database) / whole
        return figures | {"waiting": waiting / whole, "database": database / whole, "rest": rest}

    def _ask(self, name: str) -> Response:
        """Ask for a route once. Raises LeftOut."""

        async def send(method: str, path: str, body: str) -> Response:
            async with asyncio.timeout(LONGEST), self.service.client() as client:
                return await client.request(method, path, content=body, headers=self._headers)

        if reason := NEVER.get(name.partition(" ")[0]):
            raise LeftOut(reason)
        try:
            answer = asyncio.run(send(*self._request(name)))
        except (HTTPError, TimeoutError) as error:
            raise LeftOut(f"it gave no whole answer within {LONGEST} s: {error!r}") from None
        except RecursionError:
            raise LeftOut("its schema has no end; see bench/scenario.py") from None
        if answer.is_error:
            raise LeftOut(f"answered {answer.status_code}: {answer.text[:200]}")
        return answer

    def _request(self, name: str) -> Request:
        """Return a request for a route. Raises LeftOut."""
        operation, (method, _, path) = self._operations[name], name.partition(" ")
        given = {
            one["name"]: self._value(one["schema"], one["name"])
            for one in operation.get("parameters", [])
            if one["in"] == "query" and one.get("required") and name not in scenario.QUERIES
        }
        query = scenario.QUERIES.get(name) or urlencode(given, doseq=True)
        path = f"{self._path(path)}?{query}".rstrip("?")
        content = operation.get("requestBody", {}).get("content", {})
        if make := scenario.BODIES.get(name):
            return method, path, json.dumps(make(next(numbers)))
        if not content:
            return method, path, ""
        if "application/json" not in content:
            raise LeftOut(f"it takes {', '.join(content)}; see bench/scenario.py")
        return method, path, json.dumps(self._value(content["application/json"]["schema"]))

    def _path(self, path: str) -> str:
        """Return a path with a row that was made or found in it. Raises LeftOut."""
        kind = path[: path.rfind("}") + 1]
        if kind not in self._rows:
            rows = self._rows[kind] = []
            home, _, key = kind[:-1].rpartition("/{")
            for name in (f"POST {home}", f"POST {home}/", f"GET {home}", f"GET {home}/"):
                # What is no JSON has none.
                with suppress(LeftOut, ValueError):
                    while name in self._operations and len(rows) < ROWS:
                        answer = self._ask(name)
                        at, ids = answer.url.raw_path.decode(), ids_in(answer.json(), key)
                        at = at.partition("?")[0].rstrip("/")
                        rows += [f"{at}/{quote(str(id_), safe='')}" for id_ in ids]
                        if not ids or name.startswith("GET "):
                            break
        if not self._rows[kind]:
            raise LeftOut(f"{kind} was neither made nor found; see bench/scenario.py")
        return random.choice(self._rows[kind]) + path[len(kind) :]

    def _value(self, schema: Any, name: str = "") -> Any:
        """Return a value that a schema allows, each time another one. Raises LeftOut."""
        # A field such as customer_id has one of /customers/{customer_id}.
        for operation in self._operations if name.endswith("_id") and "type" in schema else ():
            before, found, _ = operation.partition(f"/{{{name}}}")
            with suppress(LeftOut):
                if found:
                    path = self._path(before.partition(" ")[2] + found)
                    value = unquote(path.rpartition("/")[2])
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
                return [self._value(schema["items"]) for _ in range(schema.get("minItems", 1))]
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
