"""A real nginx before a scripted engine: TLS and HTTP/2 in front, HTTP/1.1 behind, in a folder of its own."""

import asyncio
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Self

import trustme
from llama_orch_http_util import HttpConfig

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

_CONF = """
{user}
worker_processes 1;
worker_rlimit_nofile 8192;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl {http2};
        ssl_certificate {folder}/cert.pem;
        ssl_certificate_key {folder}/key.pem;
        {directives}
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 60s;
        }}
    }}
}}
"""


class Nginx:
    """Runs while its block lasts. `upstream` is the engine's port. Everything it writes lies in `folder`."""

    def __init__(self, folder: Path, ca: trustme.CA, *, http2: bool = True, directives: str = "") -> None:
        self._folder = folder
        self._directives = directives
        self._http2 = http2
        ca.cert_pem.write_to_path(folder / "ca.pem")
        cert = ca.issue_cert("127.0.0.1")
        cert.private_key_pem.write_to_path(folder / "key.pem")
        (folder / "cert.pem").write_bytes(b"".join(part.bytes() for part in cert.cert_chain_pems))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port: int = free.getsockname()[1]
        self.url = f"https://127.0.0.1:{self._port}"
        self.ca_file = folder / "ca.pem"

    def before(self, engine_url: str) -> Self:
        """In front of the engine with this URL."""
        self._upstream = int(engine_url.rpartition(":")[2])
        return self

    def trusting(self, **settings: object) -> HttpConfig:
        """A config that trusts it."""
        return HttpConfig(ca_file=self.ca_file, **settings)

    async def __aenter__(self) -> Self:
        await self.write(http2=self._http2)
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def write(self, *, http2: bool) -> None:
        """Write its configuration."""
        text = _CONF.format(
            user="user root;" if os.geteuid() == 0 else "",
            folder=self._folder,
            port=self._port,
            http2="http2" if http2 else "",
            directives=self._directives,
            upstream=self._upstream,
        )
        await asyncio.to_thread((self._folder / "nginx.conf").write_text, text)

    async def start(self) -> None:
        """Start it, in a process group of its own, and wait until it listens."""
        assert NGINX
        command = [NGINX, "-p", self._folder, "-c", self._folder / "nginx.conf", "-e", self._folder / "error.log"]
        quiet = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(
            *command, "-g", "daemon off;", stdout=quiet, stderr=quiet, start_new_session=True
        )
        async with asyncio.timeout(10):
            while self._process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return
        raise RuntimeError(await asyncio.to_thread((self._folder / "error.log").read_text))

    def reload(self) -> None:
        """New workers take over; the old ones end when their streams have."""
        self._process.send_signal(signal.SIGHUP)

    def freeze(self) -> None:
        """Stop it where it stands."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    async def kill(self) -> None:
        """End all of it at once."""
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
