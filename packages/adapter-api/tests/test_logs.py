"""A log of ours tells no secret and forges no line, whatever is logged and whoever formats it (ORCH-3613)."""

import asyncio
import base64
import io
import json
import logging
import logging.config
import random
import re
import secrets
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, quote_plus, unquote_plus

import pytest
from llama_orch_adapter_api import RedactingFilter, Secret, get_logger
from llama_orch_adapter_api._redact import CAP

HALVES = (secrets.token_hex(8), secrets.token_hex(8))
CANARY = f"{HALVES[0]}/+ %\"'\\é\n{HALVES[1]}"
"""Between two halves that are found by themselves, all that is escaped one way or another."""

KEY = Secret(CANARY)
REDACTED = "[redacted]"
LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
OWN = logging.makeLogRecord({}).__dict__.keys() | {"message", "asctime", "taskName"}
PLAIN = "%(levelname)s %(name)s %(threadName)s %(message)s %(detail)s"


class JsonFormatter(logging.Formatter):
    """One JSON object a record: its message, who and where, its traceback, its extras."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in record.__dict__.items() if name not in OWN}
        fields |= {"level": record.levelname, "logger": record.name, "thread": record.threadName}
        fields |= record.msg if isinstance(record.msg, dict) else {"message": record.getMessage()}
        if record.exc_info:
            fields["exc_info"] = self.formatException(record.exc_info)
        elif record.exc_text:
            fields["exc_info"] = record.exc_text
        if record.stack_info:
            fields["stack_info"] = record.stack_info
        return json.dumps(fields, default=repr)


FORMATTERS: dict[str, logging.Formatter] = {
    "plain": logging.Formatter(PLAIN, defaults={"detail": ""}),
    "JSON": JsonFormatter(),
}


@contextmanager
def reading(logger: logging.Logger, formatter: logging.Formatter) -> Iterator[io.StringIO]:
    """What a handler with this formatter writes of what is logged in the block."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    try:
        yield written
    finally:
        logger.removeHandler(handler)


def written(log: Callable[[logging.Logger], object], formatter: logging.Formatter = FORMATTERS["plain"]) -> str:
    """What our logger's handlers write, without the end of the last line."""
    logger = get_logger("test_logs")
    with reading(logger, formatter) as sink:
        log(logger)
    return sink.getvalue().removesuffix("\n")


def written_at(level: int, log: Callable[[logging.Logger, int], object], formatter: logging.Formatter) -> str:
    return written(lambda logger: log(logger, level), formatter)


def raised(*causes: Callable[[], BaseException]) -> BaseException:
    """An exception that was raised, with those before it as its causes."""
    error: BaseException | None = None
    for make in causes:
        try:
            raise make() from error
        except BaseException as caught:  # noqa: BLE001  # groups of BaseExceptions among them
            error = caught
    assert error is not None
    return error


def in_context(text: str) -> BaseException:
    try:
        try:
            raise KeyError(text)
        except KeyError:
            raise ValueError("afterwards")  # noqa: B904  # the implicit context is what is tested
    except ValueError as error:
        return error


def with_note(error: Exception, text: str) -> Exception:
    error.add_note(text)
    return error


