"""The OpenAPI document serves those who make clients of it."""

from collections import Counter

from fastapi import FastAPI
from httpx2 import AsyncClient

from app.main import app
from app.schemas.error import Invalid
from tests.core import people


def test_each_operation_has_the_name_of_its_function() -> None:
    ids = Counter(
        operation["operationId"]
        for methods in app.openapi()["paths"].values()
        for operation in methods.values()
    )
    assert {"live", "ready"} <= ids.keys()
    assert all(name.isidentifier() for name in ids)
    # Two functions of one name would be two methods of one name: rename one of them.
    assert [name for name, count in ids.items() if count > 1] == []


async def test_what_is_refused_is_documented_as_it_is_answered(client: AsyncClient) -> None:
    # By itself: somebody's own routes may have the same names.
    documented = FastAPI()
    documented.include_router(people.router)
    responses = documented.openapi()["paths"]["/people"]["post"]["responses"]
    schema = responses["422"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/Invalid"}
    # By its parts; in words it is answered in `test_refusals.py`.
    answer = await client.post("/people", json={"email": 1})
    assert answer.status_code == 422
    assert Invalid.model_validate_json(answer.text, extra="forbid").detail
