"""Who is told of the host's events, and that a listener harms nobody (ORCH-3604)."""

from typing import Any

import pytest
from llama_orch_adapter_host._bus import Bus
from llama_orch_adapter_host._events import HostEvent, HostStopping

from .adapters import host_of, task, virtual  # type: ignore[import-not-found]  # test folders are no packages
from .replicas import ANSWER, Replica, left_behind, outcome_of  # type: ignore[import-not-found]  # as above

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


class Tracing:
    """Names a trace for each task: what it was given, raised or returned."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def __call__(self, event: HostEvent) -> None:
        pass

    def wants(self, _: type) -> bool:
        raise OSError("the collector is away")

    def traceparent(self, _: str) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("answer", [OSError("the collector is away"), "no trace", 7], ids=["raises", "form", "type"])
@virtual
async def test_a_tracer_that_raises(answer: object, caplog: pytest.LogCaptureFixture):
    """ORCH-3604: a tracer that raises, or names what is no trace, is logged once, and each task goes its way."""
    async with host_of(Replica()) as host:
        remove = host.observe(Tracing(answer))
        outcomes = [await outcome_of(host) for _ in range(3)]
        remove()
        host.observe(Tracing(None))
        outcomes.append(await outcome_of(host))

        assert outcomes == 4 * [list(ANSWER)]
        assert left_behind(host) == []
    assert caplog.text.count("an observer of events raised") == 2


def test_the_latest_tracer_names_the_trace():
    """ORCH-3604: a task is sent in the trace that the latest tracer names, and as it is once that is taken out."""
    bus, request = Bus(), task()
    first = bus.add(Tracing(f"00-{'1' * 32}-{'2' * 16}-01"))
    bus.add(Tracing(f"00-{'3' * 32}-{'4' * 16}-01"))
    first()

    assert bus.traced(request).traceparent == f"00-{'3' * 32}-{'4' * 16}-01"
    assert Bus().traced(request) is request
