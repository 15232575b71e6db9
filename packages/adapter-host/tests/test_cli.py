"""The command's own rooms, without an engine: what options mean, and what is shown."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result
from llama_orch_adapter_api import (
    PoolUnavailable,
    Progress,
)
from llama_orch_adapter_host.cli import main
from llama_orch_adapter_host.cli._exit import Failure
from llama_orch_adapter_host.cli._screen import Loading, Screen
from llama_orch_adapter_host.cli._source import Source, _pools


def test_pools_of_one_name_are_replicas():
    """The same NAME twice adds a replica, and the key's variable is handed on as a reference."""
    pools = _pools(Source(pools=("chat=vllm:http://a:1", "chat=vllm:http://b:2", "x=y:http://c"), api_key_env="KEY"))

    assert {name: pool.engine for name, pool in pools.items()} == {"chat": "vllm", "x": "y"}
    assert [replica["url"] for replica in pools["chat"].replicas] == ["http://a:1", "http://b:2"]
    assert all(replica["api_key"] == {"env": "KEY"} for replica in pools["chat"].replicas)


@pytest.mark.parametrize("given", ["chat", "chat=", "=llamacpp:http://x", "chat=llamacpp", "chat=:http://x", "chat=x:"])
def test_a_pool_that_is_none_shows_the_form(given: str):
    """What is not NAME=ENGINE:URL is refused with an example of what is."""
    with pytest.raises(click.UsageError, match="such as chat=llamacpp:http"):
        _pools(Source(pools=(given,)))


def test_a_pool_has_one_engine():
    """Replicas of one pool stand in for each other, so they are of one engine."""
    with pytest.raises(click.UsageError, match="two engines, vllm and llamacpp"):
        _pools(Source(pools=("chat=vllm:http://a", "chat=llamacpp:http://b")))


HARMLESS = "a\u00a0b\u202fc\u3000d\u200de\u200cf\ufe0f \U0001f469\u200d\U0001f680 \u5b57\t\n"
HARMFUL = "a\x1b[2J\x07\x9b\rb\u202ec\u2066\u200f\u061c\u2028d\ue000\udc80"


@pytest.mark.parametrize(("text", "seen"), [(HARMLESS, HARMLESS), (HARMFUL, "a[2Jbcd")])
def test_a_terminal_is_not_at_the_models_mercy(text: str, seen: str, monkeypatch: pytest.MonkeyPatch):
    """On a terminal, what would move the cursor or turn the writing is left out, and nothing else; a file gets all."""
    shown = {}
    for terminal in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr("sys.stdout", stream)
        Screen(as_json=False).piece(text)
        shown[terminal] = stream.getvalue()

    assert shown == {True: seen, False: text}


@pytest.mark.parametrize(
    ("no_color", "seen"), [("", "\x1b[31merror: no such pool\x1b[0m\n"), ("1", "error: no such pool\n")]
)
def test_only_a_terminal_that_wants_it_gets_colour(no_color: str, seen: str, monkeypatch: pytest.MonkeyPatch):
    """What stands on stderr is coloured on a terminal, unless NO_COLOR is set."""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    Screen(as_json=False).trouble(Failure.of(PoolUnavailable("no such pool", detail="unknown_pool")))

    assert stream.getvalue() == seen


def test_each_channel_begins_a_line(acme: Callable[..., Result]):
    """Reasoning stands on stderr, without control characters; whatever follows another channel begins a line."""
    ended = acme("chat", "--pool", "c=acme:http://thinks", "hi")

    assert ended.exit_code == 0, ended.output
    assert ended.stdout == "it is so\nso\n"
    assert ended.stderr.splitlines()[:2] == ["let me[2J see", "or not"]
    assert ended.output.startswith("let me[2J see\nit is so\nor not\nso\n[5 tokens")
    assert ended.output.endswith("replica c/0 · 1 attempt]\n")


def test_a_table_shows_its_cells_as_they_are(acme: Callable[..., Result]):
    """What looks like markup, in an engine's words or a URL, is shown and obeyed by nobody."""
    ended = acme("health", "--pool", "[b]x=acme:http://[fd00::1]:8080")

    assert ended.exit_code == 0, ended.output
    assert ended.stdout.splitlines()[1].split() == [
        "[b]x/0",
        "ready",
        "bad",
        "[/think]",
        "token",
        "at",
        "http://[fd00::1]:8080",
    ]


