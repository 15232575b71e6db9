"""Nothing secret comes out, whatever goes wrong and wherever one looks (battery 32, redaction_canaries).

The key is a `Secret`; the prompt, and what is asked for in path and query, are declared to nobody. A scripted engine
repeats the key in every place of an answer and in every disguise, and the prompt wherever no words of its own belong.
"""

import asyncio
import base64
import gc
import json
import logging
import secrets
import socket
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

import aiohttp
import msgspec
import pytest
from llama_orch_adapter_api import Secret, WorkerError
from llama_orch_adapter_testkit import LoopbackEngine, Reply
from llama_orch_http_util import HttpClient, HttpConfig, RetryPolicy

KEY = f'{secrets.token_hex(8)}"\\/+&%{secrets.token_hex(8)}'
PROMPT = f'{secrets.token_hex(8)}"\\/+&%é\u2028{secrets.token_hex(8)}'
SECRET = Secret(KEY)


class Event(msgspec.Struct, frozen=True):
    """What is expected of the engine, which sends something else."""

    n: int


EVENT = msgspec.json.Decoder(Event)

FORMS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "URL-encoded": lambda text: quote(text, safe=""),
    "base64": lambda text: base64.b64encode(b"Bearer " + text.encode()).decode(),
    "JSON-escaped": lambda text: json.dumps(text)[1:-1],
}


def traces_of(text: str) -> set[str]:
    """What would tell of a text: itself, its halves, and each in every disguise."""
    halves = [piece for piece in (text, text[:16], text[-16:]) if piece]
    found: set[str] = set()
    for piece in halves:
        found |= {piece, quote(piece, safe=""), quote_plus(piece), json.dumps(piece)[1:-1], repr(piece)[1:-1]}
        for shift in range(3):
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                found.add(encode(b"x" * shift + piece.encode()).decode()[4:-4])
    return found


TRACES = traces_of(KEY) | traces_of(PROMPT)


def leaks(text: str) -> list[str]:
    return [trace for trace in TRACES if trace in text]


def http(status: str, headers: str = "", body: str = "") -> Reply:
    return Reply.raw(f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body.encode())}\r\n\r\n{body}".encode())


def written(text: str | bytes) -> Reply:
    """These bytes, which need be no HTTP, and the end of the connection."""
    return Reply((text if isinstance(text, bytes) else text.encode(),), "close")


def sse(body: str) -> Reply:
    return http("200 OK", "Content-Type: text/event-stream\r\n", body)


STREAM = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"

Place = Callable[[str], Reply]
"""An answer with a text in one of its places."""

WORDS: dict[str, Place] = {
    "error message": lambda text: Reply.json(400, {"error": {"message": f"Incorrect key: {text}."}}),
    "error as text": lambda text: Reply.json(401, {"error": f"no such key {text}"}),
    "error detail": lambda text: Reply.json(403, {"detail": text}),
    "error body": lambda text: http("500 Broken", "", f"cannot use {text}"),
    "long error body": lambda text: http("500 Broken", "", "x" * 285 + " " + text),
    "content type": lambda text: http("200 OK", f"Content-Type: text/{text}\r\n", "{}"),
    "content encoding": lambda text: http("200 OK", f"Content-Encoding: {text}\r\n", "{}"),
}
"""Where an engine's own words stand, some of which are told."""

ELSEWHERE: dict[str, Place] = {
    "reason": lambda text: http(f"500 {text}"),
    "header": lambda text: http("500 Broken", f"X-Api-Key: {text}\r\nSet-Cookie: k={text}\r\n"),
    "location": lambda text: http("307 Go", f"Location: http://127.0.0.1:9/?k={text}\r\n"),
    "retry-after": lambda text: http("503 Busy", f"Retry-After: {text}\r\n"),
    "error type": lambda text: Reply.json(400, {"error": {"message": "no", "type": text, "code": text, "param": text}}),
    "repeated input": lambda text: Reply.json(422, {"detail": f"bad: 'input': '{text}'"}),
    "repeated JSON": lambda text: http("400 No", "", f'bad request {{"prompt": {json.dumps(text)}}}'),
    "status line": lambda text: written(f"HTTP/1.1 {text} no\r\n\r\n"),
    "no HTTP": lambda text: written(f"{text}\r\n\r\n"),
    "broken header": lambda text: written(f"HTTP/1.1 200 OK\r\n{text}\r\n\r\n"),
    "broken length": lambda text: written(f"HTTP/1.1 200 OK\r\nContent-Length: {text}\r\n\r\n{{}}"),
    "broken chunk": lambda text: written(STREAM + f"Transfer-Encoding: chunked\r\n\r\n{text}\r\n"),
    "cut off": lambda text: written(STREAM + f"Content-Length: 9999\r\n\r\ndata: {text}"),
    "reset": lambda text: Reply.raw(f"HTTP/1.1 200 OK\r\nX-Key: {text}\r\nContent-".encode(), reset=True),
    "value of another type": lambda text: sse(f"data: {json.dumps({'n': text})}\n\n"),
    "no JSON": lambda text: sse(f"data: {{{text}}}\n\n"),
    "no UTF-8": lambda text: written(f'{STREAM}\r\ndata: {{"n": "{text}'.encode() + b'\xff"}\n\n'),
    "too large": lambda text: sse("data: " + text * 1000 + "\n\n"),
    "silence": lambda _: Reply.silence(),
    "a whole answer": lambda text: sse(f'event: {text}\n: {text}\nid: {text}\ndata: {{"n": 1}}\n\ndata: [DONE]\n\n'),
}
"""Where nothing that is told belongs."""

