import asyncio
import time
from collections.abc import AsyncGenerator

import pytest
from llama_orch_adapter_testkit import Cut, Toxic
from llama_orch_adapter_testkit._toxics import spoilt

PIECES = [b"abcde", b"fghij", b"klmno"]
WHOLE = b"".join(PIECES)


async def source(closed: list[bool] | None = None) -> AsyncGenerator[bytes, None]:
    try:
        for piece in PIECES:
            yield piece
    finally:
        if closed is not None:
            closed.append(True)


async def through(*toxics: Toxic) -> tuple[list[bytes], str, float]:
    """What comes through, how it ends, and how long it takes."""
    came = []
    began = time.monotonic()
    ending = "keep"
    try:
        async for piece in spoilt(source(), toxics):
            came.append(piece)  # noqa: PERF401  # what came before the cut is kept
    except Cut as cut:
        ending = cut.then
    return came, ending, time.monotonic() - began


@pytest.mark.parametrize(
    ("toxic", "ending"),
    [
        (Toxic(kind="timeout", after=7), "hang"),
        (Toxic(kind="timeout", after=7, seconds=0.02), "close"),
        (Toxic(kind="reset", after=7), "reset"),
        (Toxic(kind="limit_data", after=7), "close"),
    ],
    ids=["timeout", "timeout that closes", "reset", "limit_data"],
)
async def test_toxics_that_cut(toxic: Toxic, ending: str):
    """Exactly so many bytes come, and then that is the end, in the toxic's own way and time."""
    came, ended, took = await through(toxic)

    assert b"".join(came) == WHOLE[:7]
    assert ended == ending
    assert took >= toxic.seconds


@pytest.mark.parametrize(
    ("toxic", "least"),
    [
        (Toxic(kind="latency", after=5, seconds=0.02), 0.04),
        (Toxic(kind="bandwidth", rate=500), 0.03),
        (Toxic(kind="slow_close", seconds=0.05), 0.05),
        (Toxic(kind="slicer", size=2, seconds=0.005), 0.04),
    ],
    ids=lambda each: each.kind if isinstance(each, Toxic) else "",
)
async def test_toxics_that_delay(toxic: Toxic, least: float):
    """All comes in its order, and as late as was asked for."""
    came, ended, took = await through(toxic)

    assert (b"".join(came), ended) == (WHOLE, "keep")
    assert took >= least * 0.95


async def test_a_slicer_cuts_what_comes_after():
    """Pieces are cut to size, those before the toxic begins are as they were."""
    came, _, _ = await through(Toxic(kind="slicer", after=7, size=2))

    assert came == [b"abcde", b"fg", b"hi", b"j", b"kl", b"mn", b"o"]


async def test_toxics_follow_each_other():
    """Each spoils what the one before let through."""
    came, ended, _ = await through(Toxic(kind="slicer", size=3), Toxic(kind="limit_data", after=4))

    assert (came, ended) == ([b"abc", b"d"], "close")


async def test_what_is_spoilt_is_closed():
    """Who stops reading early closes the source, however many toxics lie between."""
    closed: list[bool] = []
    pieces = spoilt(source(closed), [Toxic(kind="slicer"), Toxic(kind="latency")])
    await anext(pieces)
    await pieces.aclose()
    await asyncio.sleep(0)

    assert closed == [True]
