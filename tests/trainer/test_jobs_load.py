import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "jobs.py"
#: What answering may leave in memory, after a tenth of the pages.
GROWTH_MIB = 32


@pytest.mark.full
@pytest.mark.timeout(600)
def test_many_jobs_watchers_and_pages(tmp_path):
    """500 jobs wait, 50 calls watch, 1,000 pages are read while a job trains: every answer comes, memory stays flat."""
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--repetitions", "1", "--json", str(file)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())["repetitions"][0]
    print(figures["get_ms"])
    assert (figures["jobs"], figures["watchers"], figures["watchers_ended"]) == (501, 50, 0)
    # Pages of 50 jobs each, of which every eleventh holds the one that is left.
    rounds, pages = divmod(1000, 11)
    assert (figures["pages"], figures["listed"]) == (1000, rounds * 501 + pages * 50)
    assert figures["still_training"]
    assert figures["events"] >= 50
    assert figures["gets"] >= 10
    memory = figures["memory_mib"]
    assert memory["most"] - memory["warm"] < GROWTH_MIB
