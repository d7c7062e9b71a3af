import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from clients.train_words import json_of, progress_in_words
from trapline.errors import RequestInvalid
from trapline.run_choices import RunChoices
from trapline.train_config import to_message
from trapline.train_errors import DatasetInvalid, TrainCapacity
from trapline.v1.train_pb2 import TrainConfig, TrainJob, TrainProgress


@pytest.fixture(name="train")
def _train(trapline, address):
    """Runs `trapline train VERB ...` against the service; gives exit code, standard output and standard error."""
    return lambda verb, *arguments: trapline("train", verb, *arguments, "--server", address)


#: A value for each option of a run, as it is typed and as it is sent.
OPTIONS = {
    "backbone": "resnet50", "weights": "auto", "image_px": 64, "fit": "letterbox", "batch_size": 8, "seed": 7,
    "val_share": 0.2, "test_share": 0.1, "groups": "groups.csv", "balance": "loss", "optimizer": "adam",
    "weight_decay": 0.1, "earliest_rate": 0.5, "label_smoothing": 0.1, "augment": "camera_trap",
    "rotation_degrees": 10.0, "mixup": 0.2, "cutmix": 0.3, "views": 1, "epochs": 0, "learning_rate": 0.001,
    "schedule": "constant", "ema": False, "patience": 4, "target_precision": 0.9, "refit": "all", "images": False,
    "model_id": "fox", "promote": "never",
}  # fmt: skip


def flags_of(options):
    words = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        words += [f"--no-{flag}"] if value is False else [f"--{flag}", value]
    return words


def test_every_option_of_a_run_can_be_submitted(service, train):
    """Each flag arrives as its field; group_by, which contradicts groups, by itself."""
    assert set(OPTIONS) | {"group_by"} == set(RunChoices.model_fields)
    code, stdout, stderr = train("submit", "foxes", *flags_of(OPTIONS), "--recipe", "flowers", "--job-id", "fox-1")
    assert (code, stdout) == (0, "fox-1\n")
    assert re.fullmatch(r"follow it with `trapline train watch fox-1 --server [\d.:]+`\n", stderr)
    assert train("submit", "foxes", "--group-by", "exif")[0] == 0
    first, second = [request.train_job.config for request in service.requests["create"]]
    assert first == to_message("foxes", OPTIONS, recipe="flowers")
    assert second == TrainConfig(dataset="foxes", group_by=TrainConfig.GROUP_BY_EXIF)


def test_only_what_is_given_is_sent(service, train, tmp_path, monkeypatch):
    """A default typed out is sent, one that is not is not; flags win over the environment, that over the file."""
    train("submit", "foxes")
    train("submit", "foxes", "--epochs", 3, "--ema")
    (tmp_path / "run.yaml").write_text("epochs: 4\nseed: 4\nviews: 4\nlearning-rate: auto\n")
    monkeypatch.setenv("TRAPLINE_SEED", "5")
    monkeypatch.setenv("TRAPLINE_VIEWS", "5")
    train("submit", "foxes", "--config", tmp_path / "run.yaml", "--views", 6)
    sent = [request.train_job.config for request in service.requests["create"]]
    assert sent == [
        TrainConfig(dataset="foxes"),
        TrainConfig(dataset="foxes", epochs=3, ema=True),
        TrainConfig(dataset="foxes", epochs=4, seed=5, views=6, learning_rate="auto"),
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "DATASET"),
        (["foxes", "--epochs", "-1"], "--epochs: must be greater than or equal to 0"),
        (["foxes", "--fit", "tight"], "--fit: must be 'stretch'"),
        (["foxes", "--model-id", "Red fox"], "--model-id: the model id 'Red fox' must have"),
        (["foxes", "--groups", "g.csv", "--group-by", "name"], "--groups and --group-by contradict each other"),
        (["foxes", "--server", "nowhere"], "--server: must be HOST:PORT"),
        (["foxes", "--config", "nowhere.yaml"], "--config: cannot read nowhere.yaml"),
        (["foxes", "--tls-cert", "c.pem"], "--tls-cert and --tls-key belong together"),
    ],
)
def test_usage_errors_of_submit_exit_2(service, trapline, arguments, sentence):
    """What is wrong with the command line is said before the service is asked."""
    code, _, stderr = trapline("train", "submit", *arguments)
    assert code == 2
    assert sentence in stderr
    assert not service.requests


