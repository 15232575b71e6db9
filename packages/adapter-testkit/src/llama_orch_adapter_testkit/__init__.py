"""Real engines' bytes, scripted engines with real sockets that replay them, and a clock that does not wait."""

from . import captures
from ._capture import Capture
from ._clock import VirtualClockLoop, run_virtual
from ._connection import Request
from ._cuts import all_kinds_of_cuts, splits, sse_cuts
from ._dialect import Asked, Dialect, Finish, Load, Piece, State
from ._dialects import LLAMACPP, OPENAI, VLLM, DialectName, OpenAIDialect
from ._engine import LoopbackEngine, Script
from ._fake import Behaviour, FakeEngine, Generation
from ._fuzz import cases, dice, mutilated, mutilated_reply
from ._live import Cut, LiveReply
from ._outcome import Outcome, outcome
from ._process import EngineProcess, Report, Seen
from ._reply import Reply
from ._toxics import Toxic, ToxicKind

__all__ = [
    "LLAMACPP",
    "OPENAI",
    "VLLM",
    "Asked",
    "Behaviour",
    "Capture",
    "Cut",
    "Dialect",
    "DialectName",
    "EngineProcess",
    "FakeEngine",
    "Finish",
    "Generation",
    "LiveReply",
    "Load",
    "LoopbackEngine",
    "OpenAIDialect",
    "Outcome",
    "Piece",
    "Reply",
    "Report",
    "Request",
    "Script",
    "Seen",
    "State",
    "Toxic",
    "ToxicKind",
    "VirtualClockLoop",
    "all_kinds_of_cuts",
    "captures",
    "cases",
    "dice",
    "mutilated",
    "mutilated_reply",
    "outcome",
    "run_virtual",
    "splits",
    "sse_cuts",
]
