"""OpenAI's API over HTTP: what is the server's own about it."""

import asyncio
import json
from typing import Any

import pytest
from llama_orch_adapter_api import AdapterError, End, Token

from .serving import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Client,
    Engine,
    forever,
    serving,
    until,
    virtual,
    words,
)

ON = "[openai]\nenabled = true\n"
CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}


async def post(client: Client, body: Any = CHAT, path: str = "/v1/chat/completions", **facts: Any) -> Any:
    """A request: the status, the text, the headers."""
    url = client.url + path
    async with client.session.post(url, json={**body, **facts}) as response:
        return response.status, await response.text(), response.headers


@virtual
async def test_it_is_off_unless_asked_for() -> None:
    """Without the config there is no such route, and failures look as everywhere."""
    async with serving(Engine(words())) as client:
        status, text, _ = await post(client)

    assert status == 404
    assert json.loads(text)["kind"] == "error"


@virtual
async def test_failures_look_as_openai_tells_them() -> None:
    """Under its paths every answer from 400 up has an object `error`, whoever refused; under others none has."""
    async with serving(Engine(words()), toml=ON) as client:
        refused = [
            await post(client, path="/v1/embeddings"),
            await post(client, path="/v1/models"),
            await post(client, n=2),
            await post(client, model="other"),
        ]
        async with client.session.post(f"{client.url}/v1/completions", data=b"{}") as response:
            refused.append((response.status, await response.text(), response.headers))
        other, text, _ = await post(client, path="/v1/tasks")

    assert [status for status, _, _ in refused] == [404, 405, 400, 404, 415]
    assert all(set(json.loads(told)["error"]) == {"message", "type", "param", "code"} for _, told, _ in refused)
    assert refused[1][2]["Allow"] == "GET"
    assert (other, json.loads(text)["kind"]) == (400, "error")


@virtual
async def test_an_answer_names_its_task() -> None:
    """Whole or streamed, so that it can be looked at and found in the records."""
    engine = Engine(words(2))
    async with serving(engine, toml=ON) as client:
        chat = await post(client)
        text = await post(client, {"model": "chat", "prompt": "p"}, "/v1/completions", stream=True)

    assert [status for status, _, _ in (chat, text)] == [200, 200]
    assert json.loads(chat[1])["choices"][0]["message"]["content"] == "word word "
    assert text[1].endswith("data: [DONE]\n\n")
    assert [headers["X-Request-Id"] for _, _, headers in (chat, text)] == [task.task_id for task in engine.begun]


@virtual
async def test_a_stream_waits_for_its_status_and_then_for_its_token() -> None:
    """Until the first heartbeat the status is open, then the client is shown that the server lives."""
    engine = Engine(lambda _: [STARTED, 12.0, Token("a", 0), End(1, 1, "stop")])
    async with serving(engine, toml=f"{ON}[stream]\nheartbeat = 5.0") as client:
        began = asyncio.get_running_loop().time()
        async with client.session.post(f"{client.url}/v1/chat/completions", json={**CHAT, "stream": True}) as response:
            headed = asyncio.get_running_loop().time() - began
            text = await response.text()

    assert headed == pytest.approx(5.0, abs=0.5)
    assert text.startswith(":\n\ndata: {")
    assert text.endswith("data: [DONE]\n\n")
    assert response.content_type == "text/event-stream"
    assert response.headers["X-Request-Id"] == engine.begun[0].task_id


@virtual
async def test_a_failure_before_the_first_token_has_a_status() -> None:
    """As long as nothing was sent."""
    async with serving(Engine(lambda _: [STARTED, AdapterError("no", detail="unsupported")]), toml=ON) as client:
        early = [await post(client, stream=stream) for stream in (True, False)]
    slow = Engine(lambda _: [STARTED, 7.0, AdapterError("no", detail="unsupported")])
    async with serving(slow, toml=f"{ON}[stream]\nheartbeat = 5.0") as client:
        late, text, _ = await post(client, stream=True)

    assert [status for status, _, _ in early] == [400, 400]
    assert [json.loads(told)["error"]["code"] for _, told, _ in early] == ["unsupported"] * 2
    assert late == 200
    assert '"code":"unsupported"' in text
    assert "[DONE]" not in text


