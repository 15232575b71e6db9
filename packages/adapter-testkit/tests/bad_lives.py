"""Adapters that go wrong in what they say of their engine, in being cancelled, and in how they live."""

import asyncio
import logging
import os
import pathlib
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, ClassVar

from llama_orch_adapter_api import (
    AdapterContext,
    AdapterError,
    TaskRequest,
    Token,
    TokenEvent,
    WorkerError,
    WorkerHealth,
    WorkerProps,
    WorkerReset,
)

from .twisted import Twisted, breaks, replace  # type: ignore[import-not-found]  # test folders are no packages

_sleep = time.sleep  # as `from time import sleep` gives it; what raises in our tests takes its place later


class Ails(Twisted):
    def seen(self, health: WorkerHealth) -> WorkerHealth:
        return health

    async def health(self) -> WorkerHealth:
        return self.seen(await super().health())


@breaks("health.ready")
class IsNeverReady(Ails):
    def seen(self, health: WorkerHealth) -> WorkerHealth:
        return replace(health, ready=False) if health.state == "ready" else health


@breaks("health.loading")
class IsReadyTooEarly(Ails):
    def seen(self, health: WorkerHealth) -> WorkerHealth:
        return replace(health, ready=True) if "Loading" in health.detail else health


@breaks("health.busy")
class TakesBusyForDown(Ails):
    def seen(self, health: WorkerHealth) -> WorkerHealth:
        return replace(health, state="down") if health.state == "busy" else health


@breaks("health.down")
class RaisesWhenDown(Ails):
    def seen(self, health: WorkerHealth) -> WorkerHealth:
        if not health.live:
            raise WorkerReset("it is down", detail="reset")
        return health


@breaks("health.cancelled")
class LooksOn(Ails):
    async def health(self) -> WorkerHealth:
        try:
            return await super().health()
        except asyncio.CancelledError:
            return WorkerHealth(live=False, ready=False, state="down")


@breaks("props.complete")
class KnowsNoContext(Twisted):
    async def props(self) -> WorkerProps:
        seen = await super().props()
        return replace(seen, capabilities=replace(seen.capabilities, ctx_max=0))


@breaks("props.fresh")
class KeepsProps(Twisted):
    kept: WorkerProps | None = None

    async def props(self) -> WorkerProps:
        self.kept = self.kept or await super().props()
        return self.kept


@breaks("version.stable")
class CountsVersions(Twisted):
    count = 0

    async def engine_version(self) -> str:
        self.count += 1
        return f"{await super().engine_version()}+{self.count}"


@breaks("workloads.refused")
class RefusesWrongly(Twisted):
    def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        if task.workload != "completion":
            raise AdapterError("no", detail="bad_request")
        return super().submit(task)


class Pumps(Twisted):
    """Each stream runs in a task of its own, which someone may forget."""

    def __init__(self, context: AdapterContext) -> None:
        super().__init__(context)
        self.pumps: set[asyncio.Task[None]] = set()
        self.cancels = 0
        self.closed = False

    def start(self, task: TaskRequest) -> tuple["asyncio.Task[None]", "asyncio.Queue[Any]"]:
        queue: asyncio.Queue[Any] = asyncio.Queue()

        async def pump() -> None:
            try:
                async for event in Twisted.stream(self, task):
                    queue.put_nowait(event)
                queue.put_nowait(None)
            except WorkerError as error:
                queue.put_nowait(error)

        pumping = asyncio.create_task(pump())
        self.pumps.add(pumping)
        return pumping, queue

    async def stop(self, pumping: "asyncio.Task[None]") -> None:
        pumping.cancel()
        with suppress(asyncio.CancelledError):
            await pumping

    async def drained(self, queue: "asyncio.Queue[Any]") -> AsyncIterator[TokenEvent]:
        while (event := await queue.get()) is not None:
            if isinstance(event, WorkerError):
                raise event
            yield event

    async def cancel(self, task_id: str) -> None:
        self.cancels += 1

    async def aclose(self) -> None:
        self.closed = True
        for pumping in self.pumps:
            await self.stop(pumping)
        await super().aclose()


@breaks("cancel.phases")
class SwallowsCancel(Twisted):
    async def stream(self, task: TaskRequest) -> Any:
        count = 0
        try:
            async for event in super().stream(task):
                count += isinstance(event, Token)
                yield event
        except asyncio.CancelledError:
            if count:
                raise
            raise WorkerReset("cancelled", detail="drained") from None


@breaks("cancel.decode")
class ForgetsTheCancelled(Pumps):
    async def stream(self, task: TaskRequest) -> Any:
        pumping, queue = self.start(task)
        count = 0
        try:
            async for event in self.drained(queue):
                count += isinstance(event, Token)
                yield event
        except asyncio.CancelledError:
            if count < 3 or self.cancels or self.closed:
                await self.stop(pumping)
            raise
        except GeneratorExit:
            await self.stop(pumping)
            raise


@breaks("cancel.close")
class ForgetsTheClosed(Pumps):
    async def stream(self, task: TaskRequest) -> Any:
        pumping, queue = self.start(task)
        try:
            async for event in self.drained(queue):
                yield event
        except asyncio.CancelledError:
            await self.stop(pumping)
            raise


