"""Who may do what: bearer tokens, and what is refused where there are none."""

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from llama_orch_adapter_host import ConfigError

from ._config import AccessToken, Role, ServerConfig
from ._page import PATHS
from ._refusal import invalid

OPEN = frozenset((*PATHS, "/healthz", "/readyz"))
"""The resources that whoever reaches the server may read; none tells of pools, tasks or engines."""

_OF_TASKS = ("/v1/tasks", "/v1/chat/", "/v1/completions", "/v1/embeddings")
"""Resources that the role `tasks` may change; of all others it may only read."""

_READS = frozenset(("GET", "HEAD", "OPTIONS"))


class Keyring:
    """The tokens, known by their digests alone."""

    def __init__(self, tokens: Iterable[AccessToken]) -> None:
        self.replace(tokens)

    def replace(self, tokens: Iterable[AccessToken]) -> None:
        """Know these from now on, and no others."""
        self._known = tuple((_digest(token.secret.reveal()), token.role) for token in tokens)

    def __bool__(self) -> bool:
        return bool(self._known)

    def role(self, authorization: str | None) -> Role | None:
        """What a header `Authorization` opens; None where it is missing, no bearer token, or unknown.

        All of these take the same time, and so does each token: every digest is compared, whichever fits.
        """
        scheme, _, token = (authorization or "").partition(" ")
        given = _digest(token.strip() if scheme.lower() == "bearer" else "")
        found: Role | None = None
        for digest, role in self._known:
            if hmac.compare_digest(digest, given):
                found = role
        return found


KEYRING = web.AppKey("keyring", Keyring)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def may(role: Role, method: str, resource: str) -> bool:
    """Whether a role may send this to a resource, named by its path as the server wrote it."""
    return role == "control" or method in _READS or resource.startswith(_OF_TASKS)


def role_of(method: str, resource: str) -> Role | None:
    """The least role that may send this where there are tokens; None where it takes no token."""
    if resource in OPEN and method in _READS:
        return None
    return "tasks" if may("tasks", method, resource) else "control"


def guard(keyring: Keyring) -> Middleware:
    """Lets a request pass whose token opens what it asks for. Unknown paths are asked for a token like any other.

    Without tokens everybody may do everything, except a browser on behalf of another site's page.
    """

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        path = "" if resource is None else resource.canonical
        if not keyring:
            _check_origin(request)
        elif role_of(request.method, path) is not None and not _is_no_method(request):
            _check_token(keyring, request, path)
        return await handler(request)

    return guarded


def _is_no_method(request: web.Request) -> bool:
    """Whether it is a method that an open resource does not have, so that nothing is done whoever asks."""
    return request.path in OPEN and isinstance(request.match_info.http_exception, web.HTTPMethodNotAllowed)


def _check_token(keyring: Keyring, request: web.Request, resource: str) -> None:
    given = request.headers.getall("Authorization", [])
    role = keyring.role(given[0] if len(given) == 1 else None)
    if role is None:
        raise invalid(
            "this needs a token that the server knows · send the header Authorization: Bearer TOKEN",
            status=401,
            detail="auth",
        )
    served = request.match_info.http_exception is None  # else it is 404 or 405, whoever asks
    if served and not may(role, request.method, resource):
        raise invalid(f"the role {role!r} may not do this · send a token of 'control'", status=403, detail="auth")


def _check_origin(request: web.Request) -> None:
    if foreign(request.headers.get("Host"), request.headers.get("Origin")):
        raise invalid(
            "a page of another site may not use a server without tokens · ask for it by its address, or set [auth]",
            status=403,
            detail="auth",
        )


def foreign(host: str | None, origin: str | None) -> bool:
    """Whether a browser may send this for a page of somebody else's, judged by two of its headers.

    `Origin` is another than the server then, or `Host` a name that only a DNS of theirs leads here.
    """
    if host is None:
        return origin is not None
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name != "localhost" and not name.endswith(".localhost"):
            ipaddress.ip_address(name)
        return origin is not None and urlsplit(origin).netloc.lower() != host.lower()
    except ValueError:
        return True


def check_exposed(config: ServerConfig) -> None:
    """Refuse to listen where other machines reach it, without tokens or unencrypted. Raises `ConfigError`."""
    server = config.server
    if server.address.loopback:
        return
    problems: list[str] = []
    if not config.auth.tokens:
        problems.append(
            f"listen is {server.address}, which other machines reach, but there are no tokens; "
            'set [auth] tokens = [{ env = "ORCH_TOKEN", role = "control" }], or listen on 127.0.0.1'
        )
    if server.tls is None and not server.plain_http:
        problems.append(
            f"tokens and prompts would come to {server.address} unencrypted; set tls in [server], or plain_http = true "
            "behind a proxy that speaks TLS"
        )
    if problems:
        raise ConfigError(problems)
