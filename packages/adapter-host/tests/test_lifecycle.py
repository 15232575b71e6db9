import asyncio
import sys
import threading

from llama_orch_adapter_api import AdapterSpec
from llama_orch_adapter_host import AdapterHost

from .adapters import Config, Words  # type: ignore[import-not-found]  # test folders are no packages
from .conftest import Install, loaded, registers  # type: ignore[import-not-found]  # as above

LIFE = """
seen = []
@hookimpl
def llama_orch_on_preload(binding):
    seen.append(("preload", binding.replica_id))
@hookimpl
def llama_orch_on_bind(binding):
    seen.append(("bind", binding.replica_id, binding.generation))
@hookimpl
def llama_orch_on_drain():
    seen.append("drain")
@hookimpl
def llama_orch_on_unbind(binding):
    seen.append(("unbind", binding.engine))
    raise OSError("not my day")
"""


EXPECTED = [("preload", "r0"), ("bind", "r0", 1), "drain", ("unbind", "mine")]


async def live(host: AdapterHost) -> None:
    async with host:
        host.bind("chat", "mine", {}, replica_id="r0")


def test_plugins_are_told_of_a_bindings_life(install: Install):
    """ORCH-3600: preload, bind, drain and unbind are told, in that order; a hook that raises harms nobody.

    When the host has ended all of it is told, and plugins that it was given can still be told more.
    """
    install("alpha", registers("words") + LIFE)
    install("beta", registers("deeds") + LIFE)
    plugins, _ = loaded()
    plugins.register(AdapterSpec("mine", 1, Config, lambda _: Words()))

    with asyncio.Runner() as runner:
        runner.run(live(AdapterHost(plugins=plugins)))

    assert sys.modules["alpha_module"].seen == EXPECTED
    assert sys.modules["beta_module"].seen == EXPECTED
    with asyncio.Runner() as runner:
        runner.run(live(AdapterHost(plugins=plugins)))
    assert sys.modules["alpha_module"].seen == EXPECTED * 2
    assert plugins.close(10)


def test_a_host_ends_the_threads_of_plugins_it_found_itself(install: Install):
    """ORCH-3600: a host that was given no plugins leaves no thread of theirs behind, and all of it is told."""
    install("gamma", registers("words") + LIFE)
    host = AdapterHost()
    host.plugins.register(AdapterSpec("mine", 1, Config, lambda _: Words()))

    with asyncio.Runner() as runner:
        runner.run(live(host))

    assert sys.modules["gamma_module"].seen == EXPECTED
    assert not [thread for thread in threading.enumerate() if thread.name == "hooks of gamma"]
