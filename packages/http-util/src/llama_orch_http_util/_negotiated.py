"""HTTP/2 to an https engine that offers it, else HTTP/1.1: the transport that chooses, and falls back unnoticed."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from llama_orch_adapter_api import WorkerError
from yarl import URL

from ._config import HttpConfig
from ._errors import TRANSPORT_FAILURES, error_of_exception, no_certificates
from ._http1 import Http1
from ._origins import origins
from ._session import HEADERS
from ._setbacks import Reason, Setback, after
from ._tls import context_for
from ._transport import Answer

if TYPE_CHECKING:
    from ._http2_pool import Http2Origin, Http2Pool
    from ._http2_stream import Http2Answer

_WHY: Mapping[Reason, str] = {
    "unstarted": "it offers HTTP/2, and sends no SETTINGS",
    "http_1_1_required": "it asks for HTTP/1.1",
    "rejected": "it ended an HTTP/2 connection for an error",
    "refused": "it refuses HTTP/2 streams",
    "drained": "it ends its HTTP/2 connections too soon",
    "useless": "it ends its HTTP/2 connections before they are of use",
    "violated": "its HTTP/2 breaks the protocol",
}


class Negotiated:
    """A `Transport`. `fell_back` is told why, for each request that went from HTTP/2 to 1.1.

    A request that the peer did not look at is sent again here, and is no attempt of its sender's.
    """

    def __init__(
        self,
        url: str,
        config: HttpConfig,
        http1: Http1,
        narrate: Callable[[str], None],
        fell_back: Callable[[Reason], None],
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or 443
        self._where = parts.netloc
        self._url = url
        self._authority = URL(url).host_port_subcomponent or ""
        self._config = config
        self._only_2 = config.http_version == "2"
        self._http1 = http1
        self._narrate = narrate
        self._fell_back = fell_back
        self._origin: Http2Origin | None = None

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, *, stream: bool = False
    ) -> Answer:
        """See `Transport`."""
        origin = self._origin or await self._load()
        met: Counter[Reason] = Counter()
        while self._only_2 or not origins().is_marked(origin.place, asyncio.get_running_loop().time()):
            answer = await self._ask_2(origin, method, path, headers, body, stream=stream)
            if not isinstance(answer, Setback):
                return answer
            reason, error = answer.reason, answer.error
            step = after(reason, method, met[reason], only_2=self._only_2)
            met[reason] += 1
            if step.mark and not self._only_2:
                self._mark(origin, reason)
            if step.go == "raise":
                raise error_of_exception(error, self._where, "first_token", head=False)
            if step.go == "1.1":
                self._fall_back(origin, reason)
                break
        try:
            return await self._http1.send(method, path, headers, body, stream=stream)
        except WorkerError as failure:
            if met and failure.phase == "connect":  # it was no failure of HTTP/2's: nobody is there
                origins().forget(origin.place)
            raise

    async def aclose(self) -> None:
        """See `Transport`."""
        await self._http1.aclose()

    async def _ask_2(
        self,
        origin: "Http2Origin",
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        stream: bool,
    ) -> "Http2Answer | Setback":
        """The answer over HTTP/2, or what it met, without the frames that hold the request's headers."""
        try:
            return await self._send_2(origin, method, path, headers, body, stream=stream)
        except Setback as setback:
            return setback.with_traceback(None)
        except TRANSPORT_FAILURES as error:
            return Setback("broken", error.with_traceback(None))

    async def _send_2(
        self,
        origin: "Http2Origin",
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        stream: bool,
    ) -> "Http2Answer":
        fields = {name.lower(): value for name, value in (*HEADERS.items(), *headers.items())}
        head = [
            (":method", method),
            (":scheme", "https"),
            (":authority", fields.pop("host", self._authority)),
            (":path", URL(self._url + path).raw_path_qs),
            *fields.items(),
        ]
        if body is not None:
            head.append(("content-length", str(len(body))))
        connection = await self._pool(origin).take()
        exchange = connection.open(head, body=body is not None, idle=self._config.sock_idle)
        try:
            if body is not None:
                await exchange.upload(body)
            await exchange.head()
        except BaseException:
            exchange.close()
            raise
        exchange.phase = "decode" if stream else "first_token"
        return exchange.answer()

    def _pool(self, origin: "Http2Origin") -> "Http2Pool":
        beside = self._http1.shared().beside
        if origin not in beside:
            beside[origin] = origin.pool()
        return cast("Http2Pool", beside[origin])

    def _fall_back(self, origin: "Http2Origin", reason: Reason) -> None:
        """Count it; that there is no room is told once in a cool-down, as no mark tells it."""
        if reason == "other_version":
            return
        self._fell_back(reason)
        full = (origin.place, reason)
        now, span = asyncio.get_running_loop().time(), self._config.http2_cool_down
        if reason == "crowded" and origins().mark(full, now, span):
            most = self._config.http2_connections
            self._narrate(
                f"its {most} HTTP/2 connections are full: HTTP/1.1 is spoken, too · {self._where} · "
                "raise http.http2_connections"
            )

    def _mark(self, origin: "Http2Origin", reason: Reason) -> None:
        span = self._config.http2_cool_down
        news = origins().mark(origin.place, asyncio.get_running_loop().time(), span)
        if news and reason in _WHY:
            self._narrate(f"{_WHY[reason]}: HTTP/1.1 is spoken for {span:g} s · {self._where}")

    async def _load(self) -> "Http2Origin":
        config = self._config
        try:
            self._origin = await asyncio.to_thread(_origin_of, self._host, self._port, self._where, config)
        except OSError as error:
            raise no_certificates(self._where, config.ca_file, error) from None
        return self._origin


def _origin_of(host: str, port: int, where: str, config: HttpConfig) -> "Http2Origin":
    """Reads certificates and imports h2, so it is not for the event loop."""
    from ._connect import Place  # noqa: PLC0415  # whoever speaks plain http alone pays nothing for it
    from ._http2_pool import Http2Origin  # noqa: PLC0415
    from ._http2_wire import Http2Limits  # noqa: PLC0415

    context = context_for(config.ca_file, insecure=config.insecure_tls, http2=True)
    return Http2Origin(
        Place(host, port, context, config.allow_link_local),
        where,
        Http2Limits(config.http2_window, config.http2_ping_interval, config.http2_direct_data),
        config.http2_connections,
        config.connect,
        config.http2_settings_timeout,
    )
