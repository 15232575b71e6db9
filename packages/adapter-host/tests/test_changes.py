from pathlib import Path

import pytest
from llama_orch_adapter_host import AdapterHost, HostConfig, Plugins, PluginsConfig, parse_config

from .adapters import Words, plugins_with, virtual  # type: ignore[import-not-found]  # test folders are no packages

POOLS = b"[pools.a]\nengine = 'words'\nreplicas = [{}]\n"
TOLD = "the config's [plugins] are not those in force; a new host would import what they say"


def config(plugins: bytes = b"") -> HostConfig:
    return parse_config(plugins + b"\n" + POOLS)


def listed(allow: tuple[str, ...] | None, block: tuple[str, ...]) -> Plugins:
    """Plugins given by hand, with lists of their own."""
    given = Plugins(allow=allow, block=block)
    for spec in plugins_with(Words()).engines().values():
        given.register(spec)
    return given


@pytest.mark.parametrize(
    ("table", "ignored"),
    [
        (b"plugins = { allow = ['a', 'b'], block = ['c'] }", ()),
        (b"plugins = { allow = ['b', 'a'], block = ['c', 'c'] }", ()),
        (b"", ()),
        (b"plugins = { allow = ['a'], block = ['c'] }", ("plugins",)),
        (b"plugins = { block = ['c'] }", ("plugins",)),
        (b"plugins = { allow = ['a', 'b'] }", ("plugins",)),
        (b"plugins = { allow = [], block = ['c'] }", ("plugins",)),
    ],
    ids=str,
)
@virtual
async def test_lists_of_plugins_that_a_reload_cannot_heed(
    table: bytes, ignored: tuple[str, ...], caplog: pytest.LogCaptureFixture
):
    """ORCH-3600: a reload tells, in report and log, that its [plugins] differ from those in force; the rest holds."""
    async with AdapterHost(plugins=listed(("a", "b"), ("c",))) as host:
        report = await host.reload(config(table))

        assert report.ignored == ignored
        assert [info.pool_id for info in report.added] == ["a"]
    assert (TOLD in caplog.messages) is bool(ignored)


def test_a_file_that_drops_its_lists(tmp_path: Path):
    """A file's host is told by the file alone what to import: lists that were taken out of it are a change too."""
    path = tmp_path / "pools.toml"
    path.write_bytes(b"plugins = { block = ['shady'] }\n" + POOLS)
    host = AdapterHost.from_config(path)
    for spec in plugins_with(Words()).engines().values():
        host.plugins.register(spec)

    told: list[list[str]] = []
    for table in (b"plugins = { block = ['shady'] }\n", b""):
        ignored: list[str] = []
        host._blueprints_of(parse_config(table + POOLS), ignored)
        told.append(ignored)

    assert host.plugins.lists == PluginsConfig(None, ("shady",))
    assert told == [[], ["plugins"]]
