"""Pools over HTTP: drained, filled again, and read from their file again."""

import asyncio
import secrets
from pathlib import Path
from typing import Any

import pytest
from llama_orch_adapter_api import Timeouts, WorkerHealth

from .serving import (  # type: ignore[import-not-found]  # test folders are no packages
    Client,
    Engine,
    forever,
    serving,
    shape,
    until,
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
        ("/v1/pools/nope/reload?undrain=true", 404, "bound: chat"),
        ("/v1/pools/chat/reload?undrain=true&replica_id=7", 404, "'7'"),
        ("/v1/pools/chat/reload?undrain=1", 400, "give undrain: true or false"),
        ("/v1/pools/chat/reload?replica_id=0", 400, "give undrain=true with it"),
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
    assert allowed in {202, 409}  # which has no file to read


def pools(*urls: str, engine: str = "words") -> str:
    replicas = ", ".join(f'{{ id = "{i}", url = "{url}" }}' for i, url in enumerate(urls))
    return f'[pools.chat]\nengine = "{engine}"\nreplicas = [{replicas}]\n'


async def reloaded(client: Client, file: Path, text: str) -> tuple[int, dict[str, Any]]:
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


def generations(report: dict[str, Any], field: str) -> dict[str, int]:
    """Of each replica that stands there."""
    return {each["replica_id"]: each["generation"] for each in report[field]}


@pytest.mark.parametrize("from_file", [True, False])
async def test_a_drain_is_undone(from_file: bool, tmp_path: Path) -> None:
    """Of one replica, then of the pool, as new generations; whether there is a file or not, which is not read."""
    file = tmp_path / "pools.toml"
    file.write_text(pools("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"))
    engines = [Engine(words()) for _ in range(6)]
    async with serving(*engines[:3], later=engines[3:], file=file if from_file else None) as client:
        file.write_text("[pools")
        await client.order("/v1/pools/chat/drain?wait=true")
        refused, body, _ = await client.post({"pool_id": "chat", "prompt": "x"})
        one = await client.order("/v1/pools/chat/reload?undrain=true&replica_id=1")
        found = await client.read(await client.send(replica_id="1"))
        rest = await client.order("/v1/pools/chat/reload?undrain=true")

    assert refused == 503
    assert "undo that: host.undrain(pool_id), or POST /v1/pools/{id}/reload?undrain=true" in body["message"]
    assert shape(found)[-1] == "end"
    assert (one[0], generations(one[1], "rebound"), one[1]["unchanged"]) == (200, {"1": 2}, [])
    assert (rest[0], generations(rest[1], "rebound")) == (200, {"0": 2, "2": 2})
    assert (generations(rest[1], "unchanged"), rest[1]["drained"], rest[1]["undo"]) == ({"1": 2}, [], [])


async def test_a_reload_undoes_no_drain(tmp_path: Path) -> None:
    """What was drained stays so while the file is put in force, and the answer tells how to undo it."""
    file = tmp_path / "pools.toml"
    text = '[pools."a b"]\nengine = "words"\nreplicas = [{ id = "x y" }]\n'
    file.write_text(text + pools("http://127.0.0.1:1", "http://127.0.0.1:2"))
    async with serving(*(Engine(words()) for _ in range(6)), file=file) as client:
        await client.order("/v1/pools/chat/drain?replica_id=0&wait=true")
        await client.order("/v1/pools/a%20b/drain?wait=true")
        more = text + pools("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3")
        status, report = await reloaded(client, file, more)
        undone = [await client.order(each.removeprefix("POST ")) for each in report["undo"]]

    assert status == 200
    assert (generations(report, "added"), report["rebound"]) == ({"2": 1}, [])
    assert generations(report, "drained") == {"x y": 1, "0": 1}
    assert [generations(body, "rebound") for _, body in undone] == [{"x y": 2}, {"0": 2}]


@virtual
async def test_one_that_is_down_keeps_no_other_one_drained() -> None:
    """200 with what came back and why the rest did not; 409 where nothing came back."""
    down = WorkerHealth(live=False, ready=False, state="down")
    engines = [Engine(words()) for _ in range(5)]
    engines[2].told = engines[4].told = down
    async with serving(*engines[:2], later=engines[2:], timeouts=Timeouts(preload=3.0)) as client:
        await client.order("/v1/pools/chat/drain?wait=true")
        some = await client.order("/v1/pools/chat/reload?undrain=true")
        found = await client.read(await client.send())
        none = await client.order("/v1/pools/chat/reload?undrain=true&replica_id=0")

    assert (some[0], generations(some[1], "rebound"), generations(some[1], "drained")) == (200, {"1": 2}, {"0": 1})
    assert "replica chat/0: it was not ready within 3 s" in some[1]["problems"][0]
    assert some[1]["undo"] == ["POST /v1/pools/chat/reload?undrain=true&replica_id=0"]
    assert shape(found)[-1] == "end"
    assert (none[0], len(none[1]["problems"])) == (409, 1)


@virtual
async def test_a_drain_while_one_is_undone_wins() -> None:
    """Whoever was told that a pool is drained sees it take no task afterwards; whoever undid it is told."""
    slow = Engine(words())
    slow.told = WorkerHealth(live=True, ready=False, state="loading")
    async with serving(Engine(words()), later=[slow]) as client:
        await client.order("/v1/pools/chat/drain?wait=true")
        undoing = asyncio.create_task(client.order("/v1/pools/chat/reload?undrain=true"))
        await until(lambda: slow.asked > 0)
        again, _ = await client.order("/v1/pools/chat/drain?wait=true")
        slow.told = WorkerHealth(live=True, ready=True, state="ready")
        status, body = await undoing
        refusal = client.host.refusal("chat")

    assert (again, status) == (200, 409)
    assert "drained again meanwhile" in body["message"]
    assert refusal is not None
    assert refusal.detail == "draining"


async def test_without_a_file_there_is_nothing_to_read_again() -> None:
    """409, and what is bound serves on."""
    async with serving(Engine(words())) as client:
        status, body = await client.order("/v1/pools/chat/reload")
        found = await client.read(await client.send())

    assert status == 409
    assert "without a config" in body["message"]
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
