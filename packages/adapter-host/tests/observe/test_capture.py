import asyncio
import logging
from collections.abc import Callable

import pytest
from llama_orch_adapter_host._bus import Bus, Observer
from llama_orch_adapter_host._events import (
    BreakerChanged,
    CapabilitiesChanged,
    ReplicaBound,
    TaskAdmitted,
    TaskEnded,
)
from llama_orch_adapter_host.observe import captured, coverage, human, missing

from ..adapters import moment, virtual  # type: ignore[import-not-found]  # test folders are no packages
from .events import KINDS, ONE, STORY, filled  # type: ignore[import-not-found]  # test folders are no packages


class Host:
    """What tells its events through `observe`."""

    def __init__(self) -> None:
        self.bus = Bus()

    def observe(self, observer: Observer) -> Callable[[], None]:
        return self.bus.add(observer)


@pytest.mark.parametrize("source", [Bus(), Host()], ids=["bus", "host"])
def test_what_is_told_in_the_block(source: Bus | Host):
    """A test gets the events of the block in their order, and none from before or after (ORCH-3604)."""
    bus = source if isinstance(source, Bus) else source.bus
    bus.emit(STORY[0])
    with captured(source) as events:
        for event in STORY[1:]:
            bus.emit(event)
    bus.emit(STORY[0])

    assert events == STORY[1:]
    assert [event.ending for event in events.of(TaskEnded)] == ["ok"]
    assert len(events.of(BreakerChanged)) == 3


def test_a_block_that_fails_is_left():
    """Where the block raises nothing is told to it any more."""
    bus = Bus()
    with pytest.raises(RuntimeError), captured(bus) as events:
        raise RuntimeError
    bus.emit(STORY[0])

    assert events == []


def test_the_story():
    """The narration of what was captured, as loud as is asked for, without what has nothing to tell (ORCH-3604)."""
    bus, silent = Bus(), CapabilitiesChanged(**ONE, changes=())
    with captured(bus) as events:
        for event in (silent, *STORY):
            bus.emit(event)

    assert events.story() == [human(event) for event in STORY]
    assert [line for line in events.story(logging.INFO) if "task " in line] == [
        "chat/0 fails task 7f3a9c12, next try in 40 ms: WORKER_RESET reset, the engine closed the connection",
        "chat/0 half-opens its breaker: one task may try it",
    ]


@virtual
async def test_the_story_with_its_moments():
    """On request each line begins with its moment, in seconds since the block began, by the loop's clock."""
    bus = Bus()
    with captured(bus) as events:
        bus.emit(STORY[0])
        await asyncio.sleep(61.25)
        bus.emit(STORY[1])

    assert events.moments == [0, moment(61.25)]
    assert events.story(moments=True) == [f"    0.00 s  {human(STORY[0])}", f"   61.25 s  {human(STORY[1])}"]


def test_coverage():
    """How many kinds of events were narrated is a figure, with the names of those that were not (ORCH-3604)."""
    told_all = [filled(kind, "word") for kind in KINDS]
    silent = CapabilitiesChanged(**ONE, changes=())

    print("narration coverage of the story: {} of {}".format(*coverage(STORY)), "missing:", *missing(STORY))
    assert coverage(told_all) == (len(KINDS), len(KINDS))
    assert coverage([]) == (0, len(KINDS))
    assert coverage([silent]) == (0, len(KINDS))
    assert coverage(STORY) == (len({type(event) for event in STORY}), len(KINDS))
    assert set(missing(STORY)) == {kind.__name__ for kind in KINDS} - {type(event).__name__ for event in STORY}
    assert not {TaskAdmitted.__name__, ReplicaBound.__name__} & set(missing(STORY))
