import csv
import errno
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clients import progress, results
from clients.answers import Result
from clients.classifier import Classifier
from trapline.errors import ImageUnreadable


def rows_of(text):
    return list(csv.DictReader(text.splitlines()))


def test_a_folder_becomes_a_csv_in_the_order_of_its_paths(running, photos, trapline, unreadable):
    """One row an image, in the walk's order whatever the answers' order; a bad file is a row; exit 1 says so."""
    running.script.hold = 3
    running.script.refusals[b"animal 4"] = [unreadable]
    out = photos / "rows.csv"
    common = ("--server", running.address, "--model", "fox", "--window", 3, "--top-k", 3, "--out", out)
    code, stdout, stderr = trapline("classify", photos, *common)
    rows = rows_of(out.read_text())
    assert code == 1
    assert stdout == ""
    assert "12 images (1 other files skipped)" in stderr
    assert f"{photos}/camera 0/04.JPG: this is no image; send a JPEG" in stderr
    assert "12 of 12 images, 1 INVALID_ARGUMENT" in stderr
    assert list(rows[0]) == ["path", "status", "reason", "model_version"] + [
        f"{name}_{rank}" for rank in (1, 2, 3) for name in ("label", "score")
    ] + ["unknown_score"]
    order = (0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11)
    assert [row["path"] for row in rows] == [f"{photos}/camera {number % 2}/{number:02}.JPG" for number in order]
    assert list(rows[0].values())[1:] == ["ok", "", "3", "animal 0", "0.750000", "empty", "0.250000", "", "", ""]
    assert list(rows[2].values())[1:5] == ["INVALID_ARGUMENT", "IMAGE_UNREADABLE", "", ""]
    assert [row["label_1"] for row in rows if row["label_1"]] == [f"animal {number}" for number in order if number != 4]
    assert [path.name for path in photos.iterdir() if "partial" in path.name] == []
    again = trapline("classify", photos, *common)
    assert again[0] == 0
    assert "(1 other files skipped)" in again[2]


def test_json_holds_the_same(running, photos, trapline):
    """A .json file is an array of objects with the CSV's keys, predictions as a list."""
    out = photos / "rows.json"
    code, _, _ = trapline("classify", photos, "--server", running.address, "--model", "fox", "--out", out, "--top-k", 1)
    rows = json.loads(out.read_text())
    assert code == 0
    assert len(rows) == 12
    assert rows[0] == {
        "path": f"{photos}/camera 0/00.JPG",
        "status": "ok",
        "reason": "",
        "model_version": "3",
        "predictions": [{"label": "animal 0", "score": 0.75}],
        "unknown_score": None,
    }


def test_without_out_a_pipe_gets_csv(running, photos, trapline):
    """The rows alone go to standard output, all else to standard error."""
    code, stdout, _ = trapline("classify", photos, photos, "--server", running.address, "--model", "fox")
    assert code == 0
    assert [row["status"] for row in rows_of(stdout)] == ["ok"] * 12


def test_without_out_a_terminal_gets_lines_to_read(running, photos):
    """On a terminal each image is a line with its labels, or with what is wrong."""
    (photos / "big.jpg").write_bytes(b"x" * 1001)
    lead, terminal = pty.openpty()
    command = ["classify", photos / "big.jpg", photos / "camera 0", "--server", running.address, "--model", "fox"]
    code = subprocess.run([script(), *command], stdout=terminal, stderr=subprocess.PIPE, check=False).returncode
    os.close(terminal)
    lines = os.read(lead, 100_000).decode().splitlines()
    os.close(lead)
    assert code == 1
    assert lines[0] == f"{photos}/big.jpg  INVALID_ARGUMENT IMAGE_TOO_LARGE"
    assert lines[1] == f"{photos}/camera 0/00.JPG  animal 0 0.750, empty 0.250"


