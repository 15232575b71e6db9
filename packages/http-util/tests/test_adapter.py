"""What adapters of HTTP engines share, shown on the smallest one: any server that speaks OpenAI's dialect."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from llama_orch_adapter_api import (
    AdapterContext,
    AdapterError,
    Capabilities,
    DecodeTimeout,
    Embedding,
    End,
    PoolUnavailable,
    Started,
    TaskRequest,
    Timeouts,
    Token,
    TokenEvent,
    WorkerError,
    WorkerHealth,
    WorkerProps,
    WorkerReset,
)
from llama_orch_adapter_testkit import LoopbackEngine, Reply, run_virtual
from llama_orch_http_util import Exchange, HttpAdapter, Identity, Underway, mended
from llama_orch_http_util.openai import CHUNK, Answer, Chunk, body_of, path_of

TASK = TaskRequest(prompt="Hi", seed=7, sampler_profile_version="v3")
EMBED = TaskRequest(workload="embedding", inputs=("a",))
WHOLE = Reply.sse([{"choices": [{"text": "a"}]}, {"choices": [{"text": "b", "finish_reason": "stop"}]}, "[DONE]"])
CUT = Reply.sse([{"choices": [{"text": "a"}]}])
WHO = Reply.json(200, {"version": "1.0", "model": "m"})
LOADING = Reply.json(503, {"error": {"message": "Loading model"}})
POST, LIST, WHOIS, LOAD = ("POST", "/v1/completions"), ("POST", "/v1/embeddings"), ("GET", "/who"), ("GET", "/load")


class Told(msgspec.Struct):
    """The answers of this engine's own routes."""

    version: str = ""
    model: str = ""
    running: int = 0


TOLD = msgspec.json.Decoder(Told)


class Plain(HttpAdapter):
    """An adapter that adds nothing."""

    engine = "plain"

    async def health(self) -> WorkerHealth:
        return WorkerHealth(live=True, ready=True, state="ready")

    async def props(self) -> WorkerProps:
        known = await self.identity(once=False)
        self.knows(known)
        return WorkerProps(None, None, Capabilities(self.engine, known.version, known.model, datetime.now(UTC)))

    async def identity(self, *, once: bool) -> Identity:
        told = (await self.http.get("/who", once=once)).decode(TOLD, "/who")
        return Identity(told.version, told.model)

    def exchange(self, task: TaskRequest, model: str) -> Exchange[Chunk]:
        return Exchange(path_of(task), body_of(task, model) | task.extra, CHUNK, Answer(self.http.where))


class Confirming(Plain):
    """One that looks at its engine's load after a cancel."""

    async def cancel(self, task_id: str) -> None:
        await self.until_let_go(task_id, self._gone)

    async def _gone(self, task: Underway, others: Collection[Underway]) -> bool:
        assert task.head
        told = (await self.http.get("/load", once=True)).decode(TOLD, "/load")
        return told.running <= len(others)


@asynccontextmanager
async def asked(
    script: Mapping[tuple[str, str], Reply | Sequence[Reply]],
    kind: type[Plain] = Plain,
    http: Mapping[str, Any] | None = None,
) -> AsyncIterator[tuple[Plain, LoopbackEngine]]:
    """An adapter and its engine, which says who it is unless the script says otherwise."""
    async with LoopbackEngine({WHOIS: WHO, **script}) as engine:
        context = AdapterContext("pool", "r0", None, Timeouts(), http or {}, time.monotonic, print)
        adapter = kind(context, engine.url)
        try:
            yield adapter, engine
        finally:
            await adapter.aclose()


def paths(engine: LoopbackEngine) -> list[str]:
    return [request.path for request in engine.requests]


async def events_of(adapter: Plain, task: TaskRequest = TASK) -> list[TokenEvent]:
    return [event async for event in adapter.submit(task)]


# A task


async def test_a_task_is_streamed() -> None:
    """ORCH-3600: started, tokens, end; both ends carry the seed that was sent and the sampler profile."""
    async with asked({POST: WHOLE}) as (adapter, engine):
        events = await events_of(adapter)

        assert events == [
            Started("plain", "1.0", "m", "pool/r0", seed=7, sampler_profile_version="v3"),
            Token("a", 0),
            Token("b", 1),
            End(None, None, "stop", seed=7, sampler_profile_version="v3"),
        ]
        assert engine.requests[-1].json() == body_of(TASK, "m")


