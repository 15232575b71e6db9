"""purgatory behind the breaker: its factory keeps the circuits, its states count and change, its bus tells of it.

What it would do with a clock, a request or an exception of its own is never asked for: see docs/decisions/breaker.md.
"""

from collections.abc import Callable
from typing import Literal, cast

from llama_orch_adapter_api import get_logger
from purgatory import ContextChanged, Event, SyncCircuitBreakerFactory, SyncInMemoryUnitOfWork
from purgatory.domain.model import CLOSED, HALF_OPENED, OPENED, Context, HalfOpenedState, OpenedState, State
from purgatory.service._sync.repository import SyncInMemoryRepository  # noqa: PLC2701  # its face is for implementing

logger = get_logger(__name__)

StateName = Literal["closed", "open", "half_open"]

OnChange = Callable[[str, StateName, float], None]
"""Called with a breaker's key, its new state, and for how many seconds it stays open (0.0 unless open)."""

_NAMES: dict[str, StateName] = {CLOSED: "closed", OPENED: "open", HALF_OPENED: "half_open"}

_FAULT = Exception("a fault")
"""What purgatory is told of every fault. It is never raised, so that nothing hangs on it."""


class Circuit(Context):
    """purgatory's state of one breaker, told by the host's clock; `ttl` is how many seconds it stays open this time."""

    now = 0.0

    @property
    def state_name(self) -> StateName:
        """Its state, in the words of the field."""
        return _NAMES[self.state]

    @property
    def reopens_at(self) -> float:
        """When its span is over; meaningful only while it is open."""
        return cast(float, self.opened_at) + self.ttl

    def fault(self, now: float) -> None:
        """Count a fault: the last of many in a row opens it, and so does one while it is half open."""
        self.now = now
        self.handle_exception(_FAULT)

    def trip(self, now: float) -> None:
        """Open it, however few faults there were in a row."""
        self.now = now
        self.set_state(OpenedState(self.name))

    def half_open(self) -> None:
        """Let a request decide."""
        self.set_state(HalfOpenedState())

    def prolong(self, now: float, span: float) -> None:
        """Stay open for another span, which is no change of state."""
        self._state.opened_at = now
        self.ttl = span

    def set_state(self, state: State) -> None:
        """Every change of state comes through here; an opening gets our moment instead of the wall clock's."""
        if isinstance(state, OpenedState):
            state.opened_at = self.now
        super().set_state(state)


class Circuits:
    """The circuits by key. `on_change` may raise: that is logged, and harms no call."""

    def __init__(self, on_change: OnChange) -> None:
        self._on_change = on_change
        self._kept = _Repository()
        self._work = _Work(self._kept)
        self._factory = SyncCircuitBreakerFactory(uow=self._work)
        self._factory.add_listener(self._hear)

    def create(self, key: str, threshold: int, ttl: float) -> Circuit:
        """A new closed circuit, which opens after `threshold` faults in a row. Raises `ValueError` for a key twice."""
        if self._kept.get(key) is not None:
            raise ValueError(f"there is a breaker {key!r} already; forget it first, or give another generation")
        self._factory.get_breaker(key, threshold, ttl)  # it hands out what it registered, not what is kept of it
        return cast(Circuit, self._factory.get_breaker(key).context)

    def forget(self, key: str) -> None:
        """Drop all of a key; who still holds its breaker may use it to its end, unheard."""
        self._kept.breakers.pop(key, None)

    def publish(self, circuit: Circuit) -> None:
        """Send what happened to a circuit through the bus."""
        while circuit.messages:
            self._factory.messagebus.handle(circuit.messages.pop(0), self._work)

    def _hear(self, key: str, _: str, event: Event) -> None:
        if not isinstance(event, ContextChanged):
            return
        circuit = self._kept.get(key)
        if circuit is None:
            return
        try:
            self._on_change(key, _NAMES[event.state], circuit.ttl if event.state == OPENED else 0.0)
        except Exception as error:  # noqa: BLE001  # a listener's trouble is not the call's
            logger.warning("breaker %s: its listener raised %s", key, type(error).__name__)


class _Repository(SyncInMemoryRepository):
    """Keeps circuits of ours of what purgatory registers."""

    def register(self, context: Context) -> None:
        super().register(Circuit(context.name, context.threshold, context.ttl))


class _Work(SyncInMemoryUnitOfWork):
    """Nothing is to be committed or taken back: what a repository in memory hands out is the circuit itself."""

    def __init__(self, contexts: _Repository) -> None:
        super().__init__()
        self.contexts = contexts
