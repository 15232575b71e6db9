"""The digest of a model's file: of which files, how often, and what may end its computation."""

import asyncio
import hashlib
import os
import threading
from pathlib import Path

import pytest
from llama_orch_adapter_llamacpp import _digest
from llama_orch_adapter_llamacpp._digest import Digests, digest_of

NEVER = threading.Event()
HERE = "http://127.0.0.1:8080"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + os.urandom(3 << 20))
    return path


def right(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.mark.parametrize("url", [HERE, "http://localhost:8080/", "http://[::1]:8080", "http://127.3.2.1"])
async def test_the_file_of_an_engine_on_this_machine(model: Path, url: str):
    """Its sha256, whatever the loopback address is called."""
    expected = await asyncio.to_thread(right, model)

    assert await Digests(url).of(str(model)) == expected


@pytest.mark.parametrize("url", ["http://10.0.0.7:8080", "http://gpu1:8080", "http://[fe80::1]:8080"])
async def test_the_file_of_an_engine_elsewhere(model: Path, url: str):
    """A file of the same name may be another one there, so that none is read here."""
    assert await Digests(url).of(str(model)) is None


async def test_what_is_no_model_is_not_read(tmp_path: Path):
    """The name comes from the engine: folders, pipes, devices and files of other kinds tell nothing about them."""
    other, pipe = tmp_path / "other", tmp_path / "pipe"
    await asyncio.to_thread(other.write_bytes, b"root:x:0:0")
    os.mkfifo(pipe)
    names = [str(other), str(pipe), str(tmp_path), "/dev/zero", str(tmp_path / "absent"), "", "a\0b"]

    assert [await Digests(HERE).of(name) for name in names] == [None] * len(names)


def test_a_file_is_read_once_for_each_of_its_states(model: Path, monkeypatch: pytest.MonkeyPatch):
    """It is read again when it was changed, and only then."""
    read: list[Path] = []
    whole = _digest._sha256
    monkeypatch.setattr(_digest, "_sha256", lambda path, stop: read.append(path) or whole(path, stop))
    before = [digest_of(model, NEVER) for _ in range(2)]
    changed = right(model)
    model.write_bytes(b"GGUF" + os.urandom(100))
    after = [digest_of(model, NEVER) for _ in range(2)]

    assert before == [changed] * 2
    assert after == [right(model)] * 2
    assert read == [model] * 2


def test_replicas_of_one_file_read_it_once(model: Path, monkeypatch: pytest.MonkeyPatch):
    """Those that ask while it is read wait for that."""
    read: list[Path] = []
    whole = _digest._sha256
    monkeypatch.setattr(_digest, "_sha256", lambda path, stop: read.append(path) or whole(path, stop))
    seen: list[str | None] = []
    threads = [threading.Thread(target=lambda: seen.append(digest_of(model, NEVER))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == [right(model)] * 8
    assert read == [model]


async def test_a_long_computation_is_in_a_later_look(model: Path, monkeypatch: pytest.MonkeyPatch):
    """A look waits for a second at the most; the computation goes on, once, and a later look has its result."""
    monkeypatch.setattr(_digest, "PATIENCE", 0.01)
    digests = Digests(HERE)
    _digest._one_at_a_time.acquire()
    try:
        first = [await digests.of(str(model)) for _ in range(3)]
        assert len(digests._computing) == 1
    finally:
        _digest._one_at_a_time.release()
    while digests._computing:
        await asyncio.sleep(0.01)

    assert first == [None] * 3
    assert await digests.of(str(model)) == await asyncio.to_thread(right, model)


async def test_closing_ends_a_computation(model: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither one that waits nor one that reads holds up the end."""
    monkeypatch.setattr(_digest, "PATIENCE", 0.01)
    digests = Digests(HERE)
    _digest._one_at_a_time.acquire()
    try:
        assert await digests.of(str(model)) is None
        await digests.aclose()
    finally:
        _digest._one_at_a_time.release()

    assert digests._computing == {}
    assert await asyncio.to_thread(digest_of, model, digests._stop) is None
    assert await Digests(HERE).of(str(model)) is not None
