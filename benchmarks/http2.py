"""The HTTP/2 suite: what a token costs behind a TLS proxy, beside aiohttp in the same run (`run.py http2 [quick]`).

The far end is the suite's server behind a real nginx, which offers HTTP/2 and 1.1. The clients take turns; a figure is
the median of its turns, a ratio that of the turns' ratios to raw aiohttp over TLS.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import trustme
from run import HERE, RESULTS, output, row, server, table, versions

CONF = """
{user}
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream engine {{ server {upstream}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port} ssl http2 backlog=4096;
        ssl_certificate {folder}/cert.pem;
        ssl_certificate_key {folder}/key.pem;
        keepalive_requests 1000000;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


class Contest(NamedTuple):
    """Clients that do the same work; the first one is the measure."""

    name: str
    clients: tuple[str, ...]
    count: int
    path: str
    unit: str


STREAMS = ("aiohttp_streams", "typed_1.1_streams", "typed_2_streams", "typed_2_through_h2")


def contests(*, quick: bool) -> list[Contest]:
    """What is measured."""
    events = 60 if quick else 100
    return [
        Contest("100 streams of 30 events/s over TLS", STREAMS, 100, f"/stream?events={3 * events}&rate=30", "event"),
        Contest("1000 streams of 10 events/s over TLS", STREAMS, 1000, f"/stream?events={2 * events}&rate=10", "event"),
        Contest(
            "short requests over TLS, one after the other",
            ("aiohttp_short", "typed_1.1_short", "typed_2_short"),
            500 if quick else 3000,
            "",
            "request",
        ),
    ]


def main(*, quick: bool) -> int:
    """Run, print, keep the result."""
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nginx is None:
        print("NOT MEASURED: nginx is not installed, and HTTP/2 is measured behind a real proxy")
        return 1
    turns = 3 if quick else 5
    rows: list[dict[str, Any]] = []
    for contest in contests(quick=quick):
        with server() as plain, proxy(nginx, plain) as (url, ca):
            rows += measured(contest, turns, url, ca)
    print(table(rows))
    RESULTS.mkdir(exist_ok=True)
    kept = RESULTS / f"http2{'-quick' if quick else ''}.json"
    kept.write_text(json.dumps({"made": time.strftime("%Y-%m-%d"), **versions("h2"), "rows": rows}, indent=1) + "\n")
    return 0


def measured(contest: Contest, turns: int, url: str, ca: Path) -> Iterator[dict[str, Any]]:
    """A row a client and a figure: CPU a unit, and for streams what opening one costs in time and memory."""
    options = json.dumps({"ca": str(ca), "count": contest.count, "path": contest.path})
    seen: dict[str, list[dict[str, float]]] = {client: [] for client in contest.clients}
    for _ in range(turns):
        for client in contest.clients:
            command = [sys.executable, "_http2_clients.py", client, url, options]
            seen[client].append(json.loads(output(command, cwd=HERE)))
    first = contest.clients[0]
    kinds = {
        f"µs/{contest.unit}": lambda figures: figures["cpu"] / figures["units"] * 1e6,
        "µs/opening": lambda figures: figures["opening"] / contest.count * 1e6,
        "MB in all": lambda figures: figures["rss"] / 1e6,
    }
    for unit, of in kinds.items():
        if unit != "µs/request" and "opening" not in seen[first][0]:
            continue
        measure = [of(figures) for figures in seen[first]]
        for client in contest.clients:
            figures = [of(each) for each in seen[client]]
            ratio = statistics.median(a / b for a, b in zip(figures, measure, strict=True))
            yield row(contest.name, client, unit, figures, ratio=ratio, budget=None)


@contextmanager
def proxy(nginx: str, upstream: str) -> Iterator[tuple[str, Path]]:
    """The nginx before the server with this URL, in a folder of its own: its URL and its authority."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ca = trustme.CA()
        ca.cert_pem.write_to_path(folder / "ca.pem")
        cert = ca.issue_cert("127.0.0.1")
        cert.private_key_pem.write_to_path(folder / "key.pem")
        (folder / "cert.pem").write_bytes(b"".join(part.bytes() for part in cert.cert_chain_pems))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        conf = folder / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        conf.write_text(CONF.format(user=user, folder=folder, port=port, upstream=upstream.removeprefix("http://")))
        command = [nginx, "-p", folder, "-c", conf, "-e", folder / "error.log", "-g", "daemon off;"]
        with subprocess.Popen(command) as process:
            try:
                wait_for(port)
                yield f"https://127.0.0.1:{port}", folder / "ca.pem"
            finally:
                process.terminate()


def wait_for(port: int) -> None:
    """Return when somebody listens."""
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"nobody listens on port {port}")
