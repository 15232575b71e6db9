import pytest
from llama_orch_adapter_testkit import Capture, captures

ALL = [captures.load(engine, name) for engine in ("llamacpp", "vllm") for name in captures.names(engine)]
CUT = [
    "llamacpp/emb_native.trunc",
    "llamacpp/emb_v1.trunc",
    "llamacpp/v1_completions_stream_server_killed9",
    "llamacpp/v1_completions_stream_server_sigterm",
]


def test_every_capture_is_there():
    """All captures of both engines are in the package, and only the two shortened ones lack their request."""
    count = {engine: len(captures.names(engine)) for engine in ("llamacpp", "vllm")}
    without_request = [str(one) for one in ALL if not one.request]

    assert count == {"llamacpp": 97, "vllm": 63}
    assert without_request == ["llamacpp/emb_native.trunc", "llamacpp/emb_v1.trunc"]


@pytest.mark.parametrize("one", ALL, ids=str)
def test_every_capture_is_taken_apart(one: Capture):
    """Each has a status, lower-case header names and a body of the length that its framing promises."""
    promised = one.headers.get("content-length")

    assert one.response.startswith(b"HTTP/1.1 %d " % one.status)
    assert all(name == name.lower() and name.strip() for name in one.headers)
    assert one.response.endswith(one.body) or one.headers["transfer-encoding"].lower() == "chunked"
    assert promised is None or (int(promised) == len(one.body)) == one.complete


def test_cut_captures_are_not_complete():
    """A capture is complete but where the engine was killed in mid-stream or the file was shortened."""
    incomplete = [str(one) for one in ALL if not one.complete]

    assert incomplete == CUT


def test_streams_are_the_event_streams():
    """`streams` gives every capture whose content type is an event stream, of one engine or of all."""
    every = captures.streams()

    assert len(every) == 30
    assert all(one.body.startswith((b"data: ", b"event: ", b":")) for one in every)
    assert every == captures.streams("llamacpp") + captures.streams("vllm")


def test_chunks_are_put_together():
    """The body of a chunked stream is its events alone: as many as the response has, and no chunk size among them."""
    one = captures.load("vllm", "v1_chat_stream")
    lines = one.body.split(b"\n")

    assert lines.count(b"") == one.response.count(b"data: ") + 1
    assert all(line.startswith(b"data: ") for line in lines if line)
    assert one.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("length", [1, 0, -1, -3])
def test_a_response_cut_in_mid_chunk_gives_what_came(length: int):
    """Of a chunk that is not all there the body holds the part that is, and the capture is not complete."""
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n6;note=x\r\nsecond"
    response = whole + b"\r" if length > 0 else whole[: len(whole) + length]
    one = Capture.of("any", "cut", b"", response)

    assert one.body == b"firstsecond"[: 11 + min(length, 0)]
    assert not one.complete


@pytest.mark.parametrize(
    ("framing", "body", "complete"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n", True),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"0\r\nTrailer: x\r\n\r\n", True),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"0\r\n", False),
        (b"Content-Length: 2\r\n\r\n", b"ok", True),
        (b"Content-Length: 2\r\n\r\n", b"o", False),
        (b"X: closed by the server\r\n\r\n", b"ok", False),
    ],
)
def test_complete_is_what_the_framing_says(framing: bytes, body: bytes, complete: bool):
    """Complete means that the last chunk or the promised length came, which a body that EOF ends has not."""
    one = Capture.of("any", "framed", b"", b"HTTP/1.1 200 OK\r\n" + framing + body)

    assert one.complete == complete


def test_no_content_has_no_body():
    """A 204 needs no framing to be complete."""
    one = Capture.of("any", "empty", b"", b"HTTP/1.1 204 No Content\r\n\r\n")

    assert (one.status, one.body, one.complete) == (204, b"", True)


def test_what_is_not_there_is_said():
    """An unknown engine, an unknown name and half a head are refused with what to do instead."""
    with pytest.raises(LookupError, match="known: llamacpp, vllm"):
        captures.names("nope")
    with pytest.raises(LookupError, match=r"captures\.names\('vllm'\) lists them"):
        captures.load("vllm", "nope")
    with pytest.raises(ValueError, match="any/half ends inside its head"):
        Capture.of("any", "half", b"", b"HTTP/1.1 200 OK\r\n")
