"""The shared HTTP client of engine adapters: requests, typed streams, and errors in the boundary's words."""

from llama_orch_adapter_api import RedactingFilter, Secret, get_logger, redact

from ._client import HttpClient, Response, StreamRequest
from ._config import HttpConfig
from ._errors import ErrorObject, error_in_stream
from ._ndjson import NDJSONDecoder
from ._retry import RetryPolicy, retried
from ._sse import Frame, FrameTooLarge, SSEDecoder
from ._stream import EventStream

__all__ = [
    "ErrorObject",
    "EventStream",
    "Frame",
    "FrameTooLarge",
    "HttpClient",
    "HttpConfig",
    "NDJSONDecoder",
    "RedactingFilter",
    "Response",
    "RetryPolicy",
    "SSEDecoder",
    "Secret",
    "StreamRequest",
    "error_in_stream",
    "get_logger",
    "redact",
    "retried",
]
