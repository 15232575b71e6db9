"""What the engine refuses, and in which words the host hears of it."""

import pytest
from llama_orch_adapter_api import (
    InternalError,
)
from llama_orch_adapter_testkit import (
    Reply,
    outcome,
)

from .replays import (  # type: ignore[import-not-found]  # test folders are no packages
    CHAT,
    NATIVE,
    REFUSALS,
    SECRET,
    SHELF,
    STREAMS,
    TASKS,
    met_with,
    running,
)

RETRIABLE = {"loading", "overloaded", "engine"}
MENDS = {
    "bad_request": "correct the request",
    "context_length": "shorten the prompt",
    "auth": "set api_key",
    "not_found": "check url and model",
    "unsupported": "start the engine with this feature",
    "loading": "wait until it is ready",
    "overloaded": "wait, or add replicas",
    "engine": "look at the engine's own log",
}


def test_every_refusal_is_expected_to_be_something():
    """No captured answer with an error status is left out of the table."""
    assert REFUSALS.keys() == {name for name, one in SHELF.items() if one.status >= 400}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_says_what_where_and_the_mend(name: str):
    """Status and the engine's own words decide; the message names both, the engine and the mend, never the prompt."""
    async with running({("POST", NATIVE): Reply.capture(SHELF[name])}) as (adapter, engine):
        seen = await outcome(adapter, TASKS[NATIVE])

    expected = REFUSALS[name]
    assert seen.events == ()
    assert seen.error is not None
    assert (type(seen.error), seen.error.detail) == (expected.kind, expected.detail)
    assert seen.error.message.startswith(f"the engine answered {expected.words}")
    assert f" · {engine.url.removeprefix('http://')} · {MENDS[expected.detail]}" in seen.error.message
    assert SECRET not in str(seen.error)
    assert (seen.error.retriable, seen.error.engine_fault) == (
        expected.detail in RETRIABLE,
        expected.kind is InternalError,
    )


async def test_an_overflowing_queue_may_ask_to_wait():
    """The seconds of Retry-After come with the error."""
    refused = Reply.json(503, {"error": {"message": "no slot available"}}, headers={"Retry-After": "7"})
    seen = await met_with(refused, CHAT)

    assert seen.error is not None
    assert seen.error.retry_after == 7.0


@pytest.mark.parametrize("name", ["completion_stream", "v1_chat_stream"])
async def test_a_finished_answer_is_not_held_up(name: str):
    """The finish event ends a task, though the engine then neither says more nor closes the connection."""
    one, path = SHELF[name], STREAMS[name].path
    finish = b'"stop":true' if path == NATIVE else b'"finish_reason":"length"'
    end_of_event = one.response.index(b"\n\n", one.response.index(finish)) + 2
    seen = await met_with(Reply.capture(one, stop_after=end_of_event, hang=True), path)

    assert seen.end is not None
    assert seen.end.finish_reason == "length"
    assert seen.text == "".join(STREAMS[name].text)
