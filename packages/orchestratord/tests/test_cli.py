"""What the options of the command come to, before anything listens."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from llama_orch_orchestratord._command import main
from llama_orch_orchestratord._serve import example
from llama_orch_orchestratord.cli import held

Run = Callable[..., Result]

POOLS = "[pools.chat]\nengin = 'llamacpp'\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, ["serve", *arguments])


BAD = {
    "no pools": (5, [], "give --embedded, --pool NAME=ENGINE:URL or --pools FILE"),
    "no such config": (5, ["--config", "no.toml"], "no.toml cannot be read: No such file"),
    "no address": (2, ["--embedded", "--listen", "8700"], "--listen is '8700'; give HOST:PORT"),
    "two sources": (2, ["--pools", "pools.toml", "--embedded"], "leave --embedded and --pool out"),
    "two more": (2, ["--embedded", "--pool", "a=b:http://c"], "leave --pool out"),
    "others reach it": (5, ["--embedded", "--listen", "0.0.0.0:0"], "but there are no tokens"),
    "unencrypted": (5, ["--embedded", "--listen", "[::]:0"], "or plain_http = true behind a proxy"),
    "no such option": (2, ["--nope"], "No such option"),
}


@pytest.mark.parametrize(("code", "arguments", "mend"), BAD.values(), ids=BAD)
def test_bad_options_are_told_with_their_mend(run: Run, code: int, arguments: list[str], mend: str) -> None:
    """Each ends in its code and one sentence; with --json in a document that says the same."""
    told, document = run(*arguments), run(*arguments, "--json")

    assert (told.exit_code, told.stdout) == (code, "")
    assert mend in " ".join(told.stderr.split())
    failure = json.loads(document.stdout.splitlines()[-1])
    assert (document.exit_code, failure["exit_code"]) == (code, code)
    assert mend in failure["message"]


def test_the_config_in_the_folder_is_read_by_itself(run: Run, tmp_path: Path) -> None:
    """`./orchestratord.toml` and `./pools.toml` need not be named; what is wrong in either is told with its name."""
    (tmp_path / "pools.toml").write_text(POOLS)
    pools = run("--listen", "127.0.0.1:0")
    (tmp_path / "orchestratord.toml").write_text("[server]\nlisen = '127.0.0.1:0'\n")
    server = run()

    assert (pools.exit_code, server.exit_code) == (5, 5)
    assert "pools.toml: pool 'chat': Object contains unknown field `engin`" in pools.stderr
    assert "orchestratord.toml: [server] has no 'lisen'" in server.stderr


def test_a_file_of_pools_is_the_configs_or_the_options(run: Run, tmp_path: Path) -> None:
    """`pools` in the config lies relative to it; `--pools` takes its place."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "orchestratord.toml").write_text("pools = 'mine.toml'\n[server]\nlisten = '127.0.0.1:0'\n")
    ours = run("--config", "etc/orchestratord.toml")
    other = run("--config", "etc/orchestratord.toml", "--pools", "other.toml")

    assert "etc/mine.toml cannot be read" in ours.stderr
    assert "error: other.toml cannot be read" in other.stderr


HELP = "from llama_orch_orchestratord.cli import main; main()"
CONFIG = "from llama_orch_orchestratord import parse_config; parse_config(b'')"


@pytest.mark.parametrize(("script", "arguments"), [(HELP, ["serve", "--help"]), (CONFIG, [])], ids=["help", "config"])
def test_who_does_not_serve_does_not_import_the_server(script: str, arguments: list[str]) -> None:
    """Help is shown, and a config checked, without aiohttp, whose import takes longer than all else."""
    script = f"import sys\ntry:\n    {script}\nfinally:\n    print('aiohttp' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-P", "-c", script, *arguments], stdout=subprocess.PIPE, check=True, text=True
    )

    assert ended.stdout.splitlines()[-1] == "False"


INTERRUPTED = """
import signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == awaited:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                if "swallowed=" not in sys.argv[-1]:
                    raise
awaited = sys.argv.pop(1)
sys.meta_path.insert(0, Finder())
from llama_orch_orchestratord.cli import main
main()
"""


@pytest.mark.parametrize("pool", ["raised", "swallowed"])
@pytest.mark.parametrize("imported", ["msgspec", "click", "llama_orch_orchestratord._serve", "aiohttp"])
def test_ctrl_c_while_it_is_being_imported(imported: str, pool: str) -> None:
    """From its first line on, an interrupted command exits with 130, no traceback, whatever an import does with it."""
    command = [sys.executable, "-P", "-c", INTERRUPTED, imported, "serve", "--pool", "a=llamacpp:http://127.0.0.1:1"]
    command += ["--listen", "127.0.0.1:0", "--pool", f"{pool}=llamacpp:http://127.0.0.1:1"]
    ended = subprocess.run(command, capture_output=True, check=False, text=True, timeout=15)

    assert (ended.returncode, ended.stderr.strip()) in {(130, ""), (130, "cancelled")}


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    """Who starts the command so that it does not hear Ctrl-C is not heard while it is imported either."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held():
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("with_token", [True, False])
def test_the_example_is_a_command_for_any_pool(with_token: bool) -> None:
    """A pool's name cannot break out of it; a token is the shell's variable, never the token."""
    command = example("http://127.0.0.1:1", "it's; $(x)", with_token=with_token)

    assert "'\"'\"'" in command
    assert command.count("$ORCH_TOKEN") == (2 if with_token else 0)


def test_the_example_is_the_readmes() -> None:
    """What `serve --embedded` prints is the command that the README shows."""
    readme = (Path(__file__).parents[3] / "README.md").read_text()

    assert example("http://127.0.0.1:8700", "embedded", with_token=False) in readme.splitlines()
