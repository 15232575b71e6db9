"""What the README shows is run as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()

WATCHED = """
import sys
import llama_orch_adapter_host, llama_orch_adapter_llamacpp, llama_orch_http_util
from blockbuster import blockbuster_ctx
with blockbuster_ctx([llama_orch_adapter_host, llama_orch_adapter_llamacpp, llama_orch_http_util]):
    exec(sys.argv[1])
"""


@pytest.mark.real_engine
@pytest.mark.timeout(180)
def test_the_example_runs(tmp_path: Path):
    """The Python of the README, word for word, prints an answer, blocks no loop and leaves nothing behind."""
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", WATCHED, example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.split()) > 2
    assert "nclosed" not in ran.stderr
