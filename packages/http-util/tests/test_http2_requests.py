"""What a request says over HTTP/2: the same as over HTTP/1.1, whatever is asked for."""

from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from llama_orch_adapter_api import AdapterError, PoolUnavailable
from llama_orch_adapter_testkit import Reply
from llama_orch_http_util import HttpClient, HttpConfig
from llama_orch_http_util._http1 import Http1
from llama_orch_http_util._negotiated import Negotiated

from .http2_far_end import Far, FarEnd, trusting  # type: ignore[import-not-found]  # test folders are no packages

TARGETS = [
    *("/a b", "/é", "/a?x=é", "/%zz", "/a%2Fb", "/a//b", "/a/../b", "/./a", "/a#b", "/a?b=1#c", "/", "/?", "/a?x=a+b"),
    *("/a?x=%20&y=%2F", "/a?x='()*![]@$,|^`{}", "/a;b=1", "/a:b", "/a?x=1&x=2", "/{x}", "/a?x=%"),
]


async def answer(stream: Far) -> None:
    """A whole answer."""
    await stream.json({"http": 2})


async def test_headers_mean_the_same(tmp_path: Path) -> None:
    """A caller's header replaces the one of the same name, in any case; its Host is who is asked for, over both."""
    headers = {"Host": "engine.example", "user-agent": "mine", "X-Odd": " \xe9 "}
    seen = []

    async def script(stream: Far) -> None:
        seen.append({**stream.headers, "host": stream.headers[":authority"]})
        await answer(stream)

    for version in ("1.1", "2"):
        config = trusting(tmp_path, http_version=version)
        async with FarEnd(script) as far, HttpClient(far.url, config) as client:
            for _ in range(2):
                await client.request("GET", "/props", headers=headers)
            seen += [request.headers for request in far.http1_requests]

    assert [(fields["host"], fields["user-agent"]) for fields in seen] == [("engine.example", "mine")] * 4
    assert {fields["x-odd"].encode("latin-1" if "accept" in fields else "utf-8") for fields in seen} == {b"\xc3\xa9"}


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_methods_mean_the_same(version: str, tmp_path: Path) -> None:
    """A method is sent in capitals; what is none, or asks for a tunnel, is refused before anything is sent."""
    config = trusting(tmp_path, http_version=version)
    async with FarEnd(answer) as far, HttpClient(far.url, config) as client:
        for method in ("CONNECT", "connect", "PA TCH", "", "GET\r\n", "ÄNDERE", "poßt"):
            with pytest.raises(AdapterError, match="the method is none") as caught:
                await client.request(method, "/props")
            assert (caught.value.detail, caught.value.answered) == ("bad_request", False)
        assert far.accepted == 0
        for method in ("get", "OPTIONS", "Delete"):
            assert (await client.request(method, "/props")).http_version == version
        assert [each.method for each in (*far.asked, *far.http1_requests)] == ["GET", "OPTIONS", "DELETE"]


async def test_a_header_that_comes_twice(tmp_path: Path) -> None:
    """Of two headers of one name the first counts: in a whole answer and in a refusal, over HTTP/2 as over 1.1."""
    twice = {"Retry-After": "7", "retry-after": "9", "X-Of": "one", "x-of": "two"}

    async def script(stream: Far) -> None:
        stream.head(200 if stream.path == "/props" else 429, twice, end=True)

    for version in ("1.1", "2"):
        config = trusting(tmp_path, http_version=version)
        async with (
            FarEnd(
                script, http1=lambda asked: Reply.json(200 if asked.path == "/props" else 429, {}, headers=twice)
            ) as far,
            HttpClient(far.url, config) as client,
        ):
            answer = await client.request("GET", "/props")
            with pytest.raises(PoolUnavailable) as caught:
                await client.request("GET", "/refused")

            assert answer.http_version == version
            assert (answer.headers["retry-after"], answer.headers["x-of"]) == ("7", "one")
            assert caught.value.retry_after == 7


async def test_targets_mean_the_same(tmp_path: Path) -> None:
    """A path and its query are written over HTTP/2 as aiohttp writes them, and no fragment is sent."""
    seen: dict[str, list[tuple[str, list[tuple[str, str]]]]] = {"1.1": [], "2": []}
    for version, targets in seen.items():
        config = trusting(tmp_path, http_version=version)
        async with FarEnd(answer) as far, HttpClient(far.url + "/base", config) as client:
            for target in TARGETS:
                await client.request("GET", target)
            for stream in far.asked:
                assert "#" not in stream.path
                parts = urlsplit(stream.path)
                targets.append((parts.path, parse_qsl(parts.query)))
            targets += [(request.path, list(request.query.items())) for request in far.http1_requests]

    for target, over_1, over_2 in zip(TARGETS, seen["1.1"], seen["2"], strict=True):
        assert (over_1[0], dict(over_1[1])) == (over_2[0], dict(over_2[1])), target


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("https://engine", "engine"),
        ("https://engine:443/v1", "engine"),
        ("https://engine:8443", "engine:8443"),
        ("https://[::1]:8443", "[::1]:8443"),
        ("https://bücher.example", "xn--bcher-kva.example"),
    ],
)
def test_who_is_asked(url: str, authority: str) -> None:
    """The authority is the URL's, as a Host header would name it."""
    config = HttpConfig()
    transport = Negotiated(url, config, Http1(url, config, reuse_after_stream=True), lambda _: None, {})  # type: ignore[arg-type]

    assert transport._authority == authority
