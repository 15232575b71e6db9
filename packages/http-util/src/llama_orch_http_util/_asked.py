"""What is asked of a client, checked before anything is sent: it is refused here or not at all."""

from llama_orch_adapter_api import AdapterError


def check_path(path: str, where: str) -> None:
    """Raises `AdapterError` (bad_request) for a path that would lead the request, and its key, to another host."""
    if not path.startswith("/") or path.startswith("//"):
        raise refused("the path does not begin with one /", where, "give it as /v1/models")


def refused(what: str, where: str, mend: str) -> AdapterError:
    """The error of a request that is not sent."""
    return AdapterError(f"{what} · {where} · {mend}", detail="bad_request", phase="connect", answered=False)
