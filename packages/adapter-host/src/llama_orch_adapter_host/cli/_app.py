"""The command and its verbs."""

import click

from ._chat import chat
from ._look import health, plugins, props
from ._new import new_adapter
from ._verbs import Verbs


@click.group(cls=Verbs, epilog="Exit codes are listed in docs/exit-codes.md.")
@click.version_option(package_name="llama-orch-adapter-host")
def app() -> None:
    """Drive engines of language models through their adapters."""


for verb in (chat, health, plugins, props, new_adapter):
    app.add_command(verb)
