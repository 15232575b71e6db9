"""The decoder against the WHATWG rules, an independent reference parser, and streams that real engines sent."""

import gc
import pickle
import re
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import combinations_with_replacement, pairwise
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_orch_adapter_testkit import captures
from llama_orch_http_util._sse import Frame, FrameTooLarge, SSEDecoder

from .sse_reference import Event, Parsed, parse  # type: ignore[import-not-found]  # test folders are no packages

KIB = 1 << 10
MIB = 1 << 20
BOM = b"\xef\xbb\xbf"


class Case(NamedTuple):
    """A body, the (data, event, id) of each of its events, and the reconnection time it asks for."""

    body: bytes
    events: list[tuple[bytes, str, str]]
    retry_ms: int | None = None


def said(*data: bytes) -> list[tuple[bytes, str, str]]:
    return [(each, "message", "") for each in data]


CASES = {
    "one": Case(b"data: a\n\n", said(b"a")),
    "run": Case(b'data: {"i":0}\n\ndata: {"i":1}\n\ndata: [DONE]\n\n', said(b'{"i":0}', b'{"i":1}', b"[DONE]")),
    "crlf": Case(b"data: a\r\n\r\ndata: b\r\n\r\n", said(b"a", b"b")),
    "cr": Case(b"data: a\r\rdata: b\r\r", said(b"a", b"b")),
    "mixed_ends": Case(b"data: a\r\n\ndata: b\r\r\ndata: c\n\rdata: d\n\r\n", said(b"a", b"b", b"c", b"d")),
    "cr_then_crlf_is_one_empty_line": Case(b"data: a\r\r\ndata: b\n\n", said(b"a", b"b")),
    "lf_then_cr_are_two_ends": Case(b"data: a\n\revent: x\ndata: b\r\n\r", [*said(b"a"), (b"b", "x", "")]),
    "bom": Case(BOM + b"data: a\n\n", said(b"a")),
    "bom_twice": Case(BOM + BOM + b"data: a\n\ndata: b\n\n", said(b"b")),
    "bom_of_a_later_line": Case(b"data: a\n\n" + BOM + b"data: b\n\ndata: c\n\n", said(b"a", b"c")),
    "bom_after_an_empty_line": Case(b"\n" + BOM + b"data: b\n\ndata: c\n\n", said(b"c")),
    "bom_in_data": Case(b"data: " + BOM + b"a\n\n", said(BOM + b"a")),
    "bom_broken": Case(b"\xef\xbbdata: a\n\ndata: b\n\n", said(b"b")),
    "bom_alone": Case(BOM, []),
    "multi_line": Case(b"data: a\ndata: b\ndata:c\n\n", said(b"a\nb\nc")),
    "multi_line_crlf": Case(b"data: a\r\ndata: b\r\n\r\n", said(b"a\nb")),
    "multi_line_empty": Case(b"data\ndata:\ndata: \n\n", said(b"\n\n")),
    "multi_line_with_others": Case(b"data: a\n: c\nid: 1\ndata: b\n\n", [(b"a\nb", "message", "1")]),
    "empty_data": Case(b"data:\n\ndata\n\ndata: \n\n", said(b"", b"", b"")),
    "no_colon": Case(b"data\ndata: a\n\n", said(b"\na")),
    "one_space_goes": Case(b"data:a\n\ndata: a\n\ndata:  a\n\ndata:\ta\n\n", said(b"a", b"a", b" a", b"\ta")),
    "space_before_colon": Case(b"data : a\n\ndata: b\n\n", said(b"b")),
    "colons_in_value": Case(b"data: a: b:c\n\ndata::\n\n", said(b"a: b:c", b":")),
    "comments": Case(b": ping\n\n:\n\n:data: x\n\ndata: a\n:\n\n", said(b"a")),
    "comment_first": Case(b":\ndata: a\n\n", said(b"a")),
    "no_data_no_event": Case(b"event: x\n\ndata: a\n\n", said(b"a")),
    "no_data_keeps_id": Case(b"id: 7\n\ndata: a\n\n", [(b"a", "message", "7")]),
    "event": Case(b"event: x\ndata: a\n\ndata: b\n\n", [(b"a", "x", ""), (b"b", "message", "")]),
    "event_last_wins": Case(
        b"event: x\nevent: y\ndata: a\n\nevent: z\nevent\ndata: b\n\n", [(b"a", "y", ""), *said(b"b")]
    ),
    "event_after_data": Case(b"data: a\nevent: x\n\n", [(b"a", "x", "")]),
    "id_stays": Case(b"id: 1\ndata: a\n\ndata: b\n\n", [(b"a", "message", "1"), (b"b", "message", "1")]),
    "id_emptied": Case(b"id: 1\ndata: a\n\nid\ndata: b\n\n", [(b"a", "message", "1"), (b"b", "message", "")]),
    "id_with_nul": Case(b"id: 1\nid: 2\0\ndata: a\n\n", [(b"a", "message", "1")]),
    "nul_elsewhere": Case(b"event: x\0\ndata: a\0\n\ndata\0: b\n\n", [(b"a\0", "x\0", "")]),
    "retry": Case(b"retry: 1500\n\ndata: a\n\n", said(b"a"), 1500),
    "retry_last_wins": Case(b"retry:1\nretry: 2\nretry: 3", [], 2),
    "retry_refused": Case(
        "retry: 5\nretry: -1\nretry: 1.5\nretry: 1s\nretry:\nretry\nretry:  6\nretry: ٣\n".encode(), [], 5
    ),
    "retry_endless": Case(b"retry: 5\nretry: " + b"9" * 5000 + b"\n", [], 5),
    "unknown_fields": Case(b"datum: x\nDATA: y\n data: z\ndata: a\nfoo\n\n", said(b"a")),
    "no_end": Case(b"data: a\n\ndata: b", said(b"a")),
    "no_empty_line_at_the_end": Case(b"data: a\n\ndata: b\n", said(b"a")),
    "nothing": Case(b"", []),
    "empty_lines": Case(b"\n\n\r\r\n\ndata: a\n\n\n\n", said(b"a")),
    "non_ascii": Case("event: é\nid: 🦙\ndata: naïve 🦙\n\n".encode(), [("naïve 🦙".encode(), "é", "🦙")]),
    "other_line_separators": Case(b"data: a\x0b\x0c\x1c\x85\xe2\x80\xa8b\n\n", said(b"a\x0b\x0c\x1c\x85\xe2\x80\xa8b")),
    "not_utf8": Case(b"event: \xff\xc3\nid: \xe2\x82\ndata: \xff\n\n", [(b"\xff", "\ufffd\ufffd", "\ufffd")]),
}
"""Those of engines.md that no engine was seen to send are here too."""

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
each_capture = pytest.mark.parametrize("capture", captures.streams(), ids=lambda each: f"{each.engine}-{each.name}")