def test_a_terminal_gets_a_bar(running, photos, tmp_path, unreadable):
    """With --out, a terminal shows how far the job is and what failed; the file is as without it."""
    running.script.refusals[b"animal 4"] = [unreadable]
    lead, terminal = pty.openpty()
    out = tmp_path / "rows.csv"
    command = ["classify", photos, "--server", running.address, "--model", "fox", "--out", out]
    code = subprocess.run([script(), *command], stderr=terminal, check=False, env=os.environ | {"TERM": "xterm"})
    os.close(terminal)
    shown = os.read(lead, 100_000).decode()
    os.close(lead)
    assert code.returncode == 1
    assert "04.JPG: this is no image; send a JPEG" in shown
    assert "━" in shown
    assert "12 of 12 images" in shown
    assert len(rows_of(out.read_text())) == 12


def test_names_that_are_no_utf8_do_not_crash(running, photos, trapline):
    """A file whose name is not UTF-8 is classified; its row spells the odd byte as JSON does."""
    odd = os.fsencode(photos) + b"/camera 1/o\xffd.jpg"
    Path(os.fsdecode(odd)).write_bytes(b"odd")
    for suffix in (".csv", ".json"):
        out = photos / f"rows{suffix}"
        assert trapline("classify", photos, "--server", running.address, "--model", "fox", "--out", out)[0] == 0
        assert r"/camera 1/o\udcffd.jpg" in out.read_text(encoding="utf-8")
    assert [row["path"] for row in json.loads(out.read_text())].count(os.fsdecode(odd)) == 1
    command = ["classify", odd, "--server", running.address, "--model", "fox"]
    printed = subprocess.run([script(), *command], capture_output=True, text=True, check=True).stdout
    assert r"o\udcffd.jpg,ok" in printed


def test_ctrl_c_keeps_the_finished_rows(running, photos):
    """An interrupted job exits 130 without a traceback; what is done is in the partial file, OUT is as it was."""
    running.script.silent[b"animal 6"] = 99
    out = photos / "rows.csv"
    out.write_text("an earlier job's")
    (photos / "rows.partial.csv").write_text("an earlier, interrupted job's")
    command = ["classify", photos, "--server", running.address, "--model", "fox", "--window", "1", "--out", out]
    with subprocess.Popen([script(), *command], stderr=subprocess.PIPE, text=True) as process:
        assert running.script.silence.wait(20)
        process.send_signal(signal.SIGINT)
        stderr = process.communicate(timeout=20)[1]
    assert process.returncode == 130
    assert stderr.splitlines()[1:] == [
        f"3 finished rows are kept in {photos}/rows.partial-2.csv",
        "trapline classify: interrupted",
    ]
    assert len(rows_of((photos / "rows.partial-2.csv").read_text())) == 3
    assert out.read_text() == "an earlier job's"
    assert (photos / "rows.partial.csv").read_text() == "an earlier, interrupted job's"


def test_ctrl_c_is_130_though_nobody_reads_the_log(running, photos):
    """Ctrl-C ends `| tee log` as well: that the log's reader has gone changes no exit code."""
    running.script.silent[b"animal 6"] = 99
    read, write = os.pipe()
    command = ["classify", photos, "--server", running.address, "--model", "fox", "--window", "1"]
    with subprocess.Popen([script(), *command, "--out", photos / "rows.csv"], stderr=write) as process:
        os.close(write)
        assert running.script.silence.wait(20)
        os.close(read)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert len(rows_of((photos / "rows.partial.csv").read_text())) == 3


def test_rows_are_in_the_file_at_once_and_whole(tmp_path):
    """Whatever ends the process, what is done is kept; a carriage return in a name is no end of a row."""
    names = ("a.jpg", "site A\r/1.jpg", "b.jpg")
    with results.written_to(tmp_path / "a.csv", top_k=1) as write:
        for index, name in enumerate(names):
            write(Result(index=index, source=name, refusal=ImageUnreadable("no image")))
            with (tmp_path / "a.partial.csv").open(newline="") as file:
                assert [row["path"] for row in csv.DictReader(file)] == list(names[: index + 1])