class Eager:
    """Its stream runs before it is asked for anything."""

    def __init__(self, adapter: Pumps, task: TaskRequest) -> None:
        self.adapter = adapter
        self.pumping, queue = adapter.start(task)
        self.events: Any = adapter.drained(queue)
        self.was_read = False

    def __aiter__(self) -> "Eager":
        return self

    async def __anext__(self) -> TokenEvent:
        self.was_read = True
        try:
            event: TokenEvent = await anext(self.events)
        except asyncio.CancelledError:
            await self.adapter.stop(self.pumping)
            raise
        return event

    async def aclose(self) -> None:
        if self.was_read:
            await self.adapter.stop(self.pumping)
        await self.events.aclose()


@breaks("cancel.unread")
class StartsUnread(Pumps):
    def submit(self, task: TaskRequest) -> Any:
        return Eager(self, task) if task.workload == "completion" else super().submit(task)


@breaks("cancel.call")
class RaisesTheSecondTime(Twisted):
    def __init__(self, context: AdapterContext) -> None:
        super().__init__(context)
        self.over: set[str] = set()

    async def cancel(self, task_id: str) -> None:
        if task_id in self.over:
            raise LookupError(task_id)
        self.over.add(task_id)
        await super().cancel(task_id)


@breaks("cancel.neighbours")
class CancelsAll(Twisted):
    async def stream(self, task: TaskRequest) -> Any:
        try:
            async for event in super().stream(task):
                yield event
        except asyncio.CancelledError:
            await self.aclose()
            raise


@breaks("confirms_cancel.idle")
class ConfirmsTooEarly(ForgetsTheClosed):
    features = ("confirms_cancel",)

    async def stream(self, task: TaskRequest) -> Any:
        pumping, queue = self.start(task)
        try:
            async for event in self.drained(queue):
                yield event
        except (asyncio.CancelledError, GeneratorExit):
            asyncio.get_running_loop().call_later(0.02, pumping.cancel)
            raise


@breaks("life.many_streams")
class RunsAHundred(Twisted):
    def __init__(self, context: AdapterContext) -> None:
        super().__init__(context)
        self.limit = asyncio.Semaphore(100)

    async def stream(self, task: TaskRequest) -> Any:
        async with self.limit:
            async for event in super().stream(task):
                yield event


@breaks("life.close_twice")
class ClosesOnce(Twisted):
    closed = used = False

    def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        self.used = True
        return super().submit(task)

    async def aclose(self) -> None:
        if self.closed and not self.used:
            raise RuntimeError("closed already")
        self.closed = True
        await super().aclose()


@breaks("life.close_under_streams")
class BreaksUnderStreams(Twisted):
    closed = False

    async def aclose(self) -> None:
        self.closed = True
        await super().aclose()

    async def stream(self, task: TaskRequest) -> Any:
        try:
            async for event in super().stream(task):
                yield event
        except (WorkerError, asyncio.CancelledError):
            if self.closed:
                raise RuntimeError("Session is closed") from None
            raise


@breaks("life.leaves_nothing")
class BeatsOn(Twisted):
    async def stream(self, task: TaskRequest) -> Any:
        self.beat = asyncio.create_task(asyncio.sleep(3600))
        async for event in super().stream(task):
            yield event


@breaks("life.loops")
class LivesOnOneLoop(Twisted):
    loops: ClassVar[dict[str, Any]] = {}

    async def health(self) -> WorkerHealth:
        if threading.current_thread() is not threading.main_thread():
            mine = asyncio.get_running_loop()
            if self.loops.setdefault("first", mine) is not mine:
                raise RuntimeError("attached to a different loop")
        return await super().health()


@breaks("secrets.errors")
class TellsTheKey(Twisted):
    def failed(self, error: WorkerError, seen: list[TokenEvent]) -> Any:
        key = self.context.config.api_key.reveal()
        return AdapterError(f"the key {key} is refused", detail="auth") if error.detail == "auth" else error


@breaks("secrets.logs")
class LogsTheKey(Twisted):
    def asked(self, task: TaskRequest) -> TaskRequest:
        logging.getLogger("twisted").debug("sending %s", {"key": self.context.config.api_key.reveal()})
        return task


@breaks("secrets.reprs")
class HoldsTheKey(Twisted):
    def __init__(self, context: AdapterContext) -> None:
        super().__init__(context)
        self.key = context.config.api_key.reveal()


@breaks("registration.factory")
class ReadsAFile(Twisted):
    def __init__(self, context: AdapterContext) -> None:
        super().__init__(context)
        with pathlib.Path(os.devnull).open("rb"):
            pass


@breaks("loop.not_blocked")
class ReadsAFileAtEachLook(Twisted):
    async def health(self) -> WorkerHealth:
        with pathlib.Path(os.devnull).open("rb"):  # noqa: ASYNC230  # that is what is wrong with it
            return await super().health()


@breaks("loop.not_blocked")
class SleepsBeforeItFails(Twisted):
    def failed(self, error: WorkerError, seen: list[TokenEvent]) -> Any:
        if error.detail == "overloaded":
            _sleep(1e-6)
        return error


@breaks("loop.not_blocked")
class ReadsAFileWhenClosed(Twisted):
    async def aclose(self) -> None:
        with pathlib.Path(os.devnull).open("rb"):  # noqa: ASYNC230  # as above
            await super().aclose()


@breaks("loop.yields_bare")
class KeepsTime(Twisted):
    async def stream(self, task: TaskRequest) -> Any:
        async with asyncio.timeout(60):
            async for event in super().stream(task):
                yield event
