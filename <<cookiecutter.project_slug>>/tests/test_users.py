"""The `users` resource, one request at a time."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from httpx2 import AsyncClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import User

ADA = {"email": "ada@example.com", "full_name": "Ada Lovelace"}

LONGEST_EMAIL = "a" * (320 - len("@example.com")) + "@example.com"


async def create(client: AsyncClient, **fields: Any) -> dict[str, Any]:
    """Create a user, by default Ada; return the answer's body."""
    response = await client.post("/users", json=ADA | fields)
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_create_answers_what_was_stored(client: AsyncClient, session: AsyncSession) -> None:
    response = await client.post("/users", json=ADA)

    assert response.status_code == 201
    body = response.json()
    assert response.headers["location"] == f"/users/{body['id']}"
    assert body == ADA | {"id": body["id"], "created_at": body["created_at"]}
    age = datetime.now(UTC) - datetime.fromisoformat(body["created_at"])
    assert abs(age) < timedelta(minutes=1)
    user = await session.get_one(User, body["id"])
    assert (user.email, user.full_name) == (ADA["email"], ADA["full_name"])


async def test_create_needs_no_name(client: AsyncClient) -> None:
    response = await client.post("/users", json={"email": "bob@example.com"})

    assert response.status_code == 201
    assert response.json()["full_name"] is None


async def test_create_refuses_a_taken_email(client: AsyncClient) -> None:
    await create(client)

    response = await client.post("/users", json=ADA)

    assert response.status_code == 409
    assert isinstance(response.json()["detail"], str)


@pytest.mark.parametrize(
    "fields",
    [
        {"email": LONGEST_EMAIL},
        {"full_name": "x" * 200},
        {"full_name": "Zoë 李 🙂" * 20},
        {"full_name": ""},
        {"full_name": "'; DROP TABLE users; --"},
        {"full_name": "100 %s %(x)s \\ \" '"},
    ],
    ids=["longest email", "longest name", "unicode", "empty", "quotes", "placeholders"],
)
async def test_unusual_texts_come_back_as_they_were_sent(
    client: AsyncClient, fields: dict[str, str]
) -> None:
    created = await create(client, **fields)

    response = await client.get(f"/users/{created['id']}")

    assert response.json() == created
    assert fields.items() <= created.items()


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"null",
        b"{",
        b'{"email": null}',
        b'{"email": 5}',
        b'{"email": NaN}',
        b'{"email": "nobody"}',
        b'{"email": "@"}',
        b'{"email": "a b@example.com"}',
        b'{"email": "a\\u0000@example.com"}',
        b'{"email": "\\ud800@example.com"}',
        b'{"email": "a' + LONGEST_EMAIL.encode() + b'"}',
        b'{"email": "a@example.com", "full_name": 5}',
        b'{"email": "a@example.com", "full_name": "a\\u0000"}',
        b'{"email": "a@example.com", "full_name": "' + b"x" * 201 + b'"}',
    ],
)
async def test_bad_input_is_refused_with_a_reason(client: AsyncClient, body: bytes) -> None:
    response = await client.post(
        "/users", content=body, headers={"content-type": "application/json"}
    )

    assert response.status_code == 422
    detail = response.json()["detail"]
    assert detail
    assert all(set(error) == {"type", "loc", "msg"} for error in detail)


async def test_emails_are_compared_to_the_letter(client: AsyncClient) -> None:
    names = ["e", "E", "é", "🙂", "🚀"]
    created = [await create(client, email=f"{name}@example.com") for name in names]

    assert (await client.get("/users")).json()["items"] == created


async def test_read(client: AsyncClient) -> None:
    created = await create(client)

    response = await client.get(f"/users/{created['id']}")

    assert response.status_code == 200
    assert response.json() == created


async def test_read_what_plain_sql_has_written(client: AsyncClient, session: AsyncSession) -> None:
    await session.execute(
        text("INSERT INTO users (email, full_name) VALUES ('sql@example.com', NULL)")
    )
    await session.commit()

    [user] = (await client.get("/users")).json()["items"]

    assert user["email"] == "sql@example.com"
    age = datetime.now(UTC) - datetime.fromisoformat(user["created_at"])
    assert abs(age) < timedelta(minutes=1)


@pytest.mark.parametrize("user_id", ["1", str(2**63 - 1)])
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_unknown_ids_are_not_found(client: AsyncClient, method: str, user_id: str) -> None:
    body = {"full_name": "Nobody"} if method == "PATCH" else None

    response = await client.request(method, f"/users/{user_id}", json=body)

    assert response.status_code == 404


