"""What is refused before it is a task, and that every refusal says the mend."""

import gzip

import pytest

from .serving import Engine, serving, virtual, words  # type: ignore[import-not-found]

JSON = {"Content-Type": "application/json"}
GOOD = b'{"pool_id": "chat", "prompt": "a"}'


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "truncated"),
        (b"[1, 2]", "Expected `object`"),
        (b'{"prompt": "a"}', "pool_id"),
        (b'{"pool_id": "chat"}', "prompt or messages"),
        (b'{"pool_id": "chat", "prompt": "a", "max_tokens": "many"}', "$.max_tokens"),
        (b'{"pool_id": "chat", "prompt": "a", "max_tokens": 0}', "max_tokens is 0; give"),
        (b'{"pool_id": "chat", "prompt": "a", "colour": 1}', "colour"),
        (b'{"pool_id": "chat", "prompt": "\xff"}', "UTF-8"),
        (b'{"pool_id": "chat", "prompt": "a", "extra": ' + b'{"a":' * 100_000, "nested"),
        (b'{"pool_id": "chat", "prompt": "a", "' + b"x" * 100_000 + b'": 1}', "unknown field"),
        (b'{"pool_id": "chat", "prompt": "a", "max_tokens": 1e400}', "max_tokens"),
    ],
)
@virtual
async def test_what_is_no_task_is_refused_with_the_mend(body: bytes, says: str) -> None:
    """The refusal names the field, its place and what would be right, and is never long."""
    async with serving(Engine(words())) as client:
        async with client.session.post(f"{client.url}/v1/tasks", data=body, headers=JSON) as response:
            error = await response.json()

    assert response.status == 400
    assert (error["code"], error["retriable"]) == ("ADAPTER", False)
    assert says in error["message"]
    assert len(error["message"]) < 500


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (413, b'{"pool_id": "' + b"x" * 5000 + b'"}', JSON),
        (415, GOOD, {"Content-Type": "text/plain"}),
        (415, gzip.compress(GOOD, mtime=0), JSON | {"Content-Encoding": "gzip"}),
    ],
)
@virtual
async def test_what_is_no_plain_json_is_refused(status: int, body: bytes, headers: dict[str, str]) -> None:
    """Too large, another type (so that no web page can send tasks unasked), or packed: none of it is read."""
    async with serving(Engine(words()), toml="[server]\nmax_body = 4096") as client:
        async with client.session.post(f"{client.url}/v1/tasks", data=body, headers=headers) as response:
            error = await response.json()

    assert response.status == status
    assert error["code"] == "ADAPTER"


@virtual
async def test_what_does_not_exist_says_so() -> None:
    """A wrong path and a wrong method have an error as their body, with the mend, as everything else."""
    async with serving(Engine(words())) as client:
        async with client.session.get(f"{client.url}/v2/tasks") as nowhere:
            told = await nowhere.json()
            assert (nowhere.status, told["code"]) == (404, "ADAPTER")
            assert "GET /openapi.json" in told["message"]
        async with client.session.put(f"{client.url}/v1/tasks") as wrong:
            assert (wrong.status, wrong.headers["Allow"]) == (405, "POST")


@virtual
async def test_a_correlation_id_goes_all_the_way() -> None:
    """It comes back on every answer, the task's engine is told it, and one that is none gets another in its place."""
    engine = Engine(words())
    async with serving(engine) as client:
        _, body, headers = await client.post({"pool_id": "chat", "prompt": "a"}, **{"X-Correlation-Id": "shop-7"})
        async with client.open(body["task_id"]) as stream:
            await stream.read()
        task = {"pool_id": "chat", "prompt": "a", "correlation_id": "mine"}
        _, _, own = await client.post(task, **{"X-Correlation-Id": "shop-8"})
        _, _, refused = await client.post({**task, "pool_id": "nope", "correlation_id": "für mich"})
        _, _, bad = await client.post({"pool_id": "nope", "prompt": "a"}, **{"X-Correlation-Id": "a b" * 99})

    assert [each["X-Correlation-Id"] for each in (headers, own, refused)] == ["shop-7", "mine", "für mich"]
    assert [task.correlation_id for task in engine.begun] == ["shop-7", "mine"]
    made = {each["X-Correlation-Id"] for each in (bad, stream.headers)}
    assert len(made) == 2
    assert all(len(each) == 36 for each in made)
