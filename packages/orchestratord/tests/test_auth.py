"""Who may do what."""

import asyncio
import hmac
import secrets

import pytest
from llama_orch_adapter_api import Secret
from llama_orch_adapter_host import ConfigError
from llama_orch_orchestratord._auth import Keyring, check_exposed, foreign, may
from llama_orch_orchestratord._config import AccessToken, AuthSettings, ServerConfig, ServerSettings, TlsSettings
from multidict import CIMultiDict

from .serving import Client, Engine, serving, words  # type: ignore[import-not-found]  # test folders are no packages

TASKS, NEXT, CONTROL = (secrets.token_urlsafe(24) for _ in range(3))
TOKENS = (
    AccessToken(Secret(TASKS), "tasks"),
    AccessToken(Secret(NEXT), "tasks"),
    AccessToken(Secret(CONTROL), "control"),
)
TOML = """
[auth]
tokens = [{ env = "T1", role = "tasks" }, { env = "T2", role = "tasks" }, { env = "T3", role = "control" }]
"""

BAD = {
    "missing": [],
    "empty": [("Authorization", "")],
    "another scheme": [("Authorization", f"Basic {CONTROL}")],
    "no token": [("Authorization", "Bearer")],
    "wrong": [("Authorization", "Bearer wrong")],
    "the beginning of one": [("Authorization", f"Bearer {CONTROL[:-1]}")],
    "one and more": [("Authorization", f"Bearer {CONTROL}x")],
    "twice": [("Authorization", f"Bearer {CONTROL}"), ("Authorization", f"Bearer {CONTROL}")],
    "no text": [("Authorization", "Bearer \u00fc\u00fc")],
}


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, token in (("T1", TASKS), ("T2", NEXT), ("T3", CONTROL)):
        monkeypatch.setenv(name, token)


async def ask(client: Client, method: str, path: str, headers: object = None) -> tuple[int, str, CIMultiDict[str]]:
    async with client.session.request(method, client.url + path, headers=headers) as response:
        return response.status, await response.text(), CIMultiDict(response.headers)


