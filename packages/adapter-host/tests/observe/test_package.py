import subprocess
import sys

import pytest
from llama_orch_adapter_host import observe

HEAVY = ("prometheus_client", "pythonjsonlogger", "opentelemetry")


def printed(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_what_is_heavy_is_imported_at_its_first_use():
    """Importing the host and its renderings imports none of the libraries that they may use (ORCH-3604)."""
    look = f"import sys; print([each for each in {HEAVY} if each in sys.modules])"
    program = "import llama_orch_adapter_host, llama_orch_adapter_host.observe as observe"

    assert printed(f"{program}; observe.Narrator; {look}") == "[]"
    assert printed(f"{program}; observe.Metrics; {look}") == "['prometheus_client']"
    assert printed(f"{program}; observe.json_logging; {look}") == "['pythonjsonlogger']"
    assert printed(f"{program}; observe.Tracing; {look}") == "['opentelemetry']"


def test_tracing_without_its_extra():
    """Where OpenTelemetry is missing, who asks for spans is told how to get it."""
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from llama_orch_adapter_host import observe\n"
        "try: observe.Tracing\n"
        "except ModuleNotFoundError as error: print(error)"
    )

    assert printed(program) == ("Tracing needs opentelemetry-api; run: pip install 'llama-orch-adapter-host[otel]'")


def test_another_module_that_is_missing_is_named():
    """A library that is missing for another reason is told as Python tells it."""
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from llama_orch_adapter_host import observe\n"
        "try: observe.Metrics\n"
        "except ModuleNotFoundError as error: print(error.name)"
    )

    assert printed(program).startswith("prometheus_client")


def test_names():
    """Each public name is there, and no other."""
    assert all(getattr(observe, name) is not None for name in observe.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Metric'"):
        observe.Metric  # noqa: B018 - the look is what raises
