"""A service behind PgBouncer in transaction mode: each transaction may get another connection."""

from programs import migrate, pgbouncer, postgresql


async def test_migrations_go_through_it() -> None:
    async with postgresql() as node, pgbouncer(node) as url:
        assert (await migrate(url))[0] == 0
        assert await node.execute("SELECT count(*) FROM users") == "0"
