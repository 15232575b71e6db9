"""What holds for every test of this package."""

from collections.abc import Iterator

import pytest
from llama_orch_http_util import _session


@pytest.fixture(autouse=True)
def _every_session_is_let_go() -> Iterator[None]:
    """No test leaves a shared session behind (ORCH-3610)."""
    yield

    assert list(_session._sessions.values()) == []
