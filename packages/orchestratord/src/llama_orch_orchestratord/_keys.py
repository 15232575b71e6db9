"""What an application holds for its handlers, and what a request does."""

from aiohttp import web
from llama_orch_adapter_host import AdapterHost

from ._batches import Batches
from ._config import ServerConfig
from ._jobs import Jobs
from ._narration import Narrations

HOST = web.AppKey("host", AdapterHost)
BATCHES = web.AppKey("batches", Batches)
CONFIG = web.AppKey("config", ServerConfig)
JOBS = web.AppKey("jobs", Jobs)
NARRATIONS = web.AppKey("narrations", Narrations)
CORRELATION = web.RequestKey("correlation", str)
