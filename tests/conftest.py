import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared():
    """The folder of real data and weights, where there is one."""
    folder = os.environ.get("TRAPLINE_SHARED")
    if not folder:
        pytest.skip("TRAPLINE_SHARED is not set: no real photos and weights here")
    return Path(folder)
