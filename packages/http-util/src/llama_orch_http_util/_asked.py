"""What is asked of a client, checked before anything is sent: it is refused here or not at all."""

import re
from collections.abc import Mapping
from contextlib import suppress

import msgspec
from llama_orch_adapter_api import AdapterError

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110 §5.6.2: a token."""
_UNSENT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
"""What neither a header nor a path can carry: control characters, and halves of characters."""

_OF_THE_MESSAGE = frozenset({
    *("connection", "content-length", "expect", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"),
    *("accept-encoding", "content-encoding"),
})  # fmt: skip
"""Headers that say how a message is sent, which each version of HTTP does in its own way (RFC 9113 §8.2.2).

So for how its body is encoded: the client encodes none, and takes none.
"""


def method_of(method: str, where: str) -> str:
    """The method as it is sent. Raises `AdapterError` (bad_request) for what is none, and for a tunnel."""
    if not _NAME.fullmatch(method) or method.upper() == "CONNECT":
        raise _refused("the method is none, or asks for a tunnel", where, "give GET, POST or another one")
    return method.upper()


def check_path(path: str, where: str) -> None:
    """Raises `AdapterError` (bad_request) for a path that would lead the request, and its key, to another host."""
    if not path.startswith("/") or path.startswith("//"):
        raise _refused("the path does not begin with one /", where, "give it as /v1/models")
    if _UNSENT.search(path):
        raise _refused("the path holds a control character or half a character", where, "take it out")


def check_headers(headers: Mapping[str, str], where: str) -> None:
    """Raises `AdapterError` (bad_request) for a header that cannot be sent, such as one with a line end in it.

    So for one that the client itself has to send: the peer would read another request than the one that was meant.
    """
    for name, value in headers.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise _refused("the name of a header is none", where, "give letters, digits and hyphens")
        if not isinstance(value, str) or _UNSENT.search(value):
            raise _refused(f"header {name} is no text of one line", where, "take out what is no character of a line")
        if name.lower() in _OF_THE_MESSAGE:
            raise _refused(f"header {name} says how a request is sent", where, "leave it to the client")


def json_of(body: object, where: str) -> bytes | None:
    """The body as JSON, None where there is none. Raises `AdapterError` (bad_request) for what JSON cannot hold."""
    if body is None:
        return None
    with suppress(TypeError, ValueError, RecursionError, msgspec.MsgspecError):  # raised below: it may show the body
        return msgspec.json.encode(body)
    raise _refused("the body holds what JSON cannot, or half a character", where, "give text, numbers, lists, dicts")


def _refused(what: str, where: str, mend: str) -> AdapterError:
    return AdapterError(f"{what} · {where} · {mend}", detail="bad_request", phase="connect", answered=False)
