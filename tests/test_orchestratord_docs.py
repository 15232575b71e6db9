"""What is shown of orchestratord is run as it stands, but for the port."""

import json
import re
import secrets
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from llama_orch_orchestratord import ServerConfig, parse_config

from .conftest import Serving  # type: ignore[import-not-found]  # test folders are no packages

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGE = (ROOT / "docs" / "orchestratord.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
SHOWN = "http://127.0.0.1:8700"

Serve = Callable[..., Serving]

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("curl") is None, reason="NO CURL HERE: what the pages show is not tested"),
]


def shell(block: str, url: str, folder: Path) -> str:
    """What a block prints, with `url` for the one that is shown."""
    assert SHOWN in block
    command = ["bash", "-euo", "pipefail", "-c", block.replace(SHOWN, url)]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def kinds(stream: str) -> list[str]:
    return re.findall(r"^event: (\w+)$", stream, re.MULTILINE)


@pytest.mark.real_engine
def test_the_readme_serves_and_streams(serve: Serve, tmp_path: Path):
    """ORCH-3601: the README's one command serves, and its `curl` streams tokens."""
    (command,) = re.findall(r"&& \.venv/bin/orchestratord (serve --embedded)\n", README)
    (curl,) = re.findall(r"^curl .*$", README, re.MULTILINE)
    serving = serve(*command.split()[1:], "--threads", "1")
    stream = shell(curl, serving.url, tmp_path)

    assert kinds(stream)[:3] == ["started", "token", "token"]
    assert kinds(stream)[-1] == "end"


def test_the_readme_installs_what_it_serves_with():
    """Each package that the command needs is in the README's line, from this very repository."""
    (line,) = [line for line in README.splitlines() if line.endswith("orchestratord serve --embedded")]

    assert set(re.findall(r"\./packages/([\w-]+)", line)) == {
        *("adapter-api", "http-util", "adapter-host", "adapter-llamacpp", "orchestratord"),
    }


@pytest.mark.real_engine
def test_the_page_sends_reads_and_cancels(serve: Serve, engine: str, tmp_path: Path):
    """The blocks of docs/orchestratord.md, word for word, stream 24 tokens, and end a task that was cancelled."""
    serving = serve("--pool", f"chat=llamacpp:{engine}")
    stream, cancel, _ = BLOCKS
    streamed, cancelled = shell(stream, serving.url, tmp_path), shell(cancel, serving.url, tmp_path)

    assert streamed.startswith('{"task_id":"')
    assert kinds(streamed) == ["started", *["token"] * 24, "end"]
    assert '"finish_reason":"length"' in streamed
    assert kinds(cancelled) == ["end"]
    assert '"finish_reason":"cancelled"' in cancelled


@pytest.mark.real_engine
def test_the_page_looks_at_pools_and_empties_one(serve: Serve, engine: str, tmp_path: Path):
    """What it shows of the control plane tells what it says, line by line, drains the replica and undoes that."""
    serving = serve("--pool", f"chat=llamacpp:{engine}")
    told = shell(BLOCKS[2].replace("\ncurl -s ", "\necho; curl -s "), serving.url, tmp_path).split("\n")
    capabilities, health, record, *figures, drain, undrain = told

    assert '"engine":"llamacpp"' in capabilities
    assert '"state":"ready"' in health
    assert '"ending":"ok"' in record
    assert 'orchestratord_admitted_total{pool="chat",priority="interactive"} 1.0' in figures
    assert drain == '{"pool_id":"chat","replica_id":"0","cut":0,"status":"drained"}'
    assert '"rebound":[{"pool_id":"chat","replica_id":"0","engine":"llamacpp","generation":2}]' in undrain


METRIC = re.compile(r"`(orchestratord_\w+)`")


def test_the_page_names_every_metric(serve: Serve):
    """Those of tasks that `/metrics` has, and no other."""
    serving = serve("--pool", "chat=llamacpp:http://127.0.0.1:1")
    with urllib.request.urlopen(f"{serving.url}/metrics", timeout=30) as answer:
        served = re.findall(r"^# TYPE (orchestratord_\w+)", answer.read().decode(), re.MULTILINE)

    assert sorted(METRIC.findall(PAGE)) == sorted(served)


def test_the_page_names_every_route(serve: Serve):
    """Each method and path of the OpenAPI document has its row."""
    serving = serve("--pool", "chat=llamacpp:http://127.0.0.1:1")
    with urllib.request.urlopen(f"{serving.url}/openapi.json", timeout=30) as answer:
        paths = json.load(answer)["paths"]
    served = {f"{method.upper()} {path}" for path, entry in paths.items() for method in entry if method != "head"}
    rows = {re.sub(r"\{\w+\}", "{id}", route) for route in served}

    firsts = re.findall(r"^\| (`[A-Z]+ /[^|]*) \|", PAGE, re.MULTILINE)
    shown = {route for first in firsts for route in re.findall(r"`([A-Z]+ /[^`]*)`", first)}
    assert rows - shown == {
        f"GET /{name}" for name in ("page.css", "page.js", "board.js", "nodes.js")
    }  # which the page itself asks for
    assert shown <= rows


def test_the_defaults_of_the_configuration_are_the_defaults(monkeypatch: pytest.MonkeyPatch):
    """What docs/orchestratord.md calls a default is one, and every key of every table stands there."""
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.setenv("ORCH_TOKEN", secrets.token_hex(8))
    config, usual = parse_config(text.encode()), ServerConfig()

    assert config.pools == Path("pools.toml")
    assert [token.role for token in config.auth.tokens] == ["control"]
    for table in ("server", "admission", "tasks", "stream", "openai"):
        assert getattr(config, table) == getattr(usual, table)
        keys = getattr(usual, table).__struct_fields__
        assert [key for key in keys if not re.search(rf"^(# )?{key} = ", text, re.MULTILINE)] == []
