"""Battery 31: what an adapter does in its methods is its own replica's trouble; what a signal asks for happens."""

import asyncio
import importlib
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from llama_orch_adapter_api import (
    AdapterContext,
    AdapterError,
    AdapterSpec,
    TaskRequest,
    Token,
    TokenEvent,
    WorkerAdapter,
    WorkerHealth,
    WorkerProps,
    hookimpl,
)
from llama_orch_adapter_host import AdapterHost, ConfigError, Plugins, PoolPolicy
from llama_orch_adapter_testkit import run_virtual

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    READY,
    STARTED,
    Config,
    Words,
    drained,
    end,
    plugins_with,
    task,
    virtual,
)
from .streams import CANCELLED  # type: ignore[import-not-found]  # as above


def leave() -> None:
    sys.exit(3)


def fail() -> None:
    raise KeyError("oh")


def import_nothing() -> None:
    importlib.import_module("no_such_module_anywhere")


HOW: dict[str, Callable[[], None]] = {"raises": fail, "exits": leave, "imports": import_nothing}

TOLD = {"raises": "KeyError", "exits": "SystemExit", "imports": "ModuleNotFoundError"}


class Bad(WorkerAdapter):
    """Does it in the method `where`, and is an engine of one word otherwise."""

    def __init__(self, where: str, how: Callable[[], None]) -> None:
        self.where = where
        self.how = how
        self.done = 0

    def act(self, here: str) -> None:
        if here == self.where:
            self.done += 1
            self.how()

    async def health(self) -> WorkerHealth:
        self.act("health")
        return READY

    async def props(self) -> WorkerProps:
        self.act("props")
        return await Words().props()

    async def engine_version(self) -> str:
        return "1"

    def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        self.act("submit")
        return self.speak()

    async def speak(self) -> AsyncIterator[TokenEvent]:
        try:
            self.act("connect")
            await asyncio.sleep(0.1)
            self.act("first_token")
            yield STARTED
            yield Token("a", 0)
            await asyncio.sleep(0.1)
            self.act("decode")
            yield end(1)
        finally:
            self.act("clean-up")

    async def cancel(self, task_id: str) -> None:
        self.act("cancel")

    async def aclose(self) -> None:
        self.act("aclose")


def hosting(bad: WorkerAdapter) -> AdapterHost:
    """A pool of a bad adapter and one of a good one."""
    host = AdapterHost(plugins=plugins_with(bad, Words()))
    host.bind("bad", "words", {})
    host.bind("good", "words", {})
    return host


async def is_well(host: AdapterHost) -> bool:
    return len(await drained(await host.submit("good", task()))) == 5


@pytest.mark.parametrize("where", ["submit", "connect", "first_token", "decode"])
@pytest.mark.parametrize("how", HOW)
@virtual
async def test_an_adapter_that_misbehaves_in_a_stream(where: str, how: str):
    """Battery 31: raise, exit, a failing import while a task runs: that task fails, never to be retried."""
    bad = Bad(where, HOW[how])
    async with hosting(bad) as host:
        with pytest.raises(AdapterError) as caught:
            await drained(await host.submit("bad", task()))
        well = await is_well(host)

    error = caught.value
    assert (error.detail, error.replica, error.attempts, bad.done) == ("plugin", "0", 1, 1)
    assert f"raised {TOLD[how]}" in error.message
    assert type(error.__cause__).__name__ == TOLD[how]
    assert well


@pytest.mark.parametrize("where", ["health", "props", "cancel", "clean-up", "aclose"])
@pytest.mark.parametrize("how", HOW)
@virtual
async def test_an_adapter_that_misbehaves_beside_its_streams(where: str, how: str):
    """Battery 31: raise, exit, a failing import where no task waits for it: streams end as they would have."""
    bad = Bad(where, HOW[how])
    async with hosting(bad) as host:
        request = task()
        stream = await host.submit("bad", request)
        if where == "cancel":
            await (await host.cancel("bad", request.task_id)).idle()
        events = await drained(stream)
        await host.props("bad")
        health = await host.health("bad")
        well = await is_well(host)

    assert bad.done >= 1
    assert health["0"].state == ("down" if where == "health" else "ready")
    assert events[-1] == (CANCELLED if where == "cancel" else end(1))
    assert well


@pytest.mark.parametrize("how", HOW)
@virtual
async def test_a_factory_that_misbehaves(how: str):
    """Battery 31: raise, exit, a failing import in a factory: the bind is refused, and says so; the host serves on."""

    def factory(_: AdapterContext) -> WorkerAdapter:
        HOW[how]()
        raise NotImplementedError

    plugins = plugins_with(Words())
    plugins.register(AdapterSpec("bad", 1, Config, factory))
    async with AdapterHost(plugins=plugins) as host:
        host.bind("good", "words", {})
        with pytest.raises(ConfigError, match=f"replica bad/0: {TOLD[how]}"):
            host.bind("bad", "bad", {})

        assert await is_well(host)


@virtual
async def test_an_exit_while_nobody_waits():
    """Battery 31: an adapter that exits in the clean-up of a dropped stream does not end the loop."""
    bad = Bad("clean-up", leave)
    async with hosting(bad) as host:
        stream = await host.submit("bad", task())
        del stream
        await asyncio.sleep(0.1)

        assert bad.done == 1
        assert await is_well(host)


# --- a signal's handler


class Terminated(Bad):
    """In the middle of its work, the process is told to end."""

    def __init__(self, where: str) -> None:
        super().__init__(where, lambda: signal.raise_signal(signal.SIGTERM))


def plain(number: int, _: object) -> None:
    sys.exit(number)


class Handlers:
    def method(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        sys.exit(int(signal.SIGTERM))


@pytest.fixture(params=[plain, lambda *args: sys.exit(args[0]), Handlers().method], ids=["plain", "lambda", "method"])
def exits_on_sigterm(request: pytest.FixtureRequest) -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, request.param)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("exits_on_sigterm")
@pytest.mark.parametrize("where", ["submit", "connect", "decode", "clean-up", "health"])
def test_a_signal_while_an_adapter_works(where: str):
    """Battery 31: `sys.exit()` in a handler of SIGTERM ends the process, whatever code it came into."""

    async def main() -> None:
        async with hosting(Terminated(where)) as host:
            await host.health("bad")
            await drained(await host.submit("bad", task()))

    with pytest.raises(SystemExit) as ended:
        run_virtual(main())

    assert ended.value.code == signal.SIGTERM


@pytest.mark.usefixtures("exits_on_sigterm")
@pytest.mark.parametrize("where", ["factory", "policy"])
def test_a_signal_while_a_plugin_decides(where: str):
    """Battery 31: so it does in a factory, and in a routing policy."""
    plugins = Plugins()

    def factory(_: AdapterContext) -> WorkerAdapter:
        if where == "factory":
            signal.raise_signal(signal.SIGTERM)
        return Words()

    def policy(*_: object) -> str:
        signal.raise_signal(signal.SIGTERM)
        return "0"

    class Routes:
        @hookimpl
        def llama_orch_register_routes(self, register: Any) -> None:
            register("odd", policy)

    plugins.register(AdapterSpec("words", 1, Config, factory))
    plugins.register_plugin(Routes(), "routes")

    async def main() -> None:
        async with AdapterHost(plugins=plugins) as host:
            host.bind("pool", "words", {}, policy=PoolPolicy(route="odd"))
            await host.submit("pool", task())

    with pytest.raises(SystemExit):
        run_virtual(main())
