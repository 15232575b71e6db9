"""What keeps a request from its answer over HTTP/2, and what is done about it: one table, no I/O."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from ._retry import IDEMPOTENT

Reason = Literal[
    "other_version",  # the peer chose HTTP/1.1 in the TLS handshake
    "unstarted",  # it chose HTTP/2, and did not get as far as its SETTINGS
    "http_1_1_required",  # it says so itself
    "rejected",  # it ended the connection for an error, not having looked at this request
    "refused",  # it refused this stream, not having looked at it
    "drained",  # it ended the connection in good order, having looked at others, not at this request
    "useless",  # it ended the connection in good order before it looked at any
    "violated",  # one of the two breached the protocol, and the request may have been looked at
    "stale",  # a kept connection ended without a word
    "crowded",  # every connection that may be opened has all the streams it may have
    "closed",  # the client was, by its own side
    "broken",  # anything that HTTP/1.1 would have met as well
]
"""In what way it failed. Only before the answer's head is anything but the failure itself made of it."""


class Setback(Exception):  # it happens to a request, and most of them nobody notices
    """A request over HTTP/2 got no answer; `error` is what it means if nothing can be done about it."""

    def __init__(self, reason: Reason, error: Exception) -> None:
        super().__init__(reason)
        self.reason: Reason = reason
        self.error = error


class Step(NamedTuple):
    """What to do next; `mark`: from now on this origin is spoken to over HTTP/1.1, for the cool-down."""

    go: Literal["again", "1.1", "raise"]
    mark: bool = False


class Rule(NamedTuple):
    """`again`: how often a request is sent over HTTP/2 once more. `idempotent`: only such may be sent at all."""

    again: int
    then: Literal["1.1", "raise"]
    mark: bool
    idempotent: bool = False


_RULES: Mapping[Reason, Rule] = {
    "other_version": Rule(0, "1.1", mark=True),
    "unstarted": Rule(0, "1.1", mark=True),
    "http_1_1_required": Rule(0, "1.1", mark=True),
    "rejected": Rule(0, "1.1", mark=True),
    "refused": Rule(1, "1.1", mark=True),
    "drained": Rule(32, "1.1", mark=True),
    "useless": Rule(2, "1.1", mark=True),
    "violated": Rule(0, "1.1", mark=True, idempotent=True),
    "stale": Rule(1, "raise", mark=False, idempotent=True),
    "crowded": Rule(0, "1.1", mark=False),
    "closed": Rule(0, "raise", mark=False),
    "broken": Rule(0, "raise", mark=False),
}

FLAWS = frozenset({
    *("PROTOCOL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED"),
    *("FRAME_SIZE_ERROR", "COMPRESSION_ERROR", "INADEQUATE_SECURITY"),
})  # fmt: skip
"""Reasons that a peer gives when the two do not understand each other's HTTP/2."""


def after(reason: Reason, method: str, before: int, *, only_2: bool) -> Step:
    """The next step of a request that met this setback, and `before` as many of its kind before.

    `only_2`: HTTP/1.1 is not to be spoken.
    """
    rule = _RULES[reason]
    if rule.idempotent and method not in IDEMPOTENT:
        return Step("raise", mark=rule.mark)
    if before < rule.again:
        return Step("again")
    return Step("raise" if only_2 else rule.then, mark=rule.mark)


def of_goaway(code: str, *, first: bool) -> Reason:
    """What it means for a request that the peer ended the connection before it looked at it, or (`first`) at any."""
    if code == "HTTP_1_1_REQUIRED":
        return "http_1_1_required"
    if code in FLAWS:
        return "rejected"
    return "useless" if first else "drained"


def of_end(code: str | None) -> Reason:
    """What it means for a request that the peer looked at, perhaps, that the connection broke after this GOAWAY."""
    return "violated" if code in FLAWS or code == "HTTP_1_1_REQUIRED" else "broken"


def of_reset(code: str) -> Reason:
    """What it means that the peer reset a stream before its head."""
    if code == "REFUSED_STREAM":
        return "refused"
    if code == "HTTP_1_1_REQUIRED":
        return "http_1_1_required"
    return "violated" if code in FLAWS else "broken"
