"""Pools over HTTP: drained, and read from their file again."""

import asyncio
import secrets
from pathlib import Path

import pytest
from llama_orch_adapter_api import Timeouts

from .serving import (  # type: ignore[import-not-found]  # test folders are no packages
    Client,
    Engine,
    forever,
    serving,
    shape,
    virtual,
    words,
)

PATIENT = Timeouts(drain=30.0)


@virtual
async def test_a_drain_begins_at_once() -> None:
    """202 before a stream ends; new tasks are 503 from then on, and what runs comes to its end."""
    async with serving(Engine(words(5, 1.0)), timeouts=PATIENT) as client:
        task_id = await client.send()
        answer = await client.order("/v1/pools/chat/drain")
        status, body, _ = await client.post({"pool_id": "chat", "prompt": "one more"})
        found = await client.read(task_id)

    assert answer == (202, {"pool_id": "chat", "replica_id": None, "status": "draining"})
    assert status == 503
    assert "being drained" in body["message"]
    assert shape(found) == ["started", *["token"] * 5, "end"]


@virtual
async def test_a_drain_may_be_waited_for() -> None:
    """With wait=true, 200 comes with the last stream, and tells how many the pool's limit cut."""
    async with serving(Engine(words(5, 1.0)), timeouts=PATIENT) as client:
        await client.send()
        ended = await client.order("/v1/pools/chat/drain?wait=true")
    async with serving(Engine(forever()), timeouts=Timeouts(drain=2.0)) as client:
        task_id = await client.send()
        cut = await client.order("/v1/pools/chat/drain?wait=true")
        found = await client.read(task_id)

    assert ended == (200, {"pool_id": "chat", "replica_id": None, "cut": 0, "status": "drained"})
    assert cut == (200, {"pool_id": "chat", "replica_id": None, "cut": 1, "status": "drained"})
    assert found[-1].data["code"] == "WORKER_RESET"


@virtual
async def test_what_waits_for_a_drained_pool_is_told_at_once() -> None:
    """Nothing takes it any more, so it does not wait for those that run on."""
    async with serving(Engine(words(3, 0.5), slots=1)) as client:
        running, waiting = await client.send(), await client.send()
        await client.order("/v1/pools/chat/drain")
        async with asyncio.timeout(0.5):
            (error,) = await client.read(waiting)
        found = await client.read(running)

    assert (error.event, error.data["code"]) == ("error", "POOL_UNAVAILABLE")
    assert shape(found)[-1] == "end"


@virtual
async def test_one_replica_may_be_drained() -> None:
    """The others of its pool go on taking tasks."""
    first, second = Engine(words()), Engine(words())
    async with serving(first, second) as client:
        status, body = await client.order("/v1/pools/chat/drain?replica_id=0&wait=true")
        for _ in range(4):
            assert shape(await client.read(await client.send()))[-1] == "end"

    assert (status, body["replica_id"]) == (200, "0")
    assert (len(first.begun), len(second.begun)) == (0, 4)


@virtual
async def test_a_drain_goes_on_without_its_client() -> None:
    """Who waits and leaves stops nothing; and the process can stop while one goes on."""
    async with serving(Engine(forever()), timeouts=PATIENT) as client:
        await client.send()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await client.order("/v1/pools/chat/drain?wait=true")
        await client.order("/v1/pools/chat/drain")
        refusal = client.host.refusal("chat")

    assert refusal is not None
    assert refusal.detail == "draining"


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("/v1/pools/nope/drain", 404, "bound: chat"),
        ("/v1/pools/chat/drain?replica_id=7", 404, "'7'"),
        ("/v1/pools/chat/drain?replica=0", 400, "unknown field `replica`; give replica_id"),
        ("/v1/pools/chat/drain?replica_id=", 400, "`$.replica_id`"),
        ("/v1/pools/chat/drain?replica_id=0&replica_id=1", 400, "twice"),
        ("/v1/pools/chat/drain?wait=yes", 400, "true or false"),
        ("/v1/pools/nope/reload", 404, "bound: chat"),
    ],
)
async def test_what_cannot_be_done_changes_nothing(path: str, status: int, told: str) -> None:
    """A pool or replica that is not there, a query that is misspelt, a host without a file: told, and all goes on."""
    async with serving(Engine(words())) as client:
        got, body = await client.order(path)

        assert got == status
        assert told in body["message"]
        assert client.host.refusal("chat") is None


TOML = """
[auth]
tokens = [{ env = "T1", role = "tasks" }, { env = "T2", role = "control" }]
"""


