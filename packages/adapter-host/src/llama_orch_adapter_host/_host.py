"""`AdapterHost`, the facade: everything an orchestrator calls."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, Self, TypeVar

import msgspec
from llama_orch_adapter_api import (
    AdapterContext,
    AdapterError,
    AdapterSpec,
    BindingInfo,
    DeadlineUnmet,
    DecodeTimeout,
    PoolUnavailable,
    TaskRequest,
    Timeouts,
    WorkerAdapter,
    WorkerError,
    WorkerHealth,
    WorkerProps,
)

from ._config import ConfigError, HostConfig, PoolConfig, read_config, read_replica, read_replicas
from ._flight import Flight, cancelled, plugin_error
from ._plugins import Plugins
from ._registry import Binding, Registry
from ._routes import pick
from ._stream import Submission, TokenStream
from ._watch import Watch

T = TypeVar("T")

logger = logging.getLogger(__name__)

PROBE_LIMIT = 5.0
"""Seconds that a health or props call of one replica may take."""

CLOSE_LIMIT = 2.0
"""Seconds that an adapter may take to close when the host stops."""

_REMEMBERED = 4096
"""Task ids that a cancel can still tell from unknown ones."""

_DRAIN_LOOK = 0.05
"""Seconds between two looks at the streams that are drained."""


class CancelReceipt(msgspec.Struct, frozen=True):
    """What a cancel found. `phase` is where the task was, None unless it was cancelled now."""

    outcome: Literal["cancelled", "already_done", "unknown"]
    phase: str | None = None


class AdapterHost:
    """Finds adapters, binds one per replica, and puts one behaviour around all of them. One per event loop.

    Use it as `async with AdapterHost.from_config("pools.toml") as host:`; leaving the block ends every stream.
    """

    def __init__(self, config: HostConfig | None = None, plugins: Plugins | None = None) -> None:
        self._config = config
        self.plugins = plugins or Plugins.installed()
        self._registry = Registry()
        self._flights: dict[str, Flight] = {}
        self._ended: dict[str, None] = {}  # the latest task ids that are over, oldest first
        self._watch = Watch()
        self._stopping = False

    @classmethod
    def from_config(cls, path: str | os.PathLike[str], plugins: Plugins | None = None) -> Self:
        """A host that binds the pools of a TOML file when it is entered. Raises `ConfigError`."""
        return cls(read_config(path), plugins)

    async def __aenter__(self) -> Self:
        try:
            self._bind_config()
        except BaseException:
            await self.aclose(drain=0)
            raise
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self.aclose(drain=0 if kind else None)

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

        Raises `ConfigError`.
        """
        spec = self.plugins.spec(engine)
        config = read_replica(f"{pool_id}/{replica_id}", replica, spec)
        return self._registry.add(
            _make(spec, pool_id, replica_id, config, timeouts=timeouts or Timeouts(), http=http or {})
        )

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
        return CancelReceipt("cancelled", phase)

    # --- looking at a pool

    async def health(self, pool_id: str) -> Mapping[str, WorkerHealth]:
        """How each replica is, by replica_id; one that does not answer is `down`. Raises `PoolUnavailable`."""
        return await self._ask(pool_id, lambda adapter: adapter.health(), _down)

    async def props(self, pool_id: str) -> Mapping[str, WorkerProps | WorkerError]:
        """Capacity and capabilities by replica_id, or why they are not known. Raises `PoolUnavailable`."""
        return await self._ask(pool_id, lambda adapter: adapter.props(), lambda error: error)

    # --- the end

    async def aclose(self, drain: float | None = None) -> None:
        """Refuse new tasks, let streams run for `drain` seconds (None: as each pool says), end them, close adapters.

        A second call does nothing.
        """
        if self._stopping:
            return
        self._stopping = True
        try:
            await self._drain(drain)
        finally:  # who is tired of draining still leaves nothing open
            bindings = self._registry.all()
            await asyncio.gather(*(flight.stop() for binding in bindings for flight in binding.leases))
            self._watch.close()
            await asyncio.gather(*(_close(binding) for binding in bindings))

    async def _submit(self, pool_id: str, task: TaskRequest) -> TokenStream:
        """The whole life of a call: admit → route → adapter → first token."""
        deadline = self._admit(pool_id, task)
        binding = pick(self._registry.pool(pool_id), task)
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
        if self._stopping:
            raise PoolUnavailable(
                "this host is stopping · send the task to another one", detail="draining", phase="queue", pool=pool_id
            )
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
        pool = dict(self._registry.pool(pool_id))  # a replica bound meanwhile is not asked
        answers = await asyncio.gather(*(_probe(binding, ask, failed) for binding in pool.values()))
        return dict(zip(pool, answers, strict=True))

    def _bind_config(self) -> None:
        """Bind all that the config names, or, with every problem told, nothing."""
        bindings: list[Binding] = []
        problems: list[ConfigError] = []
        for pool_id, pool in (self._config.pools if self._config else {}).items():
            try:
                bindings += _make_pool(self.plugins.spec(pool.engine), pool_id, pool)
            except ConfigError as error:
                problems.append(error)
        if len(problems) == 1:
            raise problems[0]
        if problems:
            raise ConfigError([sentence for error in problems for sentence in error.problems])
        for binding in bindings:
            self._registry.add(binding)

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