class Shown:
    """What prints itself as the text it was given."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"Shown({self.text})"


def in_a_thread(text: str) -> Callable[[logging.Logger, int], None]:
    def log(logger: logging.Logger, level: int) -> None:
        thread = threading.Thread(target=logger.log, args=(level, "from a thread"), name=text)
        thread.start()
        thread.join()

    return log


def given(**facts: Any) -> Callable[[logging.Logger, int], None]:
    return lambda logger, level: logger.handle(logging.makeLogRecord({"name": "n", "levelno": level, **facts}))


def failing(error: BaseException) -> Callable[[logging.Logger, int], None]:
    return lambda logger, level: logger.log(level, "it failed", exc_info=error)


Log = Callable[[logging.Logger, int], object]

PLACES: dict[str, Callable[[str], Log]] = {
    "message": lambda text: lambda logger, level: logger.log(level, f"key {text} was refused"),  # noqa: G004
    "argument": lambda text: lambda logger, level: logger.log(level, "key %s was refused", text),
    "argument, repr": lambda text: lambda logger, level: logger.log(level, "key %r was refused", text),
    "argument, bytes": lambda text: (
        lambda logger, level: logger.log(level, "key %s", text.encode(errors="surrogatepass"))
    ),
    "argument by name": lambda text: lambda logger, level: logger.log(level, "key %(key)s", {"key": text}),
    "argument, list": lambda text: lambda logger, level: logger.log(level, "keys %s", [text]),
    "argument, object": lambda text: lambda logger, level: logger.log(level, "%s", Shown(text)),
    "argument, exception": lambda text: lambda logger, level: logger.log(level, "it failed: %s", ValueError(text)),
    "message, exception": lambda text: lambda logger, level: logger.log(level, ValueError(text)),
    "message, mapping": lambda text: lambda logger, level: logger.log(level, {"event": "refused", "what": [text]}),
    "extra": lambda text: lambda logger, level: logger.log(level, "x", extra={"detail": f"key {text}"}),
    "extra, bytes": lambda text: (
        lambda logger, level: logger.log(level, "x", extra={"detail": text.encode(errors="surrogatepass")})
    ),
    "extra, object": lambda text: lambda logger, level: logger.log(level, "x", extra={"detail": Shown(text)}),
    "extra, nested": lambda text: (
        lambda logger, level: logger.log(level, "x", extra={"detail": {"a": [{"b": (text, 1)}]}})
    ),
    "extra, deeply nested": lambda text: (
        lambda logger, level: logger.log(level, "x", extra={"detail": [[[[[[{"b": text}]]]]]]})
    ),
    "extra, set": lambda text: lambda logger, level: logger.log(level, "x", extra={"detail": {text}}),
    "extra, key": lambda text: lambda logger, level: logger.log(level, "x", extra={"detail": {text: 1}}),
    "extra, name": lambda text: lambda logger, level: logger.log(level, "x", extra={text: 1, "detail": text}),
    "exception": lambda text: failing(raised(lambda: ValueError(text))),
    "exception, repr": lambda text: failing(raised(lambda: KeyError(text))),
    "exception, cause": lambda text: failing(raised(lambda: ValueError(text), lambda: TypeError("then"))),
    "exception, context": lambda text: failing(in_context(text)),
    "exception, note": lambda text: failing(raised(lambda: with_note(ValueError("it failed"), f"with {text}"))),
    "exception group": lambda text: failing(
        raised(lambda: ExceptionGroup("all", [ValueError("one"), ExceptionGroup(text, [KeyError(text)])]))
    ),
    "exception, text": lambda text: given(msg="it failed", exc_text=f"Traceback\n  key {text}"),
    "stack": lambda text: given(msg="here", stack_info=f"Stack\n  f({text})"),
    "thread": in_a_thread,
}
"""Where a text may get into a log."""

FORMS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "URL": lambda text: f"http://engine/{quote(text, safe='')}",
    "URL query, small": lambda text: re.sub("%..", lambda hit: hit[0].lower(), quote_plus(text)),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64, after one": lambda text: base64.b64encode(b"u" + text.encode()).decode(),
    "base64, after two": lambda text: base64.b64encode(b"u:" + text.encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "JSON, ASCII": json.dumps,
    "JSON, UTF-8": lambda text: json.dumps({"key": text}, ensure_ascii=False),
    "repr": repr,
}


def leaks(output: str) -> bool:
    """Whether one of the halves can be read out of it: as it is, or in base64 at any alignment."""
    for text in (output, unquote_plus(output)):
        runs = [run[at:] for run in re.findall(r"[\w+/-]{16,}", text, re.ASCII) for at in range(4)]
        decoded = [base64.b64decode(run[: len(run) // 4 * 4].translate(str.maketrans("-_", "+/"))) for run in runs]
        if any(half in text or any(half.encode() in each for each in decoded) for half in HALVES):
            return True
    return False


@pytest.mark.parametrize("formatter", FORMATTERS.values(), ids=FORMATTERS)
def test_canaries(formatter: logging.Formatter) -> None:
    """No secret is found in any record, wherever it was put and however escaped (ORCH-3613, battery 32)."""
    unfiltered = logging.getLogger("test_logs.unfiltered")
    looked_at, found, seen_without = 0, [], 0
    for place, make in PLACES.items():
        for form, write in FORMS.items():
            log = make(write(CANARY))
            with reading(unfiltered, formatter) as sink:
                log(unfiltered, logging.ERROR)
            seen_without += leaks(sink.getvalue())
            for level in LEVELS:
                output = written_at(level, log, formatter)
                looked_at += 1
                if leaks(output) or len(output.splitlines()) != 1 or REDACTED not in output:
                    found.append((place, form, level, output))

    print(f"{looked_at} records with a canary; without the filter {seen_without * len(LEVELS)} show it")
    assert found == []
    assert looked_at >= 500
    assert seen_without == len(PLACES) * len(FORMS)


@pytest.mark.parametrize("formatter", FORMATTERS.values(), ids=FORMATTERS)
def test_undeclared(formatter: logging.Formatter) -> None:
    """A secret that nobody declared is known by the name it stands under, in an extra too (ORCH-3613)."""
    key = secrets.token_hex(12)
    headers = {"Authorization": f"Bearer {key}", "X-Api-Key": key, "Host": "engine:8080"}
    raw = ((b"Authorization", f"Bearer {key}".encode()), (b"Host", b"engine:8080"), ("Cookie", key))

    outputs = [
        written(lambda logger: logger.error("sent %s", headers), formatter),
        written(lambda logger: logger.error("sent %s", raw[:1]), formatter),
        written(lambda logger: logger.error("x", extra={"detail": {"headers": headers}}), formatter),
        written(lambda logger: logger.error("x", extra={"detail": MappingProxyType(headers)}), formatter),
        written(lambda logger: logger.error("x", extra={"detail": raw}), formatter),
        written(lambda logger: logger.error("x", extra={"api_key": key, "detail": f"http://h/p?key={key}"}), formatter),
        written(lambda logger: logger.error({"password": key, "pin_password": 1234567, "url": "x"}), formatter),
    ]
    assert [output for output in outputs if key in output or "1234567" in output] == []
    assert all(REDACTED in output for output in outputs)
    assert sum("engine:8080" in output for output in outputs) == 4


def test_what_is_kept() -> None:
    """What is no secret stays what it was: numbers are numbers, mappings mappings, to JSON formatters too."""
    facts = {"max_tokens": 5, "token": 3, "first_token": 0.5, "ok": True, "none": None, "names": ["a", ("b", 2)]}
    output = written(lambda logger: logger.info("%d of %s", 3, "all", extra=facts | {"deep": facts}), JsonFormatter())

    kept = json.loads(json.dumps(facts))
    assert json.loads(output) == {
        "message": "3 of all",
        "level": "INFO",
        "logger": "test_logs",
        "thread": threading.current_thread().name,
        **kept,
        "deep": kept,
    }
    assert json.loads(written(lambda logger: logger.info({"event": "x", "n": 1}), JsonFormatter()))["event"] == "x"


def test_a_traceback_is_kept() -> None:
    """An error is told whole, in the one line: where, what, what caused it, and its notes."""
    error = raised(lambda: KeyError("first"), lambda: with_note(ValueError("second"), "a note"))
    output = written(lambda logger: logger.error("it failed", exc_info=error))
    fields = json.loads(written(lambda logger: logger.error({"event": "x"}, exc_info=error), JsonFormatter()))

    parts = ["it failed", "Traceback", "in raised", "KeyError: 'first'", "direct cause", "ValueError: second", "a note"]
    places = [output.index(part) for part in parts]
    assert places == sorted(places)
    assert output.splitlines() == [output]
    assert "ValueError: second" in fields["traceback"][0]


def test_a_stack_is_kept() -> None:
    """Who asks for the stack gets it, in the same line."""
    output = written(lambda logger: logger.error("here", stack_info=True))

    assert "here · Stack (most recent call last)" in output
    assert "test_a_stack_is_kept" in output
    assert output.splitlines() == [output]


def test_logged_outside_of_an_error() -> None:
    """`logger.exception` where there is no exception says so, as it always did."""
    assert "NoneType: None" in written(lambda logger: logger.exception("it failed"))  # noqa: LOG004


def test_long_ones_are_cut() -> None:
    """Of a long message the beginning is kept, of a long traceback the end, and of a long list the first entries."""
    error = raised(lambda: ValueError("x" * 100 + "\n" + "line\n" * CAP + "the end"))
    extra = {"detail": list(range(1000)), "more": dict.fromkeys(map(str, range(1000)))}

    assert len(written(lambda logger: logger.error("begin %s", "and go on " * CAP))) < CAP + 100
    assert "the end" in written(lambda logger: logger.error("it failed", exc_info=error))
    fields = json.loads(written(lambda logger: logger.error("x", extra=extra), JsonFormatter()))
    assert fields["detail"] == list(range(64))
    assert len(fields["more"]) == 64


CONTROLS = [*map(chr, range(32)), "\x7f", *"\x85\xa0\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ufeff"]
ENDS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\x1b[2J", "\x00", "\ud800"]


def test_one_record_is_one_line() -> None:
    """No text forges a line, moves the cursor or turns the writing direction, wherever it stands (battery 36)."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    alphabet = [*CONTROLS, *ENDS, "a", "%", "\\", "ERROR forged line", "é", "日"]
    texts = ["".join(rng.choices(alphabet, k=rng.randint(1, 12))) for _ in range(10_000)]
    logs = [make for place, make in PLACES.items() if place != "thread"]
    logger = get_logger("test_logs")
    with reading(logger, FORMATTERS["plain"]) as plain, reading(logger, FORMATTERS["JSON"]) as as_json:
        for number, text in enumerate(texts):
            logs[number % len(logs)](text)(logger, LEVELS[number % 5])

    for sink in (plain, as_json):
        lines = sink.getvalue().removesuffix("\n").split("\n")
        assert len(lines) == len(texts)
        assert [line for line in lines if not line.isprintable()] == []


