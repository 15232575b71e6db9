"""What an adapter may advise on a task before it is sent. Advice changes nothing: the host tells it and goes on."""

from collections.abc import Callable

from ._props import Capabilities
from ._task import TaskRequest, TextPart

Advise = Callable[[TaskRequest, Capabilities], str | None]
"""One sentence for people, None where there is nothing to say. Called before each attempt, so let it be quick."""

_LETTERS_A_TOKEN = 4
"""What a token of English text stands for, roughly; a text in other scripts has more tokens than this reckons."""


def token_budget(task: TaskRequest, capabilities: Capabilities) -> str | None:
    """An advisory where prompt and answer together will hardly fit the context."""
    ctx_max, wanted = capabilities.ctx_max, task.max_tokens or 0
    if ctx_max is None or task.workload != "completion":
        return None
    prompt = _letters_of(task) // _LETTERS_A_TOKEN
    if prompt + wanted <= ctx_max:
        return None
    return (
        f"a prompt of about {prompt} tokens and max_tokens {wanted} exceed the context of {ctx_max}; "
        "shorten one of them"
    )


def _letters_of(task: TaskRequest) -> int:
    """How many characters the prompt has."""
    size = len(task.prompt or "")
    for message in task.messages:
        if isinstance(message.content, str):
            size += len(message.content)
        else:
            size += sum(len(part.text) for part in message.content or () if isinstance(part, TextPart))
    return size
