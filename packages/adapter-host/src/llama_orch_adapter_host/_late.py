"""What is told of a task whose time is over: its deadline, or its pool's patience with a silent engine."""

from llama_orch_adapter_api import DeadlineUnmet, DecodeTimeout, Phase, TaskRequest

from ._binding import Binding

_WHERE: dict[Phase, str] = {
    "connect": "before the engine answered",
    "first_token": "before the first token",
    "decode": "while the engine wrote",
}
"""By the phase that a deadline passes in."""


def overdue(task: TaskRequest, phase: Phase, binding: Binding) -> DeadlineUnmet:
    """The deadline of a task passed on a replica."""
    return DeadlineUnmet(
        f"the deadline of {task.deadline_ms} ms passed {_WHERE[phase]} · {binding.replica} · "
        "allow more time, or ask for less",
        detail=phase,
    )


def silent(limit: str, seconds: float, binding: Binding) -> DecodeTimeout:
    """An engine said nothing for as long as `limit`, `first_token` or `idle`, allows."""
    what = "no token came" if limit == "first_token" else "the engine fell silent"
    return DecodeTimeout(
        f"{what} for {seconds:g} s · {binding.replica} · look at the engine, or raise timeouts.{limit}",
        detail=limit,
    )