def decoded(chunks: Iterable[bytes], decoder: SSEDecoder | None = None) -> tuple[Parsed, int]:
    """What a decoder made of `chunks`, in the reference parser's terms, and what was left waiting."""
    decoder = decoder or SSEDecoder()
    frames = [frame for chunk in chunks for frame in decoder.feed(chunk)]
    events = [Event(bytes(frame.data), frame.event, frame.id) for frame in frames]
    return Parsed(events, decoder.retry_ms), decoder.pending


def cut(body: bytes, *places: int) -> list[bytes]:
    """`body` in pieces; a place given twice makes an empty one."""
    marks = [0, *sorted(places), len(body)]
    return [body[start:end] for start, end in pairwise(marks)]


def single_bytes(body: bytes) -> Iterator[bytes]:
    return (body[i : i + 1] for i in range(len(body)))


class Refusal(NamedTuple):
    """A refusal, the bytes fed by then (the last chunk included), and all frames, by `feed` or with the error."""

    error: FrameTooLarge
    fed: int
    frames: list[Frame]


def refusal(decoder: SSEDecoder, chunks: Iterable[bytes]) -> Refusal:
    fed = 0
    frames: list[Frame] = []
    for chunk in chunks:
        fed += len(chunk)
        try:
            frames += decoder.feed(chunk)
        except FrameTooLarge as error:
            return Refusal(error, fed, frames + error.frames)
    pytest.fail("nothing was refused")


