"""What real engines streamed, over HTTP/2: the same events and the same ending as over HTTP/1.1."""

import random
from pathlib import Path
from typing import NamedTuple

import pytest
from h2.errors import ErrorCodes
from llama_orch_adapter_api import WorkerError
from llama_orch_adapter_testkit import Capture, LoopbackEngine, Reply, captures, splits
from llama_orch_http_util import HttpClient

from .http2_far_end import RAW, Far, FarEnd, trusting  # type: ignore[import-not-found]  # test folders are no packages


class Seen(NamedTuple):
    """What a caller gets of a stream."""

    events: list[bytes]
    ending: str


async def seen(client: HttpClient) -> Seen:
    events: list[bytes] = []
    try:
        async with client.stream("/v1/completions", {}, RAW) as stream:
            async for batch in stream:
                events += [bytes(event) for event in batch]
    except WorkerError as error:
        return Seen(events, f"{type(error).__name__} {error.detail} {error.phase} {error.retriable}")
    return Seen(events, "whole")


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("capture", captures.streams(), ids=str)
async def test_a_capture_reads_the_same(capture: Capture, direct: bool, tmp_path: Path) -> None:
    """A captured stream, cut anywhere into frames, gives over HTTP/2 what it gives over 1.1; one that was cut, too."""
    chance = random.Random(capture.name)

    async def script(stream: Far) -> None:
        stream.head()
        for piece in splits(capture.body, (chance.randint(0, len(capture.body)) for _ in range(20))):
            await stream.send(piece)
        if capture.complete:
            await stream.send(b"", end=True)
        else:
            stream.refuse(ErrorCodes.INTERNAL_ERROR)

    config = trusting(tmp_path, http2_direct_data=direct)
    async with (
        FarEnd(script) as far,
        LoopbackEngine(lambda _: Reply.capture(capture)) as engine,
        HttpClient(far.url, config) as over_2,
        HttpClient(engine.url) as over_1,
    ):
        assert await seen(over_2) == await seen(over_1)
        assert len(far.asked) == 1
