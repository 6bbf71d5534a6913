"""The routes to measure: from the OpenAPI document and `scenario.py`, with rows to ask for."""

import itertools
import json
import random
import re
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlencode

from httpx2 import Client, Limits

from bench import scenario
from bench.load import Figures, Request, load

# Rows that are made of each kind, for paths such as /orders/{order_id}.
ROWS = 300

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

    def __init__(self, address: str) -> None:
        """Read the OpenAPI document, make rows, and ask each route once. Raises RuntimeError."""
        # It may close a connection after an error, while the next request is on its way.
        client = Client(base_url=address, limits=Limits(max_keepalive_connections=0))
        answer = client.get("/openapi.json")
        if answer.status_code != 200:
            raise RuntimeError("The service gives no /openapi.json to make requests from.")
        self.headers = {"content-type": "application/json", **scenario.headers(client)}
        client.headers.update(self.headers)
        self._client, self._schemas = client, answer.json().get("components", {}).get("schemas")
        paths = answer.json()["paths"]
        self._operations = {
            f"{verb.upper()} {path}": paths[path][verb] for path in paths for verb in paths[path]
        }
        named = scenario.WEIGHTS.keys() | scenario.BODIES.keys() | scenario.QUERIES.keys()
        if wrong := sorted(named - self._operations.keys()):
            raise RuntimeError(f"bench/scenario.py: the service has no {', '.join(wrong)}")
        # The beginnings of paths that end with a parameter; what has none needs no row.
        self._kinds = {path[: end.end()] for path in paths for end in re.finditer("}", path)}
        self._rows: dict[str, list[Row]] = {"": [{}]}
        # Probes are asked when there is nothing else, or when the scenario has them.
        names = [name for name in self._operations if " /health/" not in name or name in named]
        self.weights: dict[str, int] = {}
        for name in names or self._operations:
            try:
                if name.startswith("DELETE "):
                    raise LeftOut("a row can be deleted only once")
                if weight := scenario.WEIGHTS.get(name, 1):
                    self._ask(self.request(name))
                    self.weights[name] = weight
            except LeftOut as reason:
                print(f"Left out: {name}: {reason}", flush=True)
        if not self.weights:
            raise RuntimeError("There is no route to measure: see bench/scenario.py")

    def ask(self, address: str, names: list[str], clients: int, seconds: float) -> Figures:
        """Ask a service for a mix of routes, by their weights, for some seconds."""
        weights = [self.weights[name] for name in names]
        # More than a worker answers, so that nothing is created twice; reads may come again.
        writes = any(not name.startswith("GET ") for name in names)
        wanted = random.choices(names, weights, k=int(10_000 * (seconds + 0.5)) if writes else 1000)
        return load(address, map(self.request, wanted), clients, seconds, **self.headers)

    def request(self, name: str, row: Row | None = None) -> Request:
        """Return a method, an address and a body that ask a route. Raises LeftOut."""
        operation, (method, _, path), n = self._operations[name], name.partition(" "), next(numbers)
        row = row or self._row(path)
        path = path.format_map({key: quote(value, safe="") for key, value in row.items()})
        given = {
            one["name"]: self._value(one["schema"], one["name"], n)
            for one in operation.get("parameters", [])
            if one["in"] == "query" and one.get("required")
        }
        if query := scenario.QUERIES.get(name) or urlencode(given, doseq=True):
            path += f"?{query}"
        if make := scenario.BODIES.get(name):
            return method, path, json.dumps(make(n))
        if "requestBody" not in operation:
            return method, path, ""
        content = operation["requestBody"]["content"]
        if "application/json" not in content:
            raise LeftOut(f"it takes {', '.join(content)}; see bench/scenario.py")
        return method, path, json.dumps(self._value(content["application/json"]["schema"], "", n))

    def _ask(self, request: Request) -> Any:
        """Ask once; return what the answer holds. Raises LeftOut."""
        method, address, body = request
        answer = self._client.request(method, address, content=body or None)
        if answer.status_code >= 400:
            raise LeftOut(f"answered {answer.status_code}: {answer.text[:200]}")
        return answer.json() if answer.headers.get("content-type") == "application/json" else None

    def _row(self, path: str) -> Row:
        """Return the values of a path's parameters. Raises LeftOut."""
        kind = path[: path.rfind("}") + 1]
        if not (rows := self._rows_of(kind)):
            raise LeftOut(f"{kind} was neither made nor found; see bench/scenario.py")
        return random.choice(rows)

    def _rows_of(self, kind: str) -> list[Row]:
        """Create rows once, as far as the service lets one, else list what there is."""
        if kind in self._rows:
            return self._rows[kind]
        home, _, key = kind[:-1].rpartition("/{")
        rows: list[Row] = []
        self._rows[kind] = []
        for name in (f"POST {home}", f"POST {home}/", f"GET {home}", f"GET {home}/"):
            with suppress(LeftOut):
                while name in self._operations and len(rows) < ROWS:
                    parent = self._row(home)
                    ids = ids_in(self._ask(self.request(name, parent)), key)
                    rows += [{**parent, key: str(id_)} for id_ in ids]
                    if not ids or name.startswith("GET "):
                        break
        self._rows[kind] = rows
        return rows

    def _value(self, schema: Any, name: str, n: int) -> Any:
        """Return a value that a schema allows, another one for each number. Raises LeftOut."""
        while forms := schema.get("anyOf") or schema.get("oneOf"):
            schema = next(form for form in forms if form.get("type") != "null")
        if "$ref" in schema:
            return self._value(self._schemas[schema["$ref"].rpartition("/")[2]], name, n)
        kind = schema.get("type")
        # A field such as customer_id has one of /customers/{customer_id}.
        for other in self._kinds:
            if other.endswith(f"/{{{name}}}") and self._rows_of(other):
                value = self._row(other)[name]
                return int(value) if kind == "integer" else value
        if "const" in schema or "enum" in schema:
            return random.choice(schema.get("enum") or [schema["const"]])
        if kind == "object":
            fields = schema.get("properties", {})
            # A change has none that must be there: send one.
            wanted = schema.get("required") or list(fields)[:1]
            return {field: self._value(fields[field], field, n) for field in wanted}
        if kind == "array":
            count = range(schema.get("minItems", 1))
            return [self._value(schema["items"], name, n + i) for i in count]
        if kind in ("integer", "number"):
            low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
            high = schema.get("maximum", schema.get("exclusiveMaximum", 2**31) - 1)
            return low + n % max(1, int(high - low) + 1)
        if kind == "boolean":
            return True
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
