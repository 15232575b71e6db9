import secrets
import traceback
from pathlib import Path

import msgspec
import pytest
from llama_orch_adapter_api import AdapterSpec, Secret, Timeouts
from llama_orch_adapter_host import (
    ConfigError,
    HostConfig,
    PluginsConfig,
    PoolConfig,
    parse_config,
    read_config,
    resolve_secret,
)
from llama_orch_adapter_host._config import read_replica, read_replicas

from .adapters import Config, Words  # type: ignore[import-not-found]  # test folders are no packages

CANARY = "sk-canary-0123456789"
SPEC = AdapterSpec("words", 1, Config, lambda _: Words())

WHOLE = b"""
[pools.chat]
engine = "words"
[pools.chat.timeouts]
first_token = 5
drain = 0
[pools.chat.http]
http_version = "auto"
[[pools.chat.replicas]]
id = "r0"
url = "http://127.0.0.1:8080"
[[pools.chat.replicas]]
url = "http://127.0.0.1:8081"
[pools.embed]
engine = "words"
replicas = [{ url = "http://127.0.0.1:8082" }]
"""


def problems_of(raw: bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw)
    return caught.value.problems


def replica_problems(table: dict[str, object], config_type: type[msgspec.Struct] = Config) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_replica("chat/0", table, AdapterSpec("words", 1, config_type, lambda _: Words()))
    return caught.value.problems


def pool_of(raw: bytes) -> dict[str, msgspec.Struct]:
    return read_replicas("chat", parse_config(raw).pools["chat"], SPEC)


def test_a_whole_file():
    """ORCH-3600: pools come with their engine, limits (defaults where left out), overrides and raw replica tables."""
    config = parse_config(WHOLE)

    assert list(config.pools) == ["chat", "embed"]
    chat = config.pools["chat"]
    assert chat.engine == "words"
    assert chat.timeouts == Timeouts(first_token=5, drain=0)
    assert chat.http == {"http_version": "auto"}
    assert chat.replicas[0] == {"id": "r0", "url": "http://127.0.0.1:8080"}
    assert config.pools["embed"].timeouts == Timeouts()


def test_the_lists_of_plugins():
    """ORCH-3600: `[plugins]` says what may be imported, all where left out; its mistakes are told with the rest."""
    config = parse_config(b"plugins = { allow = ['words', 'acme-adapter'], block = ['shady'] }\n" + WHOLE)

    assert config.plugins == PluginsConfig(("words", "acme-adapter"), ("shady",))
    assert parse_config(WHOLE).plugins == PluginsConfig(None, ())
    assert problems_of(b"plugins = { blok = [] }\npools.a = { engine = 'words' }") == [
        "pool 'a': Object missing required field `replicas`",
        "plugins: Object contains unknown field `blok`; did you mean block?; it may have: allow, block",
    ]
    assert problems_of(b"plugins = { block = 'shady' }\n" + WHOLE) == [
        "plugins: Expected `array`, got `str` - at `$.block`"
    ]


def test_replicas_are_read_by_id():
    """ORCH-3600: a replica is known by its `id`, which the adapter never sees, or else by its position from 0."""
    assert pool_of(WHOLE) == {"r0": Config("http://127.0.0.1:8080"), "1": Config("http://127.0.0.1:8081")}


def test_every_pool_is_told_of_at_once():
    """All pools that are wrong are told in one error, each with its pool and the key; a right one adds none."""
    problems = problems_of(
        b"""
        [pools.a]
        engine = "words"
        replicas = [{ url = "x" }]
        colour = "red"
        [pools.b]
        engine = 5
        replicas = []
        [pools.c]
        engine = "words"
        replicas = []
        timeouts = { idel = 3 }
        [pools.d]
        engine = "words"
        [pools.e]
        engine = "words"
        replicas = [{}]
        """
    )

    pool, limits = (", ".join(kind.__struct_fields__) for kind in (PoolConfig, Timeouts))
    assert problems == [
        f"pool 'a': Object contains unknown field `colour`; it may have: {pool}",
        "pool 'b': Expected `str`, got `int` - at `$.engine`",
        f"pool 'c': Object contains unknown field `idel` - at `$.timeouts`; did you mean idle?; it may have: {limits}",
        "pool 'd': Object missing required field `replicas`",
    ]


