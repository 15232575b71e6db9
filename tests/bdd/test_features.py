"""Every scenario of every feature, over HTTP: a real host, real adapters, fake engines in processes of their own."""

import pytest
from pytest_bdd import scenarios

pytestmark = pytest.mark.timeout(60)

scenarios("features")