@pytest.mark.parametrize("verb", ["drain", "reload"])
async def test_the_role_tasks_may_not(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes a pool takes a token of `control`."""
    tasks, control = secrets.token_hex(16), secrets.token_hex(16)
    monkeypatch.setenv("T1", tasks)
    monkeypatch.setenv("T2", control)
    async with serving(Engine(words()), toml=TOML) as client:
        status, body = await client.order(f"/v1/pools/chat/{verb}", Authorization=f"Bearer {tasks}")
        allowed, _ = await client.order(f"/v1/pools/chat/{verb}", Authorization=f"Bearer {control}")

    assert status == 403
    assert "control" in body["message"]
    assert allowed in {200, 202}


def pools(*urls: str, engine: str = "words") -> str:
    replicas = ", ".join(f'{{ id = "{i}", url = "{url}" }}' for i, url in enumerate(urls))
    return f'[pools.chat]\nengine = "{engine}"\nreplicas = [{replicas}]\n'


async def reloaded(client: Client, file: Path, text: str) -> tuple[int, dict[str, object]]:
    await asyncio.to_thread(file.write_text, text)
    status, body = await client.order("/v1/pools/chat/reload")
    return status, body


async def test_a_reload_puts_the_file_in_force(tmp_path: Path) -> None:
    """200 with what became of each replica, while a stream runs on where it was; the same file again is no change."""
    file = tmp_path / "pools.toml"
    file.write_text(pools("http://127.0.0.1:1", "http://127.0.0.1:2"))
    async with serving(Engine(words(5, 0.1)), Engine(words()), Engine(words()), file=file) as client:
        task_id = await client.send(replica_id="0")
        status, report = await reloaded(client, file, pools("http://127.0.0.1:9"))
        again = await client.order("/v1/pools/chat/reload")
        found = await client.read(task_id)

    def bound(*places: tuple[str, int]) -> list[dict[str, object]]:
        return [{"pool_id": "chat", "replica_id": r, "engine": "words", "generation": g} for r, g in places]

    assert status == again[0] == 200
    assert report["rebound"] == bound(("0", 2))
    assert report["removed"] == bound(("1", 1))
    assert again[1]["unchanged"] == bound(("0", 2))
    assert shape(found) == ["started", *["token"] * 5, "end"]


@pytest.mark.parametrize("from_file", [True, False])
async def test_a_reload_undoes_a_drain(from_file: bool, tmp_path: Path) -> None:
    """What was drained in the pool is rebound, also where its file did not change, and where there is none."""
    file = tmp_path / "pools.toml"
    file.write_text(pools("http://127.0.0.1:1", "http://127.0.0.1:2"))
    engines = [Engine(words()) for _ in range(4)]
    async with serving(*engines[:2], later=engines[2:], file=file if from_file else None) as client:
        await client.order("/v1/pools/chat/drain?wait=true")
        refused, body, _ = await client.post({"pool_id": "chat", "prompt": "x"})
        status, report = await client.order("/v1/pools/chat/reload")
        found = await client.read(await client.send(replica_id="0"))

    assert refused == 503
    assert "undo that with a reload of this one" in body["message"]
    assert (status, [each["generation"] for each in report["rebound"]]) == (200, [2, 2])
    assert (report["unchanged"], report["added"]) == ([], [])
    assert shape(found)[-1] == "end"


async def test_a_reload_that_fails_tells_every_problem(tmp_path: Path) -> None:
    """409 with each problem by itself; what was bound serves on."""
    file = tmp_path / "pools.toml"
    file.write_text(pools("http://127.0.0.1:1"))
    async with serving(Engine(words()), file=file) as client:
        bad = pools("http://127.0.0.1:1", engine="nope") + '[pools.two]\nengine = "nada"\nreplicas = [{ url = "x" }]\n'
        status, body = await reloaded(client, file, bad)
        found = await client.read(await client.send())

    problems = body["problems"]
    assert isinstance(problems, list)
    assert status == 409
    assert [any(name in problem for problem in problems) for name in ("nope", "nada")] == [True, True]
    assert all(problem in str(body["message"]) for problem in problems)
    assert shape(found)[-1] == "end"


@virtual
async def test_nothing_is_changed_while_it_stops() -> None:
    """Drain and reload are 503 then, and a pool's health is nobody's to tell."""
    async with serving(Engine(words(5, 1.0))) as client:
        await client.send()
        closing = await client.stop(drain=30.0)
        for verb in ("drain", "reload"):
            status, body = await client.order(f"/v1/pools/chat/{verb}")
            assert status == 503
            assert "stopping" in body["message"]
        health, _ = await client.get("/v1/pools/chat/health")
        await closing

    assert health == 503