def test_a_bad_request_names_the_flags(service, train):
    """What the service finds wrong with a field is told under the option's name, with exit 2."""
    violations = {
        "train_job.config.dataset": "is not there",
        "train_job.config.image_px": "is too large for this machine",
        "train_job_id": "must begin with a letter",
        "train_job.config": "--val-share and --test-share leave too little",
        "page_size": "is odd",
    }
    service.refusals["create"] = [
        RequestInvalid("two fields are bad", violations=violations),
        DatasetInvalid("no such folder", violations={"train_job.config.dataset": "is no folder of classes"}),
        TrainCapacity("100 jobs are pending; come back later", retry_seconds=3600),
    ]
    assert train("submit", "foxes")[::2] == (
        2,
        "trapline train submit: error: DATASET: is not there; --image-px: is too large for this machine; "
        "--job-id: must begin with a letter; --val-share and --test-share leave too little; is odd\n",
    )
    assert train("submit", "foxes")[::2] == (2, "trapline train submit: error: DATASET: is no folder of classes\n")
    code, _, stderr = train("submit", "foxes")
    assert (code, stderr) == (1, "trapline train submit: error: 100 jobs are pending; come back later\n")


def test_validate_only_says_so(service, train):
    """Nothing is queued, and nothing but a sentence is printed."""
    code, stdout, stderr = train("submit", "foxes", "--validate-only")
    assert (code, stdout, stderr) == (0, "", "foxes can be trained on so; nothing was queued\n")
    assert not service.runs


def test_list_is_a_table_or_json(service, train):
    """All pages, newest first: a row each, or one array of protobuf JSON and nothing else."""
    assert train("list") == (0, "", "no jobs; create one with `trapline train submit DATASET`\n")
    assert train("list", "--json") == (0, "[]\n", "")
    service.finished("fox")
    failed = service.add("hen", TrainJob.STATE_FAILED, config=TrainConfig(dataset="hens", model_id="hen"))
    failed.job.error.message = "the\ndisk " + "is full " * 20
    progress = TrainProgress(phase="fine-tune", done=12, total=1400)
    service.add("owl", TrainJob.STATE_RUNNING, config=TrainConfig(dataset="owls"), progress=progress)
    service.add("cat", TrainJob.STATE_PENDING, config=TrainConfig(dataset="cats"), queue_position=2)
    service.add("elk", 17, config=TrainConfig(dataset="elks"))
    code, stdout, stderr = train("list")
    assert (code, stderr) == (0, "")
    rows = [re.split(r"  +", line) for line in stdout.splitlines()]
    assert [row[:4] + row[5:] for row in rows] == [
        ["JOB", "STATE", "DATASET", "MODEL", "HOW FAR"],
        ["elk", "17", "elks", "-", "-"],
        ["cat", "pending", "cats", "-", "2 before it"],
        ["owl", "running", "owls", "-", "fine-tune 12/1,400"],
        ["hen", "failed", "hens", "hen", "the disk is full is full is full is full is full is full is ..."],
        ["fox", "succeeded", "foxes", "-", "93.1% of 400"],
    ]
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", row[4]) for row in rows[1:])
    code, stdout, stderr = train("list", "--json", "--state", "failed,running", "--state", "pending")
    assert (code, stderr) == (0, "")
    assert [job["name"] for job in json.loads(stdout)] == [f"trainJobs/{name}" for name in ("cat", "owl", "hen")]
    assert train("list", "--state", "cancelled")[2] == "no such jobs\n"
    assert "--state: must be 'pending'" in train("list", "--state", "lost")[2]


def test_json_leaves_out_details_that_are_not_known():
    """A detail of an error that only newer clients know does not spoil the rest."""
    job = TrainJob(name="trainJobs/fox")
    job.error.message = "no"
    job.error.details.add(type_url="type.example/trapline.v9.Unknown", value=b"x")
    assert json_of(job) == {"name": "trainJobs/fox", "error": {"message": "no"}}


