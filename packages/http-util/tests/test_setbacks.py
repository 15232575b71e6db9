"""What is done about each way in which HTTP/2 may fail a request (case 8 of the fallback)."""

from typing import get_args

import pytest
from llama_orch_http_util._setbacks import FLAWS, Reason, Step, after, of_end, of_goaway, of_reset

AGAIN = Step("again")
MOVE = Step("1.1", mark=True)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("reason", ["other_version", "unstarted", "http_1_1_required", "rejected"])
def test_what_the_peer_did_not_look_at(reason: Reason, method: str) -> None:
    """A request that no HTTP/2 was begun for goes to HTTP/1.1 at once, a POST too, and the origin is marked."""
    assert after(reason, method, 0, only_2=False) == MOVE


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_the_peer_refused(method: str) -> None:
    """A refused stream is sent once more, and when refused again goes to HTTP/1.1, a POST too."""
    assert [after("refused", method, before, only_2=False) for before in range(2)] == [AGAIN, MOVE]


def test_what_a_goaway_left_out() -> None:
    """A stream above a GOAWAY's last is sent on a new connection, and not for ever."""
    assert [after("drained", "POST", before, only_2=False) for before in range(33)] == [*[AGAIN] * 32, MOVE]
    assert [after("useless", "POST", before, only_2=False) for before in range(3)] == [*[AGAIN] * 2, MOVE]


def test_a_breach_of_the_protocol() -> None:
    """After an error of the connection the origin is marked, and only what may be repeated is."""
    assert after("violated", "GET", 0, only_2=False) == MOVE
    assert after("violated", "POST", 0, only_2=False) == Step("raise", mark=True)


def test_a_stale_connection() -> None:
    """A GET on a kept connection that was closed is repeated once, as over HTTP/1.1; a POST is its sender's."""
    assert [after("stale", "GET", before, only_2=False).go for before in range(2)] == ["again", "raise"]
    assert after("stale", "POST", 0, only_2=False) == Step("raise")


def test_what_http1_would_meet_as_well() -> None:
    """What is not HTTP/2's fault is raised, and the origin keeps its good name; a full house is passed by."""
    assert after("broken", "GET", 0, only_2=False) == Step("raise")
    assert after("crowded", "POST", 0, only_2=False) == Step("1.1", mark=False)


@pytest.mark.parametrize("reason", get_args(Reason))
def test_who_wants_nothing_else(reason: Reason) -> None:
    """Where only HTTP/2 is to be spoken, every setback ends in its error."""
    steps = [after(reason, "GET", before, only_2=True).go for before in range(50)]

    assert set(steps) <= {"again", "raise"}
    assert steps[-1] == "raise"


def test_what_a_reset_means() -> None:
    """INTERNAL_ERROR is the engine's fault; the reasons of two that misunderstand each other are HTTP/2's."""
    assert of_reset("INTERNAL_ERROR") == of_reset("CANCEL") == of_reset("ENHANCE_YOUR_CALM") == "broken"
    assert {of_reset(code) for code in FLAWS} == {"violated"}
    assert of_reset("REFUSED_STREAM") == "refused"
    assert of_reset("HTTP_1_1_REQUIRED") == "http_1_1_required"


def test_what_a_goaway_means() -> None:
    """A request that was not looked at is told by the reason why; one that perhaps was may have done its work."""
    assert {of_goaway(code, first=first) for code in FLAWS for first in (True, False)} == {"rejected"}
    assert [of_goaway("NO_ERROR", first=first) for first in (True, False)] == ["useless", "drained"]
    assert of_goaway("HTTP_1_1_REQUIRED", first=True) == "http_1_1_required"
    assert {of_end(code) for code in (*FLAWS, "HTTP_1_1_REQUIRED")} == {"violated"}
    assert {of_end(code) for code in (None, "NO_ERROR", "INTERNAL_ERROR")} == {"broken"}
