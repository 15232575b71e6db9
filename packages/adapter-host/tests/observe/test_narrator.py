import logging

import pytest
from llama_orch_adapter_host import AdapterHost, Plugins
from llama_orch_adapter_host._bus import Bus
from llama_orch_adapter_host._events import CapabilitiesChanged, HostEvent
from llama_orch_adapter_host.observe import TAXONOMY, Narrator, fields, human, level, narrator
from llama_orch_adapter_host.observe.narrator import LOGGER

from ..adapters import virtual  # type: ignore[import-not-found]  # test folders are no packages
from .events import (  # type: ignore[import-not-found]  # test folders are no packages
    ONE,
    STORY,
    ended,
    failure,
)


def narrated(caplog: pytest.LogCaptureFixture, loudness: int, *events: HostEvent) -> list[logging.LogRecord]:
    bus = Bus()
    bus.add(Narrator())
    with caplog.at_level(loudness, LOGGER):
        for event in events:
            bus.emit(event)
    return [record for record in caplog.records if record.name == LOGGER]


def test_each_event_is_a_record(caplog: pytest.LogCaptureFixture):
    """A record's message is the sentence, at its level; its extras are the event's other fields (ORCH-3604)."""
    records = narrated(caplog, logging.DEBUG, *STORY)

    assert [record.getMessage() for record in records] == [human(event) for event in STORY]
    assert [record.levelno for record in records] == [level(event) for event in STORY]
    for record, event in zip(records, STORY, strict=True):
        extras = {name: record.__dict__[name] for name in TAXONOMY if name in record.__dict__}
        assert extras == {name: value for name, value in fields(event).items() if name != "human"}


def test_what_is_too_quiet_is_not_logged(caplog: pytest.LogCaptureFixture):
    """At INFO there is a record of the failed task alone, and at WARNING none (ORCH-3604)."""
    records = narrated(caplog, logging.INFO, ended(), failure())
    caplog.clear()

    assert [record.levelno for record in records] == [logging.INFO]
    assert narrated(caplog, logging.WARNING, ended(), failure()) == []


def test_what_the_log_does_not_take_costs_one_look(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """Of an event that is too quiet nothing is made, not even its level (ORCH-3604)."""

    def never(_: HostEvent) -> int:
        raise AssertionError

    monkeypatch.setattr(narrator, "level", never)
    monkeypatch.setattr(narrator, "fields", never)
    with caplog.at_level(logging.ERROR, LOGGER):
        for event in (*STORY, ended(), failure()):
            Narrator()(event)

    assert caplog.records == []


@virtual
async def test_a_host_narrates_by_itself_and_once(caplog: pytest.LogCaptureFixture):
    """A host's narration is on without a word, and a second narrator doubles no line (ORCH-3604)."""
    caplog.set_level(logging.DEBUG, LOGGER)
    host = AdapterHost(plugins=Plugins())
    forget = host.observe(Narrator())
    async with host:
        pass
    forget()

    assert caplog.messages == [
        "the host takes no more tasks; 0 streams still run",
        "the host is stopped in 0 ms; every adapter is closed",
    ]


def test_what_has_nothing_to_tell_is_not_logged(caplog: pytest.LogCaptureFixture):
    """An event without a sentence makes no record."""
    assert narrated(caplog, logging.DEBUG, CapabilitiesChanged(**ONE, changes=())) == []
