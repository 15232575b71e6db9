"""The page at `/`: five files that a browser is told to trust, and nothing else."""

import hashlib
from importlib.resources import files

from aiohttp import web

from ._routes import Reply, Route

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Nothing from elsewhere, nothing inline, and no text that becomes markup, not even by mistake."""

_HEADERS = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}

_SCRIPT = "text/javascript"
_KINDS = {
    "page.html": "text/html",
    "page.css": "text/css",
    "page.js": _SCRIPT,  # the connection; it imports the other two
    "board.js": _SCRIPT,
    "nodes.js": _SCRIPT,
}

_FILES = {name: files(__package__).joinpath("static", name).read_bytes() for name in _KINDS}  # before any loop runs
_TAGS = {name: hashlib.sha256(content).hexdigest()[:32] for name, content in _FILES.items()}

PATHS = {"/" if name == "page.html" else f"/{name}": name for name in _KINDS}
"""Where it lies. Whoever reaches the server may read these: they tell nothing of it."""


async def _file(request: web.Request) -> web.Response:
    name = PATHS[request.path]
    tag = _TAGS[name]
    if any(known.value in {tag, "*"} for known in request.if_none_match or ()):
        response = web.Response(status=304, headers=_HEADERS)
    else:
        response = web.Response(body=_FILES[name], content_type=_KINDS[name], charset="utf-8", headers=_HEADERS)
    response.etag = tag
    return response


ROUTES = tuple(
    Route(
        name=name.replace(".", "_"),
        method="GET",
        path=path,
        handler=_file,
        summary="The page for people." if path == "/" else f"A part of the page for people, {name}.",
        takes=("If-None-Match",),
        replies={
            200: Reply("It.", (str,), (_KINDS[name],), ("ETag", "Cache-Control")),
            304: Reply("It is as If-None-Match says.", headers=("ETag", "Cache-Control")),
        },
        head=True,
    )
    for path, name in PATHS.items()
)
