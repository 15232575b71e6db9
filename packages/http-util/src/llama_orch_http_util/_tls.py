"""TLS contexts of our own: certificates checked unless a pool switches that off, and keys never logged.

The environment has no say in whom to trust (docs/decisions/tls-environment.md).
"""

import ssl
from functools import lru_cache
from pathlib import Path
from threading import Lock

_building = Lock()


def context_for(ca_file: Path | None, *, insecure: bool, http2: bool = False) -> ssl.SSLContext:
    """The one context of all who have these settings, so that they share connections; a changed file makes another.

    `http2`: the peer may choose it, and is told that we would rather have it.

    Reads files, so it is not for the event loop. Raises `OSError` (`ssl.SSLError` is one) for a file that is no list
    of PEM certificates.
    """
    changed = ca_file.stat().st_mtime_ns if ca_file else 0
    with _building:
        return _build(ca_file, changed, insecure, http2)


@lru_cache(maxsize=32)
def _build(
    ca_file: Path | None,
    _changed: int,
    insecure: bool,  # noqa: FBT001  # a key of the cache
    http2: bool,  # noqa: FBT001  # as above
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unlike create_default_context, it does not heed SSLKEYLOGFILE
    context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # what TLS 1.0 signs with is below level 1
        return context
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is None:
        _trust_the_systems(context)
    else:
        context.load_verify_locations(ca_file)
    return context


def _trust_the_systems(context: ssl.SSLContext) -> None:
    """What `load_default_certs` does, but that this heeds neither SSL_CERT_FILE nor SSL_CERT_DIR."""
    paths = ssl.get_default_verify_paths()
    file = paths.openssl_cafile if Path(paths.openssl_cafile).is_file() else None
    folder = paths.openssl_capath if Path(paths.openssl_capath).is_dir() else None
    if file or folder:
        context.load_verify_locations(file, folder)