@pytest.mark.parametrize(
    ("others", "code"), [((), 0), (("loads",), 10), (("loads", "down"), 9), (("down", "loads"), 9)]
)
def test_health_ends_with_its_worst_replica(acme: Callable[..., Result], others: tuple[str, ...], code: int):
    """Down is worse than loading, which is worse than ready."""
    replicas = [f"--pool=c=acme:http://{name}" for name in ("fine", *others)]

    assert acme("health", *replicas).exit_code == code
    assert acme("health", "--json", *replicas).exit_code == code


def test_props_tells_failures_below_the_table(acme: Callable[..., Result]):
    """The table holds what is known; a replica that did not answer is an error under it, and decides the code."""
    ended = acme("props", "--pool", "c=acme:http://fine", "--pool", "c=acme:http://down")

    assert ended.exit_code == 9
    assert [line.split()[0] for line in ended.stdout.splitlines()] == ["REPLICA", "c/0"]
    assert ended.stderr == "error: c/1: bad [/think] token\n"


def test_props_in_json_has_a_failure_in_its_replicas_place(acme: Callable[..., Result]):
    """The document names every replica; one that did not answer has its failure there."""
    ended = acme("props", "--json", "--pool", "c=acme:http://fine", "--pool", "c=acme:http://down")
    found = json.loads(ended.stdout)["c"]

    assert found["0"]["slots_total"] == 4
    assert (found["1"]["kind"], found["1"]["exit_code"]) == ("error", ended.exit_code)


def test_an_embedded_engine_is_given_slots_and_context(acme: Callable[..., Result]):
    """--slots and --context reach the launch, so that its mend can be followed."""
    ended = acme("chat", "--embedded", "--engine", "acme", "--slots", "1", "--context", "512", "hi")

    assert ended.exit_code == 0, ended.output
    assert "1 slot of 512 tokens" in ended.stderr


def test_an_encoding_that_cannot_carry_the_answer(acme: Callable[..., Result]):
    """A character that stdout's encoding does not hold becomes a question mark; JSON is UTF-8 all the same."""
    ask = ("chat", "--pool", "c=acme:http://accents", "hi")

    assert acme(*ask, charset="ascii").stdout_bytes == b"caf?\n"
    assert '"t":"caf\u00e9"'.encode() in acme(*ask, "--json", charset="ascii").stdout_bytes


def test_loading_is_told_once_a_stage(capsys: pytest.CaptureFixture[str]):
    """Where no bar can be drawn, each stage is one line, however often it reports."""
    with Loading(Screen(as_json=False)) as loading:
        for done in range(5):
            loading.show(Progress("fetching the model", done, 5))
        for second in range(3):
            loading.show(Progress(f"loading it, {second} s"))

    assert capsys.readouterr().err.splitlines() == ["fetching the model", "loading it"]


def test_with_json_nothing_but_json_is_written(capsys: pytest.CaptureFixture[str]):
    """Notes and progress would spoil a program's reading."""
    screen = Screen(as_json=True)
    screen.note("tokens")
    with Loading(screen) as loading:
        loading.show(Progress("fetching"))
    screen.document({"a": 1})

    assert capsys.readouterr() == ('{"a":1}\n', "")


SCRIPT = "from llama_orch_adapter_host.cli import main; main()"


def test_rich_is_imported_by_those_who_draw(tmp_path: Path):
    """Help comes without rich, whose import takes longer than all else."""
    script = f"import sys\ntry:\n    {SCRIPT}\nfinally:\n    print('rich' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", script, "--help"], stdout=subprocess.PIPE, cwd=tmp_path, check=True, text=True
    )

    assert ended.stdout.splitlines()[-1] == "False"


def test_without_rich_the_extra_is_named(acme: Callable[..., Result], monkeypatch: pytest.MonkeyPatch):
    """Whoever installed the host without its extra is told how to get it."""
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.delitem(sys.modules, "llama_orch_adapter_host.cli._table", raising=False)
    for name in [name for name in sys.modules if name.startswith("rich.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "argv", ["adapter-host", "plugins"])
    with pytest.raises(SystemExit, match=r"pip install 'llama-orch-adapter-host\[cli\]'"):
        main()
