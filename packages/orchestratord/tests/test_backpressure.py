"""An engine never runs further ahead of its reader than the bounds allow, and nothing that is a token gets lost."""

import asyncio
import json
import socket
import struct

import pytest
from llama_orch_adapter_api import End, Metrics, TaskRequest, Token, TokenEvent
from llama_orch_orchestratord._keys import JOBS
from llama_orch_orchestratord._reader import BOUND, Reader

from .serving import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Client,
    Engine,
    Frame,
    forever,
    frames,
    serving,
    shape,
    until,
    virtual,
    words,
)


def tokens(body: str) -> list[int]:
    return [each.data["i"] for each in frames(body) if each.event == "token"]


@virtual
async def test_an_unread_task_waits_at_its_bound_of_events() -> None:
    """An engine that nobody reads stops after so many events, and goes on when somebody does; nothing is lost."""
    engine = Engine(words(500))
    async with serving(engine, toml="[stream]\nunread_events = 100") as client:
        task_id = await client.send()
        await asyncio.sleep(1)
        held = engine.said
        found = await client.read(task_id)

    assert 100 <= held <= 102
    assert [each.data["i"] for each in found if each.event == "token"] == list(range(500))


@virtual
async def test_an_unread_task_waits_at_its_bound_of_bytes() -> None:
    """Long events count by what they weigh."""
    engine = Engine(words(500, text="x" * 1000))
    async with serving(engine, toml="[stream]\nunread_bytes = 10240") as client:
        task_id = await client.send()
        await asyncio.sleep(1)
        held = engine.said
        found = await client.read(task_id)

    assert held <= 12
    assert len(found) == 502


async def _dial(client: Client, task_id: str, query: str = "") -> socket.socket:
    """A stream whose client takes only what it is made to, with the smallest buffer the system gives."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    host, port = client.url.removeprefix("http://").split(":")
    await loop.sock_connect(connection, (host, int(port)))
    await loop.sock_sendall(
        connection, f"GET /v1/tasks/{task_id}/stream{query} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()
    )
    return connection


async def _rest(connection: socket.socket) -> str:
    """Everything that still comes."""
    loop = asyncio.get_running_loop()
    read = bytearray()
    while chunk := await loop.sock_recv(connection, 65536):
        read += chunk
    return read.partition(b"\r\n\r\n")[2].decode()


@virtual
@pytest.mark.parametrize("query", ["", "?batch=true"])
async def test_a_slow_client_holds_no_more_than_its_bound(query: str) -> None:
    """Behind a client that takes nothing the engine waits, once the buffers on the way are full; nothing is lost."""
    engine = Engine(words(20_000))
    async with serving(engine, toml="[stream]\nunread_events = 1") as client:
        task_id = await client.send()
        connection = await _dial(client, task_id, query)
        await until(lambda: engine.said > 1)
        await asyncio.sleep(1)
        said = engine.said
        await asyncio.sleep(10)
        assert engine.said == said
        held = max(client.held())
        body = await _rest(connection)
        connection.close()

    assert BOUND < held < BOUND + 200  # the frame that met the bound is whole
    assert tokens(body) == list(range(20_000))


@virtual
async def test_a_client_that_takes_nothing_at_all_is_gone() -> None:
    """A client that takes nothing for unread_expiry is cut, and its engine freed."""
    engine = Engine(words(100_000))
    async with serving(engine, toml="[stream]\nunread_expiry = 20.0\nheartbeat = 5.0") as client:
        connection = await _dial(client, await client.send())
        await asyncio.sleep(19)
        assert engine.running == 1
        await asyncio.sleep(11)
        assert engine.running == 0
        connection.close()


@virtual
async def test_narration_behind_a_slow_client_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence that its client has no room for is tried again after narration_every, and not all the time."""
    looks = 0
    look = Reader._look

    async def counted(self: Reader, now: float) -> None:
        nonlocal looks
        looks += 1
        assert looks < 1000  # the clock stands still while something is to be done: else this would never end
        await look(self, now)

    monkeypatch.setattr(Reader, "_look", counted)
    async with serving(Engine(words(20_000), slots=1), toml="[stream]\nnarration_every = 1.0") as client:
        first, task_id = await client.send(), await client.send()
        connection = await _dial(client, task_id, "?narration=true")
        await until(lambda: client.census().read == 1)
        await client.cancel(first)
        await until(lambda: max(client.held()) > BOUND)
        looks = 0
        await asyncio.sleep(10)
        assert 9 <= looks <= 12
        body = await _rest(connection)
        connection.close()

    assert tokens(body) == list(range(20_000))


