"""The OpenAPI document serves those who make clients of it."""

from collections import Counter

from app.main import app


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
