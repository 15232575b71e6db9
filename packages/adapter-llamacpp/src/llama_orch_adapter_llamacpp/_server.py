"""One llama.cpp in a process of its own; run as a script, with its options as JSON, it serves until its stdin ends.

It says how it is on stdout, one JSON object a line: `loading`, then `ready` with its `url`, or `failed` with a
`message`. The engine's log goes to stderr. Written for xllamacpp 2026.10.
"""

import importlib
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import NoReturn, Protocol

if sys.platform == "linux":
    import fcntl


class Server(Protocol):
    """Serves for as long as it is kept."""

    listening_address: str


def main(options: str) -> None:
    say = _speaker()
    _die_at_once()
    say(state="loading")
    try:
        server = _served(**json.loads(options))
    except Exception as error:  # noqa: BLE001  # whatever it is, the other side is to read it
        say(state="failed", message=f"{type(error).__name__}: {error}")
        _leave_with_the_log()
    say(state="ready", url=server.listening_address)
    os.read(0, 1)
    os._exit(0)  # the engine's own way out waits 30 s for open streams


def _leave_with_the_log() -> NoReturn:
    """The ordinary way out: a thread of the engine's writes its log to the end. It may take 5 s."""
    if sys.platform != "win32":
        signal.alarm(5)
    sys.exit(1)


def _speaker() -> Callable[..., None]:
    """What writes states; anything else that the engine prints is turned to stderr."""
    states = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**state: str) -> None:
        states.write(json.dumps(state) + "\n")
        states.flush()

    return say


def _die_at_once() -> None:
    """Leave SIGTERM, SIGINT and, on Linux, the end of stdin to the kernel: while it loads, the engine holds the GIL."""
    if sys.platform == "win32":
        return
    deadly = {signal.SIGTERM, signal.SIGINT, signal.SIGIO}
    for number in deadly:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, deadly)
    if sys.platform == "linux":
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
        if select.select([0], [], [], 0)[0]:  # SIGIO tells of changes alone, and the end may be past
            os._exit(0)


def _served(
    *, model: str, alias: str, slots: int, context: int, threads: int | None, port: int, pooling: str | None
) -> Server:
    """The running server; returns once the model is loaded. `UNSPECIFIED` pooling is the model's own."""
    xllamacpp = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {alias}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = slots
    params.n_ctx = slots * context
    if threads is not None:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    if pooling is not None:
        params.embedding = True
        params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling}")
    params.endpoint_slots = params.endpoint_metrics = True
    params.cors_origins, params.cors_origins_explicit = "localhost", True  # web pages may not read our answers
    params.offline = True
    params.ui = False
    params.warmup = True
    params.cache_ram_mib = 0
    params.verbosity = 1  # errors alone
    server: Server = xllamacpp.Server(params)
    return server


if __name__ == "__main__":
    main(sys.argv[1])
