from llama_orch_adapter_api import AdapterSpec, Capabilities, TaskRequest
from llama_orch_adapter_host import AdapterHost, Plugins
from llama_orch_adapter_host._events import AdapterBroke, HostEvent, TaskAdvised

from .adapters import Config, Words, drained, task, virtual  # type: ignore[import-not-found]  # test folders are no packages


async def coroutine() -> str:
    return "never awaited"


def short(task: TaskRequest, capabilities: Capabilities) -> str | None:
    if task.max_tokens == 13:
        raise KeyError("thirteen")
    if task.max_tokens == 14:
        raise SystemExit(3)
    if task.max_tokens == 15:
        return coroutine()  # type: ignore[return-value]  # an adapter's mistake
    if task.max_tokens == 16:
        return 16  # type: ignore[return-value]  # as above
    return f"{capabilities.model_id} writes more than that\n" if task.max_tokens == 1 else None


class Adviser:
    """Advice that compares, and so has no hash."""

    __hash__ = None  # type: ignore[assignment]  # as of any class with `__eq__` alone

    def __call__(self, task: TaskRequest, capabilities: Capabilities) -> str | None:
        return short(task, capabilities)


async def told(*requests: TaskRequest) -> tuple[list[HostEvent], list[tuple[str, ...]]]:
    """What is told of these tasks, and what their records hold."""
    plugins, events = Plugins(), list[HostEvent]()
    plugins.register(AdapterSpec("words", 1, Config, lambda _: Words(pause=None), advise=Adviser()))
    async with AdapterHost(plugins=plugins) as host:
        host.bind("pool", "words", {})
        host.observe(events.append)
        await host._fleet.lookout.refresh(host._registry.binding("pool", "0"))
        records = []
        for request in requests:
            async with host.submit("pool", request) as stream:
                await drained(stream)
                records.append(stream.record.advice)
    return events, records


@virtual
async def test_advice_is_told_and_changes_nothing():
    """An adapter's advice on a task is an event and stands in the flight record, in one line; the task runs."""
    events, records = await told(task(max_tokens=1), task(max_tokens=2))

    advised = [event for event in events if isinstance(event, TaskAdvised)]
    assert [event.advice for event in advised] == [r"model writes more than that\n"]
    assert records == [(r"model writes more than that\n",), ()]


@virtual
async def test_advice_that_raises_harms_no_task():
    """An adapter whose advice raises is told of, and the task runs."""
    events, records = await told(task(max_tokens=13))

    assert [(e.what, e.error) for e in events if isinstance(e, AdapterBroke)] == [("advise()", "KeyError")]
    assert records == [()]


@virtual
async def test_advice_that_misbehaves_is_asked_no_more():
    """Battery 31: advice that exits, is a coroutine or no text harms no task; after three strikes it is dropped."""
    events, records = await told(*(task(max_tokens=tokens) for tokens in (14, 15, 16, 14, 1)))

    assert [(e.what, e.error) for e in events if isinstance(e, AdapterBroke)] == [
        ("advise()", "SystemExit"),
        ("advise()", "TypeError"),
        ("advise()", "TypeError, the last of 3 strikes in a row; it is asked no more"),
    ]
    assert records == [()] * 5