async def raw(client: Client, head: str) -> str:
    """What is answered to the lines of a head, until the server closes."""
    reader, writer = await asyncio.open_connection(*client.url.removeprefix("http://").split(":"))
    writer.write(f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
    try:
        async with asyncio.timeout(10):
            return (await reader.read()).decode()
    finally:
        writer.close()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_token_opens_its_role():
    """Two tokens of one role are both good, so that one can be replaced; the scheme's case does not matter."""
    keyring = Keyring(TOKENS)

    assert keyring.role(f"Bearer {TASKS}") == "tasks"
    assert keyring.role(f"bearer {NEXT}") == "tasks"
    assert keyring.role(f"BEARER {CONTROL} ") == "control"


NOTHING = (None, "", "Bearer", "Bearer ", TASKS, f"Basic {TASKS}", f"Bearer {TASKS}x", f"Bearer {TASKS[:-1]}")


@pytest.mark.parametrize("given", NOTHING, ids=range(len(NOTHING)))
def test_what_opens_nothing(given: str | None):
    """Whatever is no known bearer token has no role."""
    assert Keyring(TOKENS).role(given) is None


SOME = (*NOTHING, f"Bearer {TASKS}", f"Bearer {CONTROL}")


@pytest.mark.parametrize("given", SOME, ids=range(len(SOME)))
def test_every_token_takes_the_same_work(given: str | None, monkeypatch: pytest.MonkeyPatch):
    """Missing, wrong and right ones are hashed, and compared with every known digest by `hmac.compare_digest`."""
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    keyring = Keyring(TOKENS)
    monkeypatch.setattr(hmac, "compare_digest", compare)
    keyring.role(given)

    assert len(compared) == len(TOKENS)
    assert {len(digest) for pair in compared for digest in pair} == {32}


@pytest.mark.parametrize(
    ("method", "resource", "allowed"),
    [
        ("POST", "/v1/tasks", True),
        ("GET", "/v1/tasks/{task_id}/stream", True),
        ("POST", "/v1/tasks/{task_id}/cancel", True),
        ("POST", "/v1/chat/completions", True),
        ("GET", "/v1/capabilities", True),
        ("GET", "/v1/pools/{pool_id}/health", True),
        ("GET", "/metrics", True),
        ("POST", "/v1/pools/{pool_id}/drain", False),
        ("POST", "/v1/pools/{pool_id}/reload", False),
        ("DELETE", "/v1/whatever/comes/later", False),
    ],
)
def test_the_role_tasks_changes_nothing_but_tasks(method: str, resource: str, allowed: bool):
    """It reads everything; a change of anything else, also of what may come, is for `control`."""
    assert may("tasks", method, resource) == allowed
    assert may("control", method, resource)


@pytest.mark.parametrize("headers", BAD.values(), ids=BAD)
async def test_missing_and_wrong_are_one_answer(tokens: None, headers: list[tuple[str, str]]):
    """401 with the same body and headers, for paths that exist and those that do not; nothing is done."""
    engine = Engine(words())
    async with serving(engine, toml=TOML) as client:
        plain = await ask(client, "POST", "/v1/tasks")
        for method, path in (
            ("POST", "/v1/tasks"),
            ("GET", "/v1/tasks/x/stream"),
            ("GET", "/nope"),
            ("PUT", "/v1/tasks"),
        ):
            status, body, got = await ask(client, method, path, CIMultiDict(headers))

            assert (status, body) == (401, plain[1])
            assert got["WWW-Authenticate"] == "Bearer"
            assert set(got) == set(plain[2])
    assert engine.begun == []


@pytest.mark.parametrize("expected", ["100-continue", "more"])
async def test_what_is_expected_tells_nothing(tokens: None, expected: str):
    """Whatever `Expect` says, nobody without a token learns by it which paths and methods there are."""
    async with serving(Engine(words()), toml=TOML) as client:
        plain = await ask(client, "POST", "/v1/tasks")
        for method, path in (
            ("POST", "/v1/tasks"),
            ("POST", "/nope"),
            ("POST", "/v1/nope"),
            ("DELETE", "/v1/tasks"),
            ("PUT", "/v1/pools/x/drain"),
        ):
            answer = await raw(client, f"{method} {path} HTTP/1.1\r\nHost: x\r\nExpect: {expected}\r\n")
            head, _, body = answer.partition("\r\n\r\n")

            assert head.split("\r\n")[0] == "HTTP/1.1 401 Unauthorized"
            assert body == plain[1]


async def test_what_is_not_served_names_its_methods(tokens: None):
    """To who has a token, 405 tells which methods a path has, and 404 that it has none, also with `Expect`."""
    async with serving(Engine(words()), toml=TOML) as client:
        for more in ({}, {"Expect": "more"}):
            status, _, headers = await ask(client, "DELETE", "/v1/tasks/x", bearer(TASKS) | more)
            assert (status, headers["Allow"]) == (405, "GET")
            assert (await ask(client, "DELETE", "/v1/x", bearer(TASKS) | more))[0] == 404


async def test_who_has_a_token_is_let_in(tokens: None):
    """Each token sends tasks; what a role may not do is 403, which names the role that may."""
    async with serving(Engine(words()), toml=TOML) as client:
        for token in (TASKS, NEXT, CONTROL):
            status, body, _ = await client.post({"pool_id": "chat", "prompt": "hello"}, **bearer(token))
            assert status == 202, body
        status, body, _ = await ask(client, "POST", "/v1/pools/chat/drain", bearer(TASKS))
        allowed, _, _ = await ask(client, "POST", "/v1/pools/chat/drain", bearer(CONTROL))

    assert status == 403
    assert "send a token of 'control'" in body
    assert allowed == 202


@pytest.mark.parametrize("token", [TASKS, CONTROL], ids=["tasks", "control"])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/nope", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("POST", "/v1/pools/chat/drain/", 404),
        ("DELETE", "/v1/pools/chat/drain", 405),
        ("POST", "/v1/pools/chat/health", 405),
        ("POST", "/metrics", 405),
    ],
)
async def test_what_is_not_served_takes_no_role(tokens: None, token: str, method: str, path: str, status: int):
    """Whoever has a token is told that there is no such path or method, not that another token would have it."""
    async with serving(Engine(words()), toml=f"{TOML}[openai]\nenabled = true\n") as client:
        got, body, _ = await ask(client, method, path, bearer(token))

    assert got == status
    assert "control" not in body