@each_case
def test_whatwg_rules(case: Case) -> None:
    """Each rule of the standard gives the events written beside it, and the reference parser agrees."""
    expected = Parsed([Event(*event) for event in case.events], case.retry_ms)

    assert decoded([case.body])[0] == expected
    assert parse(case.body) == expected


@each_case
def test_every_pair_of_splits(case: Case) -> None:
    """Battery 2, sse_every_split: where a body is cut, in any two places or into single bytes, changes nothing."""
    body = case.body if len(case.body) < 200 else case.body[:100] + case.body[-100:]
    expected = parse(body), decoded([body])[1]

    assert decoded(single_bytes(body)) == expected
    for places in combinations_with_replacement(range(len(body) + 1), 2):
        assert decoded(cut(body, *places)) == expected, places


@each_case
def test_empty_chunks_say_nothing(case: Case) -> None:
    """An empty chunk between any two bytes, CR and LF among them, changes nothing."""
    decoder = SSEDecoder()
    views = [view for byte in single_bytes(case.body) for piece in (b"", byte) for view in decoder.feed_data(piece)]

    assert views == [data for data, _, _ in case.events]
    assert decoded(piece for byte in single_bytes(case.body) for piece in (byte, b""))[0].events == case.events


@each_capture
def test_every_split_of_a_real_stream(capture: captures.Capture) -> None:
    """Battery 2, sse_every_split: what real engines sent, cut in any one place, decodes to the reference's events."""
    body = capture.body
    expected = parse(body), decoded([body])[1]

    assert expected[0].events
    assert decoded(single_bytes(body)) == expected
    for place in range(len(body) + 1):
        assert decoded(cut(body, place)) == expected, place


@each_capture
def test_pairs_of_splits_near_line_ends_of_a_real_stream(capture: captures.Capture) -> None:
    """Battery 2, sse_every_split: two cuts near the ends of neighbouring lines of a real stream change nothing."""
    body = capture.body
    expected = parse(body), decoded([body])[1]
    near = [
        sorted({min(max(line_end.start() + off, 0), len(body)) for off in (-1, 0, 1, 2)})
        for line_end in re.finditer(rb"\n+|\r", body)
    ]

    assert near
    for i, places in enumerate(near):
        for first in places:
            for second in (place for group in near[i : i + 2] for place in group):
                assert decoded(cut(body, first, second)) == expected, (first, second)


PIECES = [
    b"data",
    b"event",
    b"id",
    b"retry",
    b"data: {}\n\n",
    b"data: ",
    b":",
    b" ",
    b"1",
    b"\0",
    b"\n",
    b"\r",
    b"\r\n",
]


@settings(max_examples=1000, deadline=None, print_blob=True)
@given(
    body=st.lists(st.sampled_from([*PIECES, BOM, "é".encode()]) | st.binary(max_size=3), max_size=40).map(b"".join),
    places=st.lists(st.integers(0, 200), max_size=6),
)
def test_any_bytes_with_any_cuts(body: bytes, places: list[int]) -> None:
    """Battery 2: of any bytes, however cut, the decoder makes what the reference parser makes of the whole."""
    chunks = cut(body, *(min(place, len(body)) for place in places))

    assert decoded(chunks)[0] == parse(body)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_frames_share_the_memory_of_their_chunk(end: bytes) -> None:
    """Data that is one line within one chunk is a view of that chunk: nothing is copied."""
    chunk = (b"data: one" + end + end) * 3 + b"event: x" + end + b"data: two" + end + end
    frames = SSEDecoder().feed(chunk)

    assert [bytes(frame.data) for frame in frames] == [b"one"] * 3 + [b"two"]
    assert all(frame.data.obj is chunk for frame in frames)


