"""What is refused of an answer: what is encoded, too large, or made to hurt (batteries 6 and 7)."""

import time
import zlib

import pytest
from llama_orch_adapter_api import AdapterError, PoolUnavailable
from llama_orch_adapter_testkit import Reply
from llama_orch_http_util import HttpClient, HttpConfig

from .clients import (  # type: ignore[import-not-found]  # test folders are no packages
    ANYTHING,
    BOTH_WAYS,
    CANARY,
    HEALTH,
    MIB,
    Fail,
    answering,
    bomb,
    endless,
    failure,
    measured,
    written,
)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_the_bomb_is_one(encoding: str) -> None:
    """What the tests here call a bomb is a megabyte of which each byte unpacks to a thousand."""
    packed = bomb(encoding).pieces[0].partition(b"\r\n\r\n")[2]
    unpacked = zlib.decompressobj(47).decompress(packed[: 32 * 1024])

    assert len(packed) > MIB
    assert len(unpacked) > 1000 * 32 * 1024


@BOTH_WAYS
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_bomb_is_not_opened(encoding: str, fail: Fail) -> None:
    """An encoded answer is refused at its head, in no time and unread (battery 7, gzip_bomb)."""
    async with answering(bomb(encoding)) as engine, HttpClient(engine.url) as client:
        async with measured() as seen:
            begun = time.perf_counter()
            error = await fail(client)
            took = time.perf_counter() - begun

        assert (type(error), error.detail) == (AdapterError, "encoding")
        assert error.message.startswith(
            f"the answer is encoded as {encoding}, which was not asked for · {client.where}"
        )
        assert took < 0.1
        assert seen["stall"] < 0.05
        assert seen["peak"] < 16 * MIB
        await (await engine.request()).disconnected()


@pytest.mark.parametrize(
    ("encoding", "told"), [("br", "br"), ("x\u202e", r"x\u202e"), ("y" * 4000, "y" * 299 + "…"), ("", "")]
)
async def test_other_encodings(encoding: str, told: str) -> None:
    """Any encoding but identity is refused, and told like an engine's words."""
    reply = Reply.raw(f"HTTP/1.1 200 X\r\nContent-Encoding: {encoding}\r\nContent-Length: 1\r\n\r\nx".encode())
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        error = await failure(client)

    assert error.message.startswith(f"the answer is encoded as {told}, which was not asked for")
    assert error.message.isprintable()


async def test_an_encoded_refusal_is_a_refusal() -> None:
    """Of an encoded refusal the status and the wait are told: a proxy's push-back is no engine's fault."""
    head = b"HTTP/1.1 429 Busy\r\nRetry-After: 3\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx"
    async with answering(Reply.raw(head)) as engine, HttpClient(engine.url) as client:
        error = await failure(client)

    assert (error.code, error.detail, error.retry_after) == ("POOL_UNAVAILABLE", "overloaded", 3.0)
    assert not error.engine_fault


@BOTH_WAYS
async def test_all_encodings_count(fail: Fail) -> None:
    """A second Content-Encoding, such as a proxy adds, is not passed over."""
    head = "HTTP/1.1 200 OK\nContent-Type: text/event-stream\nContent-Encoding: identity\nCONTENT-ENCODING: gzip"
    async with answering(written(f"{head}\nContent-Length: 1", b"x")) as engine, HttpClient(engine.url) as client:
        error = await fail(client)

    assert (type(error), error.detail) == (AdapterError, "encoding")
    assert error.message.startswith("the answer is encoded as identity, gzip, which was not asked for")


@pytest.mark.parametrize("encoding", ["identity", "Identity ", "identity\r\nContent-Encoding: identity"])
async def test_identity_is_no_encoding(encoding: str) -> None:
    """An answer that says it is encoded as itself is taken."""
    reply = Reply.json(200, {}, headers={"Content-Encoding": encoding})
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        assert (await client.request("GET", "/health")).status == 200


async def test_the_largest_body() -> None:
    """A body of exactly `max_body` bytes is taken, one byte more is refused."""
    config = HttpConfig(max_body=100_000)
    for size in (100_000, 100_001):
        reply = written(f"HTTP/1.1 200 OK\nContent-Length: {size}", b"x" * size)
        async with answering(reply) as engine, HttpClient(engine.url, config) as client:
            if size <= config.max_body:
                assert (await client.request("GET", "/health")).body == b"x" * size
            else:
                error = await failure(client)

                assert (type(error), error.detail) == (AdapterError, "too_large")
                assert error.message == (
                    f"the answer is larger than 100000 bytes · {client.where} · raise http.max_body if it may be"
                )


