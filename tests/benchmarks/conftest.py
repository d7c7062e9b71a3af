import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# The benchmarks are scripts that import their neighbours, as Python finds them when one is started.
sys.path.append(str(BENCHMARKS))


@pytest.fixture(scope="session")
def benchmarks():
    """The folder of the scripts."""
    return BENCHMARKS