def test_progress_is_told_in_units_that_fit():
    """Slow phases go by the minute; what cannot be told yet, or is over, is left out."""
    slow = TrainProgress(phase="fine-tune", done=6, total=40, per_second=0.03, figures="epoch 6 of 40")
    slow.remaining.FromSeconds(1080)
    assert progress_in_words(slow) == "fine-tune 6/40, epoch 6 of 40, 1.8/min, about 18 min left"
    assert progress_in_words(TrainProgress(phase="scan", total=5000)) == "scan 0/5,000"
    slow.done = 40
    assert progress_in_words(slow) == "fine-tune 40/40, epoch 6 of 40, 1.8/min"


def test_a_job_that_has_ended_is_told_from_its_beginning(service, train):
    """Watched again, its end is told last and once; one that has no events is told as it stands."""
    service.finished("fox", sentences=1)
    assert [line for line in train("watch", "fox")[2].splitlines() if "fox" in line] == [
        "fox: pending",
        "fox: running",
        "fox: succeeded",
    ]
    hen = service.add("hen", TrainJob.STATE_CANCELLED)
    hen.events.clear()
    hen.job.last_sequence = 0
    assert train("watch", "hen") == (1, "", "hen: cancelled\n")


def test_show_tells_all_of_a_job(service, train):
    """Options, times, figures, what was published, the result; --json has the message itself."""
    run = service.finished("fox")
    run.job.config.MergeFrom(TrainConfig(dataset="foxes", recipe="flowers", epochs=3, learning_rate="auto"))
    run.job.attempt_count = 2
    run.job.start_time.FromSeconds(1_000_000)
    run.job.end_time.FromSeconds(1_000_065)
    run.job.publication.model_id, run.job.publication.version = "fox", "3"
    run.job.publication.reason = "it is right on 4 more photos"
    run.job.result = "right on 93.1%\nsee run/report.html"
    code, stdout, stderr = train("show", "trainJobs/fox")
    assert (code, stderr) == (0, "")
    told = [line for line in stdout.splitlines() if not re.match("created|started|ended", line)]
    assert told == [
        "job        fox",
        "state      succeeded after 65 s",
        "dataset    foxes",
        "options    recipe flowers, epochs 3, learning_rate auto",
        "attempts   2",
        "test       93.1% of 400",
        "published  fox, version 3: it is right on 4 more photos",
        "result     right on 93.1%",
        "           see run/report.html",
    ]
    assert json.loads(train("show", "fox", "--json")[1])["evaluation"]["imageCount"] == "400"


@pytest.mark.parametrize("verb", ["show", "watch", "cancel", "delete", "fetch"])
def test_a_job_that_is_not_there_is_a_sentence(service, train, verb, tmp_path):
    """Exit 1 with the service's sentence; a name that can be none is a usage error."""
    out = ("--out", tmp_path) if verb == "fetch" else ()
    assert train(verb, "owl", *out) == (1, "", f"trapline train {verb}: error: there is no job trainJobs/owl\n")
    code, _, stderr = train(verb, "../owl", *out)
    assert code == 2
    assert "must be a job's id, as `trapline train list` lists it" in stderr
    assert verb not in service.requests or verb in {"cancel", "delete"}


def test_cancel_and_delete(service, train):
    """A sentence each; what cannot be is the service's sentence and exit 1."""
    service.add("fox")
    service.add("hen", TrainJob.STATE_RUNNING)
    assert train("cancel", "fox") == (0, "", "fox: cancelled\n")
    assert "hen: asked to stop; see it end with `trapline train watch hen --server" in train("cancel", "hen")[2]
    assert "state      running, asked to stop" in train("show", "hen")[1]
    assert train("delete", "fox") == (0, "", "fox: deleted\n")
    code, _, stderr = train("delete", "hen")
    assert (code, stderr) == (1, "trapline train delete: error: trainJobs/hen has not ended; cancel it first\n")


