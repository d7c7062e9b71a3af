"""What strangers send: the slowest answer of health under each attack, and what it takes to refuse an image bomb.

The attacks and the bombs are those of `tests/server/test_hostile.py`, which are run as they stand, several times, each
time against a new server; the tests judge counts and memory, this judges times.

Writes benchmarks/results/hostile_<hardware>_<yyyy-mm>.json and .md.
"""

import argparse
import datetime as dt
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from preprocess import hardware
from rows import commit
from serving.recorded import own_versions, result_path, write

MOST_HEALTH_MS, MOST_BOMB_MS = 100, 10
TOP = Path(__file__).resolve().parents[1]
_TESTS = "tests/server/test_hostile.py"


def told(folder: Path) -> dict[str, float]:
    """What one run of the tests measured, by name.

    Raises:
        SystemExit: A test failed.
    """
    report = folder / "report.xml"
    # Of the two forms of the report only the older one has properties of single tests.
    options = ["-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1", f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", *options, _TESTS]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return {
        item.attrib["name"]: float(item.attrib["value"])
        for item in ET.parse(report).iter("property")
        if item.attrib["name"].endswith((", ms", ", MiB"))
    }


def lines(result: dict[str, Any]) -> list[str]:
    """What must be shown, a sentence each: of every measurement the slowest of all runs."""
    slowest = {name: max(values) for name, values in result["measured"].items()}
    found = []
    for kind, said, most in (
        ("health", "health answers under every attack within", MOST_HEALTH_MS),
        ("bomb", "an image bomb is refused within 10 MiB, and in", MOST_BOMB_MS),
    ):
        name, worst = max((pair for pair in slowest.items() if pair[0].startswith(kind)), key=lambda pair: pair[1])
        found.append(f"{said} {most} ms: {'met' if worst <= most else 'NOT met'}, {worst:g} ({name})")
    return found


def page(result: dict[str, Any]) -> str:
    """The result as a page that stands alone."""
    machine = result["hardware"]
    rows = [f"| {name} | {median(values):.3g} | {max(values):.3g} |" for name, values in result["measured"].items()]
    parts = [
        "# What strangers send\n",
        "\n".join(f"- {line}" for line in lines(result)) + "\n",
        "| measured | median of the runs | most |\n|---|---|---|\n" + "\n".join(rows) + "\n",
        f"- Of each attack five connections at once, health asked all along; {result['repetitions']} runs, each with a "
        "server of its own; of each run the slowest answer",
        f"- Command: `{result['command']}`, {result['date']}, commit {result['commit']}",
        f"- Hardware: {machine['cpu']}, {machine['cores']} cores, shared with attackers and callers",
        "- Versions: " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
    ]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5, help="runs of the tests (default: 5)")
    parser.add_argument("--json", type=Path, help="file for the result; default: under results/")
    arguments = parser.parse_args()
    machine, measured = hardware(), defaultdict(list)
    for _ in range(arguments.repetitions):
        with tempfile.TemporaryDirectory() as folder:
            for name, value in told(Path(folder)).items():
                measured[name].append(value)
    result = {
        "command": " ".join(["benchmarks/hostile.py", *sys.argv[1:]]),
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "commit": commit(),
        "hardware": machine,
        "versions": own_versions(),
        "repetitions": arguments.repetitions,
        "measured": measured,
    }
    path = arguments.json or result_path("hostile", machine)
    write(result, page(result), path)


if __name__ == "__main__":
    main()
