"""The file of the orchestrator: its defaults, and what is told of what is wrong in it."""

import errno
import secrets
import socket
from pathlib import Path

import pytest
from llama_orch_adapter_host import ConfigError
from llama_orch_orchestratord._config import Address, ServerConfig, ServerSettings, parse_config, read_config, unheard

TOKEN = secrets.token_hex(16)


def problems(toml: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse_config(toml.encode())
    return raised.value.problems


def test_an_empty_file_is_the_defaults():
    """Nothing has to be said: it listens on this machine alone, without tokens."""
    config = parse_config(b"")

    assert config == ServerConfig()
    assert config.server.address == ("127.0.0.1", 8700)
    assert config.auth.tokens == ()


def test_every_table_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each key reaches its field, and files lie relative to the one that names them."""
    monkeypatch.setenv("ORCH_TOKEN", TOKEN)
    (tmp_path / "other").write_text(f"{TOKEN}2\n")
    (tmp_path / "orchestratord.toml").write_text(
        """
        pools = "pools.toml"
        [server]
        listen = "[::1]:0"
        tls = { cert = "cert.pem", key = "/keys/key.pem" }
        [auth]
        tokens = [{ env = "ORCH_TOKEN", role = "control" }, { file = "other", role = "tasks" }]
        [admission]
        queue = 3
        policy = "drop-lru"
        [tasks]
        keep = 0
        [stream]
        heartbeat = 0
        batch = true
        [openai]
        enabled = true
        """
    )
    config = read_config(tmp_path / "orchestratord.toml")

    assert config.pools == tmp_path / "pools.toml"
    assert config.server.address == ("::1", 0)
    assert config.server.tls is not None
    assert (config.server.tls.cert, config.server.tls.key) == (tmp_path / "cert.pem", Path("/keys/key.pem"))
    assert [(token.secret.reveal(), token.role) for token in config.auth.tokens] == [
        (TOKEN, "control"),
        (f"{TOKEN}2", "tasks"),
    ]
    assert (config.admission.queue, config.admission.policy) == (3, "drop-lru")
    assert (config.tasks.keep, config.stream.heartbeat, config.stream.batch) == (0, 0, True)
    assert config.openai.enabled
    assert TOKEN not in repr(config)


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        ("listen = 1", "the file has no 'listen'; it may have: pools, server, auth, admission, tasks, stream, openai"),
        ("[admission]\nqeue = 1", "[admission] has no 'qeue'; it may have: queue, policy, slots_if_unknown"),
        ("[admission]\nqueue = 0", "[admission]: Expected `int` >= 1 - at `$.queue`"),
        (
            "[admission]\npolicy = 'lru'",
            "[admission]: Invalid enum value 'lru' - at `$.policy`; give one of: drop-lru, reject",
        ),
        ("[tasks]\nkeep = '5'", "[tasks]: Expected `float`, got `str` - at `$.keep`; give a number"),
        ("[stream]\nunread_expiry = nan", "[stream]: Expected `float` >= 0.0 - at `$.unread_expiry`"),
        ("[stream]\nunread_expiry = inf", "[stream]: Expected `float` <= 86400.0 - at `$.unread_expiry`"),
        ("tasks = 3", "tasks is no table; write it as [tasks]"),
        ("pools = ''", 'pools is no path; give that of the file with the pools, such as pools = "pools.toml"'),
        ("[server]\ntls = { cert = 'a' }", "[server]: Object missing required field `key` - at `$.tls`"),
        ("[server]\ntls = { cert = 'a', key = 1 }", "[server]: give the path of a file - at `$.tls.key`"),
        ("[auth]\ntokens = 1", 'auth.tokens is no list; give [{ env = "NAME", role = "control" }]'),
        ("[auth]\ntoken = 1", "[auth] has no 'token'; it may have: tokens"),
    ],
)
def test_what_is_wrong_is_told_with_its_table(toml: str, problem: str):
    """A key that is unknown, and a value out of bounds, is named with the mend."""
    assert problems(toml) == [problem]


def test_all_that_is_wrong_is_told_at_once():
    """One run shows every table's problem."""
    assert len(problems("pool = 1\n[server]\nlisten = 'x'\n[tasks]\nlimit = 0\n[auth]\ntokens = [{}, {}]")) == 5


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ('{ env = "NO_SUCH_TOKEN", role = "tasks" }', "the environment variable NO_SUCH_TOKEN is not set; export it"),
        ('{ env = "ORCH_TOKEN" }', "role is missing; give one of: tasks, control"),
        ('{ env = "ORCH_TOKEN", role = "admin" }', "role is 'admin'; give one of: tasks, control"),
        ('{ env = "SHORT", role = "tasks" }', "the token cannot be used; give at least 16 letters"),
        ('{ env = "SPACED", role = "tasks" }', "the token cannot be used; give at least 16 letters"),
        ('{ value = "hunter2hunter2", role = "tasks" }', "a secret is given as { env ="),
        ('"hunter2hunter2"', "role is missing"),
    ],
)
def test_a_token_that_cannot_be_used(token: str, problem: str, monkeypatch: pytest.MonkeyPatch):
    """A token is a reference with a role, long enough and fit for a header; no problem shows it."""
    for name, value in (("ORCH_TOKEN", TOKEN), ("SHORT", "abc1234"), ("SPACED", "two words of a token")):
        monkeypatch.setenv(name, value)
    (told,) = problems(f"[auth]\ntokens = [{token}]")

    assert told.startswith(f"auth.tokens[0]: {problem}")
    for seen in (TOKEN, "abc1234", "two words", "hunter2"):
        assert seen not in told


