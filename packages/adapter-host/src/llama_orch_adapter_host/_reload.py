"""Changes to what is bound, blue/green: everything new is built and ready before anything old makes way.

    read → difference → build and wait, all at once → is it still as it was? → swap, in one go → drain the old ones
                            any problem: close what was built, change nothing

The swap waits for nothing, so that no task sees half of it. A drain that is asked for after a change wins over it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar
from weakref import WeakValueDictionary

import msgspec
from llama_orch_adapter_api import BindingInfo, one_line

from ._binding import Binding
from ._blueprint import Blueprint, Wish
from ._bus import Bus
from ._config import ConfigError
from ._difference import Place, difference
from ._events import ReloadBegun, ReloadDone, ReloadFailed
from ._fleet import Fleet
from ._plugins import Plugins
from ._policy import PoolPolicy
from ._preload import Held, ready
from ._report import ReloadError, ReloadReport

T = TypeVar("T")

_CANCELLED = "it was cancelled before it was ready · reload again"
_STOPPED = "this host was stopped meanwhile · use another one"


class _Plan(NamedTuple):
    """What is to be built and taken out. `seen` is what was bound in each place that matters when it was made.

    `undrains`: it has no other purpose than to undo a drain, so that a later one leaves nothing of it to do.
    """

    seen: Mapping[Place, Binding | None]
    new: Sequence[Blueprint]
    gone: Sequence[Binding] = ()
    pool_id: str = ""
    undrains: bool = False


class _Drains:
    """Those that were asked for since a change was."""

    def __init__(self) -> None:
        self._asked: set[tuple[str, str | None]] = set()

    def note(self, pool_id: str, replica_id: str | None) -> None:
        self._asked.add((pool_id, replica_id))

    def __contains__(self, place: Place) -> bool:
        return place in self._asked or (place[0], None) in self._asked


class Reloads:
    """Puts changes in force: whole configurations one after the other, and so the changes of one replica."""

    def __init__(self, fleet: Fleet, bus: Bus, plugins: Callable[[], Plugins]) -> None:
        self._fleet = fleet
        self._bus = bus
        self._plugins = plugins
        self._held = Held(lambda binding: fleet.errand(fleet.discard(binding)))
        self._whole = asyncio.Lock()
        self._turns: WeakValueDictionary[Place, asyncio.Lock] = WeakValueDictionary()
        self._later: set[_Drains] = set()  # of each change that goes on
        self._closed = False

    async def whole(self, read: Callable[[], list[Blueprint]]) -> ReloadReport:
        """Make what is bound what `read` says, which is called in a thread. Raises `ReloadError`."""
        with self._noting() as later:
            async with self._whole:
                with self._telling():
                    wanted = {blueprint.place: blueprint for blueprint in await _read(read)}
                    bound = {_place(binding): binding for binding in self._fleet.registry.all()}
                    todo = difference(
                        {place: binding.fingerprint for place, binding in bound.items()},
                        {place: blueprint.fingerprint for place, blueprint in wanted.items()},
                    )
                    plan = _Plan(
                        seen={**dict.fromkeys(wanted), **bound},
                        new=[wanted[place] for place in (*todo.added, *todo.changed)],
                        gone=[bound[place] for place in todo.removed],
                    )
                    policies = {each.pool_id: each.policy for each in wanted.values() if each.policy is not None}
                    report = await self._carry_out(plan, policies, later)
                    unchanged = tuple(bound[place].info for place in todo.unchanged)
                    return msgspec.structs.replace(report, unchanged=unchanged)

    async def one(self, wish: Wish, *, bound: bool = False) -> ReloadReport:
        """Give a replica a new generation, the one that was preloaded for it where there is one.

        A replica that is not bound is bound; with `bound` it is refused as unknown, which is `PoolUnavailable`. Raises
        `ReloadError`.
        """
        with self._noting() as later:
            async with self._turn(wish.place):
                with self._telling(wish.pool_id):
                    find = self._fleet.registry.binding if bound else self._fleet.registry.find
                    seen = find(*wish.place)
                    blueprint = await self._blueprint(wish)
                    plan = _Plan({wish.place: seen}, [blueprint], pool_id=wish.pool_id)
                    policies = {} if wish.policy is None else {wish.pool_id: wish.policy}
                    return await self._carry_out(plan, policies, later)

    async def undrain(self, pool_id: str, replica_id: str | None = None) -> ReloadReport:
        """Rebind what is drained of a pool, or of a replica: each by itself, so that one that is not ready stays so.

        Raises `ReloadError` where none of them was ready, `PoolUnavailable` for what is not bound.
        """
        began = asyncio.get_running_loop().time()
        registry = self._fleet.registry
        some = registry.pool(pool_id).order if replica_id is None else (registry.binding(pool_id, replica_id),)
        places, drained = list(map(_place, some)), [_place(binding) for binding in some if binding.gate.draining]
        with self._noting() as later:
            outcomes = await asyncio.gather(*(self._again(place, later) for place in drained), return_exceptions=True)
        reports = [outcome for outcome in outcomes if isinstance(outcome, ReloadReport)]
        problems: list[str] = []
        for outcome in outcomes:
            if isinstance(outcome, ReloadError):
                problems += outcome.problems
            elif isinstance(outcome, BaseException):
                raise outcome
        if problems and not reports:
            raise ReloadError(problems)
        rebound = tuple(info for report in reports for info in report.rebound)
        now = [binding for place in places if (binding := registry.find(*place)) is not None]
        return ReloadReport(
            rebound=rebound,
            unchanged=tuple(binding.info for binding in now if binding.info not in rebound),
            drained=_drained(now),
            problems=tuple(problems),
            duration=asyncio.get_running_loop().time() - began,
        )

    async def preload(self, wish: Wish) -> BindingInfo:
        """Build a replica's next generation and keep it ready for `one`. Raises `ReloadError`."""
        async with self._turn(wish.place):
            with self._telling(wish.pool_id):
                (binding,) = await self._preload([await self._blueprint(wish)])
                self._held.keep(binding)
                return binding.info

    def drained(self, pool_id: str, replica_id: str | None) -> None:
        """A drain is asked for: no change that goes on undoes it."""
        for later in self._later:
            later.note(pool_id, replica_id)

    def forget(self, pool_id: str, replica_id: str) -> None:
        """Let go of what was preloaded for a replica."""
        self._held.drop((pool_id, replica_id))

    def close(self) -> None:
        """Swap nothing in any more."""
        self._closed = True
        self._held.close()

    # --- the steps of a change

    async def _blueprint(self, wish: Wish) -> Blueprint:
        registry = self._fleet.registry
        pool = registry.get(wish.pool_id)
        like = registry.find(*wish.place) or (None if pool is None else pool.order[0])
        return await _read(lambda: wish.read(self._plugins(), like))

    async def _again(self, place: Place, later: _Drains) -> ReloadReport | None:
        """What is drained there, built anew as it was; None where nothing is any more."""
        async with self._turn(place):
            binding = self._fleet.registry.find(*place)
            if binding is None or not binding.gate.draining:
                return None
            with self._telling(place[0]):
                plan = _Plan({place: binding}, [self._fleet.blueprint(binding)], pool_id=place[0], undrains=True)
                return await self._carry_out(plan, {}, later)

    async def _carry_out(self, plan: _Plan, policies: Mapping[str, PoolPolicy], later: _Drains) -> ReloadReport:
        began = asyncio.get_running_loop().time()
        self._bus.emit(ReloadBegun(pool_id=plan.pool_id, replicas=len(plan.new)))
        for blueprint in plan.new:
            before = plan.seen[blueprint.place]
            if before is not None:
                self._fleet.reloading(before)
        built = await self._preload(plan.new)
        problems = self._moved(plan, later)
        if problems:
            await self._let_go(built)
            raise ReloadError(problems)
        report = self._swap(built, plan, policies, later)
        report = msgspec.structs.replace(report, duration=asyncio.get_running_loop().time() - began)
        self._bus.emit(
            ReloadDone(
                pool_id=plan.pool_id,
                added=len(report.added),
                rebound=len(report.rebound),
                removed=len(report.removed),
                unchanged=len(plan.seen) - len(plan.new) - len(plan.gone),
                duration=report.duration,
            )
        )
        return report

    async def _preload(self, blueprints: Sequence[Blueprint]) -> list[Binding]:
        """Build them all at once and wait until each is ready. Raises `ReloadError`, with nothing left open."""
        if self._closed:
            raise ReloadError([_STOPPED])
        tasks = [self._fleet.errand(self._ready(blueprint)) for blueprint in blueprints]
        try:
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            await self._let_go([task.result() for task in tasks if not task.cancelled() and task.exception() is None])
            raise
        built = [outcome for outcome in outcomes if isinstance(outcome, Binding)]
        problems = [_STOPPED] if self._closed else _problems(blueprints, outcomes)
        if problems:
            await self._let_go(built)
            raise ReloadError(problems)
        return built

    async def _ready(self, blueprint: Blueprint) -> Binding:
        """One generation, built now or held since its preload, that is ready now."""
        bound = self._fleet.registry.find(*blueprint.place)
        held = self._held.take(blueprint, above=0 if bound is None else bound.info.generation)
        binding = held or self._fleet.build(blueprint)
        try:
            answers = await ready(binding)
        except BaseException:
            await self._fleet.discard(binding)
            raise
        self._fleet.learn(binding, answers.health, answers.props)
        return binding

    def _moved(self, plan: _Plan, later: _Drains) -> list[str]:
        """What is no longer as the plan saw it."""
        drained = [blueprint for blueprint in plan.new if plan.undrains and blueprint.place in later]
        return [f"replica {each.replica}: it was drained again meanwhile, and stays so" for each in drained] + [
            f"replica {pool_id}/{replica_id}: it was bound, rebound or unbound by another call meanwhile · reload again"
            for (pool_id, replica_id), seen in plan.seen.items()
            if self._fleet.registry.find(pool_id, replica_id) is not seen
        ]

    def _swap(
        self, built: list[Binding], plan: _Plan, policies: Mapping[str, PoolPolicy], later: _Drains
    ) -> ReloadReport:
        """Let the new ones in and the old ones go. Nothing here waits, so that no task sees half of it."""
        fleet = self._fleet
        known = {pool_id: pool for pool_id in policies if (pool := fleet.registry.get(pool_id)) is not None}
        treated = tuple(pool_id for pool_id, pool in known.items() if fleet.adopt(pool, policies[pool_id]))
        swaps = [(binding, fleet.place(binding, policies.get(binding.info.pool_id))) for binding in built]
        for binding in plan.gone:
            fleet.unseat(binding)
            self.forget(binding.info.pool_id, binding.info.replica_id)
        for binding, before in swaps:
            fleet.present(binding, before)
        for binding in (*(before for _, before in swaps if before is not None), *plan.gone):
            fleet.refuse(binding)
            fleet.errand(fleet.retire(binding))
        for binding in built:
            if _place(binding) in later:
                fleet.refuse(binding)
                fleet.errand(fleet.drain(binding))
        return ReloadReport(
            added=tuple(binding.info for binding, before in swaps if before is None),
            rebound=tuple(binding.info for binding, before in swaps if before is not None),
            removed=tuple(binding.info for binding in plan.gone),
            policies=treated,
            drained=_drained(b for b in fleet.registry.all() if plan.pool_id in {"", b.info.pool_id}),
        )

    async def _let_go(self, bindings: Sequence[Binding]) -> None:
        await asyncio.gather(*(self._fleet.discard(binding) for binding in bindings))

    @contextlib.asynccontextmanager
    async def _turn(self, place: Place) -> AsyncIterator[None]:
        """One change of a replica at a time."""
        lock = self._turns.setdefault(place, asyncio.Lock())
        async with lock:
            yield

    @contextlib.contextmanager
    def _noting(self) -> Iterator[_Drains]:
        """What is drained while a change goes on, from when it is asked for."""
        later = _Drains()
        self._later.add(later)
        try:
            yield later
        finally:
            self._later.discard(later)

    @contextlib.contextmanager
    def _telling(self, pool_id: str = "") -> Iterator[None]:
        """Tell of a failure before it is raised, and of being cancelled: what began is told to have ended."""
        try:
            yield
        except asyncio.CancelledError:
            self._bus.emit(ReloadFailed(pool_id=pool_id, problems=(_CANCELLED,)))
            raise
        except ReloadError as error:
            self._bus.emit(ReloadFailed(pool_id=pool_id, problems=tuple(map(one_line, error.problems))))
            raise


def _place(binding: Binding) -> Place:
    return binding.info.pool_id, binding.info.replica_id


def _drained(bindings: Iterable[Binding]) -> tuple[BindingInfo, ...]:
    return tuple(binding.info for binding in bindings if binding.gate.draining)


async def _read(read: Callable[[], T]) -> T:
    """What a thread reads: files are opened and packages imported there."""
    try:
        return await asyncio.to_thread(read)
    except ConfigError as error:
        raise ReloadError(error.problems) from error


def _problems(blueprints: Sequence[Blueprint], outcomes: Sequence[object]) -> list[str]:
    """One sentence for each thing that went wrong."""
    problems: list[str] = []
    for blueprint, outcome in zip(blueprints, outcomes, strict=True):
        if isinstance(outcome, ReloadError | ConfigError):
            problems += outcome.problems
        elif isinstance(outcome, BaseException):
            told = type(outcome).__name__
            problems.append(
                f"replica {blueprint.replica}: {told} was raised while it was preloaded · report it to its author"
            )
    return problems
