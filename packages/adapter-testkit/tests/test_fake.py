import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from llama_orch_adapter_testkit import VLLM, Asked, Behaviour, FakeEngine, LoopbackEngine, Piece, captures

from .client import ask, connect, events, get, post  # type: ignore[import-not-found]  # test folders are no packages

NATIVE = captures.load("llamacpp", "completion_stream")
OPENAI = captures.load("vllm", "v1_completions_stream")
BODY = {"prompt": "a b", "n_predict": 3}
MESSAGES = {"messages": [{"role": "user", "content": "a b"}], "max_tokens": 3}


def shape(document: Any) -> Any:
    """A document with its values replaced by their types; lists keep their first item."""
    if isinstance(document, dict):
        return {name: shape(value) for name, value in document.items()}
    if isinstance(document, list):
        return [shape(each) for each in document[:1]]
    return type(document).__name__


@pytest.mark.parametrize(("path", "body"), [("/completion", BODY), ("/v1/chat/completions", MESSAGES)])
async def test_llamacpp_streams_its_tokens(path: str, body: dict[str, Any]):
    """Every token says whose and which it is, and the connection is closed after the stream."""
    fake = FakeEngine(Behaviour())
    async with LoopbackEngine(fake) as engine:
        got = events(await ask(engine.url, post(path, body, close=False)))

    text = "".join(each.get("content", "") or _delta(each) for each in got if each != "[DONE]")
    assert text == "a b.0 a b.1 a b.2 "
    assert (got[-1] == "[DONE]") == (path != "/completion")
    assert [(each.subject, each.tokens, each.ending) for each in fake.generations] == [("a b", 3, "answered")]


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/completions", {**BODY, "max_tokens": 3, "n_predict": None}), ("/v1/chat/completions", MESSAGES)],
)
async def test_vllm_keeps_its_connection(path: str, body: dict[str, Any]):
    """A second stream comes on the connection of the first; usage and [DONE] end each."""
    async with LoopbackEngine(FakeEngine(Behaviour(dialect="vllm"))) as engine:
        reader, writer = await connect(engine.url)
        answers = []
        for _ in range(2):
            writer.write(post(path, body, close=False))
            answers.append(events(await reader.readuntil(b"\r\n0\r\n\r\n")))
        writer.close()
        await writer.wait_closed()

    assert answers[0] == answers[1]
    assert answers[0][-2]["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert answers[0][-1] == "[DONE]"
    assert [request.number for request in engine.requests] == [0, 1]


async def test_events_have_the_shape_of_the_captures():
    """What a fake says, a real engine says under the same names and with the same types."""
    async with LoopbackEngine(FakeEngine(Behaviour())) as engine:
        native = events(await ask(engine.url, post("/completion", BODY)))
    async with LoopbackEngine(FakeEngine(Behaviour(dialect="vllm"))) as engine:
        openai = events(await ask(engine.url, post("/v1/completions", BODY)))
    real_native, real_openai = events(NATIVE.response), events(OPENAI.response)

    assert shape(native[0]) == shape(real_native[0])
    assert shape(native[-1]).keys() <= shape(real_native[-1]).keys()
    assert set(openai[0]) <= set(real_openai[0])
    assert set(openai[0]["choices"][0]) <= set(real_openai[0]["choices"][0])
    assert shape(openai[-2]["usage"]) == shape(real_openai[-2]["usage"])


@pytest.mark.parametrize(
    ("dialect", "paths"),
    [("llamacpp", ["/health", "/props", "/slots"]), ("vllm", ["/health", "/version", "/v1/models", "/metrics"])],
)
async def test_an_engine_says_what_it_is(dialect: Any, paths: list[str]):
    """Each dialect has its own routes, and 404 for all others."""
    async with LoopbackEngine(FakeEngine(Behaviour(dialect=dialect))) as engine:
        answers = [await ask(engine.url, get(path)) for path in [*paths, "/nowhere"]]

    assert [int(answer.split()[1]) for answer in answers] == [*(200 for _ in paths), 404]


async def test_slots_tell_the_seeds_of_what_they_work_on():
    """As llama.cpp's do: what a task is known by in its engine."""
    async with LoopbackEngine(FakeEngine(Behaviour(slots=2))) as engine:
        reader, writer = await connect(engine.url)
        writer.write(post("/completion", {**BODY, "seed": 7, "n_predict": 100_000, "fake": {"pace": 0.01}}))
        await reader.readuntil(b"data: ")
        slots = json.loads((await ask(engine.url, get("/slots"))).split(b"\r\n\r\n")[1])
        writer.close()

    assert slots == [
        {"id": 0, "n_ctx": 2048, "is_processing": True, "params": {"seed": 7}},
        {"id": 1, "n_ctx": 2048, "is_processing": False},
    ]


@pytest.mark.parametrize(("asked", "told"), [(0, [-0.5]), (1, [-0.5]), (None, None)])
def test_no_alternatives_are_a_wish_for_logprobs_too(asked: int | None, told: list[float] | None):
    """A prompt with `logprobs` 0 gets the chosen tokens' own, as at vLLM; one without gets none."""
    question = Asked("/v1/completions", {"prompt": "a", "logprobs": asked}, "a")
    (chunk,) = events(b"\r\n\r\n" + VLLM.token(question, Piece("b", logprob=-0.5), 1))
    logprobs = chunk["choices"][0]["logprobs"]

    assert (logprobs and logprobs["token_logprobs"]) == told


async def test_slots_are_shared():
    """Over its slots a request gets its head at once and its tokens when a slot is free; the load tells of both."""
    async with LoopbackEngine(FakeEngine(Behaviour(slots=1))) as engine:
        first, second = [await connect(engine.url) for _ in range(2)]
        first[1].write(post("/completion", {**BODY, "n_predict": 100_000, "fake": {"pace": 0.01}}))
        await first[0].readuntil(b"data: ")
        second[1].write(post("/completion", BODY))
        await second[0].readuntil(b"\r\n\r\n")
        busy = await ask(engine.url, get("/slots?fail_on_no_slot=1"))
        first[1].close()
        rest = await second[0].read()
        free = await ask(engine.url, get("/slots?fail_on_no_slot=1"))
        second[1].close()

    assert busy.startswith(b"HTTP/1.1 503")
    assert json.loads(busy.split(b"\r\n\r\n")[1])["error"]["message"] == "no slot available"
    assert events(rest)[-1]["tokens_predicted"] == 3
    assert free.startswith(b"HTTP/1.1 200")


async def test_waiting_is_told_in_the_metrics():
    """vLLM's gauges say how many requests run and how many wait."""
    async with LoopbackEngine(FakeEngine(Behaviour(dialect="vllm", slots=1, pace=5.0))) as engine:
        both = [await connect(engine.url) for _ in range(2)]
        for reader, writer in both:
            writer.write(post("/v1/completions", BODY))
            await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.05)
        metrics = await ask(engine.url, get("/metrics"))
        for _, writer in both:
            writer.close()

    assert b'vllm:num_requests_running{engine="0"} 1.0' in metrics
    assert b'vllm:num_requests_waiting{engine="0"} 1.0' in metrics


