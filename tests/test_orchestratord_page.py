"""The page at `/` in a real browser. Skipped, loudly, where there is no Chromium."""

import asyncio
import json
import os
import re
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from llama_orch_adapter_testkit import Behaviour, EngineProcess, LoopbackEngine, Reply

from .browser import CHROMIUM, Tab, browser  # type: ignore[import-not-found]  # test folders are no packages
from .conftest import Serving  # type: ignore[import-not-found]  # as above

PICTURES = os.environ.get("PICTURES")
"""A folder for pictures of the page, to be looked at."""

Serve = Callable[..., Serving]

PARTS = ("/page.css", "/page.js", "/board.js", "/nodes.js")

LIVE = "document.querySelector('#state').dataset.kind === 'live'"
ROWS = "document.querySelectorAll('#stream-rows tr').length"
PLACED = "(document.querySelector('#streams').innerText.match(/chat\\/gpu-[01]/g) ?? []).length"

POOLS = """
[pools.chat]
engine = "llamacpp"
[pools.chat.breaker]
consecutive = 1
open_for = 60.0
[pools.chat.health]
interval = 0.3
"""

CONTRASTS = """(() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = parts(colour).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if ((parts(colour)[3] ?? 1) > 0) return colour;
    }
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !node.checkVisibility()) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(ground(node))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.textContent.slice(0, 40)]);
  }
  return found.sort((one, other) => one[0] - other[0]);
})()"""

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(CHROMIUM is None, reason="NO CHROMIUM HERE: the page for people is not tested"),
]


def replicas(*urls: str, names: tuple[str, ...] = ("gpu-0", "gpu-1", "gpu-2")) -> str:
    tables = (
        f'[[pools.chat.replicas]]\nid = "{name}"\nurl = "{url}"\n' for name, url in zip(names, urls, strict=False)
    )
    return POOLS + "".join(tables)


@asynccontextmanager
async def served(serve: Serve, folder: Path, pools: str, *arguments: str, **facts: str) -> AsyncIterator[Serving]:
    """An orchestrator with these pools, and its end without a complaint."""
    file = folder / "pools.toml"
    file.write_text(pools)  # a moment
    source = () if arguments else ("--pools", str(file))
    serving = await asyncio.to_thread(serve, *source, *arguments, **facts)
    yield serving
    code, notes = await asyncio.to_thread(serving.stop)
    assert code == 130, notes
    assert not re.search("Traceback|Warning|nclosed|never", notes), notes


@asynccontextmanager
async def streams(url: str, count: int, **facts: object) -> AsyncIterator[None]:
    """So many clients that read a stream each, within the block."""

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        async with session.post(f"{url}/v1/tasks", json={"pool_id": "chat", "prompt": str(number), **facts}) as answer:
            task_id = (await answer.json())["task_id"]
        async with session.get(f"{url}/v1/tasks/{task_id}/stream") as stream:
            async for _ in stream.content:
                pass

    async with aiohttp.ClientSession() as session:
        reading = [asyncio.create_task(client(session, number)) for number in range(count)]
        yield
        for each in reading:
            each.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


async def pictures(tab: Tab, name: str) -> None:
    """Of both screens, in both schemes, where somebody wants to look at them."""
    for width, height in ((1280, 900), (390, 844)):
        for scheme in ("light", "dark"):
            await tab.screen(width, height, scheme)
            await asyncio.sleep(0.2)
            if PICTURES:
                await tab.picture(Path(PICTURES, f"{name}-{width}-{scheme}.png"))


async def no_scroll_sideways(tab: Tab) -> None:
    for width in (1280, 768, 390, 360):
        await tab.screen(width)
        wide = await tab.find("document.documentElement.scrollWidth")
        assert wide <= width, f"{wide} px on a screen of {width}"


async def legible(tab: Tab) -> float:
    """The least contrast of any text, in both schemes."""
    found: list[Any] = []
    for scheme in ("light", "dark"):
        await tab.screen(1280, scheme=scheme)
        texts = await tab.find(CONTRASTS)
        assert len(texts) > 5
        found.append(texts[0])
    assert min(found)[0] >= 4.5, found
    return float(min(found)[0])


async def test_eight_streams_are_seen(serve: Serve, tmp_path: Path):
    """ORCH-3601: pools, replicas, streams and tokens are there; one replica is down behind an open breaker."""
    paced = Behaviour(slots=4, pace=0.03, prefill=0.1)
    engines = [EngineProcess(paced), EngineProcess(paced), EngineProcess()]
    async with AsyncExitStack() as stack:
        for engine in engines:
            await stack.enter_async_context(engine)
        tab = await stack.enter_async_context(browser())
        serving = await stack.enter_async_context(served(serve, tmp_path, replicas(*(each.url for each in engines))))
        await engines[2].kill()
        await stack.enter_async_context(streams(serving.url, 8, max_tokens=100_000))
        await tab.open(serving.url)
        await tab.until(f"{ROWS} === 8")
        await tab.until(f"{PLACED} === 8")  # who was sent to the dead one first is placed after a back-off
        await tab.until("document.querySelector('#pools').innerText.match(/gpu-2[^]*down[^]*open \\d+ s/)")
        await tab.until("Number(document.querySelector('#figures .figure:nth-child(2) b').textContent) > 100")
        heads = await tab.find("[...document.querySelectorAll('th[scope=col], caption, h1, h2, h3')].length")
        pools, rows = await tab.text("#pools"), await tab.text("#streams")
        label = await tab.find("document.querySelector('#figures svg').getAttribute('aria-label')")
        title = await tab.find("document.title")
        await asyncio.sleep(10 if PICTURES else 0)
        await pictures(tab, "eight-streams")
        await no_scroll_sideways(tab)
        contrast = await legible(tab)
        asked, complaints = set(tab.asked), list(tab.complaints)

    print(f"least contrast {contrast:.2f}")
    assert complaints == []
    assert asked == {serving.url + path for path in ("/", *PARTS, "/v1/live")}
    assert re.search(r"chat\s+takes tasks", pools)
    assert re.search(r"Running\s+8", pools)
    assert len(re.findall(r"chat/gpu-[01]", rows)) == 8
    assert label.startswith("Streams over five minutes: running 8, waiting 0 now, at most 8")
    assert title == "8 · orchestratord"
    assert heads > 20


