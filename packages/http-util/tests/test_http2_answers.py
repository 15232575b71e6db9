"""What is read of one HTTP/2 answer, whatever its reader, its request or its peer does meanwhile."""

import asyncio
from typing import Any

import pytest
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from llama_orch_adapter_api import WorkerReset
from llama_orch_http_util._http2 import Connection
from llama_orch_http_util._http2_stream import Exchange

from .http2_in_memory import HEAD, Wire, greeted  # type: ignore[import-not-found]  # test folders are no packages


class Talk:
    """A request under way, whose answer's head has come, and both ends of its connection."""

    def __init__(self, *, direct: bool = True, body: bool = False) -> None:
        ends: tuple[Connection, Wire, H2Connection] = greeted(direct=direct)
        self.connection, self.wire, self.server = ends
        self.exchange: Exchange = self.connection.open(HEAD, body=body, idle=60)

    async def heard(self) -> None:
        """The server hears all that was sent."""
        await asyncio.sleep(0)
        self.server.receive_data(bytes(self.wire.written))
        self.wire.written.clear()

    def say(self, method: str, *arguments: Any, **more: Any) -> None:
        """The server does this, and it arrives."""
        getattr(self.server, method)(*arguments, **more)
        self.connection.data_received(self.server.data_to_send())

    async def head(self) -> None:
        await self.heard()
        self.say("send_headers", 1, [(":status", "200")])
        await self.exchange.head()


async def test_two_tasks_read_one_answer() -> None:
    """A second task that reads is told so, as over 1.1; the first one goes on."""
    talk = Talk()
    await talk.head()
    first, second = (asyncio.create_task(talk.exchange.read()) for _ in range(2))
    with pytest.raises(RuntimeError, match="two tasks read one answer"):
        await second
    talk.say("send_data", 1, b"an event")

    assert await first == b"an event"
    talk.connection.close()


async def test_a_header_that_came_twice() -> None:
    """All codings are one list; of another header that came several times, the first counts: as over 1.1."""
    talk = Talk()
    await talk.heard()
    twice = [("content-encoding", "identity"), ("retry-after", "1"), ("content-encoding", "br"), ("retry-after", "2")]
    talk.say("send_headers", 1, [(":status", "200"), *twice])
    await talk.exchange.head()

    assert talk.exchange.headers == {"content-encoding": "identity, br", "retry-after": "1"}
    talk.connection.close()


@pytest.mark.parametrize("unread", [b"", b"an event"])
async def test_closed_while_it_is_read(unread: bytes) -> None:
    """Whoever reads an answer that another task closes is told; what was cut off never ends well."""
    talk = Talk()
    await talk.head()
    reading = None if unread else asyncio.create_task(talk.exchange.read())
    await asyncio.sleep(0)
    if unread:
        talk.say("send_data", 1, unread, end_stream=True)
    talk.exchange.close()

    for read in (reading, talk.exchange.read(), talk.exchange.read()):
        if read is not None:
            with pytest.raises(WorkerReset, match="this client was closed") as caught:
                await read
            assert not caught.value.engine_fault
    assert not talk.exchange.ended
    talk.connection.close()


async def test_closed_after_its_end() -> None:
    """An answer that was read to its end stays so when it is closed."""
    talk = Talk()
    await talk.head()
    talk.say("end_stream", 1)
    assert await talk.exchange.read() == b""
    talk.exchange.close()

    assert talk.exchange.ended
    assert await talk.exchange.read() == b""
    talk.connection.close()


@pytest.mark.parametrize("direct", [True, False])
async def test_nothing_but_padding(direct: bool) -> None:
    """Padding alone costs no window while somebody waits: what follows it comes."""
    talk = Talk(direct=direct)
    await talk.head()
    reading = asyncio.create_task(talk.exchange.read())
    for _ in range(1000):  # 256 bytes each: four windows
        talk.say("send_data", 1, b"", pad_length=255)
        await talk.heard()
    talk.say("send_data", 1, b"an event")

    assert await reading == b"an event"
    talk.connection.close()


@pytest.mark.parametrize("code", [ErrorCodes.REFUSED_STREAM, ErrorCodes.INTERNAL_ERROR])
async def test_a_failure_after_the_head_of_a_half_sent_request(code: ErrorCodes) -> None:
    """What breaks after its head broke off, though its request was not sent to the end: nothing sends it again."""
    talk = Talk(body=True)
    uploading = asyncio.create_task(talk.exchange.upload(b"x" * 100_000))
    await talk.heard()
    talk.say("send_headers", 1, [(":status", "200")])
    talk.say("send_data", 1, b"an event")
    talk.say("reset_stream", 1, code)
    await uploading
    await talk.exchange.head()

    assert await talk.exchange.read() == b"an event"
    with pytest.raises(WorkerReset, match=f"the answer broke off \\({code.name}\\)") as caught:
        await talk.exchange.read()
    assert (caught.value.detail, caught.value.answered) == ("truncated", True)
    talk.connection.close()