def test_an_event_alone_in_its_chunk_shares_its_memory() -> None:
    """As a live stream sends them: what is one event and no more is a view of its chunk, with the last id."""
    decoder = SSEDecoder()
    decoder.feed(b"id: 7\n\n")
    chunk = b"data: one\n\n"
    (frame,) = decoder.feed(chunk)

    assert frame == Frame(memoryview(b"one"), "message", "7")
    assert frame.data.obj is chunk


@pytest.mark.parametrize("chunk", [b"data: one\n\n", b"data: one\n\ndata: two\n\n", b": c\n\ndata: one\n\n"])
def test_data_alone_shares_the_memory_of_its_chunk(chunk: bytes) -> None:
    """What a typed stream decodes are views of the received chunk, the very first one included: nothing is copied."""
    decoder = SSEDecoder()
    views = [*decoder.feed_data(chunk), *decoder.feed_data(chunk)]

    assert views
    assert all(view.obj is chunk for view in views)
    assert [bytes(view) for view in views] == 2 * re.findall(rb"data: (\w+)", chunk)


def test_data_alone_comes_before_what_is_too_large() -> None:
    """The data before a line over the bound is given with the refusal, as by `feed`."""
    decoder = SSEDecoder(max_line=20)
    with pytest.raises(FrameTooLarge) as refused:
        decoder.feed_data(b"data: one\n\n" + b"x" * 21)

    assert [bytes(frame.data) for frame in refused.value.frames] == [b"one"]


def test_data_stays_a_view_while_its_event_waits_for_the_next_chunk() -> None:
    """An event whose empty line comes a chunk later still shows the bytes of the chunk that held its data."""
    decoder = SSEDecoder()
    chunk = b"data: one\n"
    waiting = decoder.feed(chunk)
    frames = decoder.feed(b"\n")

    assert not waiting
    assert [frame.data.obj is chunk for frame in frames] == [True]


def test_frames_are_read_only_values() -> None:
    """Frames can be compared and hashed, joined data and data that straddled chunks included."""
    whole = SSEDecoder().feed(b"data: a\ndata: b\n\ndata: c\n\n")
    decoder = SSEDecoder()
    straddling = [frame for chunk in (b"data: a\nda", b"ta: b\n\ndata:", b" c\n\n") for frame in decoder.feed(chunk)]

    assert straddling == whole == [Frame(memoryview(b"a\nb")), Frame(memoryview(b"c"))]
    assert {*straddling} == {*whole}
    assert all(frame.data.readonly for frame in [*whole, *straddling])


def test_msgspec_decodes_from_the_view() -> None:
    """A frame's data goes to msgspec as it is, `null` as well, which llama.cpp was seen to send."""
    frames = SSEDecoder().feed(b'data: null\n\ndata: {"t":"\xc3\xa9"}\n\n')

    assert [msgspec.json.decode(frame.data) for frame in frames] == [None, {"t": "é"}]


@pytest.mark.parametrize(
    ("body", "pending"),
    [
        (b"", 0),
        (b"data: a\n\n", 0),
        (b"data: a\n\n: ping\n", 0),
        (b"id: 1\n", 0),
        (b"da", 2),
        (b"data: abc\n", 4),
        (b"data\n", 1),
        (b"data: ab\ndata: cd\nda", 8),
        (b"event: xyz\n", 3),
        (b"event: xyz\n\n", 0),
    ],
)
def test_pending_tells_an_end_inside_an_event(body: bytes, pending: int) -> None:
    """At the end of a body `pending` is 0 unless an event had begun and not been dispatched."""
    assert decoded([body])[1] == pending
    assert decoded(single_bytes(body))[1] == pending


@pytest.mark.parametrize("size", [7, 1000, 64 * KIB])
def test_an_endless_line_is_refused(size: int) -> None:
    """Battery 4, sse_bounds: a line without end stops at 1 MiB and one chunk, and no more than that was ever held."""
    decoder = SSEDecoder()
    chunk = b"x" * size
    held = [0]

    def endless() -> Iterator[bytes]:
        while True:
            held.append(decoder.pending)
            yield chunk

    error, fed, _ = refusal(decoder, endless())

    assert (error.what, error.limit) == ("line", MIB)
    assert MIB < fed <= MIB + size
    assert max(held) <= MIB
    assert decoder.pending == 0