def test_a_server_lost_half_way_leaves_a_row_for_each_image(running, photos, trapline):
    """What is left is UNAVAILABLE, the reason is said once, and the exit code is 1."""
    running.script.down_after = 5
    common = ("--server", running.address, "--model", "fox", "--window", 1, "--timeout-seconds", 0.4)
    code, stdout, stderr = trapline("classify", photos, *common)
    assert code == 1
    assert [row["status"] for row in rows_of(stdout)] == ["ok"] * 5 + ["UNAVAILABLE"] * 7
    assert stderr.count(f"cannot reach the server at {running.address}") == 1


def test_no_server_and_no_such_model_are_sentences(running, nobody, photos, trapline):
    """Exit 1 with one sentence that says what to do; an --out that was there stays as it was."""
    out = photos / "rows.csv"
    out.write_text("an earlier job's")
    common = ("--out", out, "--timeout-seconds", 0.3)
    code, _, stderr = trapline("classify", photos, "--server", nobody, "--model", "fox", *common)
    assert code == 1
    assert f"error: cannot reach the server at {nobody} (Connection refused); start one with `server run`" in stderr
    code, _, stderr = trapline("classify", photos, "--server", running.address, "--model", "owl", *common)
    assert code == 1
    assert "error: models/owl is not served; see `trapline models`" in stderr
    assert out.read_text() == "an earlier job's"
    assert trapline("models", "--server", nobody, "--timeout-seconds", 0.3)[0] == 1
    assert trapline("reload", "fox", "--server", nobody, "--timeout-seconds", 0.3)[0] == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tpyo"], "nothing is there under tpyo"),
        (["."], "no images there (1 other files skipped)"),
        (["fox.txt", "--out", "rows.xlsx"], "must end in .csv or .json"),
        (["fox.txt", "--out", "nowhere/rows.csv"], "there is no folder nowhere"),
        (["fox.txt", "--out", "folder.csv"], "folder.csv is a folder"),
        (["fox.txt", "--server", "nowhere"], "--server: must be HOST:PORT"),
        (["fox.txt", "--window", "0"], "--window: must be greater than or equal to 1"),
        (["fox.txt", "--model", "Red fox"], "--model: the model id 'Red fox' must have"),
        (["fox.txt", "--timeout-seconds", "inf"], "--timeout-seconds: must be less than or equal to 86400"),
        ([], "PATHS"),
    ],
)
def test_usage_errors_exit_2(trapline, tmp_path, monkeypatch, arguments, sentence):
    """What is wrong with the command line is said before any server is asked, with exit 2."""
    monkeypatch.chdir(tmp_path)
    Path("fox.txt").touch()
    Path("folder.csv").mkdir()
    code, _, stderr = trapline("classify", "--model", "fox", *arguments)
    assert code == 2
    assert sentence in stderr


def test_options_come_from_the_environment_too(running, photos, trapline, monkeypatch):
    """Each option has its TRAPLINE_ variable, and only that: a variable JSON is somebody else's."""
    monkeypatch.setenv("TRAPLINE_SERVER", running.address)
    monkeypatch.setenv("TRAPLINE_MODEL", "fox")
    monkeypatch.setenv("TRAPLINE_TOP_K", "1")
    monkeypatch.setenv("JSON", "whatever")
    code, stdout, _ = trapline("classify", photos)
    assert code == 0
    assert "label_1" in stdout
    assert "label_2" not in stdout
    assert trapline("models")[0] == 0


def test_models_is_a_table_or_json(running, trapline):
    """Every page of models, with state, labels, input, accuracy and the last error."""
    code, stdout, _ = trapline("models", "--server", running.address)
    assert code == 0
    assert stdout.splitlines() == [
        "MODEL  VERSION  STATE   LABELS                 INPUT       ACCURACY      LAST ERROR",
        "fox    3        active  3: badger, empty, fox  224×224 px  93.1% of 400  -",
        "hen    -        failed  -                      -           -             model.onnx is no ONNX file",
    ]
    code, stdout, _ = trapline("models", "--server", running.address, "--json")
    assert [model["name"] for model in json.loads(stdout)] == ["models/fox", "models/hen"]
    assert all(0 < seconds < 11 for seconds in running.script.seconds_left)