@virtual
async def test_a_slow_client_does_not_hold_others_back() -> None:
    """Who reads gets everything at once, whoever else does not."""
    async with serving(Engine(words(5000), slots=8)) as client:
        slow = [await _dial(client, await client.send()) for _ in range(4)]
        found = await client.read(await client.send())
        for connection in slow:
            connection.close()

    assert len(found) == 5002


@virtual
async def test_metrics_give_way_and_tokens_do_not() -> None:
    """Of an unread task metrics are dropped when there is no room; the ids tell, and every token is there."""

    def script(_: TaskRequest) -> list[TokenEvent | float]:
        steps: list[TokenEvent | float] = [STARTED]
        for i in range(50):
            steps += [Token("a", i), Metrics(tokens_out=i)]
        return [*steps, End(1, 50, "stop")]

    async with serving(Engine(script), toml="[stream]\nunread_events = 20") as client:
        task_id = await client.send()
        await asyncio.sleep(1)
        found = await client.read(task_id)

    assert [each.data["i"] for each in found if each.event == "token"] == list(range(50))
    assert 0 < shape(found).count("metrics") < 50
    assert found[-1].id == 101
    assert len({each.id for each in found}) == len(found)


async def test_an_answer_of_one_huge_event_is_taken() -> None:
    """What is larger than the bound by itself is kept nevertheless: it cannot come in parts."""
    vast = End(1, 0, "stop", timings={f"t{i}": 1.0 for i in range(100_000)})
    async with serving(Engine(lambda _: [STARTED, vast])) as client:
        found = await client.read(await client.send())

    assert len(found[-1].data["timings"]) == 100_000


@virtual
async def test_the_cancel_of_a_stopped_stream_frees_the_engine() -> None:
    """That nobody takes its tokens does not keep a task from being cancelled."""
    engine = Engine(forever(0.001))
    async with serving(engine, toml="[stream]\nunread_events = 5") as client:
        task_id = await client.send()
        await asyncio.sleep(1)
        assert engine.said < 10
        await client.cancel(task_id)
        found = await client.read(task_id)

    assert shape(found) == ["end"]
    assert engine.running == 0


@virtual
@pytest.mark.parametrize("ends_by", ["cancel", "deadline"])
@pytest.mark.parametrize("reads", [True, False])
async def test_a_client_that_takes_nothing_keeps_no_slot_of_a_task_that_is_over(ends_by: str, reads: bool) -> None:
    """Once the engine is done with a task, another one starts, whatever the client of the first still has to take."""
    engine = Engine(words(50_000), slots=1)
    async with serving(engine, toml="[stream]\nunread_events = 1") as client:
        first = await client.send(deadline_ms=5000 if ends_by == "deadline" else None)
        connection = await _dial(client, first) if reads else None
        await asyncio.sleep(1)
        await client.send()
        if ends_by == "cancel":
            await client.cancel(first)
        else:
            await asyncio.sleep(4)
        await asyncio.sleep(0.5)

        assert len(engine.begun) == 2
        assert client.census().running == 1
        view = json.loads((await client.get(f"/v1/tasks/{first}"))[1])
        await asyncio.sleep(1)
        later = json.loads((await client.get(f"/v1/tasks/{first}"))[1])
        assert (view["state"], view["running_ms"]) == ("ended", later["running_ms"])
        if connection is not None:
            connection.close()


@virtual
async def test_a_client_that_takes_nothing_holds_up_no_stop() -> None:
    """What such a client was still to get is given up a moment after its task was ended, and nothing waits for it."""
    before = asyncio.all_tasks()
    engine = Engine(words(100_000))
    async with serving(engine, toml="[server]\nshutdown = 3.0\n[stream]\nunread_events = 1") as client:
        connection = await _dial(client, await client.send())
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        await client.app.shutdown()
        took = asyncio.get_running_loop().time() - began
    await asyncio.sleep(0)
    left = asyncio.all_tasks()
    connection.close()

    assert 3.0 <= took < 3.5
    assert left == before
    assert engine.running == 0


@virtual
async def test_a_client_that_is_behind_at_a_stop_is_told_how_its_task_ended() -> None:
    """It may take what waits for it while the last is written; its task ends in one outcome, which is the host's."""
    async with serving(Engine(words(100_000)), toml="[stream]\nunread_events = 1") as client:
        task_id = await client.send()
        connection = await _dial(client, task_id)
        await until(lambda: max(client.held()) > BOUND)
        await asyncio.sleep(1)
        jobs = client.app[JOBS]
        await jobs.aclose(3.0)
        job, record = jobs.find(task_id), client.host.explain(task_id)
        found = frames(await _rest(connection))
        connection.close()

    assert shape(found)[-2:] == ["token", "error"]
    assert (found[-1].data["code"], found[-1].data["retriable"]) == ("WORKER_RESET", True)
    assert job.ending == "failed"
    assert record is not None
    assert (record.ending, record.error_kind, record.detail) == ("failed", "WORKER_RESET", "drained")