@BOTH_WAYS
async def test_interim_heads_without_end(fail: Fail) -> None:
    """1xx heads are passed over, a handful of them; who sends more of them and no answer is given up."""
    for count in (9, 100_000):
        heads = Reply.raw(b"HTTP/1.1 102 Wait\r\n\r\n" * count, hang=True)
        async with answering(heads) as engine, HttpClient(engine.url) as client:
            error = await fail(client)

            assert (type(error), error.detail, error.answered) == (AdapterError, "decode", True)
            assert "the answer is not HTTP (1xx heads without end)" in error.message
            await (await engine.request()).disconnected()


async def test_a_handful_of_interim_heads() -> None:
    """1xx heads are passed over, whether they come with the answer or before it."""
    heads = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    for pieces in ((heads * 8 + answer,), (*[heads] * 8, answer)):
        async with answering(Reply(pieces)) as engine, HttpClient(engine.url) as client:
            for _ in range(2):  # of which the second has the same connection
                assert (await client.request("GET", "/health")).body == b"{}"

            assert engine.connections_made == 1


async def test_an_endless_body() -> None:
    """A body without end is given up at its bound: bounded memory, the loop goes on (battery 6, json_hostile)."""
    async with answering(endless("HTTP/1.1 200 OK")) as engine, HttpClient(engine.url) as client:
        async with measured() as seen:
            error = await failure(client)

        assert (type(error), error.detail) == (AdapterError, "too_large")
        assert seen["peak"] < 16 * MIB
        assert seen["stall"] < 0.2
        await (await engine.request()).disconnected()


@BOTH_WAYS
async def test_an_endless_error(fail: Fail) -> None:
    """Of an error's body no more than `max_error_body` is read; its status is told all the same (battery 6)."""
    async with answering(endless("HTTP/1.1 503 Busy\nRetry-After: 3")) as engine, HttpClient(engine.url) as client:
        async with measured() as seen:
            error = await fail(client)

        assert (type(error), error.detail, error.retry_after) == (PoolUnavailable, "overloaded", 3.0)
        assert error.message.startswith("the engine answered 503 · ")  # JSON is not repeated
        assert seen["peak"] < 4 * MIB
        assert seen["stall"] < 0.2
        await (await engine.request()).disconnected()


HOSTILE = {
    "deep arrays": b"[" * 100_000,
    "deep arrays, closed": b"[" * 100_000 + b"]" * 100_000,
    "deeper": b"[" * 1_000_000,
    "deep objects": b'{"a":' * 100_000,
    "NaN": b"NaN",
    "Infinity": b'{"a": Infinity}',
    "10**400 as a float": b"1" + b"0" * 400 + b".0",
    "1e400": b"[1e400]",
    "10**5000": b"1" + b"0" * 5000,
    "not UTF-8": b'"\xff\xfe"',
    "half a surrogate": b'"\\ud800"',
    "cut": b'{"a": [1, 2',
    "more than one": b"{} {}",
    "a control character": b'"\x00"',
    "empty": b"",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_json(body: bytes) -> None:
    """JSON made to hurt is an `AdapterError`, in little time and memory (battery 6, json_hostile)."""
    reply = written(f"HTTP/1.1 200 OK\nContent-Length: {len(body)}", body)
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        response = await client.request("GET", "/health")
        begun = time.perf_counter()
        with pytest.raises(AdapterError) as caught:
            response.decode(ANYTHING, "the health")
        took = time.perf_counter() - begun

    assert caught.value.detail == "decode"
    assert caught.value.message.startswith("the health is not understood: ")
    assert client.where in caught.value.message
    assert took < 0.2


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_json_in_an_error(body: bytes) -> None:
    """Hostile JSON as an error's body changes nothing about what the status says (battery 6)."""
    reply = written(f"HTTP/1.1 500 X\nContent-Length: {len(body)}", body)
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        error = await failure(client)

    assert (error.code, error.detail) == ("INTERNAL", "engine")
    assert error.message.isprintable()
    assert len(error.message) < 2000


async def test_a_body_of_another_type() -> None:
    """JSON of another shape names the place; the engine's value is not repeated."""
    async with answering(Reply.json(200, {"status": [CANARY]})) as engine, HttpClient(engine.url) as client:
        response = await client.request("GET", "/health")

    with pytest.raises(AdapterError, match=r"Expected `str`, got `array` - at `\$\.status`") as caught:
        response.decode(HEALTH, "the health")
    assert CANARY not in str(caught.value)