async def test_only_the_signs_of_life_are_open(tokens: None):
    """Without a token, `/healthz` answers, also that it has no other method; what tells of pools or tasks does not."""
    async with serving(Engine(words()), toml=TOML) as client:
        assert (await ask(client, "GET", "/healthz"))[0] == 200
        assert (await ask(client, "POST", "/healthz"))[0] == 405
        for path in ("/v1/pools/chat/health", "/v1/capabilities", "/metrics", "/openapi.json", "/healthz/"):
            assert (await ask(client, "GET", path))[0] == 401


FOREIGN: list[tuple[str | None, str | None, bool]] = [
    ("127.0.0.1:8700", None, False),
    ("localhost:8700", "http://localhost:8700", False),
    ("[::1]:8700", "http://[::1]:8700", False),
    ("chat.localhost:8700", None, False),
    (None, None, False),
    ("127.0.0.1:8700", "https://evil.example", True),
    ("127.0.0.1:8700", "http://127.0.0.1:9999", True),
    ("127.0.0.1:8700", "null", True),
    (None, "https://evil.example", True),
    ("evil.example:8700", None, True),
    ("evil.example:8700", "http://evil.example:8700", True),
    ("127.0.0.1.evil.example", None, True),
    ("[", None, True),
]


@pytest.mark.parametrize(("host", "origin", "is_foreign"), FOREIGN)
def test_a_page_of_somebody_elses(host: str | None, origin: str | None, is_foreign: bool):
    """Another origin, and a name that only a DNS of theirs leads here, is somebody else's page."""
    assert foreign(host, origin) == is_foreign


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Host": "evil.example"}])
async def test_without_tokens_no_other_sites_page_is_served(headers: dict[str, str]):
    """On one's own machine no token is needed, but a browser there carries nothing in for others."""
    engine = Engine(words())
    async with serving(engine) as client:
        status, body, _ = await client.post({"pool_id": "chat", "prompt": "hello"}, **headers)

        assert status == 403
        assert "a page of another site" in body["message"]
        assert engine.begun == []
        assert (await client.post({"pool_id": "chat", "prompt": "hello"}))[0] == 202


async def test_with_tokens_it_may_have_any_name(tokens: None):
    """Behind a proxy `Host` is whatever the proxy has; a page of others does not know a token."""
    async with serving(Engine(words()), toml=TOML) as client:
        headers = {"Host": "llm.example", "Origin": "https://llm.example"} | bearer(TASKS)

        assert (await client.post({"pool_id": "chat", "prompt": "hello"}, **headers))[0] == 202


CERTIFICATE = TlsSettings(cert="c.pem", key="k.pem")  # type: ignore[arg-type]  # it is not opened

EXPOSED: list[tuple[str, bool, bool, bool, int]] = [
    # listen, tokens, tls, plain_http, problems
    ("127.0.0.1:0", False, False, False, 0),
    ("[::1]:0", False, False, False, 0),
    ("0.0.0.0:0", True, True, False, 0),
    ("0.0.0.0:0", True, False, True, 0),
    ("0.0.0.0:0", True, False, False, 1),
    ("[::]:0", False, True, False, 1),
    ("10.1.2.3:0", False, False, True, 1),
    ("some.host:0", False, False, False, 2),
]


@pytest.mark.parametrize(("listen", "tokens", "tls", "plain_http", "problems"), EXPOSED)
def test_no_start_where_others_reach_it_unprotected(
    listen: str, tokens: bool, tls: bool, plain_http: bool, problems: int
):
    """On an address that other machines reach, it needs a token, and TLS or to be told that a proxy has it."""
    config = ServerConfig(
        server=ServerSettings(listen=listen, tls=CERTIFICATE if tls else None, plain_http=plain_http),
        auth=AuthSettings(tokens=TOKENS if tokens else ()),
    )
    told: list[str] = []
    try:
        check_exposed(config)
    except ConfigError as error:
        told = error.problems

    assert len(told) == problems
    assert all(listen in problem and ("listen on 127.0.0.1" in problem or "plain_http" in problem) for problem in told)
