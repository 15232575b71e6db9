"""What an author fills in: by part, its body, and the fields that it reads by their Struct."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Part(NamedTuple):
    """The body of a function. `fields` stand in the Struct `of`; `imports` are from the boundary."""

    body: str
    of: str = ""
    fields: str = ""
    imports: str = ""


OWN = {
    "health_of": Part(
        'return WorkerHealth(live=True, ready=True, state="busy" if health.waiting else "ready")',
        "Health",
        "waiting: int = 0",
    ),
    "worker_props": Part(
        """
known = Capabilities(
    ENGINE, about.version, about.model, now, ctx_max=about.context, slots=about.slots, features=("chat", "seed")
)
return WorkerProps(about.slots, about.free, known)
""",
        "About",
        "version: str\nmodel: str\ncontext: int\nslots: int\nfree: int",
        "Capabilities",
    ),
    "request_body": Part("""
messages = [{"role": each.role, "content": each.content} for each in task.messages]
subject = {"messages": messages} if messages else {"prompt": task.prompt}
optional = {"model": model, "max_tokens": task.max_tokens, "seed": task.seed}
return {**subject, **{name: value for name, value in optional.items() if value is not None}}
"""),
    "text_of": Part("return event.text", "Event", 'text: str = ""'),
    "end_of": Part(
        """
if not event.done:
    return None
return End(event.tokens_in, event.tokens_out, "length" if event.done == "length" else "stop")
""",
        "Event",
        'done: str = ""\ntokens_in: int | None = None\ntokens_out: int | None = None',
    ),
}

OPENAI = {
    "worker_props": Part(
        """
known = Capabilities(
    ENGINE, VERSION, models.data[0].id, now, features=("chat", "tools", "reasoning", "logprobs", "seed")
)
return WorkerProps(None, None, known)
""",
        imports="Capabilities",
    )
}

PARTS = "|".join(OWN)


def fill(file: Path, parts: Mapping[str, Part]) -> None:
    """Write the parts into a wire module."""
    text = file.read_text()
    for name, part in parts.items():
        text = _once(rf'raise NotImplementedError\(f"fill in {name}\(\) .*\)', _indented(part.body), text)
        if part.of:
            text = _once(
                rf'(class {part.of}\(.*\):\n    """.*"""\n)(\n    error|)',
                rf"\1\n    {_indented(part.fields)}\n\2",
                text,
            ).replace("\n\n    error", "\n    error")
        if part.imports:
            text = _once(r"import (End|TaskRequest),", rf"import {part.imports}, \1,", text)
    file.write_text(text)


def _once(pattern: str, instead: str, text: str) -> str:
    text, count = re.subn(pattern, instead, text)
    assert count == 1, f"{pattern} is there {count} times"
    return text


def _indented(lines: str) -> str:
    return lines.strip().replace("\n", "\n    ")
