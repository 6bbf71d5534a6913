"""The `${path(plural)[1:]}` resource, one request at a time."""

from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest
from httpx2 import AsyncClient

% for module in sorted({field.table for field in fields if field.type == "ref"}):
from tests import test_${module}
% endfor

% if any("number" in field.sample for field in fields):
numbers = count(1)

% endif
% if key == "uuid":
UNKNOWN = [str(UUID(int=0)), str(UUID(int=2**128 - 1))]
IMPOSSIBLE = ["0", "x", "%00", "9" * 5000, f"{UUID(int=0)}0"]
% else:
UNKNOWN = ["1", str(2**63 - 1)]
IMPOSSIBLE = ["0", "-1", "x", "1.5", "%00", str(2**63), "9" * 5000, "١", "1e3"]
% endif

REQUIRED: list[str] = [${", ".join(f'"{field.column}"' for field in fields if not field.nullable)}]
OPTIONAL: list[str] = [${", ".join(f'"{field.column}"' for field in fields if field.nullable)}]
% if any(field.unique for field in fields):
UNIQUE = [${", ".join(f'"{field.column}"' for field in fields if field.unique)}]
% endif
% if filters:
FILTERS = [${", ".join(f'"{field.column}"' for field in filters)}]
% endif

# What no field takes.
BAD: list[tuple[str, Any]] = [
% for field in fields:
% for value in field.kind.bad:
    ("${field.column}", ${value}),
% endfor
% endfor
]


async def body(client: AsyncClient) -> dict[str, Any]:
    """Return another ${words} to create; what it refers to is there."""
% if any("number" in field.sample for field in fields):
    number = next(numbers)
% endif
    return {
% for field in fields:
        "${field.column}": ${field.sample},
% endfor
    }
% for module in sorted({field.table for field in fields if field.type == "ref"}):


async def existing_${module}(client: AsyncClient) -> Any:
    """Return the id of one there is, or a new one."""
    items = (await client.get("${path(module)}")).json()["items"]
    return (items or [await test_${module}.create(client)])[0]["id"]
% endfor


async def create(client: AsyncClient, **fields: Any) -> dict[str, Any]:
    """Create another ${words}; return the answer's body."""
    response = await client.post("${path(plural)}", json=await body(client) | fields)
    assert response.status_code == 201, response.text
    created: dict[str, Any] = response.json()
    return created


% if key == "uuid":
def by_id(item: dict[str, Any]) -> str:
    """Return what to sort by."""
    return str(item["id"])


% endif
async def test_create_answers_what_was_stored(client: AsyncClient) -> None:
    sent = await body(client)
    response = await client.post("${path(plural)}", json=sent)

    assert response.status_code == 201
    created = response.json()
    assert response.headers["location"] == f"${path(plural)}/{created['id']}"
    assert created == sent | {"id": created["id"], "created_at": created["created_at"]}
    assert (await client.get(f"${path(plural)}/{created['id']}")).json() == created


async def test_create_needs_what_is_required_alone(client: AsyncClient) -> None:
    sent = await body(client)
    response = await client.post("${path(plural)}", json={name: sent[name] for name in REQUIRED})

    assert response.status_code == 201
    assert all(response.json()[name] is None for name in OPTIONAL)
% if any(not field.nullable for field in fields):


@pytest.mark.parametrize("name", REQUIRED)
async def test_what_is_required_must_be_there(client: AsyncClient, name: str) -> None:
    sent = await body(client)

    assert (await client.post("${path(plural)}", json=sent | {name: None})).status_code == 422
    del sent[name]
    assert (await client.post("${path(plural)}", json=sent)).status_code == 422
% endif
% if any(field.unique for field in fields):


@pytest.mark.parametrize("name", UNIQUE)
async def test_what_is_taken_is_refused(client: AsyncClient, name: str) -> None:
    taken, other = await create(client), await create(client)
    response = await client.post("${path(plural)}", json=await body(client) | {name: taken[name]})
    changed = await client.patch(f"${path(plural)}/{other['id']}", json={name: taken[name]})

    assert (response.status_code, changed.status_code) == (409, 409)
    assert (await client.get(f"${path(plural)}/{other['id']}")).json() == other
% endif
% if any(field.type == "ref" for field in fields):


@pytest.mark.parametrize("name", [${", ".join(f'"{field.column}"' for field in fields if field.type == "ref")}])
async def test_what_it_refers_to_must_exist(client: AsyncClient, name: str) -> None:
    created = await create(client)
    missing = str(uuid4()) if isinstance(created[name], str) else 2**63 - 1
    response = await client.post("${path(plural)}", json=await body(client) | {name: missing})
    changed = await client.patch(f"${path(plural)}/{created['id']}", json={name: missing})

    assert (response.status_code, changed.status_code) == (409, 409)
