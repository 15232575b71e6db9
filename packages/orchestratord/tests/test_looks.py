"""What replicas can do, and what became of a task."""

import asyncio
import json

import msgspec
import pytest
from llama_orch_adapter_host import CapabilitySnapshot

from .serving import Client, Engine, forever, serving, virtual, words  # type: ignore[import-not-found]


async def capabilities(client: Client, *tags: str) -> tuple[int, bytes, str]:
    headers = {"If-None-Match": ", ".join(tags)} if tags else {}
    async with client.session.get(f"{client.url}/v1/capabilities", headers=headers) as response:
        assert response.headers["Cache-Control"] == "no-cache"
        return response.status, await response.read(), response.headers["ETag"]


async def test_capabilities_are_the_hosts() -> None:
    """ORCH-3620: the body is the host's own snapshot, of every pool and replica."""
    async with serving(Engine(words(), slots=2), Engine(words())) as client:
        status, body, _ = await capabilities(client)
        snapshot = msgspec.json.decode(body, type=CapabilitySnapshot)

    assert status == 200
    replicas = snapshot.pools["chat"].replicas
    assert {name: seen.slots_total for name, seen in replicas.items()} == {"0": 2, "1": 4}
    assert {seen.capabilities.model_id for seen in replicas.values() if seen.capabilities} == {"m"}


@virtual
async def test_capabilities_ask_no_engine() -> None:
    """They are a cache: an engine that would not answer holds up nobody."""
    engine = Engine(words())
    async with serving(engine) as client:
        before = engine.asked
        asked = [(await capabilities(client))[0] for _ in range(20)]

        assert asked == [200] * 20
        assert engine.asked == before


@virtual
async def test_the_tag_is_of_the_content_without_times() -> None:
    """Looks that find nothing new leave the tag as it is, and 304 has no body; a change of what it can do does not."""
    engine = Engine(words(), slots=2)
    async with serving(engine) as client:
        _, first, tag = await capabilities(client)
        await asyncio.sleep(60)
        _, later, same = await capabilities(client)
        unchanged = await capabilities(client, '"other"', tag)
        strong = await capabilities(client, tag.removeprefix("W/"))
        anything = await capabilities(client, "*")
        engine.slots = 3
        await asyncio.sleep(60)
        changed, _, other = await capabilities(client, tag)

    assert first != later
    assert tag == same != other
    assert unchanged == strong == anything == (304, b"", tag)
    assert changed == 200


@pytest.mark.parametrize("tag", ["", "nonsense", 'W/"', "\u00e9", '"a" "b"'])
async def test_a_tag_that_is_none_matches_nothing(tag: str) -> None:
    """What is no list of tags is as if it were not there."""
    async with serving(Engine(words())) as client:
        assert (await capabilities(client, tag))[0] == 200


@virtual
async def test_a_task_is_explained() -> None:
    """While it runs and after it ended: which replica, why, and how it went."""
    async with serving(Engine(words(3, 1.0))) as client:
        task_id = await client.send(correlation_id="mine")
        await asyncio.sleep(1.5)
        running = await client.get(f"/v1/tasks/{task_id}/explain")
        await client.read(task_id)
        ended = await client.get(f"/v1/tasks/{task_id}/explain")

    runs, ends = json.loads(running[1]), json.loads(ended[1])
    assert (running[0], ended[0]) == (200, 200)
    assert (runs["task_id"], runs["correlation_id"], "ending" in runs) == (task_id, "mine", False)
    assert (ends["ending"], ends["tokens_out"], ends["attempts"][0]["replica"]) == ("ok", 3, "chat/0")
    assert "say something" not in ended[1]


@virtual
async def test_what_was_sent_nowhere_has_no_record() -> None:
    """404 for a task that was never here, and for one that waits; the message says which it is."""
    async with serving(Engine(forever(), slots=1)) as client:
        await client.send()
        waits = await client.get(f"/v1/tasks/{await client.send()}/explain")
        unknown = await client.get("/v1/tasks/nope/explain")

    assert (waits[0], unknown[0]) == (404, 404)
    assert "is queued, and was sent to no replica" in waits[1]
    assert "is not known" in unknown[1]
