"""What comes together is written together, and nothing waits for what is yet to come."""

import asyncio

import pytest
from llama_orch_adapter_api import End, TaskRequest, Token, TokenEvent

from .serving import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Client,
    Engine,
    Script,
    serving,
    shape,
    until,
    virtual,
    words,
)


def bursts(count: int, size: int, pause: float = 1.0) -> Script:
    """So many bursts of tokens, with a pause in seconds before each."""

    def script(_: TaskRequest) -> list[TokenEvent | float]:
        steps: list[TokenEvent | float] = [STARTED]
        for burst in range(count):
            steps += [pause, *(Token("word ", burst * size + i) for i in range(size))]
        return [*steps, pause, End(3, count * size, "stop")]

    return script


async def _writes(client: Client, query: str) -> list[int]:
    """How many tokens came with each write, which is a chunk of HTTP."""
    counts, text = [], b""
    async with client.open(await client.send(), query) as reading:
        async for data, whole in reading.content.iter_chunks():
            text += data
            if whole:
                counts.append(text.count(b"event: token"))
                text = b""
    return [count for count in counts if count]


@virtual
@pytest.mark.parametrize(("query", "writes"), [("?batch=true", [8] * 5), ("", [1] * 40)])
async def test_a_burst_is_one_write(query: str, writes: list[int]) -> None:
    """With `batch` what an engine says at once goes out at once; without, each token by itself."""
    async with serving(Engine(bursts(5, 8))) as client:
        assert await _writes(client, query) == writes


@virtual
async def test_no_token_waits_for_another() -> None:
    """A token that comes alone is written in the moment in which it came, however soon the next one does."""
    loop = asyncio.get_running_loop()
    async with serving(Engine(words(20, 0.125))) as client:
        began = loop.time()
        async with client.open(await client.send(), "?batch=true") as reading:
            came = [loop.time() async for line in reading.content if line == b"event: token\n"]

    assert [each - began for each in came] == pytest.approx([0.125 * (i + 1) for i in range(20)], abs=0.01)


@virtual
async def test_batches_come_whole_and_in_order() -> None:
    """However many streams share a tick, the frames of each are the same as without."""
    count = 70
    async with serving(Engine(words(40, 0.003), slots=count)) as client:
        sent = [await client.send() for _ in range(count)]
        found = await asyncio.gather(*(client.read(task_id, "?batch=true") for task_id in sent))

    for each in found:
        assert shape(each) == ["started", *["token"] * 40, "end"]
        assert [one.id for one in each] == list(range(42))


@virtual
async def test_a_burst_that_outweighs_a_write_takes_several() -> None:
    """No write is larger than what may wait for a client, and nothing of it is left behind."""
    async with serving(Engine(bursts(1, 1000))) as client:
        counts = await _writes(client, "?batch=true")

    assert len(counts) > 1
    assert sum(counts) == 1000


@virtual
async def test_what_a_client_that_left_did_not_get_is_kept() -> None:
    """Of a batch whose client is gone nothing is lost: the next reader goes on without a gap."""
    engine = Engine(bursts(6, 4))
    async with serving(engine, toml="[stream]\ncancel_on_disconnect = false") as client:
        task_id = await client.send()
        async with client.open(task_id, "?batch=true") as reading:
            seen = await reading.content.readuntil(b'"i":7')
            reading.close()
        await until(lambda: engine.said > 16)
        rest = await client.read(task_id, "?batch=true")

    assert b'"i":8' not in seen
    assert [each.data["i"] for each in rest if each.event == "token"] == list(range(8, 24))
