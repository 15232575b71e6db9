"""The server in the foreground, until a signal."""

import asyncio
import logging
import shlex
import signal
from contextlib import AbstractAsyncContextManager

import msgspec
from llama_orch_adapter_host import AdapterHost, ConfigError
from llama_orch_adapter_host.cli.shared import Exit, Interrupted, Screen
from llama_orch_adapter_host.observe import json_logging, text_logging

from ._app import create_app
from ._config import ServerConfig
from ._keys import JOBS
from ._renewal import Read, renewing
from ._server import Signals, listening, signals, until_urged

Made = AbstractAsyncContextManager[AdapterHost]
"""A host that is yet to be entered."""


def run(screen: Screen, settings: ServerConfig, made: Made, read: Read, *, reloads: bool) -> Exit:
    """Serve a host; `read` gives the config as it is later, `reloads`: the host has a file to reload its pools from."""
    logging.getLogger("asyncio").setLevel(logging.WARNING)  # what its debug mode tells at INFO is nobody's story
    with json_logging() if screen.as_json else text_logging():
        return asyncio.run(_serve(screen, settings, made, read, reloads=reloads))


async def _serve(screen: Screen, settings: ServerConfig, made: Made, read: Read, *, reloads: bool) -> Exit:
    with signals() as stop:
        try:
            async with made as host:
                await _listen(screen, settings, host, stop, read, reloads=reloads)
        except asyncio.CancelledError:
            if stop.first is None:
                raise
            raise Interrupted("cancelled before it listened") from None
    if stop.first is signal.SIGINT:
        raise Interrupted("stopped")
    screen.note("stopped")
    return Exit.OK


async def _listen(
    screen: Screen, settings: ServerConfig, host: AdapterHost, stop: Signals, read: Read, *, reloads: bool
) -> None:
    app = create_app(host, settings)
    async with listening(app, settings.server) as url:
        if settings.server.watch:
            _watch(host)
        with renewing(app, settings, read, reloads=reloads):
            _tell(screen, url, host.pools(), settings)
            await stop.asked()
        screen.note(f"stopping; tasks may run on for {settings.server.shutdown:g} s, Ctrl-C ends them at once")
        await until_urged(stop, app[JOBS].aclose(settings.server.shutdown))


def _watch(host: AdapterHost) -> None:
    """Follow the file of pools. Raises `ConfigError` where that cannot be."""
    try:
        host.reload_on_change()
    except RuntimeError as error:
        raise ConfigError([f"server.watch: {error}"]) from None


def _tell(screen: Screen, url: str, pools: tuple[str, ...], settings: ServerConfig) -> None:
    if screen.as_json:
        screen.document({"kind": "listening", "url": url, "pools": pools})
        return
    screen.piece(f"serving {', '.join(pools)} at {url}; stream an answer:\n\n")
    screen.piece(f"{example(url, pools[0], with_token=bool(settings.auth.tokens))}\n\n")
    if settings.openai.enabled:
        screen.piece(f"clients of OpenAI's API: base_url {url}/v1, model {pools[0]}\n\n")


def example(url: str, pool: str, *, with_token: bool) -> str:
    """A command that sends a task and streams its tokens; the token is the shell's $ORCH_TOKEN."""
    task = {"pool_id": pool, "messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 64}
    body = shlex.quote(msgspec.json.encode(task).decode())
    token = ' -H "Authorization: Bearer $ORCH_TOKEN"' if with_token else ""
    sent = f"curl -s{token} {url}/v1/tasks -H 'Content-Type: application/json' -d {body}"
    return f"curl -sN{token} {url}/v1/tasks/$({sent} | grep -oE '[0-9a-f-]{{36}}')/stream"
