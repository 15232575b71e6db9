"""What came of a reload."""

import msgspec
from llama_orch_adapter_api import BindingInfo


class ReloadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload put in force. The generations that were taken over from may still run streams.

    `added`, `rebound` and `unchanged` are as they are now, `removed` as it was. `policies` are the pools whose tasks
    are treated otherwise from now on. `ignored` are the config's tables that say something else than what is in force
    and take a new host: `plugins`, since what was imported stays. `drained` is what takes no task all the same, until
    `host.undrain` or a rebind of it; `problems` tell why it stays so where that was to be undone. `duration` is in
    seconds.
    """

    added: tuple[BindingInfo, ...] = ()
    rebound: tuple[BindingInfo, ...] = ()
    removed: tuple[BindingInfo, ...] = ()
    unchanged: tuple[BindingInfo, ...] = ()
    policies: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    drained: tuple[BindingInfo, ...] = ()
    problems: tuple[str, ...] = ()
    duration: float = 0.0


class ReloadError(Exception):
    """A change that could not be put in force, so that nothing was changed; `problems` holds a sentence for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
