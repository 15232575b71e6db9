"""What the engine refuses, and in which words the host hears of it."""

import pytest
from llama_orch_adapter_testkit import (
    Reply,
    outcome,
)

from .replays import (  # type: ignore[import-not-found]  # test folders are no packages
    CHAT,
    COMPLETIONS,
    REFUSALS,
    SECRET,
    SHELF,
    TASKS,
    met_with,
    running,
)

MENDS = {
    "bad_request": "correct the request",
    "context_length": "shorten the prompt",
    "auth": "set api_key",
    "not_found": "check url and model",
}


def test_every_refusal_is_expected_to_be_something():
    """No captured answer with an error status is left out of the table."""
    assert REFUSALS.keys() == {name for name, one in SHELF.items() if one.status >= 400}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_says_what_where_and_the_mend(name: str):
    """Status and the engine's own words decide; the message names both, the engine and the mend, never the prompt."""
    async with running({("POST", COMPLETIONS): Reply.capture(SHELF[name])}) as (adapter, engine):
        seen = await outcome(adapter, TASKS[COMPLETIONS])

    expected = REFUSALS[name]
    assert seen.events == ()
    assert seen.error is not None
    assert (type(seen.error), seen.error.detail) == (expected.kind, expected.detail)
    assert seen.error.message.startswith(f"the engine answered {expected.words}")
    assert f" · {engine.url.removeprefix('http://')} · {MENDS[expected.detail]}" in seen.error.message
    assert SECRET not in str(seen.error)
    assert (seen.error.retriable, seen.error.engine_fault) == (False, False)


async def test_a_refusal_does_not_repeat_what_was_sent():
    """The engine quotes the offending input in its own words; the message leaves that out."""
    seen = await met_with(Reply.capture(SHELF["err_temp_str"]))

    assert b"'input': 'hot'" in SHELF["err_temp_str"].body
    assert seen.error is not None
    assert "hot" not in seen.error.message


@pytest.mark.parametrize("status", [429, 503])
async def test_an_overloaded_engine_may_ask_to_wait(status: int):
    """Too many tasks: to be tried again, elsewhere at once, here after the seconds of Retry-After."""
    seen = await met_with(Reply.json(status, {"error": {"message": "busy"}}, headers={"Retry-After": "7"}), CHAT)

    assert seen.failure == "POOL_UNAVAILABLE overloaded"
    assert seen.error is not None
    assert (seen.error.retry_after, seen.error.retriable, seen.error.engine_fault) == (7.0, True, False)