def test_every_replica_is_told_of_at_once():
    """All replicas that are wrong are told in one error, each sentence with pool, replica and key."""
    raw = b"""
    [pools.chat]
    engine = "words"
    replicas = [{ id = "a", colour = "red" }, { id = "b" }, { slots = "two" }, { id = "b" }]
    """

    with pytest.raises(ConfigError) as caught:
        pool_of(raw)

    assert caught.value.problems == [
        "replica chat/a: Object contains unknown field `colour`; it may have: id, url, api_key, slots",
        "replica chat/2: Expected `int`, got `str` - at `$.slots`",
        "replica chat/b stands there twice; give each an id of its own",
    ]
    assert str(caught.value) == "; ".join(caught.value.problems)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "Object missing required field `pools`"),
        (b"[pools]", "it has no pools; add a table [pools.NAME] with engine and replicas"),
        (b"pools = 3", "Expected `object`, got `int` - at `$.pools`"),
        (b"pool = 1\n[pools.a]", "unknown field `pool`; did you mean pools?; it may have: pools, plugins"),
        (b"[pools.a", "Expected ']' at the end of a table declaration"),
        (b'[pools.a]\nengine = "\xff"', "'utf-8' codec can't decode byte 0xff"),
        (b"x = " + b"[" * 100_000, "it is nested too deep to be read"),
    ],
)
def test_a_file_that_is_no_config(raw: bytes, told: str):
    """What is no TOML, no UTF-8 or no table of pools is one problem that says so."""
    (problem,) = problems_of(raw)

    assert told in problem


def test_a_pool_without_replicas_is_told():
    """A pool that lists no replica is refused with the lines to add."""
    with pytest.raises(ConfigError, match=r"pool 'chat' has no replicas; add \[\[pools.chat.replicas\]\] with a url"):
        pool_of(b'[pools.chat]\nengine = "words"\nreplicas = []')


@pytest.mark.parametrize(
    ("limit", "value", "bounds"),
    [
        ("connect", "0", "above 0"),
        ("first_token", "0.0", "above 0"),
        ("idle", "-1", "above 0"),
        ("idle", "86401", "above 0"),
        ("drain", "-0.001", "from 0"),
        ("min_useful", "nan", "from 0"),
        ("connect", "inf", "above 0"),
    ],
)
def test_limits_have_bounds(limit: str, value: str, bounds: str):
    """A limit that is no time from 0 (or above 0) to a day is refused with its pool, its name and the bounds."""
    (problem,) = problems_of(f"[pools.a]\nengine='words'\nreplicas=[]\ntimeouts.{limit}={value}".encode())

    assert problem.startswith(f"pool 'a': timeouts.{limit} is ")
    assert f"give seconds, {bounds} and up to 86400" in problem


def test_a_file_is_named_in_each_of_its_problems(tmp_path: Path):
    """Each problem of a file begins with its path."""
    path = tmp_path / "pools.toml"
    path.write_text("[pools.a]\nengine = 1\n[pools.b]\nengine = 2\n")

    with pytest.raises(ConfigError) as caught:
        read_config(path)

    assert [problem.split("`")[0] for problem in caught.value.problems] == [
        f"{path}: pool 'a': Expected ",
        f"{path}: pool 'b': Expected ",
    ]


def test_a_syntax_error_has_path_and_line(tmp_path: Path):
    """A file that is no TOML is told with its path and the line."""
    path = tmp_path / "pools.toml"
    path.write_text("[pools.a]\nengine == 1\n")

    with pytest.raises(ConfigError) as caught:
        read_config(path)

    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: ")
    assert "line 2" in problem


def test_a_file_that_cannot_be_read(tmp_path: Path):
    """A missing file, or a folder in its place, is a ConfigError with the path and the mend."""
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(ConfigError, match=r"cannot be read: .*; give the path of a pools.toml") as caught:
            read_config(path)

        assert str(path) in str(caught.value)


def test_a_file_is_read(tmp_path: Path):
    """A right file gives what its text gives."""
    path = tmp_path / "pools.toml"
    path.write_bytes(WHOLE)

    assert read_config(str(path)) == parse_config(WHOLE)
    assert isinstance(read_config(path), HostConfig)


def test_a_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    """`{ env = "NAME" }` is replaced by a Secret that holds the variable's text."""
    monkeypatch.setenv("WORDS_KEY", CANARY)

    config = read_replica("chat/0", {"api_key": {"env": "WORDS_KEY"}}, SPEC)

    assert isinstance(config, Config)
    assert isinstance(config.api_key, Secret)
    assert config.api_key.reveal() == CANARY
    assert CANARY not in repr(config)


