"""A headless Chromium, told what to do over its own protocol (DevTools), and what it complains of."""

import asyncio
import base64
import itertools
import json
import shutil
import tempfile
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium")

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--remote-debugging-port=0", "--hide-scrollbars"),
)


class Tab:
    """One page. `complaints` are exceptions, errors of its console and of the browser; `asked` the URLs it fetched."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._loaded = asyncio.Event()
        self.complaints: list[str] = []
        self.asked: list[str] = []

    async def listen(self) -> None:
        """Take in what the browser says, as long as it lives."""
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            else:
                self._hear(said["method"], said["params"])

    def _hear(self, method: str, facts: Any) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Network.requestWillBeSent":
            self.asked.append(facts["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(facts["exceptionDetails"]))
        elif method == "Log.entryAdded" and facts["entry"]["level"] in {"error", "warning"}:
            self.complaints.append(f"{facts['entry']['text']} {facts['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and facts["type"] in {"error", "warning", "assert"}:
            self.complaints.append(json.dumps(facts["args"]))

    async def tell(self, method: str, **facts: object) -> Any:
        """A command, and its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": facts})
        said = await asyncio.wait_for(answer, 20)
        assert "error" not in said, (method, said)
        return said["result"]

    async def open(self, url: str, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Go to a page, on a screen of this size and liking."""
        await self.screen(width, height, scheme)
        await self._load("Page.navigate", url=url)

    async def reload(self) -> None:
        """Load the page anew."""
        await self._load("Page.reload")

    async def _load(self, method: str, **facts: object) -> None:
        self._loaded.clear()
        await self.tell(method, **facts)
        await asyncio.wait_for(self._loaded.wait(), 20)

    async def screen(self, width: int, height: int = 900, scheme: str = "light") -> None:
        """Look at the page on such a screen from now on; a narrow one is a phone's."""
        await self.tell(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        await self.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def find(self, script: str) -> Any:
        """The value of an expression in the page."""
        said = await self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    async def until(self, script: str, within: float = 20.0) -> Any:
        """The value of an expression as soon as it is true."""
        until = time.monotonic() + within
        while not (found := await self.find(script)):
            assert time.monotonic() < until, f"{script} does not come true; the page:\n{await self.text()}"
            await asyncio.sleep(0.05)
        return found

    async def text(self, selector: str = "body") -> str:
        """What a person reads there."""
        return str(await self.find(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    async def picture(self, path: Path) -> None:
        """The whole page, as it is now."""
        shot = await self.tell("Page.captureScreenshot", captureBeyondViewport=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))


@asynccontextmanager
async def browser() -> AsyncIterator[Tab]:
    """A browser with a profile of its own, which is gone afterwards."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
        try:
            port = await asyncio.to_thread(_port, Path(profile, "DevToolsActivePort"))
            async with aiohttp.ClientSession() as session, _tab(session, port) as tab:
                yield tab
        finally:
            process.kill()
            await process.wait()


def _port(file: Path) -> int:
    until = time.monotonic() + 30
    while True:
        lines = file.read_text().splitlines() if file.exists() else []
        if lines:
            return int(lines[0])
        assert time.monotonic() < until, "chromium does not start"
        time.sleep(0.05)


@asynccontextmanager
async def _tab(session: aiohttp.ClientSession, port: int) -> AsyncIterator[Tab]:
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        (page,) = [each for each in await answer.json() if each["type"] == "page"]
    async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
        tab = Tab(socket)
        listening = asyncio.create_task(tab.listen())
        for domain in ("Page", "Runtime", "Log", "Network"):
            await tab.tell(f"{domain}.enable")
        yield tab
        listening.cancel()
        await asyncio.wait([listening])
