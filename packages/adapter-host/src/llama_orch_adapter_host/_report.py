"""What came of a reload."""

import msgspec
from llama_orch_adapter_api import BindingInfo


class ReloadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload put in force. The generations that were taken over from may still run streams.

    `added`, `rebound` and `unchanged` are as they are now, `removed` as it was. `policies` are the pools whose tasks
    are treated otherwise from now on. `ignored` are the config's tables that say something else than what is in force
    and take a new host: `plugins`, since what was imported stays. `duration` is in seconds.
    """

    added: tuple[BindingInfo, ...] = ()
    rebound: tuple[BindingInfo, ...] = ()
    removed: tuple[BindingInfo, ...] = ()
    unchanged: tuple[BindingInfo, ...] = ()
    policies: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    duration: float = 0.0


class ReloadError(Exception):
    """A change that could not be put in force, so that nothing was changed; `problems` holds a sentence for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
