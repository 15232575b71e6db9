"""`AdapterHost`, the facade: everything an orchestrator calls."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Self, TypeVar

from llama_orch_adapter_api import (
    BindingInfo,
    DeadlineUnmet,
    PoolUnavailable,
    RoutePolicy,
    TaskRequest,
    Timeouts,
    WorkerAdapter,
    WorkerError,
    get_logger,
)

from ._attempts import Attempts
from ._binding import Binding
from ._blueprint import Blueprint, Wish, raise_all, read_blueprints
from ._bus import Bus, Observer
from ._call import Call
from ._changes import Changes
from ._config import ConfigError, HostConfig
from ._confirm import confirmed
from ._disconnect import Client, leaving
from ._ending import LAST_WORDS, Ending
from ._file import ConfigFile
from ._fleet import Fleet
from ._flight import cancelled
from ._guard import told
from ._ledger import Ledger
from ._looks import Looks
from ._plugins import Plugins
from ._policy import PoolPolicy
from ._receipt import CancelReceipt
from ._record import FlightRecord
from ._relay import Relay
from ._reload import Reloads
from ._router import Router
from ._stream import Grounded, Submission, TokenStream
from ._teller import Teller
from ._triggers import Trigger
from ._watch import Watch
from .observe import Narrator

T = TypeVar("T")

logger = get_logger(__name__)

_CLOCK_GRAIN = 1e-6
"""Seconds that a sum of moments may be off."""

_LOOK = 0.05
"""Seconds between two looks for a task whose client is gone already, and which may be submitted yet."""


class AdapterHost(Looks, Changes, Ending):
    """Finds adapters, binds one per replica, and puts one behaviour around all of them. One per event loop.

    Use it as `async with AdapterHost.from_config("pools.toml") as host:`; leaving the block ends every stream, and the
    host: entering it again raises `RuntimeError`.
    """

    def __init__(self, config: HostConfig | None = None, plugins: Plugins | None = None) -> None:
        self._read: Callable[[], HostConfig | None] = lambda: config
        self._file: ConfigFile | None = None
        self._plugins = plugins
        self._relay: Relay | None = None
        self._owns_plugins = plugins is None
        self._bus = Bus()
        self._bus.add(Narrator())
        self._fleet = Fleet(lambda: self.plugins, self._bus)
        self._reloads = Reloads(self._fleet, self._bus, lambda: self.plugins)
        self._triggers: list[Trigger] = []
        self._registry = self._fleet.registry
        self._router = Router(self._registry, self._policies, self._bus, self._dropped)
        self._ledger = Ledger()
        self._tell = Teller(self._bus)
        self._over = self._ledger.end  # a bound method, made once
        self._hurry = self._fleet.lookout.hurry
        self._watch = Watch(self._ledger.let_go)
        self._loop: asyncio.AbstractEventLoop | None = None  # of the latest task: asking for it costs a system call
        self._entered = False
        self._stopping = False
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    def from_config(cls, path: str | os.PathLike[str], plugins: Plugins | None = None) -> Self:
        """A host that reads a TOML file and binds its pools when it is entered, which then raises `ConfigError`."""
        host = cls(plugins=plugins)
        host._file = file = ConfigFile(Path(path))  # its own
        host._read = file.read
        return host

    @property
    def plugins(self) -> Plugins:
        """The adapters at hand. Found at the first look or when the host is entered, whichever comes first.

        Raises `ConfigError` where the config, which says what may be imported, cannot be read.
        """
        if self._plugins is None:
            lists = (self._read() or HostConfig({})).plugins
            self._plugins = Plugins(allow=lists.allow, block=lists.block)
            self._relay = Relay(self._plugins, self._bus)
            self._plugins.load()
        elif self._relay is None:
            self._relay = Relay(self._plugins, self._bus)
        return self._plugins

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Tell `observer` of every event from now on; call what is returned to end that.

        It is called on the event loop and must not block. One with a method `traceparent(task_id)`, as `Tracing` has,
        also names the trace that engines are told. A `Narrator` is one too many, since each host has its own.
        """
        return (lambda: None) if isinstance(observer, Narrator) else self._bus.add(observer)

    async def __aenter__(self) -> Self:
        if self._entered or self._stopping:
            matter = "has stopped" if self._stopping else "is entered already"
            raise RuntimeError(f"this host {matter}; a host is entered once · make a new one")
        self._entered = True
        try:
            blueprints = await asyncio.to_thread(self._find)  # imports packages, reads files
            if self._stopping:
                raise RuntimeError("this host was closed while it was being entered · make a new one")
            self._build(blueprints)
            if self._relay is not None:
                self._relay.loop = asyncio.get_running_loop()
            for binding in self._registry.all():
                self._fleet.watch(binding)
        except BaseException:
            await self.aclose(drain=0)
            raise
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self.aclose(drain=0)

    # --- binding

    def bind(
        self,
        pool_id: str,
        engine: str,
        replica: Mapping[str, object],
        *,
        replica_id: str = "0",
        timeouts: Timeouts | None = None,
        http: Mapping[str, object] | None = None,
        policy: PoolPolicy | None = None,
    ) -> BindingInfo:
        """Bind one replica: `replica` is its adapter's own table, as in a config. Nothing is sent to the engine yet.

        `policy` is its pool's from now on; None leaves that as it is. Its `route` has to be known; the pools of
        its `fallback` may be bound later. Raises `ConfigError`, and `PoolUnavailable` (draining) where the host is
        stopping.
        """
        self._check_open(pool_id)
        wish = Wish(pool_id, replica_id, engine, replica, timeouts, http, policy)
        (binding,) = self._build([wish.read(self.plugins)])
        return binding.info

    def pools(self) -> tuple[str, ...]:
        """The pools with something bound, in the order they were bound."""
        return self._registry.names()

    # --- a task

    def submit(self, pool_id: str, task: TaskRequest) -> Submission:
        """Send a task: `await` gives its `TokenStream` at the first token, `async with` also closes it.

        Raises `WorkerError`; with `task.deadline_ms` counting from the await.
        """
        return Submission(self._submit, pool_id, task)

    async def _submit(self, pool_id: str, task: TaskRequest) -> TokenStream:
        """The whole life of a call: admit → retry → route → breaker → adapter → first token."""
        call = self._admit(pool_id, task)
        with call:
            async for attempt in Attempts(call, self._router):
                with attempt:
                    now = call.now()
                    picked = attempt.route(now)
                    if task.deadline_ms is not None:
                        _check_useful(picked.binding, call, now)
                    if picked.binding.advise is not None:
                        self._fleet.advisers.advise(picked.binding, call)
                    permit = picked.binding.gate.enter(now)
                    flight = call.board(picked, permit, attempt.backoff)
                    self._watch.add(flight)
                    await flight.commit()
                    call.committed()
                    return TokenStream(call, flight)
        return TokenStream(call, Grounded())  # cancelled in a back-off

    async def cancel(self, pool_id: str, task_id: str) -> CancelReceipt:
        """Stop a task; after the answer not one token of it is delivered. Never raises."""
        call = self._ledger.live(task_id)
        if call is None or call.pool.id != pool_id:
            past = self._ledger.record(task_id)
            return CancelReceipt("unknown" if past is None or past.pool_id != pool_id else "already_done")
        phase, binding = call.phase, call.boarded
        call.interrupt(cancelled())
        if binding is None or type(binding.adapter).cancel is WorkerAdapter.cancel:
            return CancelReceipt("cancelled", phase)
        return CancelReceipt("cancelled", phase, self._fleet.errand(confirmed(binding, call, self._fleet.cache)))

    @contextlib.asynccontextmanager
    async def cancel_on_disconnect(self, client: Client, pool_id: str, task_id: str) -> AsyncIterator[None]:
        """Within the block, cancel the task as soon as the client of a web server is gone, wherever the task is then.

        `client` is a request of an aiohttp server, of Starlette or FastAPI, or ASGI's `receive`. Enter it before
        `submit`, which may wait long for the first token. A task that is sent under the id after that one has ended is
        somebody else's. Raises `TypeError` for what is none of these; a client that
        raises while it is asked is logged, and watched no more.
        """
        gone, past = leaving(client), self._ledger.ended(task_id)
        watching = asyncio.get_running_loop().create_task(self._cancel_when(gone, pool_id, task_id, past))
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    async def _cancel_when(
        self, gone: Callable[[], Awaitable[None]], pool_id: str, task_id: str, past: FlightRecord | None
    ) -> None:
        """`past` is what was known of the id before: as long as nothing newer has ended, the task is still to come."""
        try:
            await gone()
        except Exception as error:  # noqa: BLE001  # a web server's code, and none of the block's trouble
            logger.warning("task %s: asking for its client raised %s; it is watched no more", task_id, told(error))
            return
        while self._ledger.ended(task_id) is past:  # not submitted yet, or anew
            if (await self.cancel(pool_id, task_id)).outcome == "cancelled":
                return
            await asyncio.sleep(_LOOK)

    def explain(self, task_id: str) -> FlightRecord | None:
        """Which replicas a task was sent to, why, and what each answered; None for one that is unknown or long gone."""
        return self._ledger.record(task_id)

    # --- inside

    def _admit(self, pool_id: str, task: TaskRequest) -> Call:
        """The task, taken in. Raises what forbids it before an engine is asked."""
        try:
            self._check_open(pool_id)
            self._ledger.check(pool_id, task)
            pool = self._registry.pool(pool_id)
        except WorkerError as error:
            self._refuse(pool_id, task, error)
            raise
        pool.budget.earn()
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.get_running_loop()
        call = Call(task, pool, self._tell, self._over, self._hurry, loop=self._loop)
        self._ledger.begin(call)
        return call

    def _refuse(self, pool_id: str, task: TaskRequest, error: WorkerError) -> None:
        """Note and tell that a task was not taken in."""
        error.record = record = FlightRecord.of(task, pool_id)
        record.ended(error, "queue", 0.0)
        self._ledger.refused(record)
        self._tell.ended(task, record, None, error, refused=True)

    def _policies(self) -> Mapping[str, RoutePolicy]:
        return self.plugins.routes()

    def _dropped(self, policy: str, why: str) -> None:
        self.plugins.drop_route(policy, why)

    def _check_open(self, pool_id: str) -> None:
        if self._stopping:
            raise PoolUnavailable(
                "this host is stopping · use another one", detail="draining", phase="queue", pool=pool_id
            )

    def _find(self) -> list[Blueprint]:
        """What is to be bound. On a thread, which goes on where entering is given up: what it finds then is let go."""
        try:
            return self._blueprints()
        finally:
            if self._stopping:
                self._let_go(LAST_WORDS)

    def _blueprints(self) -> list[Blueprint]:
        plugins, config = self.plugins, self._read()  # found in any case: a later `bind` may not block the loop
        return read_blueprints(config, plugins) if config is not None else []

    def _build(self, blueprints: list[Blueprint]) -> list[Binding]:
        """Bind them all or, with every problem told, none."""
        bindings: list[Binding] = []
        problems: list[ConfigError] = []
        for blueprint in blueprints:
            self._registry.check_free(blueprint.info())
        for blueprint in blueprints:
            try:
                bindings.append(self._fleet.build(blueprint))
            except ConfigError as error:
                problems.append(error)
        raise_all(problems)  # what was built nevertheless is closed with the host
        for binding, blueprint in zip(bindings, blueprints, strict=True):
            self._fleet.seat(binding, blueprint.policy)
        return bindings


def _check_useful(binding: Binding, call: Call, now: float) -> None:
    """Refuse a task whose deadline leaves no time for an answer."""
    if call.left(now) < binding.timeouts.min_useful - _CLOCK_GRAIN:
        raise DeadlineUnmet(
            f"the deadline of {call.task.deadline_ms} ms leaves less than timeouts.min_useful, "
            f"{binding.timeouts.min_useful:g} s · {binding.replica} · allow more time",
            detail="queue",
            phase="queue",
            pool=binding.info.pool_id,
        )