def test_one_token_has_one_role(monkeypatch: pytest.MonkeyPatch):
    """The same token twice would make one of its roles a matter of order."""
    monkeypatch.setenv("ONE", TOKEN)
    (told,) = problems('[auth]\ntokens = [{ env = "ONE", role = "tasks" }, { env = "ONE", role = "control" }]')

    assert told.startswith("auth.tokens[1]: the same token stands there twice")


@pytest.mark.parametrize("raw", [b"[", b"\xff", b"a=" + b"[" * 100_000])
def test_what_is_no_toml(raw: bytes):
    """Broken, binary and hostile files are one problem, and no traceback."""
    with pytest.raises(ConfigError):
        parse_config(raw)


def test_a_file_that_is_not_there(tmp_path: Path):
    """The path is named, in this problem as in those of its content."""
    with pytest.raises(ConfigError, match=r"nope.toml cannot be read: No such file or directory; give the path"):
        read_config(tmp_path / "nope.toml")
    (tmp_path / "bad.toml").write_text("a = 1")
    with pytest.raises(ConfigError, match=r"bad.toml: the file has no 'a'"):
        read_config(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.EADDRINUSE, "error while attempting to bind: in use"),
            "Address already in use; end what listens",
        ),
        (OSError(errno.EACCES, "x"), "Permission denied; give another address with --listen HOST:PORT"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known; give another"),
    ],
)
def test_an_address_that_cannot_be_listened_on(error: OSError, told: str):
    """The reason is the system's own words for it, with what to do, and not what asyncio makes of them."""
    assert unheard(Address("h", 80), error).startswith(f"h:80 cannot be listened on: {told}")


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:8700", ("127.0.0.1", 8700), True),
        ("127.8.8.8:1", ("127.8.8.8", 1), True),
        ("[::1]:0", ("::1", 0), True),
        ("localhost:80", ("localhost", 80), True),
        ("0.0.0.0:80", ("0.0.0.0", 80), False),
        ("[::]:65535", ("::", 65535), False),
        ("10.0.0.1:80", ("10.0.0.1", 80), False),
        ("localhost.example:80", ("localhost.example", 80), False),
    ],
)
def test_an_address(text: str, address: tuple[str, int], loopback: bool):
    """It is read, written as it was, and known to be this machine's alone or not."""
    parsed = Address.parse(text)

    assert parsed == address
    assert str(parsed) == text
    assert parsed.loopback == loopback


@pytest.mark.parametrize("text", ["", ":80", "localhost", "::1:80", "a b:1", "127.0.0.1:65536", "x:-1", "http://x:1"])
def test_what_is_no_address(text: str):
    """It is refused with an example, wherever it comes from."""
    with pytest.raises(ValueError, match="give HOST:PORT, such as 127.0.0.1:8700"):
        ServerSettings(listen=text)
    with pytest.raises(ConfigError, match="give HOST:PORT"):
        parse_config(f"[server]\nlisten = '{text}'".encode())
