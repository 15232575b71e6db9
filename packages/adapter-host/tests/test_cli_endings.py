"""How the command ends: failures, mistakes, Ctrl-C."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from llama_orch_adapter_api import (
    AdapterError,
    DeadlineUnmet,
    DecodeTimeout,
    InternalError,
    LaunchError,
    PoolUnavailable,
    WorkerError,
    WorkerReset,
)
from llama_orch_adapter_host import ConfigError, NoAdapterError, UnknownEngineError
from llama_orch_adapter_host.cli import main
from llama_orch_adapter_host.cli._app import app
from llama_orch_adapter_host.cli._exit import BadRequestError, Exit, Interrupted, NotUtf8Error, code_of

from .acme import lay_down  # type: ignore[import-not-found]  # as above

ENDINGS = [
    *((kind("m", detail=detail), None) for kind in WorkerError.__subclasses__() for detail in kind.verdicts),
    (PoolUnavailable("m", detail="overloaded"), Exit.UNAVAILABLE),
    (PoolUnavailable("m", detail="loading"), Exit.LOADING),
    (PoolUnavailable("m", detail="unreachable"), Exit.UNREACHABLE),
    (AdapterError("m", detail="auth"), Exit.REFUSED),
    (AdapterError("m", detail="address"), Exit.CONFIG),
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
    (click.UsageError("m"), Exit.USAGE),
    (Interrupted("m"), Exit.INTERRUPTED),
]


@pytest.mark.parametrize(("error", "code"), ENDINGS)
def test_every_failure_has_a_code(error: Exception, code: Exit | None):
    """Each expected error has a code that is neither success nor the catch-all."""
    assert code_of(error) not in (Exit.OK, Exit.FAILED)
    assert code is None or code_of(error) == code


FAILURES = [
    (("chat", "hi"), "CONFIG", 5),
    (("chat", "--pool", "c=nope:http://x", "hi"), "UNKNOWN_ENGINE", 4),
    (("chat", "--pool", "c=acme:http://x", "other", "hi"), "POOL_UNAVAILABLE", 8),
    (("chat", "--pool", "c=acme:http://x", ""), "BAD_REQUEST", 6),
    (("chat", "--pool", "c=acme:http://x", "hi"), "INTERRUPTED", 130),
    (("chat", "--embedded", "--engine", "acme", "hi"), "INTERRUPTED", 130),
    (("health", "--pool", "c=acme:http://x", "other"), "POOL_UNAVAILABLE", 8),
    (("health", "--pool", "c=acme:http://interrupts"), "INTERRUPTED", 130),
    (("chat",), "USAGE", 2),
    (("chat", "--no-such-option"), "USAGE", 2),
    (("chat", "--threads", "x", "hi"), "USAGE", 2),
    (("no-such-verb",), "USAGE", 2),
]


@pytest.mark.parametrize(("arguments", "code", "exit_code"), FAILURES)
def test_every_failure_is_one_document(
    acme: Callable[..., Result], arguments: tuple[str, ...], code: str, exit_code: int
):
    """With --json, a command that fails writes one document of one shape, whatever went wrong, and no other word."""
    ended = acme(*arguments, "--json")
    failure = json.loads(ended.stdout.splitlines()[-1])

    assert ended.exit_code == exit_code
    assert {"kind": "error", "code": code, "exit_code": exit_code}.items() <= failure.items()
    assert failure["message"]
    assert ended.stderr == ""


def test_a_prompt_may_read_like_an_option(acme: Callable[..., Result]):
    """After --, --json is a word like any other."""
    ended = acme("chat", "--", "--json")

    assert ended.exit_code == 5
    assert ended.stderr.startswith("error: no pool is named")


ONLY_EMBEDDED = ("engine", "model", "slots", "context", "threads")

HOPELESS: list[tuple[list[str], int, str]] = [
    ([], 2, "no PROMPT is given"),
    (["a", "b", "c"], 2, "put the prompt in quotes"),
    (["--raw", "--system", "be brief", "hi"], 2, "leave one of them out"),
    (["--embedded", "--pool", "chat=x:http://y", "hi"], 2, "leave --pool out"),
    (["--pool", "c=x:http://y", "--config", "p.toml", "hi"], 2, "give one of them"),
    (["--messages", "-", "--system", "be brief"], 2, "leave one of them out"),
    (["--messages", "-", "--raw"], 2, "leave one of them out"),
    (["--api-key-env", "KEY", "hi"], 2, "set api_key"),
    *((["--pool", "c=x:http://y", f"--{name}", "4", "hi"], 2, f"leave --{name} out") for name in ONLY_EMBEDDED),
    (["--embedded", "--context", "0", "hi"], 2, "x>=1"),
    (["--deadline", "inf", "hi"], 6, "--deadline is inf; give seconds"),
    (["--deadline", "nan", "hi"], 6, "--deadline is nan; give seconds"),
    *(
        (["--deadline", given, "hi"], 6, f"--deadline is {told}; give seconds from 0.001 to 9e+12")
        for given, told in [("1e308", "1e+308"), ("1e14", "1e+14"), ("0", "0"), ("-1", "-1"), ("0.0001", "0.0001")]
    ),
    (["--temperature", "-1", "hi"], 6, "sampling.temperature is -1.0"),
    (["--messages", "-"], 6, "no JSON list of messages"),
]

"""What stands on stdin is no list of messages."""


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


class Untouched(io.RawIOBase):
    """A stdin that nobody reads without being noticed: its reader is interrupted, as by Ctrl-C."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        signal.raise_signal(signal.SIGINT)
        return 0