def _make_pool(spec: AdapterSpec, pool_id: str, pool: PoolConfig) -> list[Binding]:
    return [
        _make(spec, pool_id, replica_id, config, timeouts=pool.timeouts, http=pool.http)
        for replica_id, config in read_replicas(pool_id, pool, spec).items()
    ]


def _make(
    spec: AdapterSpec,
    pool_id: str,
    replica_id: str,
    config: msgspec.Struct,
    *,
    timeouts: Timeouts,
    http: Mapping[str, object],
) -> Binding:
    """An adapter for one replica. Raises `ConfigError` for whatever its factory raises."""
    replica = f"{pool_id}/{replica_id}"
    context = AdapterContext(
        pool_id=pool_id,
        replica_id=replica_id,
        config=config,
        timeouts=timeouts,
        http=http,
        clock=time.monotonic,
        narrate=lambda human: logger.info("%s: %s", replica, human),
    )
    try:
        adapter = spec.factory(context)
    except Exception as error:
        told = str(error) if isinstance(error, ValueError) else type(error).__name__
        raise ConfigError([f"replica {replica}: {told}"]) from error
    return Binding(BindingInfo(pool_id, replica_id, spec.engine, generation=1), adapter, timeouts)


async def _probe(
    binding: Binding, ask: Callable[[WorkerAdapter], Awaitable[T]], failed: Callable[[WorkerError], T]
) -> T:
    info = binding.info
    try:
        async with asyncio.timeout(PROBE_LIMIT) as limit:
            return await ask(binding.adapter)
    except WorkerError as error:
        failure = error
    except Exception as error:  # noqa: BLE001  # it is a stranger's code, and one replica's trouble alone
        failure = plugin_error(binding, f"raised {type(error).__name__}, which is no WorkerError")
        if limit.expired():
            failure = DecodeTimeout(
                f"no answer within {PROBE_LIMIT:g} s · {binding.replica} · look at the engine", detail="first_token"
            )
    return failed(failure.placed(engine=info.engine, pool=info.pool_id, replica=info.replica_id))


def _down(error: WorkerError) -> WorkerHealth:
    return WorkerHealth(live=error.detail != "unreachable", ready=False, state="down", detail=error.message)


async def _close(binding: Binding) -> None:
    try:
        async with asyncio.timeout(CLOSE_LIMIT):
            await binding.adapter.aclose()
    except Exception as error:  # noqa: BLE001  # as above
        logger.warning("%s: closing the adapter raised %s", binding.replica, type(error).__name__)
