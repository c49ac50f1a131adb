from __future__ import annotations

from collections.abc import Iterator

import pytest
from ranks import Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Two processes, started once for all tests: importing torch takes most of their time."""
    with Ranks() as started:
        yield started
