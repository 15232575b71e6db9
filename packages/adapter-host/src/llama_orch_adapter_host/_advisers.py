"""What adapters advise on tasks that are about to go to them, told and never followed."""

from collections.abc import Callable

from llama_orch_adapter_api import Advise, Capabilities, TaskRequest, one_line

from ._binding import Binding
from ._call import Call
from ._capabilities import CapabilityCache
from ._events import AdapterBroke
from ._herald import Herald
from ._leash import Leash
from ._offer import never_awaited
from ._plugins import Plugins


class Advisers:
    """The adapters' functions by engine, each asked for as long as it behaves."""

    def __init__(self, cache: CapabilityCache, herald: Herald, plugins: Callable[[], Plugins]) -> None:
        self._cache = cache
        self._herald = herald
        self._plugins = plugins
        self._leashes: dict[str, Leash] = {}

    def advise(self, binding: Binding, call: Call) -> None:
        """Tell what the adapter advises on a task that is about to go there; it goes nevertheless."""
        ask = binding.advise
        known = None if ask is None else self._cache.known(binding)
        if ask is None or known is None:
            return
        engine = binding.info.engine
        leash = self._leashes.get(engine) or self._leashes.setdefault(engine, Leash())
        if leash.off:
            return
        advice, fault = leash.call(lambda: _advice(ask, call.task, known))
        if fault:
            self._herald.tell(AdapterBroke, binding.info, what="advise()", error=fault)
            if leash.off:
                self._plugins().drop_advice(engine, fault)
        if advice is not None:
            call.advised(binding.info, advice)


def _advice(ask: Advise, task: TaskRequest, known: Capabilities) -> str | None:
    """What an adapter advises, in one line. Raises whatever it raises, `TypeError` where that is no text."""
    advice: object = ask(task, known)
    if never_awaited(advice):
        raise TypeError("advise is a plain function")
    if advice is not None and not isinstance(advice, str):
        raise TypeError("advice is a text, or None")
    return None if advice is None else one_line(advice)
