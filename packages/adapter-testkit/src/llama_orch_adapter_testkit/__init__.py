"""Real engines' bytes, scripted engines with real sockets that replay them, and a clock that does not wait."""

from . import captures
from ._capture import Capture
from ._clock import VirtualClockLoop, run_virtual
from ._connection import Request
from ._cuts import all_kinds_of_cuts, splits, sse_cuts
from ._engine import LoopbackEngine, Script
from ._fuzz import cases, dice, mutilated, mutilated_reply
from ._reply import Reply

__all__ = [
    "Capture",
    "LoopbackEngine",
    "Reply",
    "Request",
    "Script",
    "VirtualClockLoop",
    "all_kinds_of_cuts",
    "captures",
    "cases",
    "dice",
    "mutilated",
    "mutilated_reply",
    "run_virtual",
    "splits",
    "sse_cuts",
]
