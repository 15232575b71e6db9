"""The limits of one client, and which addresses it may speak to."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import SplitResult, urlsplit

import msgspec
from llama_orch_adapter_api import Secret, Timeouts

from ._addresses import address_of, why_refused
from ._retry import RetryPolicy

KIB = 1024
MIB = 1024 * KIB

_HOST = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
"""A name as DNS has it (RFC 1035 §2.3.4), or an IPv4 address; a resolver that is given another raises what it likes."""


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of one client; spans in seconds, sizes in bytes.

    `connect` bounds name look-up, TCP and TLS together. `sock_idle` is a backstop under the host's own limits: a
    socket silent for so long is given up. `max_line` and `max_event` are an event stream's, `max_body` a whole
    answer's; of an error's body, what is over `max_error_body` is left unread. `retry` says how often `HttpClient.get`
    asks.

    `http_version`: over https, "auto" speaks HTTP/2 where the engine offers it, else 1.1; "2" refuses an engine that
    does not. Plain http is 1.1. To one origin up to `http2_connections` are opened, each only when the others have all
    the streams they may; a stream holds at most `http2_window` bytes that its reader has not taken. An engine whose
    SETTINGS take longer than `http2_settings_timeout`, or whose HTTP/2 fails otherwise, is spoken to over 1.1 for
    `http2_cool_down`. One that is silent for `http2_ping_interval` is sent a PING, and given up after another.
    `http2_direct_data` False has h2 read bodies too: slower, and a way back should the shorter one ever be wrong.

    `ca_file` holds the certificate authorities to trust instead of the system's (PEM); the environment's
    SSL_CERT_FILE and SSL_CERT_DIR are not heeded. `insecure_tls` takes any
    certificate and any version of TLS that OpenSSL still speaks, of this machine alone unless `allow_insecure_remote`.
    `allow_link_local` admits 169.254.0.0/16, fe80::/10 and the other addresses where clouds keep their metadata, as a
    number in the URL and as what its host name leads to;
    `allow_plaintext_key` an API key over plain http to another machine.
    """

    connect: float = 2.0
    sock_idle: float = 600.0
    max_line: int = MIB
    max_event: int = 8 * MIB
    max_body: int = 8 * MIB
    max_error_body: int = 64 * KIB
    retry: RetryPolicy = RetryPolicy()
    http_version: Literal["auto", "1.1", "2"] = "auto"
    http2_connections: int = 8
    http2_window: int = 64 * KIB
    http2_cool_down: float = 300.0
    http2_ping_interval: float = 15.0
    http2_settings_timeout: float = 2.0
    http2_direct_data: bool = True
    ca_file: Path | None = None
    insecure_tls: bool = False
    allow_insecure_remote: bool = False
    allow_link_local: bool = False
    allow_plaintext_key: bool = False

    def __post_init__(self) -> None:
        for name in ("connect", "sock_idle", "http2_cool_down", "http2_ping_interval", "http2_settings_timeout"):
            span = getattr(self, name)
            if not 0 < span < math.inf:
                raise ValueError(f"http.{name} is {span}; give seconds, above 0")
        for name in ("max_line", "max_event", "max_body", "max_error_body"):
            size = getattr(self, name)
            if size < 1:
                raise ValueError(f"http.{name} is {size}; give bytes, at least 1")
        if self.http2_connections < 1:
            raise ValueError(f"http.http2_connections is {self.http2_connections}; give at least 1")
        if not KIB <= self.http2_window < 2 * 1024 * MIB:
            raise ValueError(f"http.http2_window is {self.http2_window}; give bytes, 1024 to 2147483647")
        if self.insecure_tls and self.ca_file is not None:
            raise ValueError("http.insecure_tls switches http.ca_file off; give one of them")

    @classmethod
    def of(cls, overrides: Mapping[str, Any], timeouts: Timeouts) -> Self:
        """A pool's `http` table over what follows from its timeouts. Raises `ValueError` that names the table."""
        backstop = max(600.0, 2 * timeouts.first_token, 2 * timeouts.idle)
        table = {"connect": timeouts.connect, "sock_idle": backstop, **overrides}
        try:
            return msgspec.convert(table, cls, dec_hook=_path)
        except msgspec.ValidationError as error:
            told = str(error)
            raise ValueError(told if told.startswith("http.") else f"http: {told}") from None


