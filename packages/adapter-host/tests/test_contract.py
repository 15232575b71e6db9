"""What an adapter yields is looked at: `Started` first, tokens by number, `End` last, nothing else (ORCH-3601)."""

from typing import Any

import pytest
from llama_orch_adapter_api import AdapterError, Error, Metrics, Started, Token, TokenEvent
from llama_orch_adapter_host._events import BreakerChanged

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Scripted,
    drained,
    end,
    host_of,
    task,
    virtual,
)
from .replicas import left_behind, record_of  # type: ignore[import-not-found]  # as above
from .streams import failure_of  # type: ignore[import-not-found]  # as above

ERROR = Error("INTERNAL", "the engine broke", "words", retriable=True)
METRICS = Metrics(tokens_out=1)

BROKEN: dict[str, tuple[tuple[Any, ...], str]] = {
    "error": ((STARTED, ERROR), "yielded an Error, which is no event of a stream"),
    "text": ((STARTED, "hello"), "yielded a str, which is no event of a stream"),
    "nothing": ((STARTED, None), "yielded a NoneType, which is no event of a stream"),
    "at once": ((ERROR,), "yielded an Error, which is no event of a stream"),
    "unannounced": ((Token("a", 0), end(1)), "yielded Token before Started"),
    "metrics first": ((METRICS, STARTED, Token("a", 0), end(1)), "yielded Metrics before Started"),
    "end alone": ((end(0),), "yielded End before Started"),
    "started twice": ((STARTED, STARTED, Token("a", 0), end(1)), "yielded a second Started"),
    "from one": ((STARTED, Token("a", 1), end(1)), "yielded token 1 where 0 was due"),
}
"""What breaks the contract before the first token, and what is said of it."""

BROKEN_LATER: dict[str, tuple[tuple[Any, ...], str]] = {
    "error": ((ERROR, end(1)), "yielded an Error, which is no event of a stream"),
    "started again": ((STARTED, end(1)), "yielded a second Started"),
    "a gap": ((Token("c", 2), end(2)), "yielded token 2 where 1 was due"),
    "twice": ((Token("a", 0), end(2)), "yielded token 0 where 1 was due"),
    "after metrics": ((METRICS, Token("a", 0), end(2)), "yielded token 0 where 1 was due"),
}
"""And after it."""


@pytest.mark.parametrize("name", BROKEN)
@virtual
async def test_a_stream_that_breaks_the_contract(name: str):
    """Before the commit the submit raises AdapterError (plugin), which is sent to nobody else, and is a fault."""
    script, what = BROKEN[name]
    adapters = Scripted(*script), Scripted(*script)
    async with host_of(*adapters) as host:
        with pytest.raises(AdapterError) as caught:
            await host.submit("pool", request := task())

        assert (caught.value.detail, caught.value.attempts) == ("plugin", 1)
        assert caught.value.message.startswith(f"the adapter for words {what} · pool/")
        assert [each.outcome for each in record_of(host, request).attempts] == ["fault"]
        assert left_behind(host) == []

    assert sum(adapter.freed for adapter in adapters) == 1


@pytest.mark.parametrize("name", BROKEN_LATER)
@virtual
async def test_a_stream_that_breaks_the_contract_later(name: str):
    """After the commit the stream gives what was right of it, and then raises AdapterError (plugin)."""
    script, what = BROKEN_LATER[name]
    adapter = Scripted(STARTED, Token("a", 0), *script)
    async with host_of(adapter) as host:
        events, error = await failure_of(await host.submit("pool", task()))

        assert events[:2] == [STARTED, Token("a", 0)]
        assert isinstance(error, AdapterError)
        assert (error.detail, error.phase) == ("plugin", "decode")
        assert f"the adapter for words {what} · pool/0" in error.message
        assert left_behind(host) == []

    assert adapter.freed == 1


@virtual
async def test_an_adapter_that_keeps_breaking_it():
    """A replica whose adapter goes on so is left alone, as with any other fault."""
    async with host_of(Scripted(STARTED, ERROR)) as host:
        states: list[str] = []
        host.observe(lambda event: states.append(event.state) if isinstance(event, BreakerChanged) else None)
        for _ in range(5):
            with pytest.raises(AdapterError):
                await host.submit("pool", task())

    assert states == ["open"]


@virtual
async def test_metrics_and_classes_of_its_own():
    """Metrics stand anywhere between, and are no token; nothing is asked for after the End."""

    class Word(Token, frozen=True, tag="token"):
        """A token of an adapter's own kind."""

    class Begun(Started, frozen=True, tag="started"):
        """And such a beginning."""

    begun = Begun("words", "1", "model", "pool/0")
    events: list[TokenEvent] = [begun, METRICS, Word("a", 0), METRICS, Token("b", 1), METRICS, end(2)]
    async with host_of(Scripted(*events, Token("never", 2))) as host:
        stream = await host.submit("pool", task())
        given = await drained(stream)

    assert given == events
