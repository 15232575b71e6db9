"""Requests that move from HTTP/2 to HTTP/1.1: narrated once for each origin, and every one counted."""

import time
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from llama_orch_adapter_api import AdapterContext, Timeouts
from llama_orch_http_util import HttpAdapter

from .http2_far_end import Far, FarEnd, trusting  # type: ignore[import-not-found]  # test folders are no packages
from .test_adapter import Plain  # type: ignore[import-not-found]  # as above


def adapter_of(far: FarEnd, said: list[str], counted: list[str], **http: object) -> HttpAdapter:
    """An adapter as a host makes it."""
    context = AdapterContext("chat", "r0", None, Timeouts(), http, time.monotonic, said.append, counted.append)
    return Plain(context, far.url)


@pytest.mark.parametrize(
    ("code", "reason"),
    [("REFUSED_STREAM", "refused"), ("HTTP_1_1_REQUIRED", "http_1_1_required"), ("PROTOCOL_ERROR", "violated")],
)
async def test_a_host_is_told(code: str, reason: str, tmp_path: Path) -> None:
    """Case 8: an adapter's host is told of an origin that falls back once, and counts each request that does."""

    async def script(stream: Far) -> None:
        stream.refuse(ErrorCodes[code])

    said: list[str] = []
    counted: list[str] = []
    ca_file = str(trusting(tmp_path).ca_file)
    async with FarEnd(script) as far:
        adapter = adapter_of(far, said, counted, ca_file=ca_file)
        for _ in range(3):
            assert (await adapter.http.request("GET", "/who")).http_version == "1.1"
        await adapter.aclose()

        print(f"case 8, {code}: narrated {said}, counted {counted}")
        assert counted == [f"fallback_{reason}"]
        assert len(said) == 1
        assert adapter.http.fallbacks == {reason: 1}
