"""The shared HTTP client of engine adapters: requests, typed streams, and errors in the boundary's words."""

from llama_orch_adapter_api import RedactingFilter, Secret, get_logger, redact

from ._adapter import Exchange, HttpAdapter, Identity, Reader, Underway, mended
from ._client import HttpClient, Response, StreamRequest
from ._config import HttpConfig
from ._errors import ErrorObject, error_in_stream
from ._gauges import gauges
from ._ndjson import NDJSONDecoder
from ._retry import RetryPolicy, retried
from ._sse import Frame, FrameTooLarge, SSEDecoder
from ._stream import EventStream

__all__ = [
    "ErrorObject",
    "EventStream",
    "Exchange",
    "Frame",
    "FrameTooLarge",
    "HttpAdapter",
    "HttpClient",
    "HttpConfig",
    "Identity",
    "NDJSONDecoder",
    "Reader",
    "RedactingFilter",
    "Response",
    "RetryPolicy",
    "SSEDecoder",
    "Secret",
    "StreamRequest",
    "Underway",
    "error_in_stream",
    "gauges",
    "get_logger",
    "mended",
    "redact",
    "retried",
]