@pytest.mark.parametrize("arguments", [("-",), ("--raw", "-"), ("--messages", "-")])
def test_ctrl_c_ends_a_read_of_stdin(arguments: tuple[str, ...]):
    """The first Ctrl-C ends a command that waits for stdin."""
    ended = CliRunner().invoke(app, ["chat", *arguments], input=io.BufferedReader(Untouched()))

    assert ended.exit_code == 130, ended.output
    assert ended.stderr.splitlines()[-1] == "cancelled"


def test_only_the_prompt_is_read_from_stdin(acme: Callable[..., Result]):
    """--system - is a system message of one dash."""
    ended = CliRunner().invoke(
        app,
        ["chat", "--pool", "c=acme:http://accents", "--system", "-", "hi"],
        input=io.BufferedReader(Untouched()),
    )

    assert (ended.exit_code, ended.stdout) == (0, "caf\u00e9\n")


def test_ctrl_c_while_an_engine_loads_names_the_stage(acme: Callable[..., Result]):
    """Whoever interrupts a launch is told what it was doing."""
    ended = acme("chat", "--embedded", "--engine", "acme", "hi")

    assert ended.exit_code == 130
    assert ended.stderr.splitlines() == ["loading acme.gguf", "cancelled while loading acme.gguf"]


def test_ctrl_c_while_adapters_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Adapters are imported inside the net: an interruption there is told like any other."""
    (tmp_path / "slow_adapter.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    monkeypatch.syspath_prepend(tmp_path)
    lay_down(tmp_path, "slow_adapter")
    ended = CliRunner().invoke(app, ["plugins"])

    assert ended.exit_code == 130
    assert ended.stderr.splitlines()[-1] == "cancelled"


class Impatient:
    """Finds no module: at the command's own, the user loses patience."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name.endswith("cli._app"):
            raise KeyboardInterrupt


def test_ctrl_c_while_the_command_is_imported(monkeypatch: pytest.MonkeyPatch):
    """From its first line on, an interrupted command exits with 130 and no traceback."""
    monkeypatch.delitem(sys.modules, "llama_orch_adapter_host.cli._app")
    monkeypatch.setattr(sys, "meta_path", [Impatient, *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 130


SCRIPT = "from llama_orch_adapter_host.cli import main; main()"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize("arguments", [("--help",), ("plugins", "--json"), ("chat", "--json", "hi")])
def test_output_that_cannot_be_written(arguments: tuple[str, ...], tmp_path: Path):
    """A full disk is told in one sentence on stderr, with code 1."""
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-c", SCRIPT, *arguments], stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, check=False
        )

    assert ended.returncode == 1
    assert ended.stderr == f"error: reading or writing failed: [Errno 28] {os.strerror(28)}\n".encode()


@pytest.mark.parametrize("arguments", [["--pool", "\udcff=x:http://y"], ["--config", "\udcff"]])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_an_argument_that_is_no_text(arguments: list[str], form: list[str]):
    """Bytes that are not UTF-8 in an option end in the code for that, also as JSON."""
    ended = CliRunner().invoke(app, ["health", *form, *arguments])

    assert ended.exit_code == Exit.NOT_UTF8, ended.output
    assert "is not UTF-8" in ended.output


def test_messages_that_are_nested_too_deep(tmp_path: Path):
    """JSON that no reader can follow is a bad request, and no traceback."""
    deep = tmp_path / "deep.json"
    deep.write_text('[{"role":"user","content":"x","z":' + "[" * 100_000 + "]" * 100_000 + "}]")
    ended = CliRunner().invoke(app, ["chat", "--messages", str(deep), "--pool", "c=x:http://y"])

    assert ended.exit_code == Exit.BAD_REQUEST, ended.output
    assert "nested too deep" in ended.output
