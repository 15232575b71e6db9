"""The server's side of TLS: its certificate, which may be renewed while it listens."""

import ssl

from aiohttp import web
from llama_orch_adapter_host import ConfigError

from ._config import TlsSettings


class Tls:
    """What a server listens with, `context`. A connection gets the certificate that is in force when it greets."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self._latest = context
        context.sni_callback = self._choose

    def renew(self, context: ssl.SSLContext) -> None:
        """Take the certificate of another context from now on; connections that are open keep theirs."""
        self._latest = context

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
        connection.context = self._latest


TLS = web.AppKey("tls", Tls)


def tls_context(files: TlsSettings) -> ssl.SSLContext:
    """TLS 1.2 and up with this certificate; no keys are logged, no password is asked for. Raises `ConfigError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for name, file in (("cert", files.cert), ("key", files.key)):
        try:
            file.open("rb").close()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError([f"tls.{name} {file} cannot be read: {why}; give a file in PEM"]) from None
    try:
        context.load_cert_chain(files.cert, files.key, password=lambda: "")
    except (OSError, ValueError) as error:  # also where a file is just being replaced
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        told = f"{files.cert} and {files.key} cannot be used ({why})"
        raise ConfigError([f"tls: {told}; give a certificate and its own key in PEM, without a password"]) from None
    return context
