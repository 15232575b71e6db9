"""OpenAI's own client against orchestratord: its errors, its retries, and what ends a task."""

import asyncio
import secrets
from typing import Any

import openai
import pytest
from llama_orch_adapter_testkit import VLLM, Asked, Piece, Reply

from .openai_served import (  # type: ignore[import-not-found]  # test folders are no packages
    HELLO,
    answering,
    fake,
    served,
    until,
)


async def test_a_wrong_key():
    """A key that is no token of the server's is an `AuthenticationError`."""
    async with served(fake(), key=secrets.token_hex(16)) as (client, _):
        with pytest.raises(openai.AuthenticationError) as failed:
            await client.models.list()

    assert (failed.value.type, failed.value.code) == ("authentication_error", "invalid_api_key")


async def test_an_unknown_model():
    """A model that is no pool is a `NotFoundError` that names those there are; so is a route that there is not."""
    async with served(fake(), role="control") as (client, _):
        with pytest.raises(openai.NotFoundError, match="give one of: chat") as failed:
            await client.chat.completions.create(model="gpt", messages=HELLO)
        with pytest.raises(openai.NotFoundError, match="give one of: chat"):
            await client.models.retrieve("gpt")
        with pytest.raises(openai.NotFoundError) as unserved:
            await client.responses.create(model="chat", input="x")

    assert (failed.value.param, failed.value.code) == ("model", "model_not_found")
    assert unserved.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("param", "asked"),
    [
        ("n", {"n": 2}),
        ("temperature", {"temperature": 200}),
        ("max_tokens", {"max_tokens": 0}),
        ("seed", {"seed": -1}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 3}),
        ("tool_choice", {"tool_choice": "required"}),
        ("messages[0].content[0].type", {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}),
        ("web_search_options", {"web_search_options": {}}),
    ],
    ids=["n", "temperature", "max_tokens", "seed", "top_logprobs", "tool_choice", "content", "unknown"],
)
async def test_a_bad_request(param: str, asked: Any):
    """What cannot be done as asked is a `BadRequestError` that names the field, and no engine is asked."""
    async with served(fake()) as (client, engine):
        with pytest.raises(openai.BadRequestError) as failed:
            await client.chat.completions.create(**{"model": "chat", "messages": HELLO, **asked})
        tasks = [request for request in engine.requests if request.body]

    assert failed.value.param == param
    assert param in failed.value.message
    assert tasks == []


async def test_what_the_engine_refuses():
    """A prompt beyond the context is a `BadRequestError`, streamed or not: the status waits for the first token."""
    async with served(answering(lambda _: VLLM.overflow())) as (client, _):
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as failed:
                await client.chat.completions.create(model="chat", messages=HELLO, stream=stream)

            assert failed.value.code == "context_length_exceeded"


async def test_a_failure_in_mid_stream():
    """A stream that breaks ends in an `APIError`, after all tokens that came before, and without `[DONE]`."""

    def broken(asked: Asked) -> Reply:
        return Reply.sse([VLLM.token(asked, Piece("one"), 1), *VLLM.broken(500, "out of memory")])

    async with served(answering(broken)) as (client, _):
        stream = await client.chat.completions.create(model="chat", messages=HELLO, stream=True)
        said = []
        with pytest.raises(openai.APIError) as failed:
            async for chunk in stream:
                said += [chunk.choices[0].delta.content]
        async with client.chat.completions.with_streaming_response.create(
            model="chat", messages=HELLO, stream=True
        ) as response:
            raw = [line async for line in response.iter_lines() if line]

    assert said == ["", "one"]
    assert failed.value.type == "server_error"
    assert raw[-1].startswith('data: {"error":{"message":')


FULL = "[admission]\nqueue = 1\nslots_if_unknown = 1"


async def test_a_full_queue():
    """One task too many is a `RateLimitError` that tells when to come again; the client comes then, and is served."""
    moments: list[tuple[float, int, float]] = []
    now = asyncio.get_running_loop().time

    async def note(response: Any) -> None:
        moments.append((now(), response.status_code, float(response.headers.get("retry-after-ms", 0)) / 1000))

    async with served(fake(tokens=10, pace=0.02), FULL) as (client, _):
        ask = client.chat.completions.create
        waiting = [asyncio.ensure_future(ask(model="chat", messages=HELLO)) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(openai.RateLimitError) as failed:
            await ask(model="chat", messages=HELLO)
        noting = openai.DefaultAsyncHttpxClient(event_hooks={"response": [note]})
        async with client.with_options(max_retries=5, http_client=noting) as patient:
            answer = await patient.chat.completions.create(model="chat", messages=HELLO)
        await asyncio.gather(*waiting)

    assert failed.value.code == "rate_limit_exceeded"
    assert float(failed.value.response.headers["retry-after"]) >= 1
    assert answer.choices[0].finish_reason == "length"
    (refused, status, wait), *_ = moments
    assert status == 429
    assert wait > 0
    assert moments[1][0] - refused >= wait


async def test_a_stream_that_is_closed():
    """Closing a stream ends its task: the engine sees its connection go, and its slot is free."""
    engine_ = fake(tokens=10_000, pace=0.005)
    async with served(engine_) as (client, _):
        stream = await client.chat.completions.create(model="chat", messages=HELLO, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        await until(lambda: engine_.generations[0].ended is not None)

    assert engine_.generations[0].tokens < 200


async def test_a_client_that_gives_up():
    """A client that waits no longer for a whole answer, at the engine or in the queue, ends its task as well."""
    engine_ = fake(tokens=10_000, pace=0.005)
    async with served(engine_, FULL) as (client, _):
        running = asyncio.ensure_future(client.chat.completions.create(model="chat", messages=HELLO))
        await until(lambda: bool(engine_.generations))
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.3).chat.completions.create(model="chat", messages=HELLO)
        running.cancel()
        await until(lambda: engine_.generations[0].ended is not None)
        answer = await client.chat.completions.create(model="chat", messages=HELLO, max_tokens=1)

    assert answer.choices[0].message.content == "hello.0 "
    assert [generation.tokens for generation in engine_.generations[1:]] == [1]
