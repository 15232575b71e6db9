"""The command `adapter-host`. It needs the extra `[cli]`; the library never imports this package."""

import sys


def main() -> None:
    """Run the command and exit with one of the codes of `_exit.Exit`."""
    try:
        from ._app import app  # noqa: PLC0415  # click and rich may be missing, which is told below

        app()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("click", "rich"):
            raise
        sys.exit("adapter-host needs click and rich; run: pip install 'llama-orch-adapter-host[cli]'")
    except KeyboardInterrupt:
        sys.exit(130)
