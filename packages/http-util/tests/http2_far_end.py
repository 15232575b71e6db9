"""A server of the loopback interface that speaks HTTP/2 over TLS, through h2, and does what a test's script says."""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, Self, cast

import msgspec
import trustme
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes, Settings
from hpack import HeaderTuple
from hyperframe.frame import GoAwayFrame
from llama_orch_adapter_testkit import Reply
from llama_orch_adapter_testkit._connection import Connection, Request
from llama_orch_http_util import HttpClient, HttpConfig, _session
from llama_orch_http_util._http2_pool import Http2Pool

RAW = msgspec.json.Decoder(msgspec.Raw)
CA = trustme.CA()
SSE = {"content-type": "text/event-stream"}


class Far:
    """A stream as the server sees it. `reset` is set when the client resets it, `code` says why."""

    def __init__(self, connection: "Http2Far", event: events.RequestReceived) -> None:
        headers = cast("list[HeaderTuple]", event.headers)
        fields = {name.decode(): value.decode() for name, value in headers}
        self.never_indexed = [name.decode() for name, _ in (each for each in headers if not each.indexable)]
        self.connection = connection
        self.number = event.stream_id
        self.nth = connection.asked = connection.asked + 1
        self.method, self.path = fields.pop(":method"), fields.pop(":path")
        self.headers = fields
        self.body = bytearray()
        self.whole = asyncio.Event()
        self.reset = asyncio.Event()
        self.code: int | None = None
        self.room = asyncio.Event()

    def head(self, status: int = 200, headers: dict[str, str] = SSE, *, end: bool = False) -> None:
        """Send the answer's head."""
        self.connection.h2.send_headers(self.number, [(":status", str(status)), *headers.items()], end_stream=end)
        self.connection.flush()

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Send a part of the body, as the client has room for it."""
        h2 = self.connection.h2
        while data or end:
            room = min(h2.local_flow_control_window(self.number), h2.max_outbound_frame_size)
            if data and room <= 0:
                self.room.clear()
                await self.room.wait()
                continue
            part, data = data[:room], data[room:]
            h2.send_data(self.number, part, end_stream=end and not data)
            self.connection.flush()
            if not data:
                return

    async def json(self, value: object, status: int = 200) -> None:
        """A whole answer."""
        self.head(status, {"content-type": "application/json"})
        await self.send(json.dumps(value).encode(), end=True)

    async def events(self, numbers: Iterable[int], *, pause: float = 0) -> None:
        """Events of a stream whose head was sent."""
        for number in numbers:
            await self.send(b"data: %d\n\n" % number)
            await asyncio.sleep(pause)

    def refuse(self, code: int) -> None:
        """Reset it."""
        self.connection.h2.reset_stream(self.number, code)
        self.connection.flush()


Script = Callable[[Far], Awaitable[object]]


class Http2Far(asyncio.Protocol):
    """One connection. What the client breaks off ends in silence; any other failure of a script is the server's."""

    def __init__(self, server: "FarEnd") -> None:
        self.server = server
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.h2.local_settings = Settings(
            client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: server.streams}
        )
        self.streams: dict[int, Far] = {}
        self.pings = 0
        self.deaf = False
        self.mute = False
        self.over = False  # the client has said so
        self.lost = False
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.server.connections.append(self)
        self.h2.initiate_connection()
        if self.server.greet is not None:
            self.server.greet(self)
        else:
            self.flush()

    def data_received(self, data: bytes) -> None:  # noqa: C901  # one branch an event
        if self.deaf or self.over or self.lost:
            return
        for event in self.h2.receive_data(data):
            stream = self.streams.get(getattr(event, "stream_id", None) or 0)
            if isinstance(event, events.RequestReceived):
                stream = self.streams[event.stream_id] = Far(self, event)
                self.server.start(stream)
            elif isinstance(event, events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if stream is not None:
                    stream.body += event.data
            elif isinstance(event, events.StreamEnded) and stream is not None:
                stream.whole.set()
            elif isinstance(event, events.StreamReset) and stream is not None:
                stream.code = event.error_code
                stream.reset.set()
                self.server.stop(stream)
            elif isinstance(event, events.WindowUpdated | events.RemoteSettingsChanged):
                for each in self.streams.values():
                    each.room.set()
            elif isinstance(event, events.PingReceived):
                self.pings += 1
            elif isinstance(event, events.ConnectionTerminated):
                self.over = True
                self._stop_all()
        self.flush()

    def connection_lost(self, _: Exception | None) -> None:
        self.lost = True
        self._stop_all()

    def _stop_all(self) -> None:
        for stream in self.streams.values():
            self.server.stop(stream)

    def flush(self) -> None:
        """Send what h2 has to send."""
        if self.mute:
            return
        data = self.h2.data_to_send()
        if data and not self.over and not self.transport.is_closing():
            self.transport.write(data)

    def raw(self, data: bytes) -> None:
        """Send these bytes, whatever they are."""
        self.flush()
        self.transport.write(data)

    def goaway(self, last: int, code: int = 0) -> None:
        """Take no stream above `last`; h2 itself would end all others too."""
        frame = GoAwayFrame(0)
        frame.last_stream_id, frame.error_code = last, code
        self.raw(frame.serialize())


@cache
def offering(*versions: str) -> ssl.SSLContext:
    """A server's context with a certificate of `CA`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(list(versions))
    CA.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


class FarEnd:
    """Lives as long as its block. `script` is run for each stream; who chooses HTTP/1.1 gets `http1`'s replies.

    `greet` is called in place of sending the server's SETTINGS.
    """

    def __init__(
        self,
        script: Script,
        *,
        streams: int = 100,
        versions: tuple[str, ...] = ("h2", "http/1.1"),
        greet: Callable[[Http2Far], None] | None = None,
        http1: Callable[[Request], Reply] = lambda _: Reply.json(200, {"http": 1}),
    ) -> None:
        self.script = script
        self.streams = streams
        self.greet = greet
        self.connections: list[Http2Far] = []
        self.accepted = 0
        self.asked: list[Far] = []
        self.http1_requests: list[Request] = []
        self._http1 = http1
        self._versions = versions
        self._http1_connections: set[Connection] = set()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._failures: list[BaseException] = []

    @property
    def live(self) -> list[Http2Far]:
        """Connections that are open."""
        return [connection for connection in self.connections if not connection.lost]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        tls = offering(*self._versions)
        self._server = await loop.create_server(lambda: _Either(self), "127.0.0.1", 0, ssl=tls, backlog=1024)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        return self

    async def again(self) -> None:
        """Listen once more, on the port that was closed."""
        tls = offering(*self._versions)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Either(self), "127.0.0.1", self.port, ssl=tls)

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._server.close()
        for connection in self.live:
            connection.transport.abort()
        for http1 in tuple(self._http1_connections):
            http1.stop()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self.live or self._http1_connections:
            await asyncio.sleep(0.005)
        if self._failures and error is None:
            raise self._failures[0]

    def start(self, stream: Far) -> None:
        self.asked.append(stream)
        task = self._tasks[id(stream)] = asyncio.create_task(self._run(stream))
        task.add_done_callback(lambda _: self._tasks.pop(id(stream), None))

    def stop(self, stream: Far) -> None:
        if task := self._tasks.get(id(stream)):
            task.cancel()

    async def _run(self, stream: Far) -> None:
        try:
            await self.script(stream)
        except StreamClosedError:
            pass  # the client was faster
        except Exception as error:
            self._failures.append(error)
            raise

    def http1(self) -> Connection:
        def answer(request: Request) -> Reply:
            self.http1_requests.append(request)
            return self._http1(request)

        def closed(connection: Connection, _: BaseException | None) -> None:
            self._http1_connections.discard(connection)

        return Connection(answer, self._http1_connections.add, closed)


class _Either(asyncio.Protocol):
    """Makes room for what was chosen in the handshake."""

    def __init__(self, server: FarEnd) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        self._server.accepted += 1
        protocol = Http2Far(self._server) if chosen == "h2" else self._server.http1()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


def trusting(tmp_path: Path, **settings: Any) -> HttpConfig:
    """A config that trusts the far end."""
    path = tmp_path / "ca.pem"
    path.write_bytes(CA.cert_pem.bytes())
    return HttpConfig(ca_file=path, **settings)


def silent(far: Http2Far) -> None:
    """No SETTINGS, for ever."""
    far.mute = True


def pools() -> list[Http2Pool]:
    """The running loop's pools."""
    loop = asyncio.get_running_loop()
    shared = _session._sessions.get(loop)
    return [pool for pool in shared.beside.values() if isinstance(pool, Http2Pool)] if shared else []


async def drained(client: HttpClient, path: str = "/tasks", body: object = None) -> list[int]:
    """The numbers of a stream, read to its end."""
    async with client.stream(path, body or {}, RAW) as stream:
        return [int(bytes(event)) async for batch in stream for event in batch]


async def until(holds: Callable[[], object], *, limit: float = 10) -> float:
    """Seconds until it holds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(limit):
        while not holds():
            await asyncio.sleep(0.002)
    return loop.time() - began