def test_an_endless_line_costs_no_more_memory_than_its_bound() -> None:
    """Battery 4, sse_bounds: the allocator agrees that about 1 MiB is held, and that it is let go when refused."""
    chunk = b"x" * (64 * KIB)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        decoder = SSEDecoder()
        refusal(decoder, [chunk] * 17)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak - before < 1.25 * MIB + len(chunk)
    assert after - before < 64 * KIB


@pytest.mark.parametrize("line", [b"data: " + b"x" * (64 * KIB), b"data:" + b"x" * 100_000], ids=["64KiB", "100kB"])
def test_an_endless_event_is_refused(line: bytes) -> None:
    """Battery 4, sse_bounds: an event whose data lines never end stops at 8 MiB."""
    decoder = SSEDecoder()
    error, fed, _ = refusal(decoder, [line + b"\n"] * 200)

    assert (error.what, error.limit) == ("event", 8 * MIB)
    assert 8 * MIB < fed <= 8 * MIB + 2 * len(line)
    assert decoder.pending == 0


@pytest.mark.parametrize("line", [b"data\n", b"data:\n", b"data: \r\n"])
def test_an_endless_event_of_empty_lines_is_refused(line: bytes) -> None:
    """Battery 4, sse_bounds: data lines that hold nothing count too, by the LFs that join them."""
    error, fed, _ = refusal(SSEDecoder(max_event=1000), [line] * 2000)

    assert error.what == "event"
    assert fed == 1002 * len(line)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_bounds_are_met_exactly_wherever_the_body_is_cut(end: bytes) -> None:
    """Battery 4, sse_bounds: a line or event at its bound passes and one byte more is refused, whole or cut."""
    before = b"data: 1" + end + end
    fits = before + b"data: 1234" + end + b"data: 6789" + end + end
    long_line = before + b"data: 12345" + end + end
    long_event = before + b"data: 1234" + end + b"data: 6789" + end + b"data" + end + end

    for first, second in combinations_with_replacement(range(len(fits) + 1), 2):
        assert decoded(cut(fits, first, second), SSEDecoder(max_line=10, max_event=9))[0] == parse(fits)
    for place in range(len(long_line) + 1):
        assert refusal(SSEDecoder(max_line=10), cut(long_line, place)).error.what == "line"
    for place in range(len(long_event) + 1):
        assert refusal(SSEDecoder(max_event=9), cut(long_event, place)).error.what == "event"


@pytest.mark.parametrize("after", [b"", b"data: 1\n\n"])
def test_a_single_line_over_the_event_bound_is_refused(after: bytes) -> None:
    """Battery 4, sse_bounds: one line of data can be too large an event, in a chunk of its own as among others."""
    large = b"data: 12345678901\n\n"
    alone = refusal(SSEDecoder(max_event=10), [b"data: 1\n\n", large + after])
    among = refusal(SSEDecoder(max_event=10), [b"data: 1\n\n" + large + after])

    assert (alone.error.what, alone.fed) == ("event", 9 + len(large + after))
    assert among.error.what == "event"


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("rest", [b"data: 12345\n\n", b"data: 1\ndata: 234\n\n", b": 12345678901", b"data: 1234567"])
def test_what_came_before_a_refusal_is_not_lost(rest: bytes, end: bytes) -> None:
    """The events before what is too large are handed over, by `feed` or with the refusal, wherever the body is cut."""
    body = b"data: 1\n\nevent: x\ndata: 2\n\n".replace(b"\n", end) + rest

    for places in combinations_with_replacement(range(len(body) + 1), 2):
        refused = refusal(SSEDecoder(max_line=12, max_event=4), cut(body, *places))

        assert [(bytes(frame.data), frame.event) for frame in refused.frames] == [(b"1", "message"), (b"2", "x")]


