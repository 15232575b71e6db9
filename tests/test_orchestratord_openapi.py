"""What orchestratord serves, held against the OpenAPI document that it serves: schemathesis makes up the requests."""

import asyncio
import json
import secrets
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llama_orch_adapter_testkit import Behaviour, EngineProcess

from .conftest import SCRIPTS, Serving  # type: ignore[import-not-found]  # test folders are no packages
from .test_orchestratord import clean  # type: ignore[import-not-found]

Serve = Callable[..., Serving]

EXAMPLES = 10
"""Requests of each operation in the fuzzing phase; those of the other phases follow from the document."""

POOLS = """
[pools.chat]
engine = "llamacpp"
replicas = [{ url = "URL" }]
[pools.spare]
engine = "llamacpp"
replicas = [{ url = "URL" }]
"""

ORCHESTRATORD = """
pools = "pools.toml"
[openai]
enabled = true
[auth]
tokens = [{ env = "ORCH_TOKEN", role = "control" }]
[tasks]
limit = 500
[stream]
unread_expiry = 5.0
[server]
shutdown = 1.0
"""

SCHEMATHESIS = """
seed = 7

[auth.openapi.bearer]
bearer = "${ORCH_TOKEN}"

[parameters]
"body.pool_id" = "chat"
"body.model" = "chat"

[phases.stateful.generation]
max-examples = 30

[[operations]]  # so that the other operations have a pool that takes tasks
include-operation-id = "drainPool"
parameters = { "path.pool_id" = "spare" }

[[operations]]  # rules over several fields, such as one subject a task, are in no schema
include-operation-id = "submitTask"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "409", "415", "429"]

[[operations]]  # a schema does not say either what a field forbids another one
include-operation-id = "createChatCompletion"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "429"]

[[operations]]
include-operation-id = "createCompletion"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "429"]

[[operations]]  # nor that a replica is named for a drain that is to be undone alone
include-operation-id = "reloadPools"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "409"]

[[operations]]  # which never ends: each request would last until schemathesis has enough of it; its head is looked at
include-operation-id = "live"
enabled = false

[[operations]]  # nor which events a task has had
include-operation-id = "streamTask"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "409", "410"]
"""


def load(url: str, token: str) -> dict[str, Any]:
    """The document, as a client with a token gets it."""
    request = urllib.request.Request(f"{url}/openapi.json", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def live_is_as_described(url: str, token: str) -> None:
    """What stands at the head of the one answer that never ends, and its first line; the fuzzing leaves it out."""
    (told,) = (each["get"] for path, each in load(url, token)["paths"].items() if path == "/v1/live")
    request = urllib.request.Request(f"{url}/v1/live", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        described = told["responses"][str(answer.status)]

        assert answer.headers.get_content_type() in described["content"]
        assert set(described["headers"]) <= set(answer.headers)
        assert answer.readline() == b"event: begin\n"


def fuzzed(url: str, token: str, folder: Path) -> tuple[dict[str, Any], str]:
    """What schemathesis found, and its own words."""
    (folder / "openapi.json").write_text(json.dumps(load(url, token)))
    (folder / "schemathesis.toml").write_text(SCHEMATHESIS)
    ran = subprocess.run(
        [
            *(SCRIPTS / "schemathesis", "--no-color", "run", "openapi.json", "--url", url, "--checks", "all"),
            *("--max-examples", str(EXAMPLES), "--generation-database", "none"),
            *("--report", "json", "--report-json-path", "report.json"),
        ],
        cwd=folder,
        env={"PATH": "", "ORCH_TOKEN": token},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
        check=False,
    )
    assert (folder / "report.json").exists(), ran.stdout
    return json.loads((folder / "report.json").read_text()), ran.stdout


@pytest.mark.timeout(180)
def test_what_is_served_is_what_the_document_says(serve: Serve, tmp_path: Path):
    """Whatever is sent: no 5xx; statuses, content types, headers, bodies and a stream's events as described.

    Methods that are not there, and requests without a token or with a wrong one, are refused as they should be.
    """
    token = secrets.token_hex(16)

    async def against_a_fake_engine() -> tuple[dict[str, Any], str, str]:
        async with EngineProcess(Behaviour(slots=4, tokens=8)) as engine:
            (tmp_path / "pools.toml").write_text(POOLS.replace("URL", engine.url))
            (tmp_path / "orchestratord.toml").write_text(ORCHESTRATORD)
            serving = await asyncio.to_thread(serve, ORCH_TOKEN=token)
            report, words = await asyncio.to_thread(fuzzed, serving.url, token, tmp_path)
            await asyncio.to_thread(live_is_as_described, serving.url, token)
            _, notes = await asyncio.to_thread(serving.stop)
            return report, words, notes

    report, words, notes = asyncio.run(against_a_fake_engine())

    cases, operations = report["test_cases"], report["operations"]
    print(f"{cases['generated']} cases, {operations['tested']} operations, {report['running_time']:.0f} s")
    assert report["failures"] == report["errors"] == [], words
    assert report["exit_code"] == 0, words
    assert operations["tested"] == operations["selected"] == operations["total"] - 1
    assert cases["generated"] > EXAMPLES * operations["total"] / 2
    for path in ("/v1/tasks", "/v1/chat/completions", "/v1/completions"):
        assert report["valid_rates"][f"POST {path}"]["examples"]["accepted"] > 0
    assert clean(notes), notes
    assert '"level":"ERROR"' not in notes.replace(" ", "")
