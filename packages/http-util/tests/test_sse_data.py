"""The data of events alone, as a typed stream takes it: cheaper, and the same."""

import itertools
from collections.abc import Callable

import pytest
from llama_orch_http_util import FrameTooLarge, SSEDecoder

BOUND = 16
NEARLY_ALONE = (
    *(b"data: a\n\n", b"data: \n\n", b"data:a\n\n", b"data: a\n", b"data: a", b"\n", b"\n\n", b""),
    *(b"data: a\r\n\n", b"data: a\r\n\r\n", b"data: a\r\r", b"data: a\rb\n\n", b"\r\n", b"\xef\xbb\xbfdata: a\n\n"),
    *(
        b"event: e\n\n",
        b"id: 7\n\n",
        b": data\n\n",
        b"\n\ndata: a\n\n",
        b"data: a\n\ndata: ",
        b"data: a\n:",
        b"data: a\ndata\n\n",
    ),
    *(b"data: %b\n\n" % (b"a" * (BOUND - around)) for around in (8, 6, 5)),
)
"""Chunks that are one event of one line, or look much like it: the last one is over the bound."""


def told(feed: Callable[[SSEDecoder, bytes], list[memoryview]], chunks: tuple[bytes, ...]) -> list[object]:
    """What comes of the chunks, one after the other, and what waits after each."""
    decoder = SSEDecoder(max_line=BOUND, max_event=BOUND)
    seen: list[object] = []
    for chunk in chunks:
        try:
            views = feed(decoder, chunk)
        except FrameTooLarge as error:
            views = [frame.data for frame in error.frames]
            seen.append(str(error))
        seen += [*map(bytes, views), decoder.pending]
    return seen


@pytest.mark.parametrize("first", NEARLY_ALONE)
def test_data_alone_is_that_of_the_events(first: bytes) -> None:
    """Whatever comes before an event that is alone in its chunk, or looks like one: its data is the same both ways."""
    for chunks in itertools.product((first,), NEARLY_ALONE, NEARLY_ALONE):
        whole = told(lambda decoder, chunk: [frame.data for frame in decoder.feed(chunk)], chunks)

        assert told(SSEDecoder.feed_data, chunks) == whole, chunks