@pytest.mark.parametrize(
    "user_id", ["0", "-1", "x", "1.5", "%00", str(2**63), "9" * 5000, "١", "1e3"]
)
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_impossible_ids_are_refused(client: AsyncClient, method: str, user_id: str) -> None:
    body = {"full_name": "Nobody"} if method == "PATCH" else None

    response = await client.request(method, f"/users/{user_id}", json=body)

    assert response.status_code in {404, 422}


async def test_list_is_empty_at_first(client: AsyncClient) -> None:
    response = await client.get("/users")

    assert response.status_code == 200
    assert response.json() == {"items": [], "next": None}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
async def test_pages_hold_every_user_once_by_id(client: AsyncClient, count: int) -> None:
    created = [await create(client, email=f"{n}@example.com") for n in range(count)]

    listed: list[dict[str, Any]] = []
    after = None
    while True:
        parameters = {"limit": 2} | ({"after": after} if after else {})
        page = (await client.get("/users", params=parameters)).json()
        assert len(page["items"]) <= 2
        listed += page["items"]
        after = page["next"]
        if after is None:
            break

    assert listed == created


async def test_list_starts_with_fifty(client: AsyncClient, session: AsyncSession) -> None:
    session.add_all(User(email=f"{n}@example.com") for n in range(51))
    await session.commit()

    page = (await client.get("/users")).json()

    assert len(page["items"]) == 50
    assert page["next"] is not None


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=x",
        "limit=",
        "after=x",
        "after=0",
        "after=-1",
        "after=",
        "after=%00",
        f"after={2**63}",
        "after=1;DROP",
    ],
)
async def test_bad_paging_is_refused(client: AsyncClient, query: str) -> None:
    response = await client.get(f"/users?{query}")

    assert response.status_code == 422


async def test_list_finds_an_email_alone(client: AsyncClient) -> None:
    ada, _ = await create(client), await create(client, email="bob@example.com")

    page = (await client.get("/users", params={"email": ADA["email"]})).json()

    assert page == {"items": [ada], "next": None}


@pytest.mark.parametrize("limit", [1, 200])
async def test_limits_of_paging(client: AsyncClient, limit: int) -> None:
    response = await client.get("/users", params={"limit": limit, "after": 2**63 - 1})

    assert response.json() == {"items": [], "next": None}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"full_name": "Countess of Lovelace"},
        {"full_name": None},
        {"email": "countess@example.com"},
        {"email": ADA["email"]},
        {"email": "countess@example.com", "full_name": "Ada King"},
    ],
)
async def test_only_the_fields_that_are_sent_change(
    client: AsyncClient, change: dict[str, str | None]
) -> None:
    created = await create(client)

    response = await client.patch(f"/users/{created['id']}", json=change)

    assert response.status_code == 200
    assert response.json() == created | change
    assert (await client.get(f"/users/{created['id']}")).json() == created | change


async def test_change_to_a_taken_email_is_refused(client: AsyncClient) -> None:
    await create(client)
    bob = await create(client, email="bob@example.com")

    response = await client.patch(f"/users/{bob['id']}", json={"email": ADA["email"]})

    assert response.status_code == 409
    assert (await client.get(f"/users/{bob['id']}")).json() == bob


@pytest.mark.parametrize(
    "change", [{"email": None}, {"email": "x"}, {"full_name": 5}, {"full_name": "\x00"}]
)
async def test_bad_changes_are_refused(client: AsyncClient, change: dict[str, Any]) -> None:
    created = await create(client)

    response = await client.patch(f"/users/{created['id']}", json=change)

    assert response.status_code == 422
    assert (await client.get(f"/users/{created['id']}")).json() == created


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/users", "GET, POST"), ("/users/1", "GET, PATCH, DELETE"), ("/health/live", "GET")],
)
async def test_other_methods_are_refused(client: AsyncClient, path: str, allowed: str) -> None:
    response = await client.put(path)

    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert response.json() == {"detail": "Method Not Allowed"}


async def test_delete(client: AsyncClient) -> None:
    created = await create(client)

    response = await client.delete(f"/users/{created['id']}")

    assert response.status_code == 204
    assert response.content == b""
    assert (await client.get(f"/users/{created['id']}")).status_code == 404
    assert (await client.delete(f"/users/{created['id']}")).status_code == 404