def _path(_: type[Path], value: object) -> Path:
    if not isinstance(value, str):
        raise TypeError(f"Expected a path as `str`, got `{type(value).__name__}`")
    return Path(value)


def check_url(url: str, config: HttpConfig, *, with_key: bool) -> str:
    """The base URL without its trailing slash. Raises `ValueError` naming what is wrong with it and the mend."""
    if not url.isprintable() or " " in url:
        raise ValueError("url holds a space or control character; take it out")
    parts = _parts(url)
    if parts is None:
        raise ValueError("url has brackets that hold no IPv6 address; give http://[ADDRESS]:PORT")
    shown = f"{parts.scheme}://{parts.hostname or ''}" if parts.scheme else "without a scheme"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url is {shown}; give http://HOST:PORT or https://HOST:PORT")
    if not parts.hostname.isascii():  # such digits and dots become an address only after it was looked at
        raise ValueError(f"url {shown} is not in ASCII; give the host as DNS has it, xn--…")
    if ":" not in parts.hostname and not _HOST.fullmatch(parts.hostname):
        raise ValueError(f"url {shown} has a host that is none; give letters, digits, hyphens, up to 63 between dots")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"url {shown} holds a user or password; take them out and set api_key")
    if "?" in url or "#" in url:
        raise ValueError(f"url {shown} holds a query or fragment; give the base URL alone")
    if not _has_a_good_port(parts):
        raise ValueError(f"url {shown} has a port that is no port; give a number from 1 to 65535")
    if config.http_version == "2" and parts.scheme == "http":
        raise ValueError(
            f"url {shown} is plain http, which carries no HTTP/2; use https, or http.http_version = 'auto'"
        )
    _check_far_end(shown, parts.scheme, parts.hostname, config, with_key=with_key)
    return url.rstrip("/")


def _parts(url: str) -> SplitResult | None:
    """The URL taken apart; what urllib says where that fails repeats it, and is not kept as anybody's context."""
    try:
        return urlsplit(url)
    except ValueError:
        return None


def _has_a_good_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0 and not parts.netloc.endswith(":")
    except ValueError:
        return False


def _check_far_end(shown: str, scheme: str, host: str, config: HttpConfig, *, with_key: bool) -> None:
    """Refuse what needs a switch at this address and is without it."""
    address = address_of(host)
    if address is not None and not config.allow_link_local and (what := why_refused(address)) is not None:
        raise ValueError(f"url {shown} is {what}; set http.allow_link_local = true if you mean it")
    if address is not None and ":" not in host and host != str(address):
        raise ValueError(f"url {shown} is an address in a notation that is not spoken here; give {address}")
    if host == "localhost" or (address is not None and address.is_loopback):
        return
    if with_key and scheme == "http" and not config.allow_plaintext_key:
        raise ValueError(
            f"url {shown} would carry api_key unencrypted; use https, or set http.allow_plaintext_key = true"
        )
    if config.insecure_tls and scheme == "https" and not config.allow_insecure_remote:
        raise ValueError(
            f"url {shown} would be trusted unseen by http.insecure_tls; "
            "name its certificate authority in http.ca_file, or set http.allow_insecure_remote = true"
        )


def check_key(key: Secret) -> None:
    """Raises `ValueError` for a key that no header can carry, such as one with the line end of the file it was in."""
    text = key.reveal()
    if not text or not text.isascii() or not text.isprintable():
        raise ValueError("api_key is empty or holds a line end or another character no header can carry; correct it")
