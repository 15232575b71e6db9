"""The command's own rooms, without an engine: what options mean, what is shown, how it ends."""

import io
import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from llama_orch_adapter_api import (
    AdapterError,
    DeadlineUnmet,
    DecodeTimeout,
    InternalError,
    LaunchError,
    PoolUnavailable,
    Progress,
    WorkerError,
    WorkerReset,
)
from llama_orch_adapter_host import ConfigError, NoAdapterError, UnknownEngineError
from llama_orch_adapter_host.cli._app import app
from llama_orch_adapter_host.cli._exit import BadRequestError, Exit, NotUtf8Error, code_of
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


ENDINGS = [
    *((kind("m", detail=detail), None) for kind in WorkerError.__subclasses__() for detail in kind.verdicts),
    (PoolUnavailable("m", detail="overloaded"), Exit.UNAVAILABLE),
    (PoolUnavailable("m", detail="loading"), Exit.LOADING),
    (PoolUnavailable("m", detail="unreachable"), Exit.UNREACHABLE),
    (AdapterError("m", detail="auth"), Exit.REFUSED),
    (AdapterError("m", detail="context_length"), Exit.CONTEXT_LENGTH),
    (AdapterError("m", detail="plugin"), Exit.ENGINE),
    (DeadlineUnmet("m", detail="decode"), Exit.DEADLINE),
    (DecodeTimeout("m", detail="idle"), Exit.TIMEOUT),
    (WorkerReset("m", detail="reset"), Exit.RESET),
    (InternalError("m", detail="engine"), Exit.ENGINE),
    (LaunchError("m"), Exit.LAUNCH),
    (NoAdapterError(["m"]), Exit.NO_ADAPTER),
    (UnknownEngineError(["m"]), Exit.UNKNOWN_ENGINE),
    (ConfigError(["m"]), Exit.CONFIG),
    (NotUtf8Error("m"), Exit.NOT_UTF8),
    (BadRequestError("m"), Exit.BAD_REQUEST),
]


@pytest.mark.parametrize(("error", "code"), ENDINGS)
def test_every_failure_has_a_code(error: Exception, code: Exit | None):
    """Each expected error has a code that is neither success nor the catch-all."""
    assert code_of(error) not in (Exit.OK, Exit.FAILED)
    assert code is None or code_of(error) == code


def test_a_terminal_is_not_at_the_models_mercy(monkeypatch: pytest.MonkeyPatch):
    """On a terminal, what would move the cursor or turn the writing is left out; a file gets every byte."""
    text = "a\x1b[2Jb\u202ec\n"
    shown = {}
    for terminal in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr("sys.stdout", stream)
        Screen(as_json=False).text(text)
        shown[terminal] = stream.getvalue()

    assert shown == {True: "a[2Jbc\n", False: text}


def test_loading_is_told_once_a_stage(capsys: pytest.CaptureFixture[str]):
    """Where no bar can be drawn, each stage is one line, however often it reports."""
    with Loading(Screen(as_json=False)) as loading:
        for done in range(5):
            loading.show(Progress("fetching the model", done, 5))
        for second in range(3):
            loading.show(Progress(f"loading it, {second} s"))

    assert capsys.readouterr().err.splitlines() == ["fetching the model", "loading it"]


def test_with_json_nothing_but_json_is_written(capsys: pytest.CaptureFixture[str]):
    """Notes and progress would spoil a program's reading; trouble is a document too."""
    screen = Screen(as_json=True)
    screen.note("tokens")
    with Loading(screen) as loading:
        loading.show(Progress("fetching"))
    screen.trouble(["no such pool"], Exit.UNKNOWN_POOL)
    written = capsys.readouterr()

    assert written.err == ""
    assert json.loads(written.out) == {"error": ["no such pool"], "exit_code": 8}


HOPELESS: list[tuple[list[str], int, str]] = [
    ([], 2, "no PROMPT is given"),
    (["a", "b", "c"], 2, "put the prompt in quotes"),
    (["--raw", "--system", "be brief", "hi"], 2, "leave one of them out"),
    (["--embedded", "--pool", "chat=x:http://y", "hi"], 2, "leave --pool and --config out"),
    (["--temperature", "-1", "hi"], 6, "sampling.temperature is -1.0"),
    (["--deadline", "0", "hi"], 6, "deadline_ms is 0"),
    (["--messages", "-"], 6, "no JSON list of messages"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), HOPELESS)
def test_what_cannot_work_is_told(
    arguments: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Each mistake ends in one sentence with the mend, and a code."""
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["chat", *arguments], input="[{]")

    assert ended.exit_code == code, ended.output
    assert said in ended.output
    assert "Traceback" not in ended.output
