"""The page's files, as a browser gets them."""

import re
from pathlib import Path

import llama_orch_orchestratord
import pytest
from llama_orch_orchestratord._page import PATHS

from .serving import Engine, serving, words  # type: ignore[import-not-found]  # test folders are no packages

STATIC = Path(llama_orch_orchestratord.__file__).parent / "static"
SCRIPTS = ("page.js", "board.js", "nodes.js")
KINDS = {"/": "text/html", "/page.css": "text/css", **{f"/{name}": "text/javascript" for name in SCRIPTS}}


@pytest.mark.parametrize("path", PATHS)
async def test_a_file_comes_with_what_a_browser_may_do(path: str) -> None:
    """Nothing inline, nothing from elsewhere, in no frame; a browser that has it is told so."""
    async with serving(Engine(words())) as client:
        async with client.session.get(client.url + path) as answer:
            body, headers = await answer.text(), answer.headers
        async with client.session.get(client.url + path, headers={"If-None-Match": headers["ETag"]}) as again:
            status = again.status
        async with client.session.head(client.url + path) as head:
            length = int(head.headers["Content-Length"])

    policy = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
    assert headers["Content-Type"] == f"{KINDS[path]}; charset=utf-8"
    assert (policy["default-src"], policy["frame-ancestors"], policy["form-action"]) == ("'none'",) * 3
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-cache")
    assert status == 304
    assert length == len(body.encode()) > 1000


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """No address but a namespace stands in it, and what it names lies beside it."""
    text = "".join(path.read_text() for path in STATIC.iterdir())

    assert set(re.findall(r"https?:/\S+", text.replace("'", " ").replace('"', " "))) == {"http://www.w3.org/2000/svg"}
    named = set(re.findall(r'(?:src|href)="([^"]+)"', text))
    named |= {name.removeprefix("./") for name in re.findall(r'from "([^"]+)"', text)}
    assert {name for name in named if not name.startswith("data:")} == {"page.css", *SCRIPTS}
    assert not re.findall(r"@import|url\(|<style|style=| on\w+=", text)


def test_the_scripts_make_no_markup() -> None:
    """What engines say is put in as text: nothing in the scripts could make it anything else."""
    script = "".join((STATIC / name).read_text() for name in SCRIPTS)

    assert not re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|DOMParser", script)
    assert "textContent" in script


@pytest.mark.parametrize(("known", "status"), [("*", 304), ('W/"other", *', 200), ('"other"', 200)])
async def test_whoever_has_any_version_is_told_that_it_stands(known: str, status: int) -> None:
    """`*` alone is every version, as RFC 9110 has it; another one's tag is not."""
    async with serving(Engine(words())) as client:
        async with client.session.get(client.url, headers={"If-None-Match": known}) as answer:
            assert answer.status == status


async def test_the_page_can_be_switched_off() -> None:
    """`server.page = false` serves neither the page nor its stream, and looks at nothing."""
    async with serving(Engine(words()), toml="server = { page = false }") as client:
        statuses = [(await client.get(path))[0] for path in (*PATHS, "/v1/live")]

    assert statuses == [404] * (len(PATHS) + 1)
