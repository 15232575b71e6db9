import pytest
from llama_orch_adapter_testkit import Capture, all_kinds_of_cuts, captures, splits, sse_cuts

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def cut_at(data: bytes, cuts: list[int]) -> list[bytes]:
    """The two bytes between which each cut lies."""
    return [data[cut - 1 : cut + 1] for cut in cuts]


def test_splits_cuts_before_each_offset():
    """Pieces come in order, none is empty, and offsets that cut nothing off are left out."""
    assert splits(b"abcdef", [4, 1, 1, 0, 6, 99, -2]) == [b"a", b"bcd", b"ef"]
    assert splits(b"abc", []) == [b"abc"]
    assert splits(b"", [1]) == []


def test_each_kind_of_an_event_stream():
    """Each kind of cut lies where its name says."""
    body = 'data: {"t":"ö"}\n\ndata: 🙂\r\n\r\n: note\n\n'.encode()
    cuts = sse_cuts(body)

    assert splits(body, cuts["events"]) == ['data: {"t":"ö"}\n\n'.encode(), "data: 🙂\r\n\r\n".encode(), b": note\n\n"]
    assert cut_at(body, cuts["blank_line"]) == [b"\n\n", b"\r\n", b"\n\r", b"\r\n", b"\n\n"]
    assert cut_at(body, cuts["data_prefix"]) == [b"da", b"at"]
    assert cut_at(body, cuts["character"]) == ["ö".encode(), b"\xf0\x9f", b"\x9f\x99", b"\x99\x82"]
    assert set(range(1, 40)) & set(cuts["bytes"]) == set(range(1, min(40, len(body))))


def test_framing_is_cut_at_each_byte():
    """`chunk_size` cuts inside each size line and each chunk's line end, and nowhere in the data."""
    response = HEAD + b"2\r\nab\r\n10;x\r\n0123456789abcdef\r\n0\r\n\r\n"
    cuts = all_kinds_of_cuts(response)["chunk_size"]
    pieces = splits(response[len(HEAD) :], [cut - len(HEAD) for cut in cuts])

    assert [piece for piece in pieces if len(piece) > 1] == [b"\nab", b"\n0123456789abcdef"]
    assert b"".join(pieces).startswith(b"2\r\nab\r\n10")


@pytest.mark.parametrize("one", captures.streams(), ids=str)
def test_cuts_of_a_response_are_those_of_its_body(one: Capture):
    """In a chunked response the cuts lie at the same places of the events as in the body without framing."""
    cuts = all_kinds_of_cuts(one.response)
    within = sse_cuts(one.body)

    assert cuts.keys() == {"head", "chunk_size", *within}
    assert all(cut_at(one.response, [cut])[0].startswith(b"\n") for cut in cuts.get("events", []))
    assert len(cuts["blank_line"]) == len(within["blank_line"])
    for kind in within.keys() & {"blank_line", "data_prefix", "character"}:
        assert cut_at(one.response, cuts[kind]) == cut_at(one.body, within[kind])
    for kind, offsets in cuts.items():
        assert b"".join(splits(one.response, offsets)) == one.response, kind


def test_a_plain_document_has_fewer_kinds():
    """Kinds for which a response has no place are left out."""
    assert all_kinds_of_cuts(captures.load("vllm", "get_version").response).keys() == {"head", "bytes"}
    assert sse_cuts(b"") == {}


def test_half_a_head_is_refused():
    """What is no HTTP response has no kinds."""
    with pytest.raises(ValueError, match="ends inside its head"):
        all_kinds_of_cuts(b"HTTP/1.1 200 OK\r\n")