async def test_a_loading_engine_refuses_everything():
    """While it loads, every path answers 503, and then it serves."""
    async with LoopbackEngine(FakeEngine(Behaviour(loading=0.2))) as engine:
        early = await ask(engine.url, get("/health"))
        await asyncio.sleep(0.25)
        later = await ask(engine.url, get("/health"))

    assert b"Loading model" in early
    assert early.startswith(b"HTTP/1.1 503")
    assert later.startswith(b"HTTP/1.1 200")


async def test_refusals_come_by_seed():
    """A share of the generations is refused with its status and Retry-After, the same ones for the same seed."""
    runs = []
    for seed in (1, 1, 2):
        behaviour = Behaviour(refuse={429: 0.5}, retry_after=7, seed=seed, tokens=1)
        async with LoopbackEngine(FakeEngine(behaviour)) as engine:
            runs.append([await ask(engine.url, post("/completion", {"prompt": "a"})) for _ in range(20)])
    refused = [[answer.startswith(b"HTTP/1.1 429") for answer in run] for run in runs]

    assert refused[0] == refused[1] != refused[2]
    assert 0 < sum(refused[0]) < 20
    assert all(b"Retry-After: 7\r\n" in answer for answer in runs[0] if b" 429 " in answer[:20])


async def test_paced_and_stamped_tokens():
    """A stamped token tells when it was made; paced, they are made that far apart."""
    behaviour = Behaviour(stamped=True, pace=0.02, padding=60)
    async with LoopbackEngine(FakeEngine(behaviour)) as engine:
        got = events(await ask(engine.url, post("/completion", BODY)))
    texts = [each["content"] for each in got if not each["stop"]]
    moments = [float(text.split("@")[1]) for text in texts]

    assert {len(text) for text in texts} == {60}
    assert all(later - earlier >= 0.019 for earlier, later in pairwise(moments))