def test_reload_says_what_is_served(running, trapline):
    """The newest version without --version, else the one named."""
    assert trapline("reload", "fox", "--server", running.address)[:2] == (0, "fox: version 4 is served\n")
    assert "version 2 is" in trapline("reload", "fox", "--server", running.address, "--version", "2")[1]


def test_an_out_that_cannot_be_made_is_a_sentence(running, photos, trapline):
    """Rows that cannot be written end the job with exit 1 and no traceback."""
    out = photos / ("x" * 250 + ".csv")
    code, _, stderr = trapline("classify", photos, "--server", running.address, "--model", "fox", "--out", out)
    assert code == 1
    assert f"error: cannot write {out} (File name too long); make room, or name another --out" in stderr


def test_a_full_disk_is_a_sentence(running, photos):
    """A disk that fills up half way ends the job with exit 1 and no traceback."""
    command = [script(), "classify", photos, "--server", running.address, "--model", "fox", "--out", photos / "r.json"]
    ended = subprocess.run(
        ["bash", "-c", 'ulimit -f 0; exec "$@"', "bash", *command], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "error: cannot write" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_job_that_fails_ends_its_streams_at_once(running, photos, trapline, monkeypatch):
    """What cannot be written ends the job whole: nothing of it waits for the collector or the interpreter's end."""
    begun, classify_many = [], Classifier.classify_many

    def noted(*arguments, **options):
        begun.append(classify_many(*arguments, **options))
        return begun[-1]

    def full(_result):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Classifier, "classify_many", noted)
    monkeypatch.setattr(results, "row_of", full)
    command = ("classify", photos, "--server", running.address, "--model", "fox", "--out", photos / "r.csv")
    code, _, stderr = trapline(*command)
    assert code == 1
    assert "No space left on device" in stderr
    assert [job.gi_frame for job in begun] == [None]  # closed


@pytest.mark.parametrize("words", [("--help",), ("models", "--server", "127.0.0.1:1")])
def test_the_script_ends_without_the_interpreters_end(words):
    """What would hold that up, a lock of gRPC's or (here) a slow exit handler, is not waited for; output is whole."""
    program = (
        "import atexit, sys, time; atexit.register(time.sleep, 600); from clients.cli import main; "
        "sys.argv[0] = 'trapline'; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60, check=False
    )
    if words[0] == "--help":
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "classify" in ended.stdout
        assert ended.stdout.endswith("tells a verb's options.\n")
    else:
        assert ended.returncode == 1
        assert "127.0.0.1:1" in ended.stderr


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [("KeyboardInterrupt", 130, ""), ("RuntimeError('odd')", 1, "RuntimeError: odd"), ("SystemExit(143)", 143, "")],
)
def test_whatever_escapes_ends_without_the_interpreters_end(raised, code, said):
    """A second Ctrl-C in silence, a fault of ours with its traceback."""
    program = f"""if True:
        import atexit, time
        atexit.register(time.sleep, 600)
        from clients import cli
        def escape(*_): raise {raised}
        cli.command_line.main = escape
        cli.main()"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == code
    assert ended.stderr.splitlines()[-1:] == ([said] if said else [])


def test_plain_progress_lines_tell_the_time_left(capsys):
    """Without a terminal, lines say how far the job is, how fast, and how long it will take; few failures are told."""
    with progress.shown(60, bar=False, every_seconds=0) as (tally, show):
        for index in range(60):
            refusal = ImageUnreadable("no image") if index < 30 else None
            show(Result(index=index, source=f"{index}.jpg", refusal=refusal))
    stderr = capsys.readouterr().err
    assert "1 of 60 images, 1 INVALID_ARGUMENT" in stderr
    assert "s left" in stderr
    assert stderr.count("no image") == progress.MOST_TOLD
    assert stderr.count("more images failed") == 1
    assert tally.sentence().startswith("60 of 60 images, 30 INVALID_ARGUMENT")


def script():
    return Path(sys.executable).with_name("trapline")
