"""Clients of orchestratord in a process of their own: `python _sse_readers.py PORT JSON-OPTIONS`.

Each of `streams` sends a task and reads its stream over one connection, with `query`; `slow` ones take nothing but the
answer's head until they are told. It writes a line when all have their head, then one for each line on stdin: `look`
(the delays since the last look, in ns, from when a token was due to its arrival), `take N` (each slow one takes N bytes
more, and has them when the line is written) or `leave` (all close), and ends with stdin.
"""

import asyncio
import json
import resource
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

TASK = b'{"pool_id":"pool","prompt":"p"}'
POST = (
    b"POST /v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    % (len(TASK), TASK)
)
GET = "GET /v1/tasks/{task}/stream{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
TEXT = b'"t":"'
AT_ONCE = 32
"""Clients that connect side by side."""


class Client(asyncio.Protocol):
    """One connection, from its task to its last token. `said` has the answer to the task, `begun` the stream's head."""

    def __init__(self, delays: list[int], *, slow: bool) -> None:
        loop = asyncio.get_running_loop()
        self.said: asyncio.Future[bytes] = loop.create_future()
        self.begun: asyncio.Future[None] = loop.create_future()
        self.taken = 0
        self._wanted = 0
        self._had: asyncio.Future[None] | None = None
        self._delays = delays
        self._slow = slow
        self._head = b""
        self._heed: Callable[[bytes], None] = self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It may write."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        """Whoever waits is told."""
        for waited in (self.said, self.begun):
            if not waited.done():
                waited.set_exception(ConnectionError("orchestratord closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Heed it, as the state is."""
        self._heed(data)

    def ask(self, task: str, query: str) -> None:
        """Begin to read the stream."""
        self._head = b""
        self._heed = self._first
        self.transport.write(GET.format(task=task, query=query).encode())

    def _answer(self, data: bytes) -> None:
        self._head += data
        head, end, body = self._head.partition(b"\r\n\r\n")
        if end and body.endswith(b"}"):
            assert head.startswith(b"HTTP/1.1 202 "), self._head
            self.said.set_result(body)

    def _first(self, data: bytes) -> None:
        self._head += data
        head, end, _ = self._head.partition(b"\r\n\r\n")
        if not end:
            return
        assert head.startswith(b"HTTP/1.1 200 "), head
        self._heed = self._take if self._slow else self._time
        if self._slow:
            self.transport.pause_reading()
        self.begun.set_result(None)

    def _time(self, data: bytes) -> None:
        now = time.monotonic_ns()
        at = data.find(TEXT)
        while at >= 0:
            end = data.find(b'"', at + 5)
            if end >= 0:
                self._delays.append(now - int(data[at + 5 : end]))
            at = data.find(TEXT, at + 5)

    def _take(self, data: bytes) -> None:
        self.taken += len(data)
        if self.taken >= self._wanted and self._had is not None:
            self.transport.pause_reading()
            self._had.set_result(None)
            self._had = None

    def want(self, more: int) -> "asyncio.Future[None]":
        """Take so many bytes more; done when they are had."""
        had = self._had = asyncio.get_running_loop().create_future()
        self._wanted = self.taken + more
        self.transport.resume_reading()
        return had


async def connect(port: int, client: Client, query: str, *, slow: bool) -> None:
    """Send the task, and read until the stream's head is in."""
    loop = asyncio.get_running_loop()
    connection = socket.socket()
    connection.settimeout(0)
    if slow:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await loop.sock_connect(connection, ("127.0.0.1", port))
    await loop.create_connection(lambda: client, sock=connection)
    client.transport.write(POST)
    client.ask(json.loads(await client.said)["task_id"], query)
    await client.begun


async def all_of(port: int, options: dict[str, Any], delays: list[int]) -> list[Client]:
    """Connect them, some at a time."""
    slow = bool(options.get("slow"))
    clients = [Client(delays, slow=slow) for _ in range(options["streams"])]
    left = iter(clients)

    async def some() -> None:
        for client in left:
            await connect(port, client, options.get("query", ""), slow=slow)

    async with asyncio.timeout(options.get("patience", 120.0)):
        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return clients


async def main(port: int, options: dict[str, Any]) -> None:
    """Serve until stdin ends."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    delays: list[int] = []
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    clients = await all_of(port, options, delays)
    print(json.dumps({"ready": len(clients)}), flush=True)
    while line := (await lines.readline()).decode().split():
        match line:
            case ["take", more]:
                await asyncio.gather(*(client.want(int(more)) for client in clients))
            case ["leave"]:
                for client in clients:
                    client.transport.abort()
        print(json.dumps({"delays": delays[:], "taken": sum(client.taken for client in clients)}), flush=True)
        delays.clear()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), json.loads(sys.argv[2])))
