"""A service on Galera: nodes that take writes, each of them, and refuse them when alone."""

from programs import galera, migrate


async def test_what_one_node_migrates_all_have() -> None:
    async with galera() as nodes:
        assert (await migrate(nodes[0].url))[0] == 0
        for node in nodes:
            assert await node.execute("SELECT count(*) FROM users") == "0"