async def test_kept_connections_are_mistreated():
    """Each n-th request on a kept connection is reset unread, and after so many requests a connection is closed."""
    fake = FakeEngine(Behaviour(dialect="vllm", reset_reused=3, per_connection=3))
    async with LoopbackEngine(fake) as engine:
        answered = []
        while fake.resets_of_reused == 0:
            reader, writer = await connect(engine.url)
            count = 0
            try:
                while True:
                    writer.write(get("/health", close=False))
                    await reader.readuntil(b"\r\n\r\n")
                    count += 1
            except (ConnectionError, asyncio.IncompleteReadError):
                answered.append(count)
            writer.close()

    assert answered == [3, 1]
    assert fake.generations == []


async def test_an_answer_can_end_in_every_way():
    """A toxic ends the answer of a live engine: by a close, by a reset, or by a silence that the client ends."""
    fake = FakeEngine(Behaviour())
    ways = [{"kind": kind, "after": 150} for kind in ("limit_data", "reset", "timeout")]
    seen = []
    async with LoopbackEngine(fake) as engine:
        for way in ways:
            reader, writer = await connect(engine.url)
            writer.write(post("/completion", {**BODY, "fake": {"toxics": [way]}}))
            came = await reader.readexactly(150)
            try:
                async with asyncio.timeout(0.2):
                    seen.append(f"{len(came)} and {len(await reader.read())}")
            except (ConnectionResetError, TimeoutError) as error:
                seen.append(f"{len(came)} and {type(error).__name__}")
            writer.close()
        await engine.deserted()

    assert seen == ["150 and 0", "150 and ConnectionResetError", "150 and TimeoutError"]
    assert [each.ending for each in fake.generations] == ["answered", "answered", "left"]


async def test_only_kept_connections_are_dropped_when_idle():
    """A connection is dropped so long after an answer, never before its first request."""
    async with LoopbackEngine(FakeEngine(Behaviour(dialect="vllm")), idle=0.05) as engine:
        reader, writer = await connect(engine.url)
        await asyncio.sleep(0.1)
        writer.write(get("/health", close=False))
        answer = await reader.read()
        writer.close()

    assert answer.startswith(b"HTTP/1.1 200")


async def sent_to_nobody(buffer: int) -> int:
    """Bytes of an endless answer that are written before its reader's not reading stops it."""
    async with LoopbackEngine(FakeEngine(Behaviour(padding=1000)), send_buffer=buffer) as engine:
        _, writer = await connect(engine.url)
        writer.write(post("/completion", {"prompt": "a", "n_predict": 1_000_000}))
        request, sent = await engine.request(), -1
        while sent != request.sent or not sent:
            sent = request.sent
            await asyncio.sleep(0.1)
        writer.close()
    return sent


async def test_what_nobody_reads_is_bounded():
    """The smaller the send buffer, the sooner an answer stops that nobody reads."""
    small, large = await sent_to_nobody(4096), await sent_to_nobody(2_000_000)

    assert 65_536 < small < large


def test_a_behaviour_goes_through_json():
    """Options survive JSON, toxics and statuses included."""
    body = {"fake": {"toxics": [{"kind": "reset", "after": 3}], "refuse": {"503": 0.5}}}
    behaviour = Behaviour(pace=0.5).for_request(body)

    assert Behaviour.of(json.loads(json.dumps(behaviour.options()))) == behaviour
    assert (behaviour.toxics[0].after, behaviour.refuse, behaviour.pace) == (3, {503: 0.5}, 0.5)


def _delta(event: dict[str, Any]) -> str:
    choices = event.get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""
