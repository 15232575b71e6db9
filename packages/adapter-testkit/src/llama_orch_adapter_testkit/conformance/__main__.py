"""The table of certificates: `python -m llama_orch_adapter_testkit.conformance table FILE.json …`, in Markdown."""

import sys
from pathlib import Path

import msgspec

from . import Certificate, certificate_schema, table

USAGE = "usage: python -m llama_orch_adapter_testkit.conformance (table FILE.json … | schema)"


def main(words: list[str]) -> int:
    """Print what was asked for; 2 where that is not understood."""
    match words:
        case ["table", _, *_]:
            files = sorted(map(Path, words[1:]))
            told = table([msgspec.json.decode(file.read_bytes(), type=Certificate) for file in files])
        case ["schema"]:
            told = msgspec.json.format(msgspec.json.encode(certificate_schema()), indent=2).decode() + "\n"
        case _:
            sys.stderr.write(USAGE + "\n")
            return 2
    sys.stdout.write(told)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