def test_fetch_prints_where_the_files_are(service, train, tmp_path):
    """All files, or those of --path; a hostile path of the service's is a sentence, exit 1, and no file."""
    run = service.finished("fox")
    run.files = {"model.onnx": b"a model", "plots/a.png": b"a", "plots/b.png": b"b"}
    out = tmp_path / "out"
    assert train("fetch", "fox", "--out", out, "--path", "plots")[:2] == (0, f"{out}/plots/a.png\n{out}/plots/b.png\n")
    assert train("fetch", "fox", "--out", out)[0] == 0
    assert (out / "model.onnx").read_bytes() == b"a model"
    code, stdout, stderr = train("fetch", "fox", "--out", out, "--path", "model.pt")
    assert (code, stdout) == (1, "")
    assert "error: the job has no file model.pt" in stderr
    run.files["../outside"] = b"x"
    code, _, stderr = train("fetch", "fox", "--out", tmp_path / "again")
    assert code == 1
    assert "error: the service names a file '../outside'" in stderr
    assert not (tmp_path / "again").exists()


def test_submit_watches_in_plain_lines(service, train):
    """Lines tell states, sentences and the end of phases; the result goes to standard output."""
    trained = threading.Thread(target=_trained, args=(service, "fox"))
    trained.start()
    code, stdout, stderr = train("submit", "foxes", "--job-id", "fox", "--watch")
    trained.join()
    assert (code, stdout) == (0, "fox\nright on 93.1%\n")
    assert stderr.splitlines() == [
        "fox: pending",
        "fox: running",
        "400 photos of 2 classes",
        "scan 400/400, 120.0/s",
        "fox: succeeded after 65 s",
    ]


def _trained(service, job_id, state=TrainJob.STATE_SUCCEEDED):
    """Trains the job, in a manner of speaking, once it is watched."""
    service.wait_for("watch")
    service.move(job_id, TrainJob.STATE_RUNNING)
    service.tell(job_id, sentence="400 photos of 2 classes")
    service.tell(job_id, progress=_progress(12))
    service.tell(job_id, progress=_progress(400))
    job = TrainJob()
    job.start_time.FromSeconds(1_000_000)
    job.end_time.FromSeconds(1_000_065)
    service.move(job_id, state, start_time=job.start_time, end_time=job.end_time, result="right on 93.1%")


def _progress(done):
    progress = TrainProgress(phase="scan", done=done, total=400, per_second=120)
    progress.remaining.FromSeconds(3)
    return progress


def test_several_jobs_are_watched_at_once(service, train):
    """Each line names its job; one that fails, or is cancelled, makes the exit code 1 but does not end the others."""
    service.finished("fox", sentences=1)
    service.finished("owl", sentences=1)
    assert train("watch", "owl", "fox", "owl")[:2] == (0, "owl:\nright on 93.1%\nfox:\nright on 93.1%\n")
    failed = service.add("hen", TrainJob.STATE_RUNNING)
    failed.job.error.message = "the disk is full"
    service.move("hen", TrainJob.STATE_FAILED)
    code, stdout, stderr = train("watch", "fox", "hen")
    assert (code, stdout) == (1, "fox:\nright on 93.1%\n")
    assert "hen: failed: the disk is full\n" in stderr
    assert "fox: fact 0\n" in stderr
    assert "fox: scan 1/1\n" in stderr
    service.add("cat")
    service.move("cat", TrainJob.STATE_CANCELLED)
    assert train("watch", "cat")[0] == 1


def test_a_watch_that_is_refused_half_way_is_told(service, train):
    """The others go on to their end, and the exit code is 1."""
    service.finished("fox")
    service.finished("hen")
    service.refusals["watch"] = [RequestInvalid("no more of this")]
    code, stdout, stderr = train("watch", "fox", "hen")
    assert code == 1
    assert "error: no more of this" in stderr
    assert stdout.count("right on 93.1%") == 1


