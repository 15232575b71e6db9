"""Random tests that can be repeated: a seed that is told, a size for each run and one for the night, and bad bytes."""

import os
import random
import sys

from ._capture import Capture
from ._cuts import splits
from ._reply import Reply

_HOSTILE = [
    b"[" * 3000,
    b'{"a":' * 3000,
    b"1e400",
    b"-1",
    b"9" * 400,
    b"\\ud83d",
    b"\xff\xfe",
    b"\x00",
    b"\r",
    b"\n\n",
    b"data: ",
    b"data: [DONE]\n\n",
    b'"error":"x",',
    b"null",
    b"NaN",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Retry-After: Mon, 23 Nov 2026 02:11:39 GMT\r\n",
    b"Location: http://127.0.0.1:9/\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 503 \r\n\r\n",
]
"""Pieces that readers of HTTP, event streams and JSON have stumbled over."""


def dice() -> random.Random:
    """A source of chance whose seed is printed; `SEED=… pytest …` replays the run."""
    seed = int(os.environ.get("SEED", "0")) or random.SystemRandom().getrandbits(32)
    sys.stdout.write(f"SEED={seed}\n")
    return random.Random(seed)


def cases(each_run: int, nightly: int) -> int:
    """How many cases a random test tries: the larger number where the environment sets NIGHTLY."""
    return nightly if os.environ.get("NIGHTLY") else each_run


def mutilated(chance: random.Random, data: bytes) -> bytes:
    """`data` with one to four random changes (cut, doubled, overwritten, a hostile piece added), or random bytes."""
    if chance.random() < 0.05:
        return chance.randbytes(chance.randrange(200))
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(data))
        span = chance.randint(0, 30)
        pieces = [b"", chance.randbytes(chance.randint(1, 3)), chance.choice(_HOSTILE), data[at : at + span]]
        new = chance.choice(pieces)
        data = data[:at] + new + data[at + chance.choice([0, len(new), span]) :]
    return data


def mutilated_reply(chance: random.Random, capture: Capture) -> Reply:
    """The capture's answer, mutilated, in random pieces, cut short now and then."""
    data = mutilated(chance, capture.response)
    data = data[: chance.randint(0, len(data))] if chance.random() < 0.2 else data
    cuts = (chance.randint(0, len(data)) for _ in range(chance.randint(0, 3)))
    return Reply(tuple(splits(data, cuts)), "close")
