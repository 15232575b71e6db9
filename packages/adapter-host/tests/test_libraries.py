"""What purgatory really does, so that a change upstream is seen: why only parts of it are used.

Each of these is a gap that ours closes or goes round (battery 21). What backoff does stands in http-util's tests.
"""

import asyncio
import gc
import traceback
import weakref
from contextlib import ExitStack

import purgatory.domain.model as purgatory_model
import pytest
from purgatory import CircuitBreakerRecovered, ContextChanged, Event, SyncCircuitBreakerFactory
from purgatory.domain.model import Context, OpenedState


class Clock:
    """A wall clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1.7e9

    def time(self) -> float:
        return self.now


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that purgatory reads."""
    clock = Clock()
    monkeypatch.setattr(purgatory_model, "time", clock)
    return clock


@pytest.fixture
def factory() -> SyncCircuitBreakerFactory:
    return SyncCircuitBreakerFactory(default_threshold=3, default_ttl=30)


def state(factory: SyncCircuitBreakerFactory) -> str:
    return factory.get_breaker("engine").context.state


def fail(factory: SyncCircuitBreakerFactory, error: BaseException, times: int = 1, **options: object) -> None:
    """Calls that end in this error."""
    for _ in range(times):
        with pytest.raises(type(error)), factory.get_breaker("engine", **options):  # type: ignore[arg-type]
            raise error


def expire(factory: SyncCircuitBreakerFactory, wall: Clock) -> None:
    """A circuit that has opened, and whose time is over."""
    fail(factory, OSError(), times=3)
    assert state(factory) == "opened"
    wall.now += 31


def test_purgatory_half_open_admits_all(factory: SyncCircuitBreakerFactory, wall: Clock):
    """Half open, 1,000 of 1,000 callers go to the engine at once (battery 21)."""
    expire(factory, wall)
    with ExitStack() as calls:
        admitted = [calls.enter_context(factory.get_breaker("engine")) for _ in range(1000)]

    assert len(admitted) == 1000


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit()])
def test_purgatory_takes_a_cancellation_for_a_fault(factory: SyncCircuitBreakerFactory, error: BaseException):
    """Three callers that hung up open the circuit (battery 21)."""
    fail(factory, error, times=3)

    assert state(factory) == "opened"


def test_purgatory_takes_the_excluded_for_success(factory: SyncCircuitBreakerFactory, wall: Clock):
    """A 4xx that is to be left out masks the faults around it, and closes a half-open circuit (battery 21)."""
    fail(factory, OSError(), times=2)
    fail(factory, ValueError(), exclude=[ValueError])
    fail(factory, OSError(), times=2)
    masked = state(factory)
    fail(factory, OSError())
    opened = state(factory)
    wall.now += 31
    fail(factory, asyncio.CancelledError(), exclude=[asyncio.CancelledError])

    assert (masked, opened, state(factory)) == ("closed", "opened", "closed")


def test_purgatory_raises_its_state(factory: SyncCircuitBreakerFactory, wall: Clock):
    """Every rejection raises the same exception, which gathers the frames of all and what they hold (battery 21)."""

    class Prompt:
        """What a caller's frame holds."""

    def rejected() -> "weakref.ref[Prompt]":
        prompt = Prompt()
        try:
            with factory.get_breaker("engine"):
                raise AssertionError
        except OpenedState as error:
            errors.add(id(error))
        return weakref.ref(prompt)

    errors: set[int] = set()
    fail(factory, OSError(), times=3)
    prompts = [rejected() for _ in range(500)]
    gc.collect()
    opened = factory.get_breaker("engine").context._state

    assert errors == {id(opened)}
    assert isinstance(opened, OpenedState)
    assert len(list(traceback.walk_tb(opened.__traceback__))) >= 3 * 500
    assert [prompt for prompt in prompts if prompt() is None] == []
    with pytest.raises(TypeError, match="unhashable"):
        hash(opened)