@pytest.mark.parametrize(
    ("seed", "told"), [(8, 8), (0, 0), (2**32 - 1, None), (-1, None), (True, None), ("8", None), (None, None)]
)
async def test_the_seed_is_the_one_that_was_sent(seed: object, told: int | None) -> None:
    """`extra` has the last word; what is no seed, or asks for a drawn one, is told as unknown."""
    async with asked({POST: WHOLE}) as (adapter, _):
        events = await events_of(adapter, TaskRequest(prompt="Hi", seed=7, extra={"seed": seed}))

    assert {event.seed for event in events if isinstance(event, Started | End)} == {told}


class Nested(Plain):
    """One whose engine has its own place for a seed, and its own words for a refusal."""

    def exchange(self, task: TaskRequest, model: str) -> Exchange[Chunk]:
        body = {"options": {"seed": task.seed}, "prompt": task.prompt}
        return Exchange(path_of(task), body, CHUNK, Answer(self.http.where))

    def seed_of(self, body: Mapping[str, Any]) -> object:
        return body["options"]["seed"]

    def meant(self, task: TaskRequest, error: WorkerError) -> WorkerError:
        return mended(error, "context_length", "shorten it") if "too many words" in error.message else error


async def test_a_seed_may_stand_elsewhere() -> None:
    """An adapter may say where its engine's bodies hold the seed; both ends carry that one."""
    async with asked({POST: WHOLE}, Nested) as (adapter, _):
        events = await events_of(adapter)

    assert {event.seed for event in events if isinstance(event, Started | End)} == {7}


@pytest.mark.parametrize(
    ("words", "detail", "mend"),
    [("too many words", "context_length", "shorten it"), ("odd words", "bad_request", "correct the request")],
)
async def test_an_engine_has_words_of_its_own(words: str, detail: str, mend: str) -> None:
    """An adapter may say what its engine's words mean, of a completion too; what it does not know stays as it is."""
    async with asked({POST: Reply.json(400, {"error": words})}, Nested) as (adapter, _):
        with pytest.raises(AdapterError, match=f"the engine answered 400: {words} .* {mend}") as caught:
            await events_of(adapter)

    assert (caught.value.detail, caught.value.phase) == (detail, "first_token")
    assert caught.value.__cause__ is None


async def test_a_mend_keeps_the_facts() -> None:
    """Told with another mend, a refusal is still of its phase and of so many attempts."""
    told = PoolUnavailable("busy · engine:8080 · wait", detail="overloaded", phase="connect", attempts=3)
    error = mended(told, "not_found", "look")

    assert (error.message, error.phase, error.attempts) == ("busy · engine:8080 · look", "connect", 3)


async def test_a_task_names_its_model() -> None:
    """A task that names none gets the engine's own; `Started` tells which."""
    async with asked({POST: WHOLE}) as (adapter, engine):
        events = [await events_of(adapter, TaskRequest(prompt="Hi", model_ref=name)) for name in (None, "other")]

        assert [each[0].model for each in events if isinstance(each[0], Started)] == ["m", "other"]
        assert [request.json()["model"] for request in engine.requests if request.method == "POST"] == ["m", "other"]


async def test_an_embedding_is_one_answer() -> None:
    """ORCH-3600: `extra` reaches the engine as it is, and the output comes with the end."""
    vector = Reply.json(200, {"data": [{"index": 0, "embedding": [1.5]}], "usage": {"prompt_tokens": 1}})
    async with asked({LIST: vector}) as (adapter, engine):
        events = await events_of(adapter, msgspec.structs.replace(EMBED, extra={"dimensions": 1}))

        assert events[1:] == [End(1, None, "stop", outputs=(Embedding(0, (1.5,)),))]
        assert engine.requests[-1].json()["dimensions"] == 1


@pytest.mark.parametrize(
    ("words", "detail"), [("Not Found", "unsupported"), ("The model `x` does not exist.", "not_found")]
)
async def test_an_absent_route_is_unsupported(words: str, detail: str) -> None:
    """A server without embeddings says so by a 404, as it does of a model it does not know; the words differ."""
    async with asked({LIST: Reply.json(404, {"detail": words})}) as (adapter, _):
        with pytest.raises(AdapterError, match=words) as caught:
            await events_of(adapter, EMBED)

    assert caught.value.detail == detail