def test_a_thread_may_have_any_name() -> None:
    """The name of a thread is a text that somebody gave (battery 36)."""
    output = written(lambda logger: in_a_thread("a\nb\u202e")(logger, logging.INFO))

    assert "a\\nb\\u202e" in output


class Broken:
    """Raises where others print themselves."""

    def __repr__(self) -> str:
        raise RuntimeError(CANARY)


class BrokenError(Exception):
    """An exception of that kind."""

    def __str__(self) -> str:
        raise RuntimeError(CANARY)


class BrokenMapping(dict[str, str]):
    """A mapping of that kind."""

    def items(self) -> Any:
        raise RuntimeError(CANARY)


def endless() -> list[object]:
    held: list[object] = []
    held.append(held)
    return held


NASTY: dict[str, Log] = {
    "object": lambda logger, level: logger.log(level, "x %s", Broken()),
    "message": lambda logger, level: logger.log(level, Broken()),
    "extra": lambda logger, level: logger.log(level, "x", extra={"detail": Broken()}),
    "key of an extra": lambda logger, level: logger.log(level, "x", extra={"detail": {Broken(): Broken()}}),
    "mapping": lambda logger, level: logger.log(level, "x", extra={"detail": BrokenMapping(a="b")}),
    "mapping as message": lambda logger, level: logger.log(level, BrokenMapping(a="b")),
    "format": lambda logger, level: logger.log(level, "%d of %s", "x"),
    "format by name": lambda logger, level: logger.log(level, "%(a)s %(b)s", {"a": 1}),
    "too many arguments": lambda logger, level: logger.log(level, "x", 1, 2, 3),
    "exception": lambda logger, level: logger.log(level, "x", exc_info=BrokenError()),
    "note": lambda logger, level: logger.log(level, "x", exc_info=with_broken_notes()),
    "exc_info": given(msg="x", exc_info=True, detail=CANARY),
    "stack_info": given(msg="x", stack_info=3, detail=CANARY),
    "endless": lambda logger, level: logger.log(level, "x", extra={"detail": endless()}),
    "half a character": lambda logger, level: logger.log(level, "x \udc80 %s", "\ud800", extra={"detail": "\udfff"}),
}
"""What cannot be formatted, or only partly."""


