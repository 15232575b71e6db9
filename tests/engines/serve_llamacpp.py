"""llama.cpp's own server as a process: `python serve_llamacpp.py '{"model": …, "port": …, "key": …, "slots": …}'`."""

import json
import signal
import sys

import xllamacpp

CONTEXT = 1024
"""Tokens a slot."""


def main(model: str, port: int, key: str, slots: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # the engine's own way out waits 30 s for open streams
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {"small"}
    params.hostnames, params.port = ["127.0.0.1"], port
    params.api_keys = [key]
    params.n_parallel, params.n_ctx = slots, slots * CONTEXT
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.endpoint_slots = params.endpoint_metrics = True
    params.offline, params.ui = True, False
    params.cache_ram_mib = 0
    _server = xllamacpp.Server(params)
    signal.pause()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
