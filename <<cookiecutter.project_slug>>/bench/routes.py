"""The routes to measure: from the OpenAPI document and `scenario.py`, with rows to ask for."""

import itertools
import json
import random
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from httpx2 import Client

from bench import scenario

# Rows that are made of each kind, for paths such as /orders/{order_id}.
ROWS = 300

# Texts to try for a pattern.
TEXTS = ("x{n}", "{n}", "{n}@example.com", "https://example.com/{n}", "+{n:011}", "x{n}.txt")
FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "duration": "PT1H",
    "email": "{n}@example.com",
    "time": "12:00:00",
    "uri": "https://example.com/{n}",
    "uuid": "00000000-0000-4000-8000-{n:012}",
}

Row = Mapping[str, str]
Request = tuple[str, str, str]

numbers = itertools.count(1)


class LeftOut(Exception):
    """A route is not measured, with the reason."""


class Routes:
    """What a running service can be asked: its routes, and rows that it has made."""

    def __init__(self, client: Client) -> None:
        """Read the OpenAPI document, and make rows. Raises RuntimeError."""
        answer = client.get("/openapi.json")
        if answer.status_code != 200:
            raise RuntimeError("The service gives no /openapi.json to make requests from.")
        self.headers = scenario.headers(client)
        client.headers.update(self.headers)
        self._client, self._document = client, answer.json()
        self._operations: dict[str, Mapping[str, Any]] = {
            f"{method.upper()} {path}": operation
            for path, methods in self._document["paths"].items()
            for method, operation in methods.items()
        }
        named = scenario.WEIGHTS.keys() | scenario.BODIES.keys() | scenario.QUERIES.keys()
        if wrong := sorted(named - self._operations.keys()):
            raise RuntimeError(f"bench/scenario.py: the service has no {', '.join(wrong)}")
        self._rows: dict[str, list[Row]] = {}
        self._make_rows()
        # Probes are asked when there is nothing else, or when the scenario has them.
        names = [name for name in self._operations if " /health/" not in name or name in named]
        names = names or list(self._operations)
        self.weights = {name: weight for name in names if (weight := self._weight(name))}
        if not self.weights:
            raise RuntimeError("There is no route to measure: see bench/scenario.py")

    def request(self, name: str, row: Row | None = None) -> Request:
        """Return a method, an address and a body that ask a route. Raises LeftOut."""
        operation, (method, _, path) = self._operations[name], name.partition(" ")
        values = self._row(name) if row is None else row
        path = re.sub(r"{(\w+)(:path)?}", lambda match: quote(values[match[1]], safe=""), path)
        query = scenario.QUERIES.get(name) or urlencode(
            {
                given["name"]: self._value(given["schema"], given["name"], next(numbers))
                for given in map(self._resolve, operation.get("parameters", []))
                if given["in"] == "query" and given.get("required")
            },
            doseq=True,
        )
        return method, f"{path}?{query}" if query else path, self._body(name, operation)

    def _weight(self, name: str) -> int:
        """Return how often a route is asked; 0, and say why, when it cannot be."""
        try:
            if name.startswith("DELETE "):
                raise LeftOut("a row can be deleted only once")
            if weight := scenario.WEIGHTS.get(name, 1):
                self._ask(self.request(name))
            return weight
        except LeftOut as reason:
            print(f"Left out: {name}: {reason}", flush=True)
            return 0

    def _make_rows(self) -> None:
        """Make rows of each kind; those that need rows of another kind come after it."""
        # Each beginning of a path that ends with a parameter.
        paths = self._document["paths"]
        ends = [path[: end.end()] for path in paths for end in re.finditer("}", path)]
        missing = {kind_of(path): path for path in ends}
        while made := {kind: rows for kind in missing if (rows := self._some(kind, missing[kind]))}:
            self._rows |= made
            missing = {kind: path for kind, path in missing.items() if kind not in made}

    def _some(self, kind: str, path: str) -> list[Row]:
        """Create rows, as far as the service lets one, else list what there is."""
        rows: list[Row] = []
        for name in (f"POST {kind}", f"POST {kind}/", f"GET {kind}", f"GET {kind}/"):
            try:
                while name in self._operations and len(rows) < ROWS:
                    parent = self._row(name)
                    found = self._ask(self.request(name, parent))
                    if name.startswith("GET "):
                        lists = found.values() if isinstance(found, dict) else [found]
                        found = next((some for some in lists if isinstance(some, list)), [])
                        return rows + rows_in(found, parent, path)
                    rows += rows_in([found], parent, path) or fail("its answer has no id")
            except LeftOut:
                continue
        return rows

    def _ask(self, request: Request) -> Any:
        """Ask once; return what the answer holds. Raises LeftOut."""
        method, address, body = request
        answer = self._client.request(method, address, content=body or None)
        if answer.status_code >= 400:
            raise LeftOut(f"answered {answer.status_code}: {answer.text[:200]}")
        return answer.json() if answer.headers.get("content-type") == "application/json" else None

    def _row(self, name: str) -> Row:
        """Return a row to put into a route's path. Raises LeftOut."""
        if "{" not in name:
            return {}
        kind = kind_of(name.partition(" ")[2])
        return random.choice(self._rows.get(kind) or fail(f"neither made nor found in {kind}"))

    def _body(self, name: str, operation: Mapping[str, Any]) -> str:
        """Return the body as JSON, empty for none."""
        if make := scenario.BODIES.get(name):
            return json.dumps(make(next(numbers)))
        if "requestBody" not in operation:
            return ""
        content = self._resolve(operation["requestBody"])["content"]
        schema = content.get("application/json") or fail(f"it takes {', '.join(content)}")
        return json.dumps(self._value(schema["schema"], "body", next(numbers)))

    def _resolve(self, schema: Any) -> Any:
        """Follow references, and take the first of several forms that is not null."""
        while forms := schema.get("anyOf") or schema.get("oneOf") or schema.get("$ref"):
            if isinstance(forms, str):
                *_, group, name = forms.split("/")
                schema = self._document["components"][group][name]
            else:
                schema = next(form for form in forms if form.get("type") != "null")
        return schema

    def _value(self, schema: Any, name: str, n: int) -> Any:
        """Return a value that a schema allows, another one for each number. Raises LeftOut."""
        schema = self._resolve(schema)
        kind = schema.get("type")
        # A field such as customer_id has one of /customers/{customer_id}.
        for rows in self._rows.values():
            if name in rows[0]:
                value = random.choice(rows)[name]
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
        return kind == "boolean" or text_for(schema, name, n)


def fail(reason: str) -> Any:
    """Raise LeftOut, within an expression."""
    raise LeftOut(f"{reason}; see bench/scenario.py")


def text_for(schema: Mapping[str, Any], name: str, n: int) -> str:
    """Return a text that a schema allows. Raises LeftOut."""
    pattern = schema.get("pattern", "")
    for form in (FORMATS.get(schema.get("format", ""), "x{n}"), *TEXTS):
        text = form.format(n=n).rjust(schema.get("minLength", 0), "x")
        text = text[-schema.get("maxLength", 999) :]
        if re.search(pattern, text):
            return text
    return str(fail(f"no text found for {name}, which is to match {pattern}"))


def kind_of(path: str) -> str:
    """Return where the rows are that a path is about: /orders of /orders/{order_id}/lines."""
    return path[: path.rindex("/{")]


def rows_in(found: list[Any], parent: Row, path: str) -> list[Row]:
    """Return the rows in answers: their id is the field `id`, or named as in the path."""
    name = path[path.rindex("{") + 1 : -1].removesuffix(":path")
    ids = [one.get(name, one.get("id")) for one in found if isinstance(one, dict)]
    return [{**parent, name: str(id_)} for id_ in ids if id_ is not None]