async def test_hostile_words_are_words(serve: Serve, tmp_path: Path):
    """Markup and scripts that an engine sends, and a replica's odd name, are shown as they read."""
    evil = "<img src=x onerror=alert(1)><script>alert(1)</script>"
    refusal = Reply.json(400, {"error": {"code": 400, "type": "invalid_request_error", "message": evil}})
    name = "<b>gpu<i>"
    async with LoopbackEngine(lambda _: refusal) as engine, browser() as tab:
        async with served(serve, tmp_path, replicas(engine.url, names=(name,))) as serving:
            await tab.open(serving.url)
            await tab.until(f"document.querySelector('#pools .why')?.innerText.includes({json.dumps(evil)})")
            await tab.until("document.querySelector('#story .warning')?.innerText.includes('<script>alert(1)')")
            named = await tab.text("#pools tbody th")
            made = await tab.find("document.querySelectorAll('img, main script, b:not(.value b), i:not(.key)').length")
            asked, complaints = set(tab.asked), list(tab.complaints)

    assert named.startswith(name)
    assert made == 0
    assert complaints == []
    assert all(url.startswith(serving.url) for url in asked)


async def test_it_connects_again_when_the_server_is_back(serve: Serve, tmp_path: Path):
    """A server that went is told as such, what is shown is dated, and what comes back is seen by itself."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    async with EngineProcess() as engine, browser() as tab:
        pools = replicas(engine.url)
        async with served(serve, tmp_path, pools, listen=listen) as serving:
            await tab.open(serving.url)
            await tab.until(LIVE)
        await tab.until(
            "document.querySelector('#notice').innerText.match(/What you see is from \\d\\d:\\d\\d:\\d\\d/)"
        )
        lost = await tab.text("#state")
        stale = await tab.find("document.querySelector('#board').classList.contains('stale')")
        await pictures(tab, "lost")
        await legible(tab)
        await no_scroll_sideways(tab)
        async with served(serve, tmp_path, pools, listen=listen):
            await tab.until(LIVE)
            notice = await tab.find("document.querySelector('#notice').hidden")

    assert (lost, stale, notice) == ("Connection lost", True, True)


async def test_a_token_is_asked_for_and_kept_for_the_tab(serve: Serve, tmp_path: Path):
    """A wrong one is told as such; a right one outlives a reload of the page, and stands in no address."""
    token = secrets.token_hex(16)
    config = tmp_path / "orchestratord.toml"
    config.write_text('pools = "pools.toml"\n[auth]\ntokens = [{ env = "ORCH_TOKEN", role = "tasks" }]\n')

    async def enter(given: str) -> None:
        await tab.until("!document.querySelector('#door').hidden")
        await tab.find(f"document.querySelector('#token').value = '{given}'")
        await tab.find("document.querySelector('#door').requestSubmit()")

    async with EngineProcess() as engine, browser() as tab:
        pools, start = replicas(engine.url), ("--config", str(config))
        async with served(serve, tmp_path, pools, *start, ORCH_TOKEN=token) as serving:
            await tab.open(serving.url)
            await tab.until("!document.querySelector('#door').hidden")
            await pictures(tab, "token")
            await legible(tab)
            await enter("not-the-token")
            wrong = await tab.until("document.querySelector('#door-wrong').innerText")
            await enter(token)
            await tab.until(LIVE)
            await tab.reload()
            await tab.until(LIVE)
            await tab.find("document.querySelector('#forget').click()")
            await tab.until("!document.querySelector('#door').hidden")
            kept = await tab.find("sessionStorage.length + localStorage.length + document.cookie.length")
            board = await tab.find("document.querySelector('#board').hidden")
            shown = await tab.text()

    assert wrong == "The server does not know this token."
    assert (kept, board) == (0, True)
    assert "gpu-0" not in shown
    assert not [url for url in tab.asked if token in url]


async def test_it_fits_a_phone_whatever_names_there_are(serve: Serve, tmp_path: Path):
    """Long names without a space break; what is empty says so."""
    long = "a" * 60
    pools = replicas("http://127.0.0.1:1", names=(f"replica-{long}",)).replace("pools.chat", f"pools.pool-{long}")
    async with browser() as tab, served(serve, tmp_path, pools) as serving:
        await tab.open(serving.url, width=360)
        await tab.until(f"{LIVE} && document.querySelector('#pools').innerText.includes('down')")
        await tab.until("document.querySelector('#story').children.length > 0")
        empty = await tab.text("#no-streams")
        await pictures(tab, "long-names")
        await no_scroll_sideways(tab)
        await legible(tab)

    assert empty == "Nothing runs now."
