"""Streams of real engines, mutilated: the decoder and the reference parser agree on every one."""

import os
import random
import tracemalloc

import pytest
from llama_orch_adapter_testkit import captures, cases, dice, mutilated, splits
from llama_orch_http_util import SSEDecoder

from .sse_reference import Event, parse  # type: ignore[import-not-found]  # test folders are no packages

MIB = 1 << 20
BODIES = [capture.body[:2000] for capture in captures.streams()]


def decoded(chance: random.Random, body: bytes) -> list[Event]:
    """The decoder's events of a body that comes in up to six pieces; their data alone is the same."""
    decoder, of_data = SSEDecoder(), SSEDecoder()
    pieces = [*splits(body, (chance.randint(0, len(body)) for _ in range(chance.randint(0, 5))))]
    events = [Event(bytes(frame.data), frame.event, frame.id) for piece in pieces for frame in decoder.feed(piece)]
    assert [bytes(view) for piece in pieces for view in of_data.feed_data(piece)] == [event.data for event in events]
    assert of_data.pending == decoder.pending
    return events


@pytest.mark.nightly
@pytest.mark.timeout(7200 if os.environ.get("NIGHTLY") else 120)
def test_sse_mutations():
    """Battery 3: mutated inputs in random pieces give what the reference parser gives; SEED replays a run."""
    chance = dice()
    for number in range(cases(100_000, nightly=1_000_000)):
        body = mutilated(chance, chance.choice(BODIES))

        assert decoded(chance, body) == parse(body).events, (number, body)


def test_mutations_hold_little_memory():
    """Battery 3: whatever comes, the decoder's memory stays under 2 MiB."""
    chance = dice()
    bodies = [mutilated(chance, chance.choice(BODIES)) for _ in range(2000)]
    tracemalloc.start()
    try:
        for body in bodies:
            decoded(chance, body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 2 * MIB
