"""Who is told of the host's events, and that a listener harms nobody (ORCH-3604)."""

import pytest
from llama_orch_adapter_host._bus import Bus
from llama_orch_adapter_host._events import HostEvent, HostStopping

EVENT = HostStopping(flights=0)


class Raising:
    """Raises each time it is told something; it is not hashable."""

    __hash__ = None  # type: ignore[assignment]  # as a dataclass has it

    def __call__(self, event: HostEvent) -> None:
        raise KeyError(event)


def test_an_observer_that_raises(caplog: pytest.LogCaptureFixture):
    """ORCH-3604: it is logged once, hashable or not, and the others are told; added again, it is logged again."""
    bus = Bus()
    told: list[HostEvent] = []
    raising = Raising()
    remove = bus.add(raising)
    bus.add(told.append)
    for _ in range(3):
        bus.emit(EVENT)

    assert told == 3 * [EVENT]
    assert caplog.text.count("an observer of events raised KeyError") == 1

    remove()
    bus.emit(EVENT)
    bus.add(raising)
    bus.emit(EVENT)

    assert caplog.text.count("an observer of events raised KeyError") == 2