def test_a_decoder_that_refused_stays_so() -> None:
    """After a bound was passed the decoder holds nothing and refuses whatever is fed, with the same facts."""
    decoder = SSEDecoder(max_line=8)
    refusal(decoder, [b"event: a\ndata: b\n", b"data: 1234567"])

    for chunk in (b"", b"\n\n", b"data: a\n\n"):
        error, _, _ = refusal(decoder, [chunk])

        assert (error.what, error.limit, decoder.pending) == ("line", 8, 0)


def test_the_refusal_names_the_bound_and_the_mend() -> None:
    """FrameTooLarge says what was too large, by which bound, and what to change; it survives pickling."""
    error = FrameTooLarge("event", 5)
    copy = pickle.loads(pickle.dumps(error))

    assert str(error) == "event of the event stream is over 5 bytes; raise max_event if the peer may send more"
    assert (str(copy), copy.what, copy.limit) == (str(error), "event", 5)


SILENT = {
    "comments": b":\n",
    "pings": b": ping\n\n",
    "empty lines": b"\n",
    "unknown fields": b"dx\n",
    "CRLF": b":\r\n",
    "CR": b"\r",
}


@pytest.mark.parametrize("opening", [b"", b"data: a\n"], ids=["between events", "in an event"])
@pytest.mark.parametrize("unit", SILENT.values(), ids=SILENT)
def test_lines_that_say_nothing_hold_up_nobody(unit: bytes, opening: bytes) -> None:
    """64 KiB of them, the most that is read at once, cost less than a fourth of as many that say something."""
    chunk = opening + unit * (64 * KIB // len(unit)) + b"data: b\n\n"
    saying = b"id\n" * len(chunk.splitlines())

    assert decoded([chunk])[0].events == parse(chunk).events
    assert min(cost([chunk]) for _ in range(5)) < min(cost([saying]) for _ in range(5)) / 4


@settings(max_examples=500)
@given(
    st.lists(st.sampled_from([b"", b":", b"x", b"data", b"data: a", b"datum", b"event: x", b"id: 1", b"retry: 1"])),
    st.lists(st.sampled_from([b"\n", b"\r", b"\r\n"]), min_size=1, max_size=3),
    st.integers(0, 100),
)
def test_lines_that_say_nothing_hide_none_that_does(lines: list[bytes], ends: list[bytes], place: int) -> None:
    """What says something among lines that do not is heard, whatever ends them and wherever the body is cut."""
    body = b"".join(line + ends[number % len(ends)] for number, line in enumerate(lines))

    assert decoded([body])[0] == decoded(cut(body, min(place, len(body))))[0] == parse(body)


def cost(chunks: list[bytes]) -> float:
    """Seconds of CPU time to decode `chunks`, free of the garbage collector's own work."""
    decoder = SSEDecoder()
    gc.disable()
    try:
        begun = time.process_time()
        for chunk in chunks:
            decoder.feed(chunk)
        return time.process_time() - begun
    finally:
        gc.enable()


@pytest.mark.parametrize("unit", [b"x", b"data: x\n", b"data: x\r"], ids=["line", "event", "cr"])
def test_single_bytes_cost_linear_time(unit: bytes) -> None:
    """Battery 4, sse_bounds: 32 times the body in chunks of one byte costs about 32 times as much, not 1,024 times."""
    small, large = ([*single_bytes(unit * (size // len(unit)))] for size in (16 * KIB, 512 * KIB))

    assert cost(large) < 32 * 6 * cost(small)


@pytest.mark.parametrize("unit", [b"data: %b\n" % (b"x" * 100), b"data: x\r", b"\n", b"data: x\n\n", b":\r\n"])
def test_many_lines_in_one_chunk_cost_linear_time(unit: bytes) -> None:
    """Battery 4, sse_bounds: a chunk is gone through once, whatever ends its lines and however many it holds."""
    assert cost([unit * 64_000]) < 32 * 6 * cost([unit * 2_000])
