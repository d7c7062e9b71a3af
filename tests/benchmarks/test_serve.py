import json
import subprocess
import sys

import pytest


@pytest.fixture(name="call", scope="module")
def _call(benchmarks):
    """Runs one of the scripts to its end."""

    def run(script, *words, code=0):
        command = [sys.executable, benchmarks / script, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=550)
        assert done.returncode == code, done.stderr + done.stdout
        return done

    return run


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_level_ends_as_a_row_and_is_not_measured_again(call, tmp_path):
    """Trapline alone with a null model: every answer right, a row for calls and one for the stream, a page; resumed."""
    path = tmp_path / "rows.json"
    words = ("--null-model", "--peers", "", "--callers", "1", "--stream", "--repetitions", "1", "--seconds", "1")
    words += ("--warm-seconds", "0.5", "--bare-seconds", "0.01", "--retries", "0", "--json", path, "--work", tmp_path)
    call("serve.py", *words)
    rows = json.loads(path.read_text())["rows"]
    assert [(row["method"], row["callers"]) for row in rows] == [("unary", 1), ("stream", 32)]
    for row in rows:
        assert row["images"] > 0
        assert set(row["all_outcomes"]) == {"OK"}
        assert row["combined_ceiling_images_per_second"] > 0
        assert row["server_cpu_ms_per_image"] > 0
    assert "null-model, 8x8, fp32" in path.with_suffix(".md").read_text() or not any(row["quiet"] for row in rows)
    for row in rows:
        row["quiet"] = True
    content = json.loads(path.read_text()) | {"rows": rows}
    path.write_text(json.dumps(content))
    call("serve.py", *words)
    assert json.loads(path.read_text())["rows"] == rows


def test_an_unknown_peer_is_a_usage_error(call):
    """It names the peers that there are."""
    assert "triton is none of litserve" in call("serve.py", "--peers", "triton", code=2).stderr


@pytest.mark.full
@pytest.mark.timeout(600)
def test_no_image_fails_while_servers_come_and_go(call, tmp_path):
    """10 rolling restarts, a kill -9 of each of two and 100 reloads under calls and a stream: 0 failed, 0 mixed."""
    path = tmp_path / "restarts.json"
    words = ("--null-model", "--per-second", "40", "--pause-seconds", "1", "--restarts", "10", "--reloads", "100")
    call("restarts.py", *words, "--json", path)
    result = json.loads(path.read_text())
    assert len(result["rolling"]["events"]) == 10
    assert len(result["reloads"]["events"]) == 100
    for part in ("rolling", "killed", "reloads"):
        for way in ("unary", "stream"):
            told = result[part][way]
            assert (told["failed"], told["mixed"]) == (0, 0)
            assert told["right"] > 0
    assert {"1", "2"} <= set(result["reloads"]["unary"]["versions"])


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_flood_is_refused_and_answered_and_ends(call, tmp_path):
    """Twice the peak with a null model: refusals or answers, none wrong, and one caller is answered afterwards."""
    path = tmp_path / "overload.json"
    words = ("--null-model", "--overload", "2", "--seconds", "3", "--calm-seconds", "2", "--warm-seconds", "1")
    call("overload.py", *words, "--recovery-seconds", "2", "--json", path, "--work", tmp_path)
    (flood,) = json.loads(path.read_text())["floods"]
    assert flood["images_answered"] > 0
    assert "WRONG" not in flood["all_outcomes"]
    assert flood["images_run"] >= flood["all_outcomes"]["OK"]
    assert flood["memory_mib"]