% endif


@pytest.mark.parametrize(("name", "value"), BAD)
async def test_bad_input_is_refused(client: AsyncClient, name: str, value: Any) -> None:
    created = await create(client)
    response = await client.post("${path(plural)}", json=await body(client) | {name: value})
    changed = await client.patch(f"${path(plural)}/{created['id']}", json={name: value})

    assert (response.status_code, changed.status_code) == (422, 422)
    assert response.json()["detail"]
    assert (await client.get(f"${path(plural)}/{created['id']}")).json() == created
% if any(field.type in ("str", "text") for field in fields):


@pytest.mark.parametrize("text", ["", "Zoë 李 🙂", "'; DROP TABLE ${plural}; --", "100 %s %(x)s \\ \" '"])
@pytest.mark.parametrize("name", [${", ".join(f'"{field.column}"' for field in fields if field.type in ("str", "text"))}])
async def test_texts_come_back_as_they_were_sent(client: AsyncClient, name: str, text: str) -> None:
    created = await create(client, **{name: text})

    assert created[name] == text
    assert (await client.get(f"${path(plural)}/{created['id']}")).json() == created
% endif


@pytest.mark.parametrize("${name}_id", UNKNOWN)
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_unknown_ids_are_not_found(client: AsyncClient, method: str, ${name}_id: str) -> None:
    sent: dict[str, Any] | None = {} if method == "PATCH" else None
    response = await client.request(method, f"${path(plural)}/{${name}_id}", json=sent)

    assert response.status_code == 404


@pytest.mark.parametrize("${name}_id", IMPOSSIBLE)
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_impossible_ids_are_refused(client: AsyncClient, method: str, ${name}_id: str) -> None:
    sent: dict[str, Any] | None = {} if method == "PATCH" else None
    response = await client.request(method, f"${path(plural)}/{${name}_id}", json=sent)

    assert response.status_code in {404, 422}


@pytest.mark.parametrize("amount", [0, 1, 2, 3, 5])
async def test_pages_hold_every_one_once_by_id(client: AsyncClient, amount: int) -> None:
    created = [await create(client) for _ in range(amount)]

    listed: list[dict[str, Any]] = []
    after = None
    while True:
        parameters = {"limit": 2} | ({"after": after} if after else {})
        page = (await client.get("${path(plural)}", params=parameters)).json()
        assert len(page["items"]) <= 2
        listed += page["items"]
        after = page["next"]
        if after is None:
            break

% if key == "uuid":
    # How the server orders them is its own affair.
    assert sorted(listed, key=by_id) == sorted(created, key=by_id)
% else:
    assert listed == created
% endif


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "limit=", "after=x", "after=", "after=%00"]
)
async def test_bad_paging_is_refused(client: AsyncClient, query: str) -> None:
    assert (await client.get(f"${path(plural)}?{query}")).status_code == 422
% if filters:


@pytest.mark.parametrize("name", FILTERS)
async def test_a_filter_leaves_the_others_out(client: AsyncClient, name: str) -> None:
    created = [await create(client) for _ in range(3)]
    value = created[0][name]
    parameters = {name: str(value).lower() if isinstance(value, bool) else value}
    page = (await client.get("${path(plural)}", params=parameters)).json()

    assert page["next"] is None
    same = [item for item in created if item[name] == value]
% if key == "uuid":
    assert sorted(page["items"], key=by_id) == sorted(same, key=by_id)
% else:
    assert page["items"] == same
% endif
% endif


@pytest.mark.parametrize("name", [*REQUIRED, *OPTIONAL])
async def test_only_the_field_that_is_sent_changes(client: AsyncClient, name: str) -> None:
    created = await create(client)
    for value in [(await body(client))[name], *([None] if name in OPTIONAL else [])]:
        response = await client.patch(f"${path(plural)}/{created['id']}", json={name: value})

        assert response.status_code == 200
        assert response.json() == created | {name: value}
        assert (await client.get(f"${path(plural)}/{created['id']}")).json() == created | {name: value}
    assert (await client.patch(f"${path(plural)}/{created['id']}", json={})).status_code == 200


async def test_delete(client: AsyncClient) -> None:
    created = await create(client)
    response = await client.delete(f"${path(plural)}/{created['id']}")

    assert (response.status_code, response.content) == (204, b"")
    assert (await client.get(f"${path(plural)}/{created['id']}")).status_code == 404
    assert (await client.delete(f"${path(plural)}/{created['id']}")).status_code == 404
