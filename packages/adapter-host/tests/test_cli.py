"""The command's own rooms, without an engine: what options mean, what is shown, how it ends."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from llama_orch_adapter_api import (
    API_VERSION,
    AdapterContext,
    AdapterError,
    AdapterSpec,
    DeadlineUnmet,
    DecodeTimeout,
    End,
    InternalError,
    LaunchError,
    LaunchOptions,
    PoolUnavailable,
    Progress,
    TaskRequest,
    Token,
    TokenEvent,
    WorkerAdapter,
    WorkerError,
    WorkerHealth,
    WorkerProps,
    WorkerReset,
    hookimpl,
)
from llama_orch_adapter_host import ConfigError, NoAdapterError, UnknownEngineError
from llama_orch_adapter_host.cli import main
from llama_orch_adapter_host.cli._app import app
from llama_orch_adapter_host.cli._exit import BadRequestError, Exit, Failure, Interrupted, NotUtf8Error, code_of
from llama_orch_adapter_host.cli._screen import Loading, Screen
from llama_orch_adapter_host.cli._source import Source, _pools

from .adapters import PROPS, STARTED, Config  # type: ignore[import-not-found]  # test folders are no packages

ANSWERS: dict[str, tuple[TokenEvent, ...]] = {
    "http://thinks": (
        STARTED,
        Token("let me\x1b[2J see", 0, "reasoning"),
        Token("it is", 1),
        Token(" so", 2),
        Token("or not", 3, "reasoning"),
        Token("so", 4),
        End(3, 5, "stop"),
    ),
    "http://accents": (STARTED, Token("caf\u00e9", 0), End(3, 1, "stop")),
}
"""What the engine at a URL answers; elsewhere, it never comes to its first token."""


class Acme(WorkerAdapter):
    """An adapter for engines that are no more than their URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def health(self) -> WorkerHealth:
        state = {"http://down": "down", "http://loads": "loading"}.get(self.url, "ready")
        return WorkerHealth(live=True, ready=state == "ready", state=state, detail=f"bad [/think] token at {self.url}")

    async def props(self) -> WorkerProps:
        if self.url == "http://down":
            raise PoolUnavailable("bad [/think] token", detail="unreachable")
        return PROPS

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        for event in ANSWERS.get(self.url, ()):
            yield event
        if self.url not in ANSWERS:
            signal.raise_signal(signal.SIGINT)
            await asyncio.Event().wait()

    async def engine_version(self) -> str:
        return "1"


@asynccontextmanager
async def launch(options: LaunchOptions) -> AsyncIterator[str]:
    """An engine whose loading is interrupted, unless it has a single slot; then its log is what it was given."""
    if options.slots > 1:
        options.progress(Progress("loading acme.gguf, 3 s"))
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()
    options.progress(Progress(f"{options.slots} slot of {options.context} tokens"))
    yield "http://accents"


@hookimpl
def llama_orch_register_adapters(register: Callable[[AdapterSpec], None]) -> None:
    def make(context: AdapterContext) -> Acme:
        return Acme(context.config.url)

    register(AdapterSpec("acme", API_VERSION, Config, make, launch))


Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Lay a distribution down as pip would, whose entry point leads to a module of this name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(module: str) -> None:
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[llama_orch.adapters]\n{module} = {module}\n")

    return write


@pytest.fixture
def acme(install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """The command in an empty folder, with the adapter above installed: its module is this file."""
    install("acme_adapter")
    monkeypatch.setitem(sys.modules, "acme_adapter", sys.modules[__name__])
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, charset: str = "utf-8") -> Result:
        return CliRunner(charset=charset).invoke(app, arguments)

    return run


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


FAILURES = [
    (("chat", "hi"), "CONFIG", 5),
    (("chat", "--pool", "c=nope:http://x", "hi"), "UNKNOWN_ENGINE", 4),
    (("chat", "--pool", "c=acme:http://x", "other", "hi"), "POOL_UNAVAILABLE", 8),
    (("chat", "--pool", "c=acme:http://x", ""), "BAD_REQUEST", 6),
    (("chat", "--pool", "c=acme:http://x", "hi"), "INTERRUPTED", 130),
    (("chat", "--embedded", "--engine", "acme", "hi"), "INTERRUPTED", 130),
    (("health", "--pool", "c=acme:http://x", "other"), "POOL_UNAVAILABLE", 8),
    (("chat",), "USAGE", 2),
    (("chat", "--no-such-option"), "USAGE", 2),
    (("chat", "--threads", "x", "hi"), "USAGE", 2),
    (("no-such-verb",), "USAGE", 2),
]


@pytest.mark.parametrize(("arguments", "code", "exit_code"), FAILURES)
def test_every_failure_is_one_document(
    acme: Callable[..., Result], arguments: tuple[str, ...], code: str, exit_code: int
):
    """With --json, a command that fails writes one document of one shape, whatever went wrong."""
    ended = acme(*arguments, "--json")
    failure = json.loads(ended.stdout.splitlines()[-1])

    assert ended.exit_code == exit_code
    assert {"kind": "error", "code": code, "exit_code": exit_code}.items() <= failure.items()
    assert failure["message"]


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
    (["--embedded", "--pool", "chat=x:http://y", "hi"], 2, "leave --pool and --config out"),
    (["--pool", "c=x:http://y", "--config", "p.toml", "hi"], 2, "give one of them"),
    (["--messages", "-", "--system", "be brief"], 2, "leave one of them out"),
    (["--messages", "-", "--raw"], 2, "leave one of them out"),
    (["--api-key-env", "KEY", "hi"], 2, "set api_key"),
    *((["--pool", "c=x:http://y", f"--{name}", "4", "hi"], 2, f"leave --{name} out") for name in ONLY_EMBEDDED),
    (["--embedded", "--context", "0", "hi"], 2, "x>=1"),
    (["--deadline", "inf", "hi"], 6, "--deadline is inf; give seconds"),
    (["--deadline", "nan", "hi"], 6, "--deadline is nan; give seconds"),
    (["--deadline", "1e308", "hi"], 6, "--deadline is 1e+308; give seconds"),
    (["--temperature", "-1", "hi"], 6, "sampling.temperature is -1.0"),
    (["--deadline", "0", "hi"], 6, "deadline_ms is 0"),
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


def test_ctrl_c_while_adapters_are_imported(install: Install, tmp_path: Path):
    """Adapters are imported inside the net: an interruption there is told like any other."""
    (tmp_path / "slow_adapter.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    install("slow_adapter")
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
