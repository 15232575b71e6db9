import asyncio
import contextlib
import io
import json
import logging
import logging.config
import logging.handlers
import os
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO

import pytest
from llama_orch_adapter_api import Secret
from llama_orch_adapter_host.observe import (
    JsonFormatter,
    Logs,
    Narrator,
    fields,
    human,
    json_logging,
    level,
    logs,
    text_logging,
)
from llama_orch_adapter_host.observe.narrator import LOGGER

from .events import STORY, ended, failure  # type: ignore[import-not-found]  # test folders are no packages

STRANGER = "somebody.elses"


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_record_is_a_line_of_json():
    """Each event is one JSON object: when, how loud, who, and the fields of the taxonomy, in that order (ORCH-3604)."""
    stream, narrate = io.StringIO(), Narrator()
    with json_logging(stream, "DEBUG", logger=LOGGER):
        for event in STORY:
            narrate(event)

    written = lines(stream.getvalue())
    assert len(written) == len(STORY)
    for line, event in zip(written, STORY, strict=True):
        assert list(line) == ["timestamp", "level", "logger", *fields(event)]
        assert {name: line[name] for name in fields(event)} == fields(event)
        assert (line["level"], line["logger"]) == (logging.getLevelName(level(event)), LOGGER)
        assert abs((datetime.now(UTC) - datetime.fromisoformat(line["timestamp"])).total_seconds()) < 60


def test_for_people_a_record_is_a_sentence():
    """The time, the level from WARNING up, and the sentence; of others too, on one line and without secrets."""
    key = Secret(secrets.token_hex(12))
    stream, narrate = io.StringIO(), Narrator()
    with text_logging(stream, "DEBUG"):
        for event in STORY:
            narrate(event)
        logging.getLogger(STRANGER).error("sent %s\nforged", key.reveal())
    told = [line.split(" ", 1) for line in stream.getvalue().splitlines()]

    assert all(datetime.strptime(time, "%H:%M:%S") for time, _ in told)  # noqa: DTZ007  # the time of day alone
    marks = ["warning: " if level(event) == logging.WARNING else "" for event in STORY]
    sentences = [mark + human(event) for mark, event in zip(marks, STORY, strict=True)]
    assert [words for _, words in told] == [*sentences, "error: sent [redacted]\\nforged"]


def test_what_others_log_is_written_too():
    """Records of other loggers become such lines, without secrets, and other handlers see them as they were."""
    key = Secret(secrets.token_hex(12))
    kept = logging.handlers.BufferingHandler(99)
    stream, stranger = io.StringIO(), logging.getLogger(STRANGER)
    stranger.addHandler(kept)
    try:
        with json_logging(stream):
            stranger.info("sent %s\nforged", key.reveal(), extra={"size": 3})
            stranger.debug("too quiet")
    finally:
        stranger.removeHandler(kept)

    [line] = lines(stream.getvalue())
    assert line.pop("timestamp")
    assert line == {"level": "INFO", "logger": STRANGER, "human": "sent [redacted]\\nforged", "size": 3}
    assert kept.buffer[0].getMessage() == f"sent {key.reveal()}\nforged"


def test_the_end_leaves_logging_as_it_was():
    """After the end nothing is written, the logger has its level again, and a second end does nothing."""
    logger = logging.getLogger(STRANGER)
    logger.setLevel(logging.ERROR)
    stream = io.StringIO()
    with json_logging(stream, logging.DEBUG, logger=STRANGER) as handle:
        logger.debug("one")
    handle.close()
    logger.error("two")

    assert [line["human"] for line in lines(stream.getvalue())] == ["one"]
    assert (logger.level, logger.handlers, handle.dropped) == (logging.ERROR, [], 0)
    logger.setLevel(logging.NOTSET)


def test_stderr_where_no_stream_is_named(capfd: pytest.CaptureFixture[str]):
    """Without a stream the lines go to stderr."""
    with json_logging(logger=LOGGER):
        Narrator()(failure())

    assert [line["action"] for line in lines(capfd.readouterr().err)] == ["end"]


def test_a_dict_config_takes_the_formatter():
    """Who configures logging by himself names the formatter's class; it redacts by itself (ORCH-3604)."""
    key = Secret(secrets.token_hex(12))
    stream, logger = io.StringIO(), logging.getLogger(STRANGER)
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": {"()": "llama_orch_adapter_host.observe.JsonFormatter"}},
            "handlers": {"here": {"class": "logging.StreamHandler", "stream": stream, "formatter": "json"}},
            "loggers": {STRANGER: {"handlers": ["here"], "level": "INFO"}},
        }
    )
    try:
        logger.warning("key %s", key.reveal())
    finally:
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)

    assert [line["human"] for line in lines(stream.getvalue())] == ["key [redacted]"]


