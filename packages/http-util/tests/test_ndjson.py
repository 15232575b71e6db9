"""The decoder of newline-delimited JSON: lines out of chunks, wherever they are cut."""

import gc
import time
from collections.abc import Iterable, Iterator
from itertools import combinations_with_replacement, pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_orch_http_util import FrameTooLarge, NDJSONDecoder

MIB = 1 << 20


class Case(NamedTuple):
    """A body, its lines that have an end, and the last one if that has none."""

    body: bytes
    lines: list[bytes]
    last: list[bytes] = []


CASES = {
    "lf": Case(b'{"a":1}\n{"a":2}\n', [b'{"a":1}', b'{"a":2}']),
    "crlf": Case(b"1\r\n2\r\n", [b"1", b"2"]),
    "mixed": Case(b"1\r\n2\n3\r\n", [b"1", b"2", b"3"]),
    "empty lines": Case(b"\n\r\n1\n\n\r\n\n2\n\n", [b"1", b"2"]),
    "one cr belongs to the end": Case(b"1\r\r\n", [b"1\r"]),
    "cr within": Case(b"1\r2\n\r3\n", [b"1\r2", b"\r3"]),
    "no end": Case(b"1\n2", [b"1"], [b"2"]),
    "no end but cr": Case(b"1\n2\r", [b"1"], [b"2"]),
    "cr alone at the end": Case(b"1\n\r", [b"1"]),
    "one line without an end": Case(b"{}", [], [b"{}"]),
    "other separators": Case("\u20281\x0b\x0c\x85\n".encode(), ["\u20281\x0b\x0c\x85".encode()]),
    "any bytes": Case(b"\0\xff\n\xc3\n", [b"\0\xff", b"\xc3"]),
    "space": Case(b" 1 \n\t\n", [b" 1 ", b"\t"]),
    "nothing": Case(b"", []),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def decoded(chunks: Iterable[bytes], decoder: NDJSONDecoder | None = None) -> tuple[list[bytes], list[bytes]]:
    """The lines of `chunks`, and what the end of the body completes."""
    decoder = decoder or NDJSONDecoder()
    lines = [bytes(line) for chunk in chunks for line in decoder.feed(chunk)]
    return lines, [bytes(line) for line in decoder.finish()]


def cut(body: bytes, *places: int) -> list[bytes]:
    marks = [0, *sorted(places), len(body)]
    return [body[start:end] for start, end in pairwise(marks)]


def single_bytes(body: bytes) -> Iterator[bytes]:
    return (body[i : i + 1] for i in range(len(body)))


@each_case
def test_cases(case: Case) -> None:
    """LF and CRLF end lines, empty ones are passed over, and a last line needs no end."""
    assert decoded([case.body]) == (case.lines, case.last)


@each_case
def test_every_split(case: Case) -> None:
    """However a body is cut in three, or into bytes, the same lines come out (as battery 2)."""
    for places in combinations_with_replacement(range(len(case.body) + 1), 2):
        assert decoded(cut(case.body, *places)) == (case.lines, case.last), places
    assert decoded(single_bytes(case.body)) == (case.lines, case.last)


def reference(body: bytes) -> tuple[list[bytes], list[bytes]]:
    """The same, by splitting the whole."""
    *lines, last = (line.removesuffix(b"\r") for line in body.split(b"\n"))
    return [line for line in lines if line], [last] if last else []


@given(body=st.lists(st.sampled_from([b"\n", b"\r", b"{}", b'"\xff"']), max_size=40).map(b"".join), data=st.data())
@settings(deadline=None)
def test_random_bodies(body: bytes, data: st.DataObject) -> None:
    """Any body in any pieces gives the lines that splitting it whole gives."""
    places = data.draw(st.lists(st.integers(0, len(body)), max_size=8))

    assert decoded(cut(body, *places)) == reference(body)


def test_lines_share_the_memory_of_their_chunk() -> None:
    """A line is a read-only view of the received chunk; only one that straddles chunks is a copy."""
    chunk = b'{"a":1}\r\n{"a":2}\n{"a'
    decoder = NDJSONDecoder()
    whole = decoder.feed(chunk)
    (straddling,) = decoder.feed(b'":3}\n')

    assert [line.obj is chunk for line in whole] == [True, True]
    assert all(line.readonly and line.contiguous for line in [*whole, straddling])
    assert bytes(straddling) == b'{"a":3}'


def test_a_line_stays_what_it_is() -> None:
    """What comes later changes no line that was handed out, straddling ones included."""
    decoder = NDJSONDecoder()
    decoder.feed(b"fir")
    (first,) = decoder.feed(b"st\n")
    decoder.feed(b"second\nthi")

    assert bytes(first) == b"first"


def test_what_waits() -> None:
    """`pending` counts the bytes of the line that has not ended, and nothing waits after the end."""
    decoder = NDJSONDecoder()
    decoder.feed(b'{}\n{"a')
    assert decoder.pending == 3
    decoder.finish()

    assert (decoder.pending, decoder.finish()) == (0, [])


@pytest.mark.parametrize("end", [b"\n", b""])
def test_the_bound_is_met_exactly(end: bytes) -> None:
    """A line of `max_line` bytes is taken, one byte more is refused, wherever the body is cut."""
    fits, over = b"x" * 10 + end, b"x" * 11 + end
    for place in range(len(over) + 1):
        lines, last = decoded(cut(fits, min(place, len(fits))), NDJSONDecoder(max_line=10))
        assert lines + last == [b"x" * 10]
        with pytest.raises(FrameTooLarge, match="^line of the event stream is over 10 bytes; raise max_line"):
            decoded(cut(over, place), NDJSONDecoder(max_line=10))


def test_the_lines_before_a_refusal() -> None:
    """The first refusal carries the lines that came before it; after it everything is refused."""
    decoder = NDJSONDecoder(max_line=4)
    with pytest.raises(FrameTooLarge) as caught:
        decoder.feed(b"1\n22\n55555\n6\n")
    assert [bytes(frame.data) for frame in caught.value.frames] == [b"1", b"22"]
    assert decoder.pending == 0

    for chunk in (b"1\n", b""):
        with pytest.raises(FrameTooLarge) as caught:
            decoder.feed(chunk)
        assert caught.value.frames == []
    with pytest.raises(FrameTooLarge):
        decoder.finish()


def test_an_endless_line_is_given_up() -> None:
    """A line without end is refused as soon as it is over the bound, and not kept (as battery 4)."""
    decoder = NDJSONDecoder(max_line=MIB)
    fed = 0
    with pytest.raises(FrameTooLarge):
        while True:
            decoder.feed(b"x" * 65536)
            fed += 65536

    assert fed == MIB
    assert decoder.pending == 0


def cost(chunks: list[bytes]) -> float:
    decoder = NDJSONDecoder()
    gc.disable()
    try:
        begun = time.process_time()
        for chunk in chunks:
            decoder.feed(chunk)
        return time.process_time() - begun
    finally:
        gc.enable()


def test_single_bytes_cost_linear_time() -> None:
    """32 times the line in chunks of one byte costs about 32 times as much, not 1,024 times (as battery 4)."""
    assert cost([b"x"] * (512 << 10)) < 32 * 6 * cost([b"x"] * (16 << 10))