def test_a_terminal_gets_bars(service, address):
    """A bar for each job, with phase, count, rate, time left and figures; sentences above; then the end of each."""
    service.add("fox", TrainJob.STATE_RUNNING)
    service.add("hen", TrainJob.STATE_PENDING, queue_position=3)
    lead, terminal = pty.openpty()
    command = [script(), "train", "watch", "fox", "hen", "--server", address]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "160"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, text=True, env=environment) as process:
        shown = _Shown(lead)
        shown.wait_for("pending, 3 before it")
        service.tell("fox", sentence="400 [bold] photos")
        progress = TrainProgress(
            phase="fine-tune", done=12, total=40, per_second=35.2, figures="epoch 2 of 3, loss 0.41"
        )
        progress.remaining.FromSeconds(800)
        service.tell("fox", progress=progress)
        for part in ("fox: 400 [bold] photos", "fine-tune", "━", "12/40", "35.2/s", "about 13 min left", "loss 0.41"):
            shown.wait_for(part)
        service.move("fox", TrainJob.STATE_SUCCEEDED, result="right on 93.1%")
        shown.wait_for("succeeded")
        service.runs["trainJobs/hen"].job.error.message = "the disk is full"
        service.move("hen", TrainJob.STATE_FAILED)
        shown.wait_for("hen: failed: the disk is full")
        assert process.communicate(timeout=20)[0] == "fox:\nright on 93.1%\n"
    os.close(terminal)
    assert process.returncode == 1


class _Shown:
    """What a terminal has shown, without its colours."""

    def __init__(self, lead):
        self._lead, self._text = lead, ""

    def wait_for(self, part, seconds=20):
        deadline = time.monotonic() + seconds
        while part not in self._text:
            assert time.monotonic() < deadline, f"{part!r} is not in {self._text!r}"
            self._text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._text + os.read(self._lead, 100_000).decode())


@pytest.mark.parametrize("verb", ["submit", "watch"])
def test_ctrl_c_leaves_the_job_running(service, address, verb):
    """Exit 130, how to come back, no traceback, and nobody asked the job to stop."""
    if verb == "watch":
        service.add("fox")
        command = ["watch", "fox"]
    else:
        command = ["submit", "foxes", "--job-id", "fox", "--watch"]
    command = [script(), "train", *command, "--server", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline() == "fox: pending\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr.splitlines() == [
        f"fox: left to go on; come back with `trapline train watch fox --server {address}`",
        f"trapline train {verb}: interrupted",
    ]
    assert service.runs["trainJobs/fox"].job.state == TrainJob.STATE_PENDING
    assert not service.requests["cancel"]


def test_a_service_that_is_lost_is_told_after_its_time(service, serve, trapline):
    """A watch gives up after --lost-seconds, with exit 1 and a sentence that names the address."""
    server, address = serve(service)
    service.add("fox")
    gone = threading.Thread(target=lambda: (service.wait_for("watch"), server.stop(0).wait()))
    gone.start()
    code, stdout, stderr = trapline("train", "watch", "fox", "--server", address, "--lost-seconds", 0.4)
    gone.join()
    assert (code, stdout) == (1, "")
    assert f"error: cannot reach the server at {address}" in stderr
    assert "start one with `trainer serve`" in stderr


def test_nobody_there_is_a_sentence(nobody, trapline):
    """Each verb says how to start a service, with exit 1."""
    for verb in (["list"], ["submit", "foxes"], ["watch", "fox"], ["show", "fox", "--json"]):
        code, stdout, stderr = trapline("train", *verb, "--server", nobody, "--timeout-seconds", 1)
        assert (code, stdout) == (1, "")
        assert f"cannot reach the server at {nobody} (Connection refused); start one with `trainer serve`" in stderr


def test_the_family_has_its_help(trapline):
    """`trapline train --help` lists the verbs; one that is none is a usage error."""
    code, stdout, _ = trapline("train", "--help")
    assert code == 0
    assert [line.split()[0] for line in stdout.splitlines() if line.startswith("  ") and line[2] != "-"] == [
        "submit", "list", "show", "watch", "cancel", "delete", "fetch",
    ]  # fmt: skip
    assert trapline("train", "stop")[0] == 2


def test_help_imports_nothing_slow():
    """The command line is read before gRPC's stubs of jobs, rich or anything of the extras is loaded."""
    code = (
        "import sys, clients.cli\n"
        "assert not {'rich', 'numpy', 'PIL', 'torch', 'trapline.v1.train_pb2_grpc'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def script():
    return Path(sys.executable).with_name("trapline")
