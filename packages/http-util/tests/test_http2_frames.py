"""Frames are cut at their bounds, however they arrive."""

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_testkit import splits
from llama_orch_http_util._http2_frames import (
    GOAWAY,
    LARGEST,
    Breach,
    FrameSplitter,
    end_of_stream,
    goaway_of,
    is_greeting,
    kind_of,
    leaves_headers_open,
    name_of,
    part_of,
    stream_of,
    window_update,
)


def data(size: int) -> bytes:
    frame = DataFrame(1)
    frame.data = b"x" * size
    return frame.serialize()


def goaway(last: int, code: int, words: bytes = b"") -> bytes:
    frame = GoAwayFrame(0)
    frame.last_stream_id, frame.error_code, frame.additional_data = last, code, words
    return frame.serialize()


@given(sizes=st.lists(st.sampled_from([0, 1, 8, 9, 300, LARGEST]), max_size=6), cuts=st.lists(st.integers(0, 40_000)))
def test_frames_in_any_pieces(sizes: list[int], cuts: list[int]) -> None:
    """Frames that arrive in any pieces are the frames that were sent."""
    sent = [data(size) for size in sizes]
    splitter = FrameSplitter()

    assert [frame for piece in splits(b"".join(sent), cuts) for frame in splitter.feed(piece)] == sent


@given(st.binary(max_size=200))
def test_any_bytes(received: bytes) -> None:
    """Whatever arrives is cut into frames that hyperframe reads the bounds of alike, or refused."""
    splitter = FrameSplitter()
    rest = memoryview(received)
    try:
        for frame in splitter.feed(received):
            assert len(frame) == 9 + int.from_bytes(frame[:3], "big")
            assert frame == rest[: len(frame)]
            rest = rest[len(frame) :]
    except Breach:
        assert int.from_bytes(rest[:3], "big") > LARGEST


def test_a_frame_too_large() -> None:
    """A frame over what was announced is refused at its header, after those before it."""
    frames = FrameSplitter().feed(data(1) + b"\x00\x40\x01" + b"\x00" * 6)

    assert next(frames) == data(1)
    with pytest.raises(Breach):
        next(frames)


def test_what_a_goaway_says() -> None:
    """A GOAWAY gives the last stream and the reason's name; words that come with it are not read."""
    frame = goaway(7, 0, b"api key: none of your business")

    assert kind_of(frame) == GOAWAY
    assert goaway_of(frame) == (7, "NO_ERROR")
    assert goaway_of(goaway(2**31 - 1, 0xD)) == (2**31 - 1, "HTTP_1_1_REQUIRED")
    assert goaway_of(goaway(0, 0xE)) == (0, "error 0xe")


@pytest.mark.parametrize("spoilt", [goaway(1, 0)[:16], goaway(1, 0)[:5] + b"\x00\x00\x00\x01" + goaway(1, 0)[9:]])
def test_a_goaway_that_is_none(spoilt: bytes) -> None:
    """A GOAWAY that is cut short, or of a stream, breaches the protocol."""
    with pytest.raises(Breach):
        goaway_of(spoilt)


def test_what_a_greeting_is() -> None:
    """A server begins with SETTINGS of its own: their acknowledgement does not count, nor does another frame."""
    own, acknowledged = SettingsFrame(0), SettingsFrame(0, flags=["ACK"])
    others: list[Frame] = [acknowledged, PingFrame(0, b"12345678")]

    assert is_greeting(own.serialize())
    assert [is_greeting(frame.serialize()) for frame in others] == [False, False]


def test_names_of_reasons() -> None:
    """Reasons have RFC 9113's names."""
    assert [name_of(code) for code in (0, 1, 2, 7, 8, 9)] == [
        *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR")
    ]


@given(st.integers(1, 2**31 - 1), st.binary(max_size=300), st.integers(0, 255), st.booleans())
def test_what_data_brings(number: int, body: bytes, padding: int, last: bool) -> None:
    """A DATA frame is read as hyperframe wrote it: its bytes, what it takes of the windows, whether it is the last."""
    frame = DataFrame(number, flags=["PADDED"] if padding else [], pad_length=padding)
    frame.data = body
    if last:
        frame.flags.add("END_STREAM")
    sent = frame.serialize()

    assert stream_of(sent) == number
    assert part_of(sent) == (body, frame.flow_controlled_length, last)


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x05abcd"])
def test_more_padding_than_room(payload: bytes) -> None:
    """Padding that is longer than its frame breaches the protocol."""
    with pytest.raises(Breach, match="PROTOCOL_ERROR"):
        part_of(len(payload).to_bytes(3, "big") + b"\0\x08\0\0\0\1" + payload)


def test_which_headers_are_open() -> None:
    """Only HEADERS and CONTINUATION without END_HEADERS want another frame of theirs."""
    whole = [HeadersFrame(1, flags=["END_HEADERS"]), ContinuationFrame(1, flags=["END_HEADERS"]), DataFrame(1)]
    begun = [HeadersFrame(1, flags=["END_STREAM"]), ContinuationFrame(1)]

    assert [leaves_headers_open(frame.serialize()) for frame in whole] == [False] * 3
    assert [leaves_headers_open(frame.serialize()) for frame in begun] == [True] * 2


def test_what_is_sent_past_h2() -> None:
    """The frames written here are those that hyperframe would write."""
    end = DataFrame(7, flags=["END_STREAM"])
    updates = [WindowUpdateFrame(number, size) for number, size in ((0, 1), (2**31 - 1, 2**31 - 1))]

    assert end_of_stream(7) == end.serialize()
    assert [window_update(frame.stream_id, frame.window_increment) for frame in updates] == [
        frame.serialize() for frame in updates
    ]
