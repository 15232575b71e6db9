"""The command against a real engine, and against everything a user may get wrong."""

import asyncio
import json
import re
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest
from llama_orch_adapter_host.cli._exit import Exit
from llama_orch_adapter_testkit import LoopbackEngine, Reply, Request, captures

Run = Callable[..., tuple[int, str, str]]
Start = Callable[..., Popen[bytes]]

NOWHERE = "http://127.0.0.1:1"
LOADING = captures.load("llamacpp", "loading_get_health")

pytestmark = pytest.mark.timeout(180)


def busy_slots(engine: str) -> int:
    with urllib.request.urlopen(f"{engine}/slots", timeout=5) as answer:
        return sum(slot["is_processing"] for slot in json.load(answer))


@pytest.mark.real_engine
def test_one_command_streams_a_real_answer(run: Run):
    """ORCH-3601: `chat --embedded` alone starts an engine, streams its answer, and says who served it."""
    code, answer, notes = run("chat", "--embedded", "--threads", "1", "--seed", "1", "--max-tokens", "24", "Say hi")

    assert code == 0, notes
    assert len(answer.split()) > 3
    assert re.search(r"^ready after \d+\.\d s$", notes, re.MULTILINE)
    assert "replica embedded/0 · 1 attempt]" in notes
    assert "error" not in notes
    assert "Warning" not in notes


@pytest.mark.real_engine
def test_json_is_one_event_a_line(run: Run, engine: str):
    """With --json, stdout holds the events in their order and nothing else."""
    code, out, _ = run(
        "chat", "--json", "--pool", f"chat=llamacpp:{engine}", "--raw", "--seed", "1", "--max-tokens", "5", "Once upon"
    )
    events = [json.loads(line) for line in out.splitlines()]

    assert code == 0
    assert [event["kind"] for event in events] == ["started", *["token"] * (len(events) - 2), "end"]
    assert [event["i"] for event in events[1:-1]] == list(range(len(events) - 2))
    assert events[-1]["tokens_out"] == 5


@pytest.mark.real_engine
def test_ctrl_c_frees_the_engine(start: Start, engine: str):
    """Battery 39, ORCH-3601: Ctrl-C in mid-stream frees the slot within 500 ms, exits with 130 and warns of nothing."""
    process = start(
        "chat", "--pool", f"chat=llamacpp:{engine}", "--raw", "--max-tokens", "2000", "Count: 1, 2, 3, 4, 5, 6, 7,"
    )
    assert process.stdout is not None
    process.stdout.read(20)
    working = busy_slots(engine)

    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    while busy_slots(engine):
        assert time.monotonic() - began < 0.5, "the slot is still busy"
    _, notes = process.communicate(timeout=30)

    assert working == 1
    assert process.returncode == 130
    assert "cancelled after" in notes.decode()
    for word in ("nclosed", "Traceback", "Warning", "never retrieved"):
        assert word not in notes.decode()


@pytest.mark.real_engine
def test_a_prompt_longer_than_the_context(run: Run, engine: str):
    """A prompt that does not fit is refused with the engine's own figures and code 12."""
    code, out, notes = run("chat", "--pool", f"chat=llamacpp:{engine}", "word " * 5000)

    assert (code, out) == (12, "")
    assert "exceeds the available context size (2048 tokens)" in notes
    assert "shorten the prompt" in notes


@pytest.mark.real_engine
def test_health_and_props_of_a_real_engine(run: Run, engine: str):
    """ORCH-3601: `health` says ready with code 0; `props` names engine, model, context and slots."""
    pool = ("--pool", f"chat=llamacpp:{engine}", "--json")
    health_code, health, _ = run("health", *pool)
    props_code, props, _ = run("props", *pool)
    known = json.loads(props)["chat"]["0"]

    assert (health_code, props_code) == (0, 0)
    assert json.loads(health)["chat"]["0"]["state"] == "ready"
    assert known["slots_total"] == 2
    assert known["capabilities"]["model_id"] == "smollm2"
    assert known["capabilities"]["ctx_max"] == 2048