async def test_an_engine_replaced_behind_its_url() -> None:
    """After a reset, who is there is asked again; after a refusal it is not."""
    who = [WHO, Reply.json(200, {"version": "2.0", "model": "m"})]
    script = {WHOIS: who, POST: [Reply.json(400, {"error": "no"}), CUT, WHOLE]}
    async with asked(script) as (adapter, _):
        with pytest.raises(AdapterError):
            await events_of(adapter)
        with pytest.raises(WorkerReset):
            await events_of(adapter)
        events = await events_of(adapter)

    assert isinstance(events[0], Started)
    assert events[0].engine_version == "2.0"


@pytest.mark.parametrize(("task", "route"), [(TASK, POST), (EMBED, LIST)], ids=["stream", "answer"])
async def test_a_task_that_is_given_up_drops_its_connection(task: TaskRequest, route: tuple[str, str]) -> None:
    """ORCH-3601: a cancel while the engine has not answered closes the connection; nothing else stops an engine."""
    async with asked({route: Reply.silence()}) as (adapter, engine):
        waiting = asyncio.create_task(events_of(adapter, task))
        request = await engine.request(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await request.disconnected()


# A look at the engine (ORCH-3611)


def test_a_look_is_tried_again() -> None:
    """Props of an engine that was loading come with a later attempt; so does its version (ORCH-3611)."""

    async def main() -> None:
        async with asked({WHOIS: [LOADING, WHO, LOADING, LOADING, WHO]}) as (adapter, engine):
            assert (await adapter.props()).capabilities.model_id == "m"
            assert paths(engine) == ["/who"] * 2
            assert await adapter.engine_version() == "1.0"
            assert paths(engine) == ["/who"] * 2
            adapter._known = None
            assert await adapter.engine_version() == "1.0"
            assert paths(engine) == ["/who"] * 5

    run_virtual(main())


@pytest.mark.parametrize(("http", "attempts"), [({}, 3), ({"retry": {"attempts": 1}}, 1), ({"retry": {"cap": 5}}, 3)])
def test_a_look_gives_up(http: Mapping[str, Any], attempts: int) -> None:
    """As often as the pool's http.retry says, then the last failure is told with its attempts (ORCH-3611, 3612)."""

    async def main() -> None:
        async with asked({WHOIS: LOADING}, http=http) as (adapter, engine):
            with pytest.raises(PoolUnavailable, match="Loading model") as caught:
                await adapter.props()

            assert caught.value.attempts == attempts
            assert paths(engine) == ["/who"] * attempts

    run_virtual(main())


async def test_a_task_asks_once() -> None:
    """What a task must know first is asked for once: the attempt is the host's, which retries the whole."""
    async with asked({WHOIS: [LOADING, WHO], POST: WHOLE}) as (adapter, engine):
        with pytest.raises(WorkerError, match="Loading model"):
            await events_of(adapter)
        assert paths(engine) == ["/who"]

        await events_of(adapter)
        await events_of(adapter)
        assert paths(engine)[1:] == ["/who", "/v1/completions", "/v1/completions"]


def test_a_look_that_is_given_up() -> None:
    """Who cancels a look between two attempts ends it at once, and the engine is not asked again (ORCH-3611)."""

    async def main() -> None:
        patient = {"retry": {"base": 100, "cap": 100, "patience": 1000}}
        waits = Reply.json(503, {"error": {"message": "Loading model"}}, headers={"Retry-After": "50"})
        async with asked({WHOIS: waits}, http=patient) as (adapter, engine):
            look = asyncio.create_task(adapter.props())
            await engine.request()
            await asyncio.sleep(40)
            look.cancel()
            with pytest.raises(asyncio.CancelledError):
                await look

            assert asyncio.get_running_loop().time() < 41
            assert paths(engine) == ["/who"]

    run_virtual(main())


# A cancel that is confirmed


def load(running: int) -> Reply:
    return Reply.json(200, {"running": running})


HUNG = Reply.sse([{"choices": [{"text": "a"}]}], hang=True)


async def begun(adapter: Plain, task: TaskRequest) -> AsyncIterator[TokenEvent]:
    """The task's stream, its first token taken."""
    stream = adapter.submit(task)
    while not isinstance(await anext(stream), Token):
        pass
    return stream


async def test_a_cancel_returns_when_the_engine_let_go() -> None:
    """ORCH-3601: the engine is asked until it works on no more than the others."""
    async with asked({POST: HUNG, LOAD: [load(2), load(2), load(1)]}, Confirming) as (adapter, engine):
        stream, other = await begun(adapter, TASK), await begun(adapter, TaskRequest(prompt="other"))
        await stream.aclose()  # type: ignore[attr-defined]  # submit gives an async generator
        await adapter.cancel(TASK.task_id)
        await other.aclose()  # type: ignore[attr-defined]  # as above

    assert paths(engine).count("/load") == 3


def test_a_cancel_that_the_engine_does_not_heed() -> None:
    """ORCH-3601: an engine that works on is given up within the 2 s that the host waits, and it is said."""

    async def main() -> None:
        async with asked({POST: HUNG, LOAD: load(1)}, Confirming) as (adapter, _):
            stream = await begun(adapter, TASK)
            await stream.aclose()  # type: ignore[attr-defined]  # as above
            began = asyncio.get_running_loop().time()
            with pytest.raises(DecodeTimeout, match="nobody saw the engine let go of the task"):
                await adapter.cancel(TASK.task_id)

            assert 1.9 <= asyncio.get_running_loop().time() - began < 2.0

    run_virtual(main())


@pytest.mark.parametrize(("task", "route"), [(TASK, POST), (EMBED, LIST)], ids=["stream", "answer"])
async def test_a_cancel_before_the_engine_answered(task: TaskRequest, route: tuple[str, str]) -> None:
    """ORCH-3601: whether it has the task then, nobody can tell, so the engine is not asked."""
    async with asked({route: Reply.silence()}, Confirming) as (adapter, engine):
        waiting = asyncio.create_task(events_of(adapter, task))
        await engine.request(1)
        waiting.cancel()
        await asyncio.wait([waiting])
        with pytest.raises(DecodeTimeout):
            await adapter.cancel(task.task_id)

        assert "/load" not in paths(engine)


async def test_a_cancel_of_what_is_not_underway() -> None:
    """ORCH-3601: a task that is whole, or was never sent, is in no slot: nobody is asked."""
    async with asked({POST: WHOLE}, Confirming) as (adapter, engine):
        await events_of(adapter)
        await adapter.cancel(TASK.task_id)
        await adapter.cancel(EMBED.task_id)

        assert "/load" not in paths(engine)
        assert (adapter._underway, adapter._left) == ({}, {})


async def test_what_ended_early_is_not_remembered_for_ever() -> None:
    """Of tasks that nobody cancels, the latest 1024 are kept."""
    async with asked({POST: CUT}) as (adapter, _):
        asyncio.get_running_loop().set_debug(False)
        tasks = [TaskRequest(prompt="Hi") for _ in range(1030)]
        for task in tasks:
            with pytest.raises(WorkerReset):
                await events_of(adapter, task)

        assert list(adapter._left) == [task.task_id for task in tasks[-1024:]]


async def test_cancels_are_not_confirmed_unless_an_adapter_does() -> None:
    """By itself an adapter does nothing more than close the stream."""
    async with asked({POST: HUNG}) as (adapter, engine):
        stream = await begun(adapter, TASK)
        await adapter.cancel(TASK.task_id)
        await stream.aclose()  # type: ignore[attr-defined]  # as above

        assert paths(engine) == ["/who", "/v1/completions"]


async def test_the_end_of_a_first_stream_is_not_that_of_a_second() -> None:
    """ORCH-3601: a task that was sent again while its first stream closes is still underway."""
    async with asked({POST: CUT}) as (adapter, _):
        first, second = (aiter(adapter.submit(TASK)) for _ in range(2))
        assert await anext(first) == await anext(second)
        await first.aclose()  # type: ignore[attr-defined]  # it is an async generator
        assert [*adapter._underway] == [TASK.task_id]

        await second.aclose()  # type: ignore[attr-defined]
        assert not adapter._underway
