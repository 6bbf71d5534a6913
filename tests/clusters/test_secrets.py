"""A password that changes on the server, and in a file of `/run/secrets`, while a service runs."""

import asyncio
from pathlib import Path

import pytest
from app.core.db import Database
from app.core.urls import DRIVER
from httpx2 import ASGITransport, AsyncClient
from programs import IS_POSTGRESQL, Node
from replicas import replicated
from sqlalchemy import URL, text

KILL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'guarded'"
    if IS_POSTGRESQL
    else "KILL USER guarded@localhost"
)


async def let_in(node: Node, password: str) -> None:
    """Have the server ask a user for a password, another one from now on."""
    if not IS_POSTGRESQL:
        await node.execute(f"CREATE OR REPLACE USER guarded@localhost IDENTIFIED BY '{password}'")
        await node.execute("GRANT ALL ON app.* TO guarded@localhost")
        return
    await node.execute(
        "DO $$ BEGIN CREATE ROLE guarded LOGIN IN ROLE app;"
        " EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    await node.execute(f"ALTER ROLE guarded PASSWORD '{password}'")
    rules = node.folder / "data" / "pg_hba.conf"
    if "guarded" not in rules.read_text():
        rules.write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        await node.execute("SELECT pg_reload_conf()")


@pytest.mark.parametrize("name", ["database_url", "database_password"])
async def test_a_file_that_changes_is_read_for_each_new_connection(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replicated() as pair:
        url = pair.primary.url.set(username="guarded")

        def write(password: str) -> None:
            whole = url.set(password=password).render_as_string(hide_password=False)
            (tmp_path / name).write_text(whole if name == "database_url" else password)

        if name != "database_url":
            monkeypatch.setenv("DATABASE_URL", url.render_as_string())
        await let_in(pair.primary, "first")
        write("first")
        # Where the container's platform puts them.
        from app.core import config

        monkeypatch.setattr(config, "SECRETS", tmp_path)
        monkeypatch.setitem(config.Settings.model_config, "secrets_dir", tmp_path)
        from app.main import create_app

        app = create_app(config.load_settings())
        client = AsyncClient(transport=ASGITransport(app), base_url="http://test")
        async with app.router.lifespan_context(app), client:
            assert (await client.get("/users")).status_code == 200

            await let_in(pair.primary, "second")
            # Who is in stays in; who is new is refused until the file says the new one.
            assert (await client.get("/users")).status_code == 200
            await pair.primary.execute(KILL)
            assert await settled(client) == 503
            write("second")
            assert (await client.get("/users")).status_code == 200


async def settled(client: AsyncClient) -> int:
    """Return the answer once the end of its connection has arrived."""
    for _ in range(100):
        if (status := (await client.get("/users")).status_code) != 200:
            break
        await asyncio.sleep(0.02)
    return status


async def test_a_function_may_give_the_password_as_for_tokens_of_a_cloud() -> None:
    async with replicated() as pair:
        asked = 0

        async def login() -> URL:
            nonlocal asked
            asked += 1
            await let_in(pair.primary, f"token {asked}")
            return URL.create(DRIVER, "guarded", f"token {asked}")

        database = Database(
            pair.primary.url,
            pool_size=2,
            max_overflow=0,
            pool_timeout=3,
            pool_recycle=-1,
            statement_timeout=3,
            login=login,
        )
        async with database, database.session() as one, database.session() as other:
            for session in (one, other):
                assert str(await session.scalar(text("SELECT current_user"))).startswith("guarded")
        assert asked == 2
