"""deploy/nginx.conf before a real orchestratord. Skipped, loudly, where there is no nginx."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from .conftest import Serving  # type: ignore[import-not-found]  # test folders are no packages
from .test_orchestratord import busy_slots, clean, first_tokens, kinds, sent  # type: ignore[import-not-found]

CONF = Path(__file__).parents[1] / "deploy" / "nginx.conf"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

WHOLE = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/llm.conf;
}}
"""

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.real_engine,
    pytest.mark.skipif(NGINX is None, reason="NO NGINX HERE: the proxy of the example is not tested"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="NO CURL HERE: the proxy of the example is not tested"),
]


class Proxied(NamedTuple):
    """An orchestrator, and what curl needs to reach it through nginx."""

    serving: Serving
    url: str
    ca: Path

    def curl(self, *arguments: str) -> "subprocess.Popen[str]":
        command = ["curl", "-sSN", "--http2", "--cacert", str(self.ca), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def proxied(serve: Callable[..., Serving], engine: str, tmp_path: Path) -> Iterator[Proxied]:
    serving = serve("--pool", f"chat=llamacpp:{engine}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued.private_key_pem.write_to_path(tmp_path / "llm.key.pem")
    (tmp_path / "llm.cert.pem").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    conf = CONF.read_text()
    for old, new in {
        "127.0.0.1:8700": serving.url.removeprefix("http://"),
        "listen 443 ssl http2;  #": f"listen 127.0.0.1:{port} ssl http2;  #",
        "ssl_certificate llm.cert.pem": f"ssl_certificate {tmp_path}/llm.cert.pem",
        "ssl_certificate_key llm.key.pem": f"ssl_certificate_key {tmp_path}/llm.key.pem",
    }.items():
        assert conf.count(old) == 1
        conf = conf.replace(old, new)
    (tmp_path / "llm.conf").write_text(conf)
    user = "user root;" if os.geteuid() == 0 else ""
    (tmp_path / "nginx.conf").write_text(WHOLE.format(user=user, folder=tmp_path))
    assert NGINX is not None
    with subprocess.Popen([NGINX, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]) as nginx:
        try:
            listens(port)
            yield Proxied(serving, f"https://127.0.0.1:{port}", tmp_path / "ca.pem")
        finally:
            nginx.send_signal(signal.SIGTERM)
    code, notes = serving.stop()
    assert code == 130
    assert clean(notes), notes


def listens(port: int) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError("nginx does not listen")


def test_a_whole_answer_has_an_hour():
    """What is not streamed sends nothing while it is made; only streams have heartbeats. No location says less."""
    directives = [line.partition("#")[0].split() for line in CONF.read_text().splitlines()]
    limits = [words for words in directives if words[:1] == ["proxy_read_timeout"]]

    assert limits == [["proxy_read_timeout", "1h;"]]


def test_streams_come_over_http2_as_they_are_made(proxied: Proxied):
    """The proxy speaks HTTP/2 to the client, and hands on each event at once: the first comes long before the last."""
    task_id = sent(proxied.serving.url, max_tokens=150)
    reading = proxied.curl("-w", "%{http_version}", f"{proxied.url}/v1/tasks/{task_id}/stream")
    first_tokens(reading)
    first = time.monotonic()
    stream, _ = reading.communicate(timeout=60)
    rest = time.monotonic() - first

    assert stream.endswith("\n\n2")
    assert kinds(stream)[-1] == "end"
    assert kinds(stream).count("token") >= 140
    assert rest > 0.2


def test_a_client_that_leaves_the_proxy_frees_the_slot(proxied: Proxied, engine: str):
    """Battery 39: nginx tells on that the client is gone; the slot is idle within 500 ms (asserted at ten times)."""
    reading = proxied.curl(f"{proxied.url}/v1/tasks/{sent(proxied.serving.url)}/stream")
    first_tokens(reading)
    assert busy_slots(engine) == 1
    began = time.monotonic()
    reading.send_signal(signal.SIGINT)
    while busy_slots(engine):
        assert time.monotonic() - began < 5.0, "the slot is still busy"
    took = time.monotonic() - began
    reading.communicate()

    print(f"idle after {1000 * took:.0f} ms")
