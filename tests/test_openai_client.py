"""OpenAI's own client against orchestratord: answers, whole and in chunks, over fake engines and a real one."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from llama_orch_adapter_testkit import Piece
from openai.types.chat import ChatCompletionChunk

from .conftest import Serving  # type: ignore[import-not-found]  # test folders are no packages
from .openai_served import (  # type: ignore[import-not-found]  # test folders are no packages
    HELLO,
    WEATHER,
    fake,
    saying,
    served,
)

PAGE = Path(__file__).parents[1] / "docs" / "orchestratord.md"


async def read(stream: openai.AsyncStream[ChatCompletionChunk]) -> list[ChatCompletionChunk]:
    return [chunk async for chunk in stream]


async def test_a_chat_in_one_piece():
    """A chat without `stream` is answered by one document, with the usage and what names it."""
    async with served(fake()) as (client, _):
        answer = await client.chat.completions.create(model="chat", messages=HELLO, max_tokens=3)

    (choice,) = answer.choices
    assert (answer.object, answer.model, answer.system_fingerprint) == ("chat.completion", "chat", "vllm-0.32.0")
    assert (choice.message.role, choice.message.content) == ("assistant", "hello.0 hello.1 hello.2 ")
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (1, 3, 4)
    assert answer.id == f"chatcmpl-{answer._request_id}"


async def test_a_chat_in_chunks():
    """With `stream` the role comes first, then each token as it comes, the finish, and the usage where it is wanted."""
    async with served(fake()) as (client, _):
        chunks = await read(
            await client.chat.completions.create(
                model="chat", messages=HELLO, max_tokens=3, stream=True, stream_options={"include_usage": True}
            )
        )

    first, *tokens, finish, usage = chunks
    assert {chunk.id for chunk in chunks} == {first.id}
    assert first.choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in tokens] == ["hello.0 ", "hello.1 ", "hello.2 "]
    assert (finish.choices[0].delta.content, finish.choices[0].finish_reason) == (None, "length")
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.total_tokens == 4


async def test_a_chat_without_usage_has_none():
    """No chunk tells of the usage where it was not asked for."""
    async with served(fake()) as (client, _):
        chunks = await read(
            await client.chat.completions.create(model="chat", messages=HELLO, max_tokens=1, stream=True)
        )

    assert [len(chunk.choices) for chunk in chunks] == [1, 1, 1]
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)


async def test_a_prompt_in_one_piece():
    """A prompt, also as the only one of a list, is completed in one document."""
    async with served(fake()) as (client, _):
        answer = await client.completions.create(model="chat", prompt=["once"], max_tokens=2)

    assert (answer.object, answer.choices[0].text) == ("text_completion", "once.0 once.1 ")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2


async def test_a_prompt_in_chunks():
    """A prompt is completed token by token."""
    async with served(fake()) as (client, _):
        stream = await client.completions.create(
            model="chat", prompt="once", max_tokens=2, stream=True, stream_options={"include_usage": True}
        )
        *chunks, usage = [chunk async for chunk in stream]

    assert [chunk.choices[0].text for chunk in chunks] == ["once.0 ", "once.1 ", ""]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "length"]
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 2


async def test_the_engine_gets_what_was_asked():
    """Each parameter that changes the answer reaches the engine; those that do not are passed over."""
    async with served(fake()) as served_:
        await served_.client.chat.completions.create(
            model="chat",
            messages=[
                {"role": "developer", "content": "be short"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what is this?"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
                    ],
                },
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": "call_7", "type": "function", "function": {"name": "tool_0", "arguments": "{}"}}
                    ],
                },
                {"role": "tool", "tool_call_id": "call_7", "content": "rain"},
            ],
            max_completion_tokens=2,
            temperature=0.5,
            top_p=0.25,
            stop=["END"],
            seed=7,
            presence_penalty=0.5,
            frequency_penalty=-0.5,
            logit_bias={"5": -100},
            tools=[WEATHER],
            tool_choice={"type": "function", "function": {"name": "tool_0"}},
            parallel_tool_calls=False,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
            user="somebody",
            metadata={"a": "b"},
            store=False,
            service_tier="flex",
            extra_body={"top_k": 20, "extra": {"guided_regex": "a+"}},
        )
        sent = served_.sent()

    assert sent.pop("messages") == [
        {"role": "developer", "content": "be short"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "what is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_7", "type": "function", "function": {"name": "tool_0", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "call_7", "content": "rain"},
    ]
    (tool,) = sent.pop("tools")
    assert tool["function"] == {"name": "tool_0", "description": "Tells it.", "parameters": {"type": "object"}}
    assert sent.pop("response_format")["json_schema"]["schema"] == {"type": "object"}
    expected = {
        "max_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 20,
        "stop": ["END"],
        "seed": 7,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"5": -100.0},
        "tool_choice": {"type": "function", "function": {"name": "tool_0"}},
        "parallel_tool_calls": False,
        "guided_regex": "a+",
    }
    assert {name: sent.get(name) for name in expected} == expected
    assert not {"user", "metadata", "store", "service_tier", "extra"} & set(sent)


CALLS = (
    Piece('{"city":', "tool_call", call=0),
    Piece(' "Oslo"}', "tool_call", call=0),
    Piece("{}", "tool_call", call=1),
)


async def test_tool_calls_in_one_piece():
    """Calls of tools stand in the message, whose content is null."""
    async with served(saying(*CALLS, finish="tool_calls")) as (client, _):
        answer = await client.chat.completions.create(model="chat", messages=HELLO, tools=[WEATHER])

    (choice,) = answer.choices
    calls: list[Any] = list(choice.message.tool_calls or ())
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("call_0", "tool_0", '{"city": "Oslo"}'),
        ("call_1", "tool_1", "{}"),
    ]


async def test_tool_calls_in_chunks():
    """The client's own helper puts streamed calls of tools together, and tells of each when it is whole."""
    async with served(saying(Piece("let me see"), *CALLS, finish="tool_calls")) as (client, _):
        async with client.chat.completions.stream(model="chat", messages=HELLO, tools=[WEATHER]) as stream:
            done = [event.arguments async for event in stream if event.type == "tool_calls.function.arguments.done"]
            message: Any = (await stream.get_final_completion()).choices[0].message

    assert done == ['{"city": "Oslo"}', "{}"]
    assert message.content == "let me see"
    called = [(call.id, call.function.name) for call in message.tool_calls]
    assert called == [("call_0", "tool_0"), ("call_1", "tool_1")]


