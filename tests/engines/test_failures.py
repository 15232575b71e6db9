"""What a real engine's failures look like through the host."""

import asyncio
import signal
import time
from pathlib import Path

import pytest
from llama_orch_adapter_api import (
    AdapterError,
    Grammar,
    InternalError,
    PoolUnavailable,
    TaskRequest,
    Token,
    WorkerError,
    WorkerReset,
)
from llama_orch_adapter_host import AdapterHost

from ..fleet import Life
from .real import CONTEXT, KIND, SLOTS, RealEngine, endless, host, running, task

CROWD = 3 * SLOTS
HUNG = 10.0
_ENDINGS: dict[tuple[str, signal.Signals], type[WorkerError]] = {
    ("llamacpp", signal.SIGKILL): WorkerReset,
    ("llamacpp", signal.SIGTERM): WorkerReset,
    ("vllm", signal.SIGKILL): WorkerReset,
    ("vllm", signal.SIGTERM): InternalError,  # it says so itself: an error object of code 500, then [DONE]
}


async def failed(front: AdapterHost, request: TaskRequest) -> WorkerError:
    """The error that a task ends in."""
    life = await Life(request).live(front)
    assert life.error is not None, life.name
    return life.error


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "stop"])
async def test_an_engine_that_ends_under_streams(tmp_path: Path, model: Path, how: signal.Signals):
    """Battery 39, ORCH-3602: an engine that ends hangs no stream, each has one error, the next task is told."""
    with running(tmp_path, model) as engine:
        async with host(engine) as front:
            lives = [Life(endless()) for _ in range(SLOTS)]
            callers = [asyncio.create_task(life.live(front)) for life in lives]
            async with asyncio.timeout(60):
                while not all(len(life.tokens) > 3 for life in lives):
                    await asyncio.sleep(0.01)
            began = time.monotonic()
            engine.signal(how)
            done, hung = await asyncio.wait(callers, timeout=HUNG)
            spans = [life.moment - began for life in lives if life.moment]
            while True:  # a stopping engine may still answer for a moment
                error = await failed(front, task("Hi", 2, replica="0"))
                if isinstance(error, PoolUnavailable) or time.monotonic() - began > HUNG:
                    break

    print(f"{KIND}, {how.name}: {[life.name for life in lives]}, {max(spans, default=0):.3f} s after it; then: {error}")
    assert len(done) == SLOTS
    assert not hung
    assert all(isinstance(life.error, _ENDINGS[KIND, how]) for life in lives), [life.name for life in lives]
    assert all(life.endings == 1 for life in lives)
    assert isinstance(error, PoolUnavailable)
    assert error.detail in ("unreachable", "all_open")


async def test_overload(engine: RealEngine):
    """Battery 39: more tasks than slots all end well, none waits for ever, and the engine's health stays alive."""
    async with host(engine) as front:
        lives = [Life(task(f"Count {number}:", 16)) for number in range(CROWD)]
        callers = [asyncio.create_task(life.live(front)) for life in lives]
        states = set()
        while not all(caller.done() for caller in callers):
            (health,) = (await front.health("chat")).values()
            assert not isinstance(health, WorkerError), health
            states.add(health.state)
            await asyncio.sleep(0.02)

    print(f"{KIND}, {CROWD} tasks on {SLOTS} slots: states {sorted(states)}")
    assert [life.name for life in lives] == ["length"] * CROWD
    assert [len(life.events) > 1 for life in lives] == [True] * CROWD
    assert states <= {"ready", "busy"}


async def test_context_overflow(engine: RealEngine):
    """Battery 39: a prompt longer than the context is AdapterError context_length, which nobody retries."""
    async with host(engine) as front:
        error = await failed(front, task("word " * (2 * CONTEXT), 4))

    print(f"{KIND}: {error}")
    assert isinstance(error, AdapterError)
    assert error.detail == "context_length"
    assert not error.retriable
    assert not error.engine_fault
    assert "word word" not in str(error)


async def test_wrong_key(engine: RealEngine):
    """Battery 39, 32: a wrong key is AdapterError auth, names the mend, and shows neither key."""
    wrong = f"not-{engine.key}"
    async with host(engine, key=wrong) as front:
        error = await failed(front, task("Hi", 2))

    print(f"{KIND}: {error}")
    assert isinstance(error, AdapterError)
    assert error.detail == "auth"
    assert not error.engine_fault
    assert "api_key" in str(error)
    assert engine.key not in repr(error)


async def test_refused_requests(engine: RealEngine):
    """Battery 39: what a real engine refuses is the caller's fault, never the engine's."""
    asked = {
        "a grammar that is none": TaskRequest(prompt="Hi", max_tokens=2, response_format=Grammar("root ::= (")),
        "a field of the wrong type": TaskRequest(prompt="Hi", max_tokens=2, extra={"temperature": "hot"}),
    }
    async with host(engine) as front:
        errors = {name: await failed(front, request) for name, request in asked.items()}

    print(*(f"{KIND}, {name}: {error}" for name, error in errors.items()), sep="\n")
    assert {name: error.engine_fault for name, error in errors.items()} == dict.fromkeys(asked, False)
    assert {error.detail for error in errors.values()} <= {"bad_request", "unsupported"}


async def test_the_engine_serves_on(engine: RealEngine):
    """Battery 39: after all that, a task is answered as ever."""
    async with host(engine) as front:
        life = await Life(task("Once upon a time", 8)).live(front)

    assert life.name == "length"
    assert any(isinstance(event, Token) for event in life.events)