BAD_INPUT = {
    "unknown engine": (4, ["--pool", f"chat=nope:{NOWHERE}", "hi"], "known: llamacpp, openai, vllm"),
    "unknown pool": (8, ["--pool", f"chat=llamacpp:{NOWHERE}", "other", "hi"], "bound: chat"),
    "unreachable": (9, ["--pool", f"chat=llamacpp:{NOWHERE}", "hi"], "check that the engine runs"),
    "two prompts": (2, ["--pool", f"chat=llamacpp:{NOWHERE}", "--messages", "m.json", "hi"], "give one of them"),
    "negative length": (6, ["--pool", f"chat=llamacpp:{NOWHERE}", "--max-tokens", "-5", "hi"], "from 1 to"),
    "not UTF-8": (7, ["--pool", f"chat=llamacpp:{NOWHERE}", b"caf\xe9"], "not UTF-8"),
    "no pool": (5, ["hi"], "--embedded"),
    "no such model": (18, ["--embedded", "--model", "no.gguf", "hi"], "--model PATH"),
    "no such config": (5, ["--config", "no.toml", "hi"], "No such file"),
    "empty prompt": (6, ["--pool", f"chat=llamacpp:{NOWHERE}", ""], "at least one character"),
    "no such file of messages": (6, ["--pool", f"chat=llamacpp:{NOWHERE}", "--messages", "no.json"], "No such file"),
    "a URL that is none": (5, ["--pool", "chat=llamacpp:ftp://x", "hi"], "give http://HOST:PORT"),
    "a key in the URL": (5, ["--pool", "chat=vllm:http://me:pw@127.0.0.1:1", "hi"], "set api_key"),
    "no finite deadline": (
        6,
        ["--pool", f"chat=llamacpp:{NOWHERE}", "--deadline", "inf", "hi"],
        "give seconds from 0.001",
    ),
    "two sources of pools": (2, ["--pool", f"chat=llamacpp:{NOWHERE}", "--config", "p.toml", "hi"], "give one of them"),
    "a context for no engine": (2, ["--pool", f"chat=llamacpp:{NOWHERE}", "--context", "99", "hi"], "for --embedded"),
    "a pool that is none": (2, ["--pool", "chat", "hi"], "NAME=ENGINE:URL"),
    "no key in the environment": (
        5,
        ["--pool", f"chat=vllm:{NOWHERE}", "--api-key-env", "NO_SUCH_KEY", "hi"],
        "export it",
    ),
}


@pytest.mark.parametrize(("code", "arguments", "mend"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_told_with_its_mend(run: Run, code: int, arguments: list[str], mend: str):
    """What a user may get wrong ends in one clear sentence with the mend and a code of its own, and no traceback."""
    got, out, notes = run("chat", *arguments)

    assert (got, out) == (code, ""), notes
    assert mend in notes
    assert "Traceback" not in notes


async def test_an_engine_that_still_loads_is_told_as_such(start: Start):
    """Code 10, and the mend is to wait: loading is no failure."""
    async with LoopbackEngine(lambda _: Reply.capture(LOADING)) as engine:
        process = start("chat", "--pool", f"chat=llamacpp:{engine.url}", "hi")
        _, notes = await asyncio.to_thread(process.communicate, timeout=60)

    assert process.returncode == 10
    assert "wait until it is ready" in notes.decode()


async def test_ctrl_c_in_json_is_a_failure_like_any_other(start: Start):
    """With --json, Ctrl-C before the first token ends in one error document with code 130."""
    asked = asyncio.Event()

    def never(_: Request) -> Reply:
        asked.set()
        return Reply.capture(LOADING, stop_after=0, hang=True)

    async with LoopbackEngine(never) as engine:
        process = start("chat", "--json", "--pool", f"chat=llamacpp:{engine.url}", "hi")
        await asked.wait()
        process.send_signal(signal.SIGINT)
        out, _ = await asyncio.to_thread(process.communicate, timeout=60)
    failure = json.loads(out)

    assert process.returncode == 130
    assert (failure["kind"], failure["code"], failure["exit_code"]) == ("error", "INTERRUPTED", 130)
    assert "cancelled after 0 tokens" in failure["message"]


def test_no_adapter_installed(run: Run, tmp_path: Path):
    """Without any adapter, the code is 3 and the message names one to install."""
    hide = tmp_path / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text(
        "import importlib.metadata as m\n"
        "real = m.entry_points\n"
        "m.entry_points = lambda **how: m.EntryPoints() if how.get('group') == 'llama_orch.adapters' else real(**how)\n"
    )
    code, _, notes = run("chat", "--pool", f"chat=llamacpp:{NOWHERE}", "hi", PYTHONPATH=str(hide))
    listed, _, told = run("plugins", PYTHONPATH=str(hide))

    assert (code, listed) == (3, 3)
    assert "pip install llama-orch-adapter-llamacpp" in notes
    assert "pip install llama-orch-adapter-llamacpp" in told


def test_plugins_are_listed(run: Run):
    """ORCH-3600: all three adapters are found through their entry points."""
    code, out, _ = run("plugins", "--json")

    assert code == 0
    assert [(p["name"], p["state"], p["engines"]) for p in json.loads(out)] == [
        ("llamacpp", "ready", ["llamacpp"]),
        ("openai", "ready", ["openai"]),
        ("vllm", "ready", ["vllm"]),
    ]


def test_every_code_is_documented():
    """The table in docs/exit-codes.md names every code the command can end with, and no other."""
    page = (Path(__file__).parents[1] / "docs" / "exit-codes.md").read_text()
    documented = {int(line.split("|")[1]) for line in page.splitlines() if line.startswith("| ") and line[2].isdigit()}

    assert documented == {int(code) for code in Exit}
