import math
import re
from pathlib import Path
from statistics import median

import pytest

TOP = Path(__file__).parents[2]
RESULTS = TOP / "benchmarks" / "results"
PAGE = (TOP / "docs" / "operations.md").read_text(encoding="utf-8")
SIZING = PAGE.split("\n## Sizing\n")[1].split("\n## ")[0]
WORDS = " ".join(SIZING.split())
SERVE, INT8 = ("serve_resnet18_amd-epyc-2-cores_2026-11.md", "serve_int8_resnet18_scenes_amd-epyc-2-cores_2026-11.md")


def table(text, first):
    """Rows of the table whose head begins with `first`."""
    block = re.search(rf"^\| {first} \|.*?\n\n", text + "\n\n", re.MULTILINE | re.DOTALL)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()[2:] if line]


def measured(file, heading):
    """Trapline's row of single calls at 32 callers, by the names of its columns."""
    section = (RESULTS / file).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    head = [cell.strip() for cell in re.search(r"^\| server .*$", section, re.MULTILINE)[0].strip("|").split("|")]
    for row in table(section, "server"):
        if row[0] == "trapline" and row[2:4] == ["unary", "32"]:
            return dict(zip(head, row, strict=True))
    raise AssertionError(heading)


@pytest.mark.parametrize("row", table(SIZING, "model"), ids=lambda row: f"{row[0]} {row[1]}")
def test_capacity_is_what_was_measured(row):
    """Figures are those of the result's page, what follows from them is right, and the rule holds for each."""
    model, photos, cost_ms, possible, rate, share = row
    file, precision = (INT8, "int8") if model.endswith("int8") else (SERVE, "fp32")
    found = measured(file, f"{model.removesuffix(', int8')}, {photos}, {precision}")
    assert (cost_ms, rate) == (found["server CPU, ms/image"], found["images/s"])
    assert float(possible) == pytest.approx(2 * 1000 / float(cost_ms), abs=0.06)
    assert float(share) == pytest.approx(float(rate) / (2000 / float(cost_ms)), abs=0.006)
    assert float(rate) >= 0.89 * 2 * 1000 / float(cost_ms), "the rule promises 0.9"


def test_the_sums_are_right():
    """What is worked out in the text comes to what the text says."""
    assert "2000 / 58.9 = 34.0, and 3.0 + 34.0 + 0.7 = 37.7 ms" in WORDS
    assert (round(2000 / 58.9, 1), round(3.0 + 34.0 + 0.7, 1)) == (34.0, 37.7)
    assert measured(SERVE, "resnet18, 640x480, fp32")["bare runtime, images/s"] == "58.9"
    assert "100 / (0.7 × 48.1) = 2.97, so 3 + 1 = 4" in WORDS
    assert round(0.9 * 2 * 1000 / 37.4, 1) == 48.1
    assert round(100 / (0.7 * 48.1), 2) == 2.97
    assert "32 / 52 = 0.62 s" in WORDS
    assert round(32 / 52, 2) == 0.62
    assert measured(SERVE, "resnet18, 640x480, fp32")["p50, ms"] == "614"
    pixels = 2 * 3 * 64e6 / 2**20
    assert "366 a thread by default" in WORDS
    assert int(pixels) == 366
    assert "108 + 1,042 + 629 + 256 + 732 = 2,767, so 3 GiB" in WORDS
    assert 108 + 2 * (629 - 108) + (629 - 108 + 108) + 256 + 2 * 366 == 2767 < 3 * 1024
    assert 2767 - 732 + math.ceil(pixels / 4) * 2 < 2.25 * 1024
    assert 79 + 2115 < 2.25 * 1024


def test_memory_is_what_was_measured():
    """Each figure of the table is in the result that it names, and the rule is above all that was measured."""
    memory = {row[0]: row[1] for row in table(SIZING, "what")}
    rate = {
        name: measured(*where)["memory, MiB"]
        for name, where in {
            "a server, its model but nothing": (SERVE, "null-model, 8x8, fp32"),
            "the same with resnet18, 32 callers": (SERVE, "resnet18, 640x480, fp32"),
            "with resnet18 as int8": (INT8, "resnet18, 640x480, int8"),
        }.items()
    }
    for name, figure in rate.items():
        assert memory[name] == figure, name
    overload = (RESULTS / "overload_resnet18_amd-epyc-2-cores_2026-11.md").read_text(encoding="utf-8")
    assert f"10x: memory of the server, MiB: at most {memory['under ten times its load']}" in overload
    restarts = (RESULTS / "restarts_resnet18_amd-epyc-2-cores_2026-11.md").read_text(encoding="utf-8")
    after = math.ceil(float(re.search(r"Memory after a reload, MiB: at most ([\d.]+)", restarts)[1]))
    assert memory["after each of 100 reloads under load, at most"] == f"{after:,}"
    assert after < 2767
    jobs = (RESULTS / "jobs_amd-epyc-2-cores_2026-11.md").read_text(encoding="utf-8")
    most = max(float(row[8]) for row in table(jobs, "jobs"))
    assert memory["the train service"] == str(round(most))
    train = (RESULTS / "train_mobilenet_v2_2-cores_2026-11.md").read_text(encoding="utf-8")
    for name, tool in (("a job, the head alone", "trapline-head"), ("a job with fine-tuning", "trapline")):
        peaks = [int(row[5]) for row in table(train, "set") if row[1] == tool and len(row) == 7 and row[5].isdigit()]
        assert memory[name] == f"{max(peaks):,}"


def test_times_of_jobs_and_of_decoding_are_those_of_the_results():
    """The span of seconds over the five sets, and milliseconds of one image."""
    train = (RESULTS / "train_mobilenet_v2_2-cores_2026-11.md").read_text(encoding="utf-8")
    for tool, words in (("trapline-head", "22 to 39 s for the head alone"), ("trapline", "64 to 146 s with")):
        seconds = [float(row[3]) for row in table(train, "set") if row[1] == tool and len(row) == 7]
        assert words in WORDS
        assert words.startswith(f"{math.floor(min(seconds))} to {math.ceil(max(seconds))} s"), seconds
    rows = table((RESULTS / "preprocess_amd-epyc-2-cores_2026-11.md").read_text(encoding="utf-8"), "images")
    for size, said in (("640 × 480", 3), ("2048 × 1536", 7)):
        assert round(median(float(row[7]) for row in rows if size in row[0])) == said


def test_the_null_models_rates_are_those_of_the_result():
    """Calls and images of a stream that one process can answer at most."""
    found = (RESULTS / SERVE).read_text(encoding="utf-8").split("## null-model")[1].split("\n## ")[0]
    assert {"1681", "2464"} <= {row[4] for row in table(found, "server")}
    assert "1,681 calls or 2,464 images" in WORDS