async def test_reasoning_is_told_apart():
    """What a model thinks comes as `reasoning_content`, whole and in chunks."""
    pieces = (Piece("hm ", "reasoning"), Piece("well", "reasoning"), Piece("yes"))
    async with served(saying(*pieces)) as (client, _):
        answer: Any = await client.chat.completions.create(model="chat", messages=HELLO)
        stream = await client.chat.completions.create(model="chat", messages=HELLO, stream=True)
        deltas: list[Any] = [chunk.choices[0].delta for chunk in await read(stream)]

    message = answer.choices[0].message
    assert (message.reasoning_content, message.content) == ("hm well", "yes")
    assert [delta.reasoning_content for delta in deltas if hasattr(delta, "reasoning_content")] == ["hm ", "well"]
    assert [delta.content for delta in deltas if delta.content] == ["yes"]


async def test_logprobs_of_a_chat():
    """Each token of the content has its logprob and its bytes; what is impossible is -9999, as at OpenAI."""
    async with served(saying(Piece("é", logprob=-0.5), Piece("x", logprob=-1e6))) as (client, _):
        answer = await client.chat.completions.create(model="chat", messages=HELLO, logprobs=True)
        stream = await client.chat.completions.create(model="chat", messages=HELLO, logprobs=True, stream=True)
        chunks = await read(stream)

    told = answer.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert [(each.token, each.logprob, each.bytes) for each in told.content] == [
        ("é", -0.5, [0xC3, 0xA9]),
        ("x", -9999.0, [0x78]),
    ]
    streamed = [each for chunk in chunks if (found := chunk.choices[0].logprobs) for each in found.content or ()]
    assert streamed == told.content


async def test_logprobs_of_a_prompt():
    """Each token has its logprob and the place where it begins in the answer."""
    async with served(saying(Piece("one", logprob=-0.5), Piece("two", logprob=-0.25))) as (client, _):
        answer = await client.completions.create(model="chat", prompt="p", logprobs=0)
        stream = await client.completions.create(model="chat", prompt="p", logprobs=0, stream=True)
        offsets = [chunk.choices[0].logprobs.text_offset async for chunk in stream if chunk.choices[0].logprobs]

    told = answer.choices[0].logprobs
    assert told is not None
    assert (told.tokens, told.token_logprobs, told.text_offset) == (["one", "two"], [-0.5, -0.25], [0, 3])
    assert offsets == [[0], [3]]


async def test_models_are_pools():
    """Each pool is a model, with the context that its replicas have."""
    async with served(fake()) as (client, _):
        models: list[Any] = [model async for model in client.models.list()]
        one = await client.models.retrieve("chat")

    assert [(model.id, model.object, model.owned_by, model.max_model_len) for model in models] == [
        ("chat", "model", "vllm", 2048)
    ]
    assert one == models[0]


@pytest.mark.real_engine
@pytest.mark.timeout(180)
def test_a_real_model(serve: Callable[..., Serving]):
    """`serve --embedded --openai` alone is enough for OpenAI's client: the same seed gives the same chat, in chunks.

    What docs/orchestratord.md shows runs as it stands, but for the port.
    """
    serving = serve("--embedded", "--threads", "1", "--openai")
    asked: Any = {"model": "embedded", "messages": HELLO, "max_tokens": 12, "seed": 7, "temperature": 0.9}
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="unused") as client:
        whole = client.chat.completions.create(**asked)
        chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        text = client.completions.create(model="embedded", prompt="Count: 1, 2, 3,", max_tokens=8, logprobs=0)
    (shown,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    shown = shown.replace("http://127.0.0.1:8700", serving.url)
    ran = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, timeout=60, check=True)
    code, _ = serving.stop()

    said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(said) == whole.choices[0].message.content
    assert len(list(filter(None, said))) > 4
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert whole.usage.completion_tokens == chunks[-1].usage.completion_tokens == 12
    assert text.choices[0].logprobs is not None
    assert len(text.choices[0].logprobs.token_logprobs or ()) == 8
    assert len(ran.stdout) > 20
    assert code == 130
