"""`AdapterHost`, the facade: everything an orchestrator calls."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, Self, TypeVar

import msgspec
from llama_orch_adapter_api import (
    AdapterError,
    BindingInfo,
    DeadlineUnmet,
    PoolUnavailable,
    TaskRequest,
    Timeouts,
    WorkerAdapter,
    WorkerError,
    WorkerHealth,
    WorkerProps,
)

from ._blueprint import Blueprint, raise_all, read_blueprints
from ._config import ConfigError, HostConfig, read_config, read_replica
from ._flight import Flight, cancelled
from ._plugins import Plugins
from ._probe import farewell, probe
from ._registry import Binding, Registry
from ._routes import pick
from ._stream import Submission, TokenStream
from ._watch import Watch

T = TypeVar("T")

_REMEMBERED = 4096
"""Task ids that a cancel can still tell from unknown ones."""

_DRAIN_LOOK = 0.05
"""Seconds between two looks at the streams that are drained."""

_LAST_WORDS = 1.0
"""Seconds that plugins may take, when the host ends, for what they were told last."""


class CancelReceipt(msgspec.Struct, frozen=True):
    """What a cancel found. `phase` is where the task was, None unless it was cancelled now."""

    outcome: Literal["cancelled", "already_done", "unknown"]
    phase: str | None = None


class AdapterHost:
    """Finds adapters, binds one per replica, and puts one behaviour around all of them. One per event loop.

    Use it as `async with AdapterHost.from_config("pools.toml") as host:`; leaving the block ends every stream.
    """

    def __init__(self, config: HostConfig | None = None, plugins: Plugins | None = None) -> None:
        self._read: Callable[[], HostConfig | None] = lambda: config
        self._plugins = plugins
        self._owns_plugins = plugins is None
        self._registry = Registry()
        self._flights: dict[str, Flight] = {}
        self._ended: dict[str, None] = {}  # the latest task ids that are over, oldest first
        self._watch = Watch()
        self._orphans: list[Binding] = []  # built beside one that failed, so never bound, yet to be closed
        self._errands: set[asyncio.Task[None]] = set()
        self._stopping = False

    @classmethod
    def from_config(cls, path: str | os.PathLike[str], plugins: Plugins | None = None) -> Self:
        """A host that reads a TOML file and binds its pools when it is entered, which then raises `ConfigError`."""
        host = cls(plugins=plugins)
        host._read = lambda: read_config(path)  # its own
        return host

    @property
    def plugins(self) -> Plugins:
        """The adapters at hand. Found at the first look or when the host is entered, whichever comes first.

        Raises `ConfigError` where the config, which says what may be imported, cannot be read.
        """
        if self._plugins is None:
            lists = (self._read() or HostConfig({})).plugins
            self._plugins = Plugins.installed(allow=lists.allow, block=lists.block)
        return self._plugins

    async def __aenter__(self) -> Self:
        try:
            blueprints = await asyncio.to_thread(self._blueprints)  # imports packages, reads files
            self._build(blueprints)
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
    ) -> BindingInfo:
        """Bind one replica: `replica` is its adapter's own table, as in a config. Nothing is sent to the engine yet.

        Raises `ConfigError`, `PoolUnavailable` (draining) where the host is stopping.
        """
        self._check_open(pool_id)
        spec = self.plugins.spec(engine)
        config = read_replica(f"{pool_id}/{replica_id}", replica, spec)
        blueprint = Blueprint(spec, pool_id, replica_id, config, timeouts or Timeouts(), http or {})
        self._build([blueprint])
        return blueprint.info

    def pools(self) -> tuple[str, ...]:
        """The pools with something bound, in the order they were bound."""
        return self._registry.names()

    # --- a task

    def submit(self, pool_id: str, task: TaskRequest) -> Submission:
        """Send a task: `await` gives its `TokenStream` at the first token, `async with` also closes it.

        Raises `WorkerError`; with `task.deadline_ms` counting from the await.
        """
        return Submission(lambda: self._submit(pool_id, task))

    async def cancel(self, pool_id: str, task_id: str) -> CancelReceipt:
        """Stop a task; after the answer not one token of it is delivered. Never raises."""
        flight = self._flights.get(task_id)
        if flight is None or flight.binding.info.pool_id != pool_id:
            return CancelReceipt("already_done" if task_id in self._ended else "unknown")
        phase = flight.phase
        flight.interrupt(cancelled())
        self._confirm(flight.binding, task_id)
        return CancelReceipt("cancelled", phase)

    # --- looking at a pool

    async def health(self, pool_id: str) -> Mapping[str, WorkerHealth]:
        """How each replica is, by replica_id; one that does not answer is `down`. Raises `PoolUnavailable`."""
        return await self._ask(pool_id, lambda adapter: adapter.health(), WorkerHealth.of)

    async def props(self, pool_id: str) -> Mapping[str, WorkerProps | WorkerError]:
        """Capacity and capabilities by replica_id, or why they are not known. Raises `PoolUnavailable`."""
        return await self._ask(pool_id, lambda adapter: adapter.props(), lambda error: error)

    # --- the end

    async def aclose(self, drain: float | None = None) -> None:
        """Refuse new tasks, let streams run for `drain` seconds (None: as each pool says), end them, close adapters.

        A second call does nothing. Leaving the host's block is `aclose(drain=0)`.
        """
        if self._stopping:
            return
        self._stopping = True
        for binding in self._registry.all():
            self.plugins.notify("llama_orch_on_drain", binding.info)
        try:
            await self._drain(drain)
        finally:  # who is tired of draining still leaves nothing open
            bindings = self._registry.all()
            for errand in tuple(self._errands):
                errand.cancel()
            await asyncio.gather(*(lease.stop() for binding in bindings for lease in binding.leases))
            self._watch.close()
            built = [*bindings, *self._orphans]
            await asyncio.gather(
                *(farewell(binding, "closing the adapter", binding.adapter.aclose) for binding in built)
            )
            for binding in bindings:
                self.plugins.notify("llama_orch_on_unbind", binding.info)
            if self._plugins is not None and self._plugins.listening:
                leave = self._plugins.close if self._owns_plugins else self._plugins.settle
                await asyncio.to_thread(leave, _LAST_WORDS)  # so that unbinding is told before we are gone

    async def _submit(self, pool_id: str, task: TaskRequest) -> TokenStream:
        """The whole life of a call: admit → route → adapter → first token."""
        deadline = self._admit(pool_id, task)
        binding = pick(pool_id, self._registry.pool(pool_id), task)
        _check_useful(binding, task)
        flight = Flight(task, binding, self._landed)
        self._flights[task.task_id] = flight
        self._watch.add(flight)
        if deadline is not None:
            flight.arm(deadline)
        await flight.commit()
        return TokenStream(flight)

    def _admit(self, pool_id: str, task: TaskRequest) -> float | None:
        """The task's deadline, a moment on the loop's clock. Raises what forbids the task before an engine is asked."""
        self._check_open(pool_id)
        if task.task_id in self._flights:
            raise AdapterError(
                f"task {task.task_id} is running already · wait for it, or leave task_id out to have one made",
                detail="duplicate_task",
                phase="queue",
                pool=pool_id,
            )
        if task.deadline_ms is None:
            return None
        return asyncio.get_running_loop().time() + task.deadline_ms / 1000

    def _check_open(self, pool_id: str) -> None:
        if self._stopping:
            raise PoolUnavailable(
                "this host is stopping · use another one", detail="draining", phase="queue", pool=pool_id
            )

    def _landed(self, flight: Flight) -> None:
        """A flight has its outcome."""
        task_id = flight.task.task_id
        self._flights.pop(task_id, None)
        self._ended[task_id] = None
        if len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]

    async def _ask(
        self, pool_id: str, ask: Callable[[WorkerAdapter], Awaitable[T]], failed: Callable[[WorkerError], T]
    ) -> dict[str, T]:
        """Ask every replica of a pool at once; what an adapter raises is answered for it by `failed`."""
        self._check_open(pool_id)
        pool = dict(self._registry.pool(pool_id))  # a replica bound meanwhile is not asked
        answers = await asyncio.gather(*(probe(binding, ask, failed) for binding in pool.values()))
        return dict(zip(pool, answers, strict=True))

    def _blueprints(self) -> list[Blueprint]:
        plugins = self.plugins  # found here, where waiting for them is no harm
        config = self._read()
        return read_blueprints(config, plugins) if config is not None else []

    def _build(self, blueprints: list[Blueprint]) -> None:
        """Bind them all or, with every problem told, none."""
        bindings: list[Binding] = []
        problems: list[ConfigError] = []
        for blueprint in blueprints:
            self._registry.check_free(blueprint.info)
        for blueprint in blueprints:
            self.plugins.notify("llama_orch_on_preload", blueprint.info)
            try:
                bindings.append(blueprint.build())
            except ConfigError as error:
                problems.append(error)
        if problems:
            self._orphans += bindings
            raise_all(problems)
        for binding in bindings:
            self._registry.add(binding)
            self.plugins.notify("llama_orch_on_bind", binding.info)

    def _confirm(self, binding: Binding, task_id: str) -> None:
        """Let an adapter that has more to do for a cancel than closing the stream do it, in the background."""
        if type(binding.adapter).cancel is WorkerAdapter.cancel:
            return
        say = farewell(binding, "cancel()", lambda: binding.adapter.cancel(task_id))
        errand = asyncio.get_running_loop().create_task(say)
        self._errands.add(errand)
        errand.add_done_callback(self._errands.discard)

    async def _drain(self, seconds: float | None) -> None:
        """Wait for the running streams; each is ended after what its pool allows, or after `seconds`."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while self._flights:
            spent = loop.time() - began
            for flight in tuple(self._flights.values()):
                if spent >= (flight.binding.timeouts.drain if seconds is None else seconds):
                    flight.interrupt(cancelled())
            await asyncio.sleep(_DRAIN_LOOK if self._flights else 0)


def _check_useful(binding: Binding, task: TaskRequest) -> None:
    """Refuse a task whose deadline leaves no time for an answer."""
    if task.deadline_ms is not None and task.deadline_ms / 1000 < binding.timeouts.min_useful:
        raise DeadlineUnmet(
            f"the deadline of {task.deadline_ms} ms is shorter than timeouts.min_useful, "
            f"{binding.timeouts.min_useful:g} s · {binding.replica} · allow more time",
            detail="queue",
            phase="queue",
            pool=binding.info.pool_id,
        )
