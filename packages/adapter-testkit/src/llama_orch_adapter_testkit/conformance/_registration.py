"""How an adapter's package registers, seen in a fresh interpreter; and what its config lets in."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from typing import Any

import msgspec
from llama_orch_adapter_api import API_VERSION

from ._check import Broken, NotAsked, Trial, check, require
from ._watch import watched

HEAVY = frozenset(
    {
        *("anthropic", "jax", "langchain", "litellm", "llama_cpp", "llm", "openai", "ray", "tensorflow", "torch"),
        *("transformers", "vllm", "xllamacpp", "google.genai", "gguf", "grpc"),
        *("matplotlib", "numpy", "pandas", "pytest", "rich", "scipy", "sklearn"),
    }
)
"""What nobody wants to wait for who lists his plugins."""

SLOW = 10.0
"""Seconds of CPU time that registering may take at the most; a good one takes a third of one."""

_CHILD = """
import sys, time
began = time.process_time()
calls = []
def watch(event, args):
    if event.startswith("socket.") and event != "socket.gethostname":
        calls.append(event)
sys.addaudithook(watch)
import inspect, json
from importlib.metadata import entry_points
import pluggy
from llama_orch_adapter_api import ENTRY_POINT_GROUP, PROJECT, HookSpecs
[point] = entry_points(group=ENTRY_POINT_GROUP, name=sys.argv[1])
plugin = point.load()
manager = pluggy.PluginManager(PROJECT)
manager.add_hookspecs(HookSpecs)
manager.register(plugin, point.name)
specs, awaited = [], []
for impl in manager.hook.llama_orch_register_adapters.get_hookimpls():
    answer = impl.function(*[specs.append for _ in impl.argnames])
    if inspect.isawaitable(answer) or inspect.isgenerator(answer) or inspect.isasyncgen(answer):
        awaited.append(impl.function.__qualname__)
        answer.close()
print(json.dumps({
    "seconds": time.process_time() - began,
    "sockets": calls,
    "modules": sorted(sys.modules),
    "engines": [[str(getattr(spec, "engine", spec)), getattr(spec, "api", None)] for spec in specs],
    "awaited": awaited,
}))
"""


@check("registration.pure", patience=6)  # another process: what it has of the machine, nobody here can tell
async def pure(trial: Trial) -> None:
    """Registering opens no socket, imports nothing heavy, is soon over and waits for nobody."""
    if trial.found.point is None:
        raise NotAsked("the adapter is given as an AdapterSpec; name its entry point to have its package looked at")
    seen = await _registered(trial.found.point.name)
    trial.bench.facts["registration_cpu_seconds"] = round(seen["seconds"], 3)
    heavy = sorted(HEAVY & set(seen["modules"]))

    require(not seen["sockets"], f"registering touches the network ({seen['sockets'][:1]}); do that in the factory")
    require(not heavy, f"registering imports {', '.join(heavy)}; import that where it is used")
    require(not seen["awaited"], f"the hook {seen['awaited']} is asynchronous; hooks are plain functions")
    require(seen["seconds"] < SLOW, f"registering takes {seen['seconds']:.1f} s of CPU; import less at the top")


@check("registration.api")
async def api(trial: Trial) -> None:
    """The adapter is written for this version of the boundary, under the name that configs use."""
    spec = trial.found.spec

    require(spec.api == API_VERSION, f"AdapterSpec.api is {spec.api}, not {API_VERSION}; give API_VERSION")
    require(spec.engine == trial.found.name, f"the entry point is {trial.found.name!r}, the engine {spec.engine!r}")


@check("registration.factory")
async def factory(trial: Trial) -> None:
    """Making an adapter does no I/O: nothing is read, connected or waited for, and nobody need be at the url."""
    with watched() as seen:
        adapter = trial.bench.adapter("http://127.0.0.1:9")
    await adapter.aclose()

    require(not seen, f"making an adapter does {seen[:1]}; do that where it is first needed")


@check("config.strict")
async def strict(trial: Trial) -> None:
    """The config names a `url`, refuses keys that it does not know, and says which."""
    kind = trial.found.spec.config_type
    given = trial.bench.settings("http://127.0.0.1:9")

    require("url" in kind.__struct_fields__, f"{kind.__name__} has no field url; a replica is told by its url")
    msgspec.convert(given, kind)
    try:
        msgspec.convert(given | {"unknown_key": 1}, kind)
    except msgspec.ValidationError as refusal:
        require("unknown_key" in str(refusal), f"the refusal {str(refusal)!r} does not name the key")
    else:
        raise Broken(f"{kind.__name__} takes a key that it does not know; give it forbid_unknown_fields=True")


async def _registered(name: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", _CHILD, name, stdout=PIPE, stderr=PIPE, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        out, told = await process.communicate()
    finally:
        if process.returncode is None:  # it was given up
            process.kill()
            await process.wait()
    if process.returncode:
        last = told.decode(errors="replace").strip().rpartition("\n")[2]
        raise Broken(f"registering fails in a fresh interpreter: {last}")
    seen: dict[str, Any] = json.loads(out.splitlines()[-1])
    return seen
