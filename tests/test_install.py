"""Installing is all it takes: wheels in a new environment, and the command finds what is there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
OURS = [f"llama-orch-{path.parent.name}" for path in ROOT.glob("packages/*/pyproject.toml")]
FROM_DIST = ["--find-links", str(DIST), *(word for name in OURS for word in ("--refresh-package", name))]
"""Without the refresh, uv would take a wheel of the same version that it cached before."""
BASE = ["llama-orch-adapter-host[cli]", "llama-orch-adapter-llamacpp"]


@pytest.mark.timeout(180)
@pytest.mark.skipif(not DIST.is_dir(), reason="no wheels: `nox -s cross` builds them first")
def test_a_second_adapter_is_found_without_touching_the_host(tmp_path: Path):
    """ORCH-3600: api, http-util, host and llamacpp list `llamacpp`; another wheel adds its engine, each in turn."""
    environment = tmp_path / "venv"

    def uv(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "uv", *arguments], check=True, capture_output=True, cwd=ROOT)

    def install(*names: str) -> None:
        uv("pip", "install", "--python", str(environment), "--constraint", "constraints.txt", *FROM_DIST, *names)

    def listed() -> list[tuple[str, str]]:
        command = environment / "bin" / "adapter-host"
        out = subprocess.run([command, "plugins", "--json"], check=True, capture_output=True, cwd=tmp_path).stdout
        return [(plugin["name"], plugin["state"]) for plugin in json.loads(out)]

    uv("venv", "--python", sys.executable, str(environment))
    install(*BASE)
    host = environment / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages/llama_orch_adapter_host"
    before, files = listed(), contents(host)
    install("llama-orch-adapter-vllm")
    second = listed()
    install("llama-orch-adapter-openai")

    assert before == [("llamacpp", "ready")]
    assert second == [("llamacpp", "ready"), ("vllm", "ready")]
    assert listed() == [("llamacpp", "ready"), ("openai", "ready"), ("vllm", "ready")]
    assert contents(host) == files


def contents(folder: Path) -> dict[str, int]:
    """Every source file and when it was changed."""
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*.py")}
