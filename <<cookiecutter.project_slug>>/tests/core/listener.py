"""A server that is none, for connections that fail while they are opened."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

<% if cookiecutter.database == "postgresql" %>
NOT_NOW = b"SFATAL\0VFATAL\0C57P03\0Mnot now\0\0"
REFUSAL = b"E" + (len(NOT_NOW) + 4).to_bytes(4, "big") + NOT_NOW
<% else %>
NOT_NOW = b"\xff" + (1040).to_bytes(2, "little") + b"Too many connections"
REFUSAL = len(NOT_NOW).to_bytes(3, "little") + b"\0" + NOT_NOW
<% endif %>

# What it says: nothing, that it takes nobody, or something of another protocol.
SAYINGS = {"nothing": b"", "a refusal": REFUSAL, "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n"}


class Listener:
    """Accepts connections, says one thing and leaves it to the others to hang up, or does so."""

    port: int

    def __init__(self, says: bytes | None) -> None:
        self._says = says
        self._was_called = asyncio.Event()
        self._calls: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep a connection open until the other side closes it."""
        self._calls[asyncio.current_task()] = writer
        self._was_called.set()
        if self._says is not None:
            writer.write(self._says)
            with suppress(ConnectionError):
                await reader.read()
        writer.close()

    async def all_have_hung_up(self) -> None:
        """Wait until somebody has called, and every caller has closed the connection."""
        async with asyncio.timeout(5):
            await self._was_called.wait()
            await asyncio.gather(*filter(None, self._calls))

    def hang_up(self) -> None:
        """Close what is open: from Python 3.12.1 on, the end of a server waits for that."""
        for writer in self._calls.values():
            writer.transport.abort()


@asynccontextmanager
async def listening(says: bytes | None) -> AsyncIterator[Listener]:
    """Listen on a port of its own, and answer that, or hang up."""
    listener = Listener(says)
    async with await asyncio.start_server(listener.accept, "127.0.0.1", 0) as server:
        listener.port = server.sockets[0].getsockname()[1]
        try:
            yield listener
        finally:
            listener.hang_up()