REPEATED: dict[str, Place] = WORDS | {
    "the model's output": lambda text: Reply.json(
        500,
        {
            "error": {
                "message": "Failed to parse tool call arguments as JSON: [json.exception.parse_error.101] parse error "
                f"at line 1, column 9: missing closing quote; last read: '\"{text}'",
            }
        },
    ),
    "last read": lambda text: Reply.json(
        400, {"error": {"message": f"[json.exception.parse_error.101] invalid literal; last read: '{text}'"}}
    ),
    "output that is not parsed": lambda text: Reply.json(
        500, {"error": {"message": f"Failed to parse input at pos 3: {text}"}}
    ),
}
"""Where engines repeat what they were asked among words that are told."""

CASES = [(name, place, [KEY]) for name, place in WORDS.items()] + [
    (name, place, [KEY, PROMPT]) for name, place in ELSEWHERE.items()
]


class Seen(NamedTuple):
    """What came of a request, and what was said meanwhile."""

    error: BaseException | None
    things: list[object]
    log: str
    printed: str


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that it holds on to, whether a traceback would show it or not."""
    if error is not None:
        yield error
        yield from chain(error.__cause__)
        yield from chain(error.__context__)


SINKS: dict[str, Callable[[Seen], str]] = {
    "str": lambda seen: "".join(str(error) for error in chain(seen.error)),
    "repr": lambda seen: "".join(repr(error) for error in chain(seen.error)),
    "args": lambda seen: "".join(repr(error.args) for error in chain(seen.error)),
    "facts": lambda seen: "".join(repr(vars(error)) for error in chain(seen.error)),
    "traceback": lambda seen: "".join(traceback.format_exception(seen.error)) if seen.error else "",
    "notes": lambda seen: "".join(repr(getattr(error, "__notes__", [])) for error in chain(seen.error)),
    "repr of ours": lambda seen: "".join(map(repr, seen.things)),
    "format of ours": lambda seen: "".join(f"{thing} {thing!s}" for thing in seen.things),
    "log": lambda seen: seen.log,
    "stdout and stderr": lambda seen: seen.printed,
}


async def a_request(client: HttpClient, things: list[object]) -> None:
    path = f"/v1/{quote(PROMPT, safe='')}?q={quote_plus(PROMPT)}"
    things.append(response := await client.request("POST", path, PROMPT))
    things.append(response.decode(EVENT, "the answer"))


async def a_get(client: HttpClient, things: list[object]) -> None:
    things.append(response := await client.get(f"/v1/{quote(PROMPT, safe='')}?q={quote_plus(PROMPT)}"))
    things.append(response.decode(EVENT, "the answer"))


async def a_stream(client: HttpClient, things: list[object]) -> None:
    body = {"prompt": PROMPT, "messages": [PROMPT]}
    things.append(request := client.stream("/v1?q=" + quote(PROMPT, safe=""), body, EVENT))
    async with request as events:
        things += [events, events.each()]
        things += [batch async for batch in events]


WAYS = {"request": a_request, "get": a_get, "stream": a_stream}
CONFIG = HttpConfig(max_line=2000, max_event=2000, sock_idle=0.05, retry=RetryPolicy(attempts=2, base=1e-3))


async def seen_of(
    client: HttpClient, ask: Callable[[HttpClient, list[object]], Any], capsys: Any, caplog: pytest.LogCaptureFixture
) -> Seen:
    caplog.clear()
    capsys.readouterr()
    error: BaseException | None = None
    things: list[object] = [client, CONFIG, SECRET, client._transport]
    try:
        await ask(client, things)
    except WorkerError as failure:
        error = failure
    log = caplog.text + "".join(repr(vars(record)) for record in caplog.records)
    printed = capsys.readouterr()
    return Seen(error, things, log, printed.out + printed.err)


def found(seen: Seen) -> dict[str, list[str]]:
    return {sink: what for sink, shown in SINKS.items() if (what := leaks(shown(seen)))}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All that anybody logs: we, aiohttp and asyncio."""
    caplog.set_level(logging.DEBUG)
    return caplog


