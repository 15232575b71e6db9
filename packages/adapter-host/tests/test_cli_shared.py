"""A command of another package, made of what `adapter-host` shares."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import click
from click.testing import CliRunner, Result
from llama_orch_adapter_host.cli.shared import Exit, Screen, Source, Verbs, prepared, with_engines, with_json


@click.group(cls=Verbs)
def other() -> None:
    """Some other command."""


@other.command()
@with_engines
@with_json
@click.pass_obj
def look(screen: Screen, /, **given: Any) -> Exit:
    made = prepared(Source(**given), screen)

    async def names() -> tuple[tuple[str, ...], ...]:
        async with made as host:
            before = host.pools()
            async with host:
                return before, host.pools()

    screen.document(asyncio.run(names()))
    return Exit.LOADING


def test_the_options_make_a_host_that_is_yet_to_be_entered(acme: Callable[..., Result]):
    """The pools are bound when the host is entered, which is the command's affair; its exit code is the verb's."""
    ended = CliRunner().invoke(other, ["look", "--pool", "chat=acme:http://still"])

    assert ended.exit_code == Exit.LOADING, ended.output
    assert json.loads(ended.stdout) == [[], ["chat"]]


def test_an_engine_of_ones_own_is_started_and_stopped(acme: Callable[..., Result]):
    """With --embedded, the adapter's launch is around all of it, and its progress is told."""
    ended = CliRunner().invoke(other, ["look", "--embedded", "--engine", "acme", "--slots", "1"])

    assert ended.exit_code == Exit.LOADING, ended.output
    assert json.loads(ended.stdout) == [[], ["embedded"]]
    assert "ready after" in ended.stderr


def test_what_goes_wrong_is_told_as_adapter_host_tells_it(acme: Callable[..., Result]):
    """An engine that is not known ends in its code, and with --json in a document."""
    ended = CliRunner().invoke(other, ["look", "--json", "--pool", "chat=nope:http://127.0.0.1:1"])

    assert ended.exit_code == Exit.UNKNOWN_ENGINE
    assert json.loads(ended.stdout)["code"] == "UNKNOWN_ENGINE"
