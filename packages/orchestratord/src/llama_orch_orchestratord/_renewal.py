"""What is read again at SIGHUP: the server's tokens and certificate, and the host's file of pools."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator

import msgspec
from aiohttp import web
from llama_orch_adapter_api import get_logger
from llama_orch_adapter_host import ConfigError, ReloadError

from ._auth import KEYRING, check_exposed
from ._config import ServerConfig
from ._keys import HOST
from ._tls import TLS, tls_context

logger = get_logger(__name__)

Read = Callable[[], ServerConfig]
"""The config as it is now. Called in a thread; raises `ConfigError`."""


async def renew(app: web.Application, settings: ServerConfig, read: Read) -> None:
    """Put in force what tokens and certificate are now; all else stays as in `settings`.

    Raises `ConfigError` with what is wrong with either, and has changed neither then.
    """
    fresh = await asyncio.to_thread(read)
    check_exposed(msgspec.structs.replace(settings, auth=fresh.auth))
    tls, files = app.get(TLS), fresh.server.tls
    if (tls is None) != (files is None):
        raise ConfigError(["server.tls comes and goes by a restart alone; put it back, or restart"])
    if tls is not None and files is not None:
        tls.renew(await asyncio.to_thread(tls_context, files))
    app[KEYRING].replace(fresh.auth.tokens)
    logger.info("tokens and certificate are those of the files now")


@contextlib.contextmanager
def renewing(app: web.Application, settings: ServerConfig, read: Read, *, reloads: bool) -> Iterator[None]:
    """Within the block, renew at each SIGHUP, and reload the host where `reloads`. Main thread only.

    Signals that come meanwhile make one more. What fails is logged, or told by the host's event. After the block SIGHUP
    is ignored until the process is done: who sends it to have files read again does not mean to cut what a stop lets
    run out. Where there is nothing to be read again SIGHUP does what it does: it comes when a terminal is closed.
    """
    hup: signal.Signals | None = getattr(signal, "SIGHUP", None)
    if hup is None or not (reloads or settings.auth.tokens or settings.server.tls):
        yield
        return
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    # not by the loop, which puts the default back when it closes, and that ends the process
    signal.signal(hup, lambda *_: loop.call_soon_threadsafe(heard.set))
    following = loop.create_task(_follow(heard, app, settings, read, reloads=reloads))
    try:
        yield
    finally:
        signal.signal(hup, signal.SIG_IGN)
        following.cancel()


async def _follow(
    heard: asyncio.Event, app: web.Application, settings: ServerConfig, read: Read, *, reloads: bool
) -> None:
    while True:
        await heard.wait()
        heard.clear()
        await _attempt(renew(app, settings, read))
        if reloads:
            await _attempt(app[HOST].reload())


async def _attempt(change: Awaitable[object]) -> None:
    """What fails is told, whatever it is: the next signal tries again."""
    try:
        await change
    except ConfigError as error:
        logger.error("tokens and certificate stay as they were: %s", "; ".join(error.problems))  # noqa: TRY400
    except ReloadError:
        pass  # which its event told
    except Exception:
        logger.exception("what SIGHUP has read again stays as it was; report it")
