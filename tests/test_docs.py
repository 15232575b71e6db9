"""What the documentation shows is run, or read, as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import msgspec
from llama_orch_adapter_api import Timeouts
from llama_orch_adapter_host import PoolPolicy, parse_config

DOCS = Path(__file__).parents[1] / "docs"


def test_the_example_of_a_reload_runs(tmp_path: Path):
    """ORCH-3600: the Python of docs/reload.md, word for word, preloads, reloads and prints what the new one answers."""
    example = re.findall(r"```python\n(import asyncio.*?)```", (DOCS / "reload.md").read_text(), re.DOTALL)[0]
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.stdout.splitlines()[0] == "generation 2 is ready beside the one that serves"
    assert ran.stdout.splitlines()[-1] == "http://127.0.0.1:8081 says hello"
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_defaults_of_the_configuration_are_the_defaults():
    """What docs/configuration.md calls a default is one, and every field of every table stands there."""
    blocks = re.findall(r"```toml\n(.*?)```", (DOCS / "configuration.md").read_text(), re.DOTALL)
    (text,) = [block for block in blocks if "[pools.chat]" in block]
    pool = parse_config(text.encode()).pools["chat"]

    assert pool.timeouts == Timeouts()
    assert pool.policy == PoolPolicy()
    tables = [Timeouts(), PoolPolicy(), *(getattr(PoolPolicy(), name) for name in ("retry", "breaker", "health"))]
    named = [name for table in tables for name in msgspec.structs.asdict(table)]
    assert [name for name in named if not re.search(rf"^(# |\[pools\.chat\.)?{name}\b", text, re.MULTILINE)] == []
