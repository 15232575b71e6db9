"""The key that an adapter was given, in nothing that it says."""

import base64
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote

from llama_orch_adapter_api import WorkerError

from .._connection import Request
from .._dialect import Dialect
from .._engine import LoopbackEngine
from .._outcome import outcome
from .._reply import Reply
from ._bench import PROMPT, Bench
from ._check import Trial, check, require


@check("secrets.errors")
async def errors(trial: Trial) -> None:
    """No key in any text of an error, its traceback included, though the engine repeats the key that it was sent."""
    for what, text in await _said(trial.bench):
        leak = _found(trial.bench.key, text)
        require(leak is None, f"the key stands in {what} ({leak}); build messages of facts, and redact what is quoted")


@check("secrets.logs")
async def logs(trial: Trial) -> None:
    """No key and no prompt in any log record or narration, whatever its level."""
    bench = trial.bench
    with _recorded() as records:
        await _said(bench)
    for text in (*records, *bench.told):
        leak = _found(bench.key, text)
        require(leak is None, f"the key stands in a log or narration ({leak}); log facts")
        require(PROMPT not in text, f"the prompt stands in a log or narration: {text[:80]!r}")


@check("secrets.reprs")
async def reprs(trial: Trial) -> None:
    """No key in what an adapter or its config print as."""
    bench = trial.bench
    async with bench.meeting(bench.script(bench.reply())) as (adapter, engine):
        texts = [repr(adapter), str(adapter), repr(bench.settings(engine.url)), repr(vars(adapter))]
    for text in texts:
        leak = _found(bench.key, text)
        require(leak is None, f"the key stands in a repr ({leak}); hold it as a Secret")


async def _said(bench: Bench) -> list[tuple[str, str]]:
    """All texts of what goes wrong when an engine repeats what it was sent."""
    texts: list[tuple[str, str]] = []
    for status in (400, 401, 403, 404, 429, 500, 503):
        async with bench.meeting(_echo(bench.dialect, status)) as (adapter, _):
            texts.append(("health().detail", str(await adapter.health())))
            await _note(texts, f"props() after a {status}", adapter.props)
            await _note(texts, f"engine_version() after a {status}", adapter.engine_version)
        async with bench.meeting(_well(bench, _echo(bench.dialect, status))) as (adapter, _):
            error = (await outcome(adapter, bench.task())).error
            if error is not None:
                texts += _texts(f"a task's {status}", error)
    async with LoopbackEngine({}) as gone:
        adapter = bench.adapter(gone.url)
    try:
        error = (await outcome(adapter, bench.task())).error
        if error is not None:
            texts += _texts("a refused connection", error)
    finally:
        await adapter.aclose()
    for reply in (Reply.raw(b"HTTP/9 nonsense\r\n\r\n"), Reply((), "reset")):
        error = (await bench.answered(reply)).error
        if error is not None:
            texts += _texts("a broken answer", error)
    return texts


def _echo(dialect: Dialect, status: int) -> Callable[[Request], Reply]:
    """An engine that refuses everything, and repeats the headers that it was sent."""
    return lambda request: dialect.refusal(status, f"refused: {request.headers}")


def _well(bench: Bench, echo: Callable[[Request], Reply]) -> Callable[[Request], Reply]:
    """The same, but well where it is asked of itself."""
    look = bench.script(Reply.silence())

    def answer(request: Request) -> Reply:
        if bench.dialect.asked(request) is not None:
            return echo(request)
        reply = look(request)
        assert isinstance(reply, Reply)  # noqa: S101  # looks are no streams
        return reply

    return answer


async def _note(texts: list[tuple[str, str]], what: str, ask: Callable[[], object]) -> None:
    try:
        texts.append((what, str(await ask())))  # type: ignore[misc]  # a coroutine of the boundary
    except WorkerError as error:
        texts += _texts(what, error)


def _texts(what: str, error: BaseException) -> list[tuple[str, str]]:
    facts = getattr(error, "__dict__", {})
    trace = "".join(traceback.format_exception(error))
    forms = {"str": str(error), "repr": repr(error), "traceback": trace, "facts": repr(facts)}
    return [(f"the {form} of {what}", text) for form, text in forms.items()]


def _found(key: str, text: str) -> str | None:
    """In which form the key stands in the text."""
    encoded = [base64.b64encode(b"x" * shift + key.encode())[4:-4].decode() for shift in range(3)]
    forms = {"as it is": [key], "for a URL": [quote(key, safe="")], "in base64": encoded}
    return next((form for form, needles in forms.items() if any(needle in text for needle in needles)), None)


@contextmanager
def _recorded() -> Iterator[list[str]]:
    """The texts of all log records, of all levels."""
    texts: list[str] = []
    formatter = logging.Formatter("%(name)s %(message)s")

    class _Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.extend((formatter.format(record), repr(record.args), repr(vars(record))))

    root, keeper = logging.getLogger(), _Keeper()
    level = root.level
    root.addHandler(keeper)
    root.setLevel(logging.NOTSET)
    try:
        yield texts
    finally:
        root.setLevel(level)
        root.removeHandler(keeper)