@pytest.mark.parametrize("size", [2**80, float("nan"), {1, 2}, object(), {3: b"x"}])
def test_what_has_no_json(size: object):
    """A record with an extra that JSON has no words for is a line nevertheless."""
    record = logging.makeLogRecord({"name": "n", "levelname": "INFO", "msg": "x", "size": size})

    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["logger"], line["human"]) == ("INFO", "n", "x")
    assert "size" in line


@dataclass
class Pipe:
    """A pipe whose reader reads when it is told to."""

    stream: TextIO
    reads: int
    got: list[bytes] = field(default_factory=list)
    reader: threading.Thread | None = None

    def read(self) -> None:
        def read_all() -> None:
            while chunk := os.read(self.reads, 65536):
                self.got.append(chunk)

        self.reader = threading.Thread(target=read_all)
        self.reader.start()

    def lines(self) -> list[dict[str, Any]]:
        """All that was written, once the writing end is closed."""
        self.stream.close()
        assert self.reader is not None
        self.reader.join()
        return lines(b"".join(self.got).decode())


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reads, writes = os.pipe()
    with contextlib.closing(os.fdopen(writes, "w", encoding="utf-8")) as stream:
        yield Pipe(stream, reads)
    os.close(reads)


def flood(count: int) -> None:
    """Narrate, from within an event loop, so many tasks that failed."""

    async def main() -> None:
        narrate, event = Narrator(), failure()
        for _ in range(count):
            narrate(event)
        await asyncio.sleep(0)

    asyncio.run(main())


def test_a_stream_that_nobody_reads_holds_nobody(pipe: Pipe):
    """A stuck stream does not hold the loop: what is too much is dropped, counted, and told later (ORCH-3604)."""
    with json_logging(pipe.stream, logger=LOGGER, most=100) as handle:
        flood(1000)  # some 300 KB, for a pipe that takes 64
        dropped = handle.dropped
        pipe.read()

    written = pipe.lines()
    notices = [line for line in written if "the log drops" in line["human"]]
    told = sum(int(line["human"].split()[3]) for line in notices)
    print(f"{dropped} of 1000 records dropped, told in {len(notices)} lines")
    assert 500 < dropped <= 900
    assert told == handle.dropped == dropped
    assert len(written) - len(notices) == 1000 - dropped
    assert notices[0].keys() == {"timestamp", "level", "logger", "actor", "human"}


def test_the_end_waits_for_a_stuck_stream_but_not_for_ever(pipe: Pipe, monkeypatch: pytest.MonkeyPatch):
    """Where the stream takes nothing the end gives up after its patience; the thread ends when the stream breaks."""
    monkeypatch.setattr(logs, "PATIENCE", 0.05)
    handle = json_logging(pipe.stream, logger=LOGGER, most=1000)
    thread = handle._writer._thread
    flood(500)
    handle.close()

    assert thread is not None
    assert thread.is_alive()
    pipe.read()
    thread.join()
    assert len(pipe.lines()) == 500


class Broken(io.StringIO):
    """Takes nothing as long as it is broken."""

    broken = True

    def write(self, text: str) -> int:
        if self.broken:
            raise OSError("no space left on device")
        return super().write(text)


def failed(handle: Logs, count: int) -> None:
    """Wait until the stream has not taken so many records."""
    while handle.dropped < count:
        threading.Event().wait(0.001)


def test_a_stream_that_breaks_is_told_when_it_works_again(capfd: pytest.CaptureFixture[str]):
    """What a full disk did not take is counted once each and told when it takes something; stderr stays quiet."""
    stream = Broken()
    with json_logging(stream, logger=LOGGER) as handle:
        for _ in range(3):
            Narrator()(failure())
        failed(handle, 3)
        stream.broken = False
        Narrator()(failure())

    written = lines(stream.getvalue())
    assert sorted(str(line.get("action")) for line in written) == ["None", "end"]
    assert "the log drops 3 records that the stream does not take" in [line["human"] for line in written]
    assert handle.dropped == 3
    assert capfd.readouterr().err == ""


def test_one_dropped_record():
    """One record is told as one, and also where nothing follows it."""
    stream = Broken()
    with json_logging(stream, logger=LOGGER) as handle:
        Narrator()(failure())
        failed(handle, 1)
        stream.broken = False

    assert [line["human"] for line in lines(stream.getvalue())] == [
        "the log drops 1 record that the stream does not take"
    ]


def test_quiet_events_are_not_written():
    """At the level of INFO a task that ends well leaves no line (ORCH-3604)."""
    stream = io.StringIO()
    with json_logging(stream, logger=LOGGER):
        Narrator()(ended())

    assert stream.getvalue() == ""