@pytest.mark.parametrize("stream", [False, True])
@virtual
async def test_what_a_stop_cuts_off_is_to_be_sent_elsewhere(stream: bool) -> None:
    """A stop that ends an answer is none of the client's doing: 503, and OpenAI's clients may send it again."""
    engine = Engine(forever())
    async with serving(engine, toml=ON) as client:
        asking = asyncio.create_task(post(client, stream=stream))
        await until(lambda: engine.said > 1)
        await client.stop(0)
        status, text, headers = await asking
        *events, last = [line.removeprefix("data: ") for line in text.split("\n") if line]
    error = json.loads(last)["error"]

    assert (status, bool(events)) == ((200, True) if stream else (503, False))
    assert stream or headers["X-Should-Retry"] == "true"
    assert (error["type"], error["code"]) == ("server_error", "drained")
    assert "send it again, to another host" in error["message"]


@virtual
@pytest.mark.parametrize("stream", [True, False])
async def test_a_task_that_somebody_cancels_is_no_answer(stream: bool) -> None:
    """It can be found by the id in the answer's, and cancelled as any other task; the client hears of it."""
    engine = Engine(words(50, 1.0))
    async with serving(engine, toml=ON) as client:
        asking = asyncio.ensure_future(post(client, stream=stream))
        await asyncio.sleep(3.5)
        assert await client.cancel(engine.begun[0].task_id) == 204
        status, text, _ = await asking

    assert status == (200 if stream else 499)
    assert '"code":"cancelled"' in text
    assert "[DONE]" not in text


@virtual
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_its_task_whatever_the_config_says(stream: bool) -> None:
    """Nobody can come back to an answer of this kind, so it is not kept for anybody."""
    engine = Engine(forever())
    toml = f"{ON}[stream]\ncancel_on_disconnect = false"
    async with serving(engine, toml=toml) as client:
        asking = asyncio.ensure_future(post(client, stream=stream))
        await until(lambda: engine.running == 1)
        await asyncio.sleep(2.5)
        asking.cancel()
        await until(lambda: engine.running == 0)

    assert engine.said < 6


@virtual
async def test_it_goes_through_the_same_queue() -> None:
    """A full queue refuses with the time to come again; interactive chats go before flexible ones."""
    engine = Engine(words(1, 10.0), slots=1)
    async with serving(engine, toml=f"{ON}[admission]\nqueue = 2") as client:
        asking = []
        for content, tier in (("first", "auto"), ("late", "flex"), ("soon", "auto")):
            message = {"role": "user", "content": content}
            asking.append(asyncio.ensure_future(post(client, messages=[message], service_tier=tier)))
            await asyncio.sleep(1)
        status, text, headers = await post(client)
        answers = await asyncio.gather(*asking)

    assert status == 429
    assert json.loads(text)["error"]["code"] == "rate_limit_exceeded"
    assert float(headers["Retry-After-Ms"]) > 0
    assert [answer[0] for answer in answers] == [200, 200, 200]
    assert [task.messages[0].content for task in engine.begun] == ["first", "soon", "late"]


@virtual
async def test_a_model_of_an_engine_that_tells_little() -> None:
    """A pool whose engine does not tell its context is a model without one; one that is no pool is not found."""
    async with serving(Engine(words()), toml=ON) as client:
        status, text = await client.get("/v1/models")
        one, alone = await client.get("/v1/models/chat")
        none, missing = await client.get("/v1/models/other")

    (model,) = json.loads(text)["data"]
    assert (status, one, none) == (200, 200, 404)
    assert model == json.loads(alone) == {"object": "model", "id": "chat", "owned_by": "words", "created": 0}
    assert json.loads(missing)["error"]["param"] == "model"