async def _first(connection: socket.socket) -> list[Frame]:
    """The events that a client took before it was gone, the last one whole."""
    read = b""
    while read.count(b"\n\n") < 4:
        read += await asyncio.get_running_loop().sock_recv(connection, 1000)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # what it did not take is lost
    connection.close()
    return frames(read.partition(b"\r\n\r\n")[2].rpartition(b"\n\n")[0].decode() + "\n\n")


@virtual
@pytest.mark.parametrize("query", ["", "?batch=true"])
async def test_a_reader_that_comes_back_loses_nothing(query: str) -> None:
    """What was written to a connection that is gone is told again to who says what it got last; else it is a gap."""
    toml = "[stream]\ncancel_on_disconnect = false\nunread_events = 1"
    async with serving(Engine(words(3000, text="w" * 40)), toml=toml) as client:
        task_id = await client.send()
        connection = await _dial(client, task_id, query)
        await asyncio.sleep(1)  # the buffers on the way are full of what it will not take
        got = await _first(connection)
        await until(lambda: client.census().read == 0)
        async with client.open(task_id, query, **{"Last-Event-ID": str(got[-1].id)}) as reading:
            rest = frames(await reading.text())

    if rest[0].event == "gap":  # the system held more than is kept
        assert rest[0].data == {"first": got[-1].id + 1, "last": rest[1].id - 1}
        assert rest[1].id < 1000
        got += rest[1:]
        rest = [each for each in got if each.id >= rest[1].id]
    else:
        rest = got + rest
    assert [each.id for each in rest] == list(range(rest[0].id, 3002))


@virtual
async def test_a_reader_that_lost_its_connection_at_the_end_comes_back() -> None:
    """A task whose last events were written to a client that is gone is not read yet."""
    toml = "[stream]\ncancel_on_disconnect = false"
    async with serving(Engine(words(50_000, text="w" * 40)), toml=toml) as client:
        task_id = await client.send()
        connection = await _dial(client, task_id)
        await asyncio.sleep(1)
        await client.cancel(task_id)
        await asyncio.sleep(1)
        await _first(connection)
        await until(lambda: client.census().read == 0)
        rest = await client.read(task_id)

    assert shape(rest) == ["gap", "end"]


@virtual
async def test_what_was_on_its_way_when_the_stream_ended_is_not_lost() -> None:
    """That all was written does not mean that it arrived: who lost it comes back for it, until it says it has all."""
    toml = "[stream]\ncancel_on_disconnect = false\nunread_expiry = 20.0"
    async with serving(Engine(words(100)), toml=toml) as client:
        task_id = await client.send()
        connection = await _dial(client, task_id)
        await until(lambda: client.app[JOBS].find(task_id).read)  # the response is finished, and next to none is taken
        told = json.loads((await client.get(f"/v1/tasks/{task_id}"))[1])
        got = await _first(connection)
        for _ in range(2):  # it may be lost twice
            await asyncio.sleep(15)
            async with client.open(task_id, **{"Last-Event-ID": str(got[-1].id)}) as reading:
                rest = frames(await reading.text())
            assert [each.id for each in got + rest] == list(range(102))
        async with client.open(task_id, **{"Last-Event-ID": "101"}) as reading:
            status, body = reading.status, await reading.text()
        async with client.open(task_id, **{"Last-Event-ID": "50"}) as reading:
            later = reading.status

    assert (told["read"], told["unread_events"]) == ("read", 0)
    assert (status, "was read to its end" in body, later) == (410, True, 410)


@virtual
async def test_what_was_read_is_not_kept_for_ever() -> None:
    """Who comes back after unread_expiry is told that it is gone; before that it gives way where the table is full."""
    toml = "[stream]\ncancel_on_disconnect = false\nunread_expiry = 20.0\n[tasks]\nlimit = 1"
    async with serving(Engine(words(3)), toml=toml) as client:
        first = await client.send()
        await client.read(first)
        second = await client.send()
        await client.read(second)
        forgotten, _ = await client.get(f"/v1/tasks/{first}/stream")
        await asyncio.sleep(21)
        outbox = client.app[JOBS].find(second).outbox
        gone, body = await client.get(f"/v1/tasks/{second}/stream")

    assert (forgotten, gone) == (404, 410)
    assert "was read to its end" in body
    assert not outbox.repeats