def test_a_secret_comes_from_a_file(tmp_path: Path):
    """`{ file = "PATH" }` is replaced by a Secret that holds the file's text without the white space around it."""
    path = tmp_path / "key"
    path.write_text(f"  {CANARY}\n\n")

    config = read_replica("chat/0", {"api_key": {"file": str(path)}}, SPEC)

    assert isinstance(config, Config)
    assert isinstance(config.api_key, Secret)
    assert config.api_key.reveal() == CANARY


@pytest.mark.parametrize(
    "given",
    [
        CANARY,
        [CANARY],
        {"value": CANARY},
        {"env": "WORDS_KEY", "default": CANARY},
        {"file": "key", "default": CANARY},
        {"env": 7, "x": CANARY},
        {"file": {"path": CANARY}},
        {"env": "WORDS_KEY", "file": CANARY},
    ],
)
def test_a_secret_is_never_text(given: object):
    """Battery 32: what stands in a reference's place is refused with the two ways to write one, and not shown."""
    with pytest.raises(ConfigError) as caught:
        read_replica("chat/0", {"api_key": given}, SPEC)

    (problem,) = caught.value.problems
    assert 'a secret is given as { env = "NAME" } or { file = "PATH" }, never as text' in problem
    assert problem.startswith("replica chat/0: ")
    assert "$.api_key" in problem
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_a_secret_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A variable that is unset or empty and a file that is absent, empty or no text are told by name, with the mend."""
    monkeypatch.delenv("WORDS_KEY", raising=False)
    monkeypatch.setenv("EMPTY_KEY", "")
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe" + CANARY.encode())

    told = [
        replica_problems({"api_key": reference})[0]
        for reference in (
            {"env": "WORDS_KEY"},
            {"env": "EMPTY_KEY"},
            {"file": f"{tmp_path}/absent"},
            {"file": f"{tmp_path}/empty"},
            {"file": f"{tmp_path}/binary"},
        )
    ]

    assert "the environment variable WORDS_KEY is not set; export it" in told[0]
    assert "the environment variable EMPTY_KEY is not set; export it" in told[1]
    assert f"the secret's file {tmp_path}/absent cannot be read: FileNotFoundError" in told[2]
    assert f"the secret's file {tmp_path}/empty is empty" in told[3]
    assert f"the secret's file {tmp_path}/binary cannot be read: UnicodeDecodeError" in told[4]
    assert CANARY not in " ".join(told)


def test_a_config_refuses_by_its_own_rules():
    """A `ValueError` of the adapter's own checks is told with pool and replica, like any other problem."""

    class Even(msgspec.Struct, forbid_unknown_fields=True):
        slots: int

        def __post_init__(self):
            if self.slots % 2:
                raise ValueError(f"slots is {self.slots}; give an even number")

    (problem,) = replica_problems({"slots": 3}, Even)

    assert problem == "replica chat/0: slots is 3; give an even number"


def test_a_config_of_types_nobody_can_read():
    """A config type with a field that is none of TOML's is told as a problem of that replica, not as a crash."""

    class Odd(msgspec.Struct, forbid_unknown_fields=True):
        where: Path

    (problem,) = replica_problems({"where": "/somewhere"}, Odd)

    assert problem == (
        "replica chat/0: the adapter's config has a field of type Path, which TOML cannot give - at `$.where`"
    )


@pytest.mark.parametrize("replica_id", ["", "a/b", "a\nb"])
def test_an_id_is_a_word(replica_id: str):
    """A name stands in `pool/replica` and in logs, so it is printable, not empty, and holds no slash."""
    pool = PoolConfig(engine="words", replicas=({"id": replica_id, "url": "x"},))
    with pytest.raises(ConfigError, match="give printable characters, no slash"):
        read_replicas("chat", pool, SPEC)
    with pytest.raises(ConfigError, match="a pool has the name .*; give printable characters, no slash"):
        read_replicas(replica_id, pool, SPEC)


def test_a_secret_is_resolved_for_others_too(monkeypatch: pytest.MonkeyPatch):
    """Other configs refer to secrets in the same way, and get the same mend."""
    key = secrets.token_hex(8)
    monkeypatch.setenv("SOME_KEY", key)

    assert resolve_secret({"env": "SOME_KEY"}).reveal() == key
    with pytest.raises(ValueError, match="never as text"):
        resolve_secret(key)