def with_broken_notes() -> Exception:
    error = ValueError("x")
    error.__notes__ = [Broken()]  # type: ignore[list-item]  # that is what is wrong with it
    return error


@pytest.mark.parametrize("log", NASTY.values(), ids=NASTY)
@pytest.mark.parametrize("formatter", FORMATTERS.values(), ids=FORMATTERS)
def test_never_raises(log: Log, formatter: logging.Formatter, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever logs does not pay for what cannot be printed: there is one record, and no secret in it (ORCH-3613)."""
    output = written_at(logging.ERROR, log, formatter)

    assert output.splitlines() == [output]
    assert not leaks(output)
    assert output.encode()
    assert capsys.readouterr().err == ""  # where logging prints errors of its own


def test_a_filter_that_cannot_says_so() -> None:
    """A record that cannot be made safe loses all that it held, and tells why."""
    output = written(lambda logger: given(msg=CANARY, exc_info=True, detail=CANARY)(logger, logging.ERROR))

    assert "a log message could not be formatted (TypeError)" in output


def test_in_a_loop() -> None:
    """An error is logged from within an event loop as from anywhere else."""

    async def main() -> str:
        return written(lambda logger: failing(raised(lambda: ValueError("it\nfailed")))(logger, logging.ERROR))

    output = asyncio.run(main())
    assert "Traceback" in output
    assert "ValueError: it\\nfailed" in output


def test_the_name_of_a_task() -> None:
    """The name of a task is a text that somebody gave (ORCH-3613)."""
    output = written_at(logging.INFO, given(msg="x", taskName=f"a\n{CANARY}"), logging.Formatter("%(taskName)s"))

    assert output == f"a\\n{REDACTED}"


def test_installed_once() -> None:
    """Every logger of ours has the filter, and has it once."""
    first, second = get_logger("test_logs.once"), get_logger("test_logs.once")

    assert first is second is logging.getLogger("test_logs.once")
    assert [type(each) for each in first.filters] == [RedactingFilter]
    assert len(first.handlers) == 1


@pytest.mark.parametrize("child", ["test_logs.child", "test_logs.a.grandchild"])
@pytest.mark.parametrize("formatter", FORMATTERS.values(), ids=FORMATTERS)
def test_children(child: str, formatter: logging.Formatter) -> None:
    """What a child of a logger of ours logs is as safe as what that logs itself, for every handler but its own."""

    def log(name: str) -> str:
        logger = get_logger("test_logs")
        with reading(logger, formatter) as sink:
            try:
                raise ValueError(CANARY)
            except ValueError:
                logging.getLogger(name).exception("%s of\n%s", 5, CANARY, extra={"detail": {"api_key": CANARY}})
        return sink.getvalue()

    assert not leaks(log(child))
    assert log(child).count("\n") == 1
    assert "5 of" in log(child)


def test_logging_that_is_configured_anew() -> None:
    """`dictConfig` leaves a logger its filter and takes its handlers; who asks for it again has the children safe."""
    get_logger("test_logs")
    logging.config.dictConfig(
        {"version": 1, "disable_existing_loggers": False, "loggers": {"test_logs": {"level": "DEBUG"}}}
    )
    outputs = []
    for of in (logging.getLogger, get_logger):
        with reading(of("test_logs"), FORMATTERS["plain"]) as sink:
            logging.getLogger("test_logs").error(CANARY)
            assert not leaks(sink.getvalue())
            logging.getLogger("test_logs.child").error(CANARY)
        outputs.append(sink.getvalue())

    assert [leaks(output) for output in outputs] == [True, False]


@pytest.mark.parametrize("ours", [[""], ["", ".a"], [".a"]], ids=["parent", "both", "child"])
@pytest.mark.parametrize("child", [".a", ".a.b"])
def test_the_last_resort(ours: list[str], child: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody handles records, warnings of ours and of our children go to stderr, once and redacted."""
    name = f"test_last-{secrets.token_hex(4)}"  # without the handlers of other cases
    for each in ours:
        get_logger(name + each)
    sink = io.StringIO()
    last = logging.StreamHandler(sink)
    last.setLevel(logging.WARNING)
    monkeypatch.setattr(logging, "lastResort", last)
    monkeypatch.setattr(logging.getLogger(name), "propagate", False)  # pytest's own handlers are the root's
    logging.getLogger(name + child).info("unheard")
    logging.getLogger(name + child).warning("heard: %s", CANARY)

    assert sink.getvalue() == f"heard: {REDACTED}\n"


@pytest.mark.parametrize("message", ["%s%% of\n%s", {"event": "5% of"}], ids=["text", "fields"])
@pytest.mark.parametrize("formatter", FORMATTERS.values(), ids=FORMATTERS)
def test_on_a_handler_as_well(message: object, formatter: logging.Formatter) -> None:
    """Who puts the filter on a handler of their own gets the same line as without, to the end of its traceback."""
    logger = get_logger("test_logs.twice")
    arguments = (5, CANARY) if isinstance(message, str) else ()
    error = raised(lambda: ValueError("line\n" * CAP + f"{CANARY}, the end"))
    extra = {"detail": {"api_key": CANARY, "é\n": "\\n"}}
    outputs = []
    for install in (False, True):
        with reading(logger, formatter) as sink:
            if install:
                logger.handlers[-1].addFilter(RedactingFilter())
            logger.error(message, *arguments, exc_info=error, extra=extra)
        outputs.append(sink.getvalue())

    assert outputs[0] == outputs[1]
    assert "5% of" in outputs[0]
    assert "the end" in outputs[0]
    assert not leaks(outputs[0])


def test_what_is_added_to_a_safe_record() -> None:
    """What a filter between the two adds to a record, a traceback too, is made safe by the second."""
    record = logging.makeLogRecord({"msg": "a"})
    own = RedactingFilter()
    own.filter(record)
    error = raised(lambda: ValueError(CANARY))
    record.__dict__.update(msg=record.msg, detail=CANARY, exc_info=(type(error), error, None))
    own.filter(record)

    assert record.getMessage().startswith("a · ")
    assert not leaks(repr(vars(record)))


def test_a_traceback_without_the_filter_would_tell() -> None:
    """The canary of these tests is seen where nothing is filtered: they would notice."""
    error = raised(lambda: ValueError(CANARY))

    assert leaks("".join(traceback.format_exception(error)))
    assert all(leaks(write(CANARY)) for write in FORMS.values())
    assert not leaks(f"{REDACTED} {'ab12' * 20}")