def test_purgatory_counts_at_the_end(factory: SyncCircuitBreakerFactory):
    """What a call has to tell is told when it ends: a thousand may run, and none has been counted (battery 21)."""
    with ExitStack() as calls:
        running = [calls.enter_context(factory.get_breaker("engine")).context for _ in range(1000)]
        counted = {context.failure_count for context in running}

    assert counted == {0}


def test_purgatory_counts_only_in_a_row(factory: SyncCircuitBreakerFactory):
    """Two faults of three, for ever, are no reason to open (battery 21)."""
    for _ in range(100):
        fail(factory, OSError(), times=2)
        with factory.get_breaker("engine"):
            pass

    assert state(factory) == "closed"


def test_purgatory_has_no_generations(factory: SyncCircuitBreakerFactory, wall: Clock):
    """A stream from before the trip closes the half-open circuit, while the probe still runs (battery 21)."""
    with ExitStack() as probe:
        with factory.get_breaker("engine"):
            expire(factory, wall)
            probe.enter_context(factory.get_breaker("engine"))
            before = state(factory)
        after = state(factory)

    assert (before, after) == ("half-opened", "closed")


@pytest.mark.parametrize(("step", "admitted"), [(3600, True), (-3600, False)])
def test_purgatory_knows_only_the_wall_clock(
    factory: SyncCircuitBreakerFactory, wall: Clock, step: float, admitted: bool
):
    """Set ahead, the clock half-opens a circuit that has just opened; set back, it keeps it open (battery 21)."""
    fail(factory, OSError(), times=3)
    wall.now += step if admitted else step + 31
    try:
        with factory.get_breaker("engine"):
            entered = True
    except OpenedState:
        entered = False

    assert entered == admitted


def test_purgatory_lets_a_listener_break_a_call(factory: SyncCircuitBreakerFactory):
    """A listener that raises replaces a good result with its own trouble (battery 21)."""

    def listener(_: str, _kind: str, event: Event) -> None:
        if isinstance(event, CircuitBreakerRecovered):
            raise KeyError("listener")

    factory.add_listener(listener)
    fail(factory, OSError())
    with pytest.raises(KeyError, match="listener"), factory.get_breaker("engine"):
        pass


def test_purgatory_tells_of_half_open_afterwards(factory: SyncCircuitBreakerFactory, wall: Clock):
    """That a circuit is half open its listeners hear only when the request that decides is over (battery 21)."""
    heard: list[str] = []
    expire(factory, wall)
    factory.add_listener(lambda _, _kind, event: heard.append(getattr(event, "state", "")))
    with factory.get_breaker("engine"):
        meanwhile = list(heard)

    assert meanwhile == []
    assert heard == ["half-opened", "", "closed"]


def test_purgatory_ignores_nought(factory: SyncCircuitBreakerFactory):
    """0 as threshold or time to live means the default (battery 21)."""
    context = factory.get_breaker("engine", threshold=0, ttl=0).context

    assert (context.threshold, context.ttl) == (3, 30)


def test_purgatory_forgets_nothing(factory: SyncCircuitBreakerFactory):
    """What it keeps grows with every name, and neither factory nor repository has a word to drop one (battery 21)."""
    for generation in range(100):
        factory.get_breaker(f"engine#{generation}")
    kept = factory.uow.contexts

    assert len(kept.breakers) == 100  # type: ignore[attr-defined]  # it is the one in memory
    assert {name for name in dir(kept) if not name.startswith("_")} == {
        *("breakers", "messages"),
        *("get", "register", "update_state", "inc_failures", "reset_failure", "initialize"),
    }


def test_purgatory_stamps_an_opening_by_itself(wall: Clock):
    """An opened state takes the wall clock's moment as it is made; `set_state` tells what stands there (battery 21)."""
    context = Context("engine", threshold=1, ttl=30)
    opened = OpenedState("engine")
    stamped, opened.opened_at = opened.opened_at, 5.0
    context.set_state(opened)

    assert stamped == wall.now
    assert context.messages == [ContextChanged("engine", "opened", 5.0)]