def test_there_are_canaries_enough() -> None:
    """There are at least 500 of them, by place, disguise and way of asking."""
    canaries = sum(len(texts) for _, _, texts in CASES) * len(FORMS) * len(WAYS)
    print(f"{canaries} canaries, each looked for in {len(SINKS)} places in {len(TRACES)} disguises")

    assert canaries >= 500


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("place", "texts"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
async def test_nothing_comes_out(
    place: Place, texts: list[str], way: str, capsys: Any, said: pytest.LogCaptureFixture
) -> None:
    """Whatever an engine repeats, and wherever: no error, log line, traceback and repr tells of it (battery 32)."""
    for text in texts:
        for form in FORMS.values():
            async with LoopbackEngine(lambda _: place(form(text))) as engine:  # noqa: B023  # it is over by then
                async with HttpClient(engine.url, CONFIG, api_key=SECRET) as client:
                    assert found(await seen_of(client, WAYS[way], capsys, said)) == {}
    gc.collect()

    assert leaks(said.text) == []


@pytest.mark.parametrize("way", ["request", "stream"])
@pytest.mark.parametrize("form", ["raw", "URL-encoded", "JSON-escaped"])
@pytest.mark.parametrize("place", REPEATED.values(), ids=REPEATED)
async def test_no_prompt_comes_out_of_words(
    place: Place, form: str, way: str, capsys: Any, said: pytest.LogCaptureFixture
) -> None:
    """An engine that repeats the request among its own words is quoted up to there (battery 32)."""
    async with LoopbackEngine(lambda _: place(FORMS[form](PROMPT))) as engine:
        async with HttpClient(engine.url, CONFIG, api_key=SECRET) as client:
            assert found(await seen_of(client, WAYS[way], capsys, said)) == {}


def nobody_listens() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_nothing_comes_out_of_a_connection(
    way: str, scheme: str, capsys: Any, said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it where nobody listens, no TLS is spoken, a name is not known or is refused (battery 32)."""

    async def look_up(host: str, port: int, **_: Any) -> list[Any]:
        if host == "nobody":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("169.254.169.254", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    config = HttpConfig(allow_plaintext_key=True, connect=0.1, retry=CONFIG.retry)
    async with LoopbackEngine(lambda _: http("200 OK")) as engine:
        for url in (nobody_listens(), engine.url, "http://nobody", "http://metadata"):
            async with HttpClient(url.replace("http:", f"{scheme}:"), config, api_key=SECRET) as client:
                assert found(await seen_of(client, WAYS[way], capsys, said)) == {}


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_comes_out_of_a_cancelled_one(way: str, capsys: Any, said: pytest.LogCaptureFixture) -> None:
    """A request that is cancelled, and a loop that ends with it, say nothing of it (battery 32)."""
    async with LoopbackEngine(lambda _: Reply.silence()) as engine, HttpClient(engine.url, api_key=SECRET) as client:
        asking = asyncio.create_task(WAYS[way](client, []))
        await engine.request()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await asking
        shown = "".join(traceback.format_exception(caught.value)) + repr(asking)

        assert [*chain(caught.value)] == [caught.value]
        assert leaks(shown) == []
    gc.collect()

    assert leaks(said.text + "".join(capsys.readouterr())) == []


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_nothing_comes_out_of_a_refusal(form: Callable[[str], str], said: pytest.LogCaptureFixture) -> None:
    """A client that is not made says why without it: not for a URL that holds it, nor for a key that cannot be sent."""
    text = form(KEY)
    urls = [f"http://u:{text}@engine", f"http://engine?{text}", f"http://engine#{text}", f"http://engine/{text}?"]
    for url in urls:
        with pytest.raises(ValueError, match="url") as caught:
            HttpClient(url)
        assert [leaks("".join(traceback.format_exception(error)) + repr(error)) for error in chain(caught.value)] == [
            []
        ]
    with pytest.raises(ValueError, match="api_key") as caught:
        HttpClient("http://127.0.0.1", api_key=Secret(f"{text}\n"))

    assert leaks("".join(traceback.format_exception(caught.value)) + said.text) == []


async def test_what_aiohttp_itself_would_tell() -> None:
    """What is looked for would be found: aiohttp's own error shows the key, in its repr."""
    async with LoopbackEngine(lambda _: http("500 Broken")) as engine, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientResponseError) as caught:
            await session.get(engine.url, headers={"Authorization": f"Bearer {KEY}"}, raise_for_status=True)

    assert leaks(repr(caught.value)) != []
