import itertools
import re
import threading
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.connection import ServerUnreachable
from clients.train_files import FileNotFetched
from clients.train_jobs import TrainJobs
from clients.train_watch import together
from trapline.errors import InternalError, Refusal, RequestInvalid, ShuttingDown
from trapline.train_errors import (
    ArtifactNotFound,
    DatasetInvalid,
    TrainCapacity,
    TrainJobExists,
    TrainJobNotFound,
    TrainJobWrongState,
)
from trapline.v1.train_pb2 import TrainConfig, TrainJob, TrainProgress

#: Ids that no two examples of one test share.
IDS = (f"job-{number}" for number in itertools.count())


@pytest.fixture(name="jobs")
def _jobs(address):
    with TrainJobs(address, timeout_seconds=20) as jobs:
        yield jobs


def test_create_sends_what_was_given_and_nothing_else(service, jobs, monkeypatch):
    """Options travel under their names with their values; defaults and the environment stay at home."""
    monkeypatch.setenv("SEED", "no number")
    job = jobs.create(
        "foxes/2024", model_id="fox", recipe="flowers", epochs="7", learning_rate=0.001, fit="auto", ema=False
    )
    assert job.name == "trainJobs/picked-0"
    (request,) = service.requests["create"]
    assert request.train_job.config == TrainConfig(
        dataset="foxes/2024",
        model_id="fox",
        recipe="flowers",
        epochs=7,
        learning_rate="0.001",
        fit=TrainConfig.FIT_AUTO,
        ema=False,
    )
    assert re.fullmatch(r"[0-9a-f-]{36}", request.request_id)
    assert not request.validate_only


def test_options_are_checked_before_anything_is_sent(service, jobs):
    """A bad value, an unknown name and a contradiction are refused here, each named."""
    with pytest.raises(RequestInvalid) as bad:
        jobs.create("foxes", epochs=-1, epoch=3, learning_rate="fast")
    assert bad.value.violations == {
        "epochs": "must be greater than or equal to 0",
        "epoch": "is no option of a run",
        "learning_rate": "must be a valid number, unable to parse string as a number or must be 'auto'",
    }
    with pytest.raises(RequestInvalid, match="--groups and --group-by contradict each other"):
        jobs.create("foxes", groups="groups.csv", group_by="exif")
    with pytest.raises(RequestInvalid, match="the model id 'Red fox' must have"):
        jobs.create("foxes", model_id="Red fox")
    assert not service.requests


def test_what_a_recipe_may_change_is_left_to_the_service(service, jobs):
    """With a recipe, options that contradict defaults only are sent; one that can never be right is not."""
    jobs.create("foxes", recipe="flowers", test_share=0.85)
    assert service.requests["create"][0].train_job.config.test_share == 0.85
    with pytest.raises(RequestInvalid, match="test_share"):
        jobs.create("foxes", recipe="flowers", test_share=1)


def test_create_makes_one_job_however_many_answers_are_lost(service, jobs):
    """Every attempt has the same request id, so lost answers leave one job, and the caller has it."""
    service.lost["create"] = 3
    service.refusals["create"] = [ShuttingDown("the service is stopping", retry_seconds=0.01)]
    job = jobs.create("foxes")
    assert len(service.requests["create"]) == 5
    assert len({request.request_id for request in service.requests["create"]}) == 1
    assert list(service.runs) == [job.name]
    jobs.create("foxes")
    assert len(service.runs) == 2


def test_validate_only_queues_nothing(service, jobs):
    """The job that would be comes back without a name."""
    assert jobs.create("foxes", validate_only=True).config.dataset == "foxes"
    assert not service.runs


@pytest.mark.parametrize(
    "refusal",
    [
        DatasetInvalid("no folder foxes", violations={"train_job.config.dataset": "is not there"}),
        TrainCapacity("100 jobs are pending; come back", retry_seconds=3600, limit=100),
        InternalError("internal error"),
    ],
)
def test_refusals_have_their_classes(service, jobs, refusal):
    """What the service refuses is raised as the class of its reason, at once where waiting is of no use."""
    service.refusals["create"] = [refusal]
    with pytest.raises(type(refusal), match=refusal.message) as raised:
        jobs.create("foxes")
    assert raised.value.violations == refusal.violations
    assert len(service.requests["create"]) == 1


def test_jobs_have_three_names(service, jobs):
    """An id, a resource name and a job itself name the same."""
    service.add("fox")
    job = jobs.get("fox")
    assert job == jobs.get("trainJobs/fox") == jobs.get(job)
    with pytest.raises(TrainJobExists):
        jobs.create("foxes", job_id="fox")
    for method in (jobs.get, jobs.cancel, jobs.delete, jobs.wait, jobs.artifacts, lambda job: list(jobs.watch(job))):
        with pytest.raises(TrainJobNotFound, match="there is no job trainJobs/owl"):
            method("owl")


@pytest.mark.parametrize("page_size", [0, 1, 5, 200])
def test_list_goes_over_all_pages(service, jobs, page_size):
    """Every job comes once, newest first; states are asked for on every page."""
    for number in range(5):
        service.add(f"fox-{number}", TrainJob.STATE_RUNNING if number % 2 else TrainJob.STATE_PENDING)
    assert [job.name[-1] for job in jobs.list(page_size=page_size)] == list("43210")
    assert [job.name[-1] for job in jobs.list(states=["pending"], page_size=page_size)] == list("420")
    assert [job.name[-1] for job in jobs.list(states=["running", "pending"], page_size=page_size)] == list("43210")
    assert {request.page_size for request in service.requests["list"]} == {page_size}


def test_cancel_and_delete(service, jobs):
    """A pending job ends at once, a running one is asked to; only what has ended can be deleted."""
    service.add("fox")
    service.add("hen", TrainJob.STATE_RUNNING)
    service.finished("owl")
    assert jobs.cancel("fox").state == jobs.cancel("fox").state == TrainJob.STATE_CANCELLED
    assert jobs.cancel("hen").HasField("cancel_time")
    with pytest.raises(TrainJobWrongState):
        jobs.cancel("owl")
    with pytest.raises(TrainJobWrongState):
        jobs.delete("hen")
    service.lost["delete"] = 1
    jobs.delete("owl")
    assert list(service.runs) == ["trainJobs/fox", "trainJobs/hen"]
    with pytest.raises(TrainJobNotFound):
        jobs.delete("owl")


drops = st.lists(st.integers(0, 13), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drops=drops, after=st.integers(0, 11))
def test_watch_has_each_event_once(service, jobs, drops, after):
    """Wherever the stream breaks, and however often: the job once, then each event after the one given, in order."""
    job_id = next(IDS)
    service.finished(job_id)
    service.drops = list(drops)
    first, *events = jobs.watch(job_id, after_sequence=after)
    assert first.train_job.name == f"trainJobs/{job_id}"
    assert first.sequence == after
    assert events == service.runs[f"trainJobs/{job_id}"].events[after:]


def test_watch_follows_a_job_while_it_runs(service, jobs):
    """Events come as they happen, to several watchers at a time; leaving one does not touch the job."""
    service.add("fox")
    left, stays = jobs.watch("fox"), jobs.watch("fox")
    assert next(left).train_job.state == next(stays).train_job.state == TrainJob.STATE_PENDING
    assert next(left).sequence == next(stays).sequence == 1
    service.tell("fox", sentence="400 images")
    assert next(left).sentence == next(stays).sentence == "400 images"
    left.close()
    service.move("fox", TrainJob.STATE_FAILED)
    assert [event.train_job.state for event in stays] == [TrainJob.STATE_FAILED]
    assert not service.requests["cancel"]


def test_watch_survives_a_restart_of_the_service(service, serve):
    """A service that goes and comes back at the same address, twice, costs a watcher nothing."""
    server, address = serve(service)
    service.add("fox")
    with TrainJobs(address, lost_seconds=60) as jobs:
        events = jobs.watch("fox")
        seen = [next(events).sequence, next(events).sequence]
        for _ in range(2):
            server.stop(0).wait()
            service.tell("fox", sentence="told while it was away")
            server, _ = serve(service, address)
            seen.append(next(events).sequence)
        service.move("fox", TrainJob.STATE_SUCCEEDED)
        seen += [event.sequence for event in events]
    server.stop(0).wait()
    assert seen == [0, 1, 2, 3, 4]


def test_watch_takes_a_drain_for_a_pause(service, jobs):
    """SHUTTING_DOWN, and a stream that ends too early, are waited out; another refusal is final."""
    service.finished("fox")
    service.refusals["watch"] = [ShuttingDown("it stops", retry_seconds=0.01)] * 2
    assert len(list(jobs.watch("fox"))) == 1 + len(service.runs["trainJobs/fox"].events)
    service.refusals["watch"] = [InternalError("internal error")]
    with pytest.raises(InternalError):
        list(jobs.watch("fox"))


def test_events_of_a_kind_that_is_not_known_are_passed_over(service, jobs):
    """They are not given to the caller, and not asked for again."""
    service.add("fox")
    service.tell("fox")
    service.move("fox", TrainJob.STATE_SUCCEEDED)
    service.drops = [3]
    assert [event.sequence for event in jobs.watch("fox")] == [0, 1, 3]
    assert [request.after_sequence for request in service.requests["watch"]] == [0, 2]


def test_a_lost_service_is_given_up_after_the_stated_time(service, serve):
    """Without contact for `lost_seconds`, watching ends with a sentence; so does a stream that never gets anywhere."""
    server, address = serve(service)
    service.add("fox")
    with TrainJobs(address, lost_seconds=0.5) as jobs:
        events = jobs.watch("fox")
        next(events)
        server.stop(0).wait()
        with pytest.raises(ServerUnreachable, match=r"start one with `trainer serve`"):
            list(events)
    server, address = serve(service)
    service.drops = [1] * 100_000
    with TrainJobs(address, lost_seconds=0.5) as jobs, pytest.raises(Refusal):
        list(jobs.watch("fox"))
    server.stop(0).wait()


def test_a_service_that_has_answered_is_waited_for(service, address, jobs, tmp_path, monkeypatch):
    """Each file and each watch, too, after a first answer: a restart between them is waited out for `lost_seconds`."""
    monkeypatch.setattr("clients.resuming.START_SECONDS", 0.0)
    service.finished("fox").files = {"a.txt": b"a", "b.txt": b"b"}
    service.refusals["read"] = [ShuttingDown("it stops")] * 2
    service.refusals["watch"] = [ShuttingDown("it stops")] * 2
    with TrainJobs(address) as stranger, pytest.raises(ShuttingDown):
        list(stranger.watch("fox"))
    assert len(jobs.fetch("fox", tmp_path)) == 2
    assert next(jobs.watch("fox")).train_job.name == "trainJobs/fox"


def test_nobody_there_is_a_sentence(nobody):
    """Every call says how to start a service."""
    with TrainJobs(nobody, timeout_seconds=0.3, lost_seconds=0.3) as jobs:
        for call in (lambda: jobs.create("foxes"), lambda: jobs.wait("fox"), lambda: list(jobs.watch("fox"))):
            with pytest.raises(ServerUnreachable, match=rf"cannot reach the server at {nobody}.*`trainer serve`"):
                call()


def test_a_server_of_another_kind_is_a_sentence(running):
    """A server that classifies says so when it is asked to train."""
    with TrainJobs(running.address) as jobs, pytest.raises(Refusal, match="was not started with `trainer serve`"):
        jobs.get("fox")


def test_times_must_be_positive(nobody):
    """A time of nothing, or without end, is refused."""
    for times in ({"timeout_seconds": 0}, {"lost_seconds": float("inf")}):
        with pytest.raises(RequestInvalid, match=next(iter(times))):
            TrainJobs(nobody, **times)


def test_wait_gives_the_job_at_its_end(service, jobs):
    """It returns at once for a job that has ended, and else once it does, asking for no old event."""
    service.finished("fox")
    assert jobs.wait("fox").result == "right on 93.1%"
    assert not service.requests["watch"]
    service.add("hen")
    ended = threading.Thread(target=lambda: (service.wait_for("watch"), service.move("hen", TrainJob.STATE_FAILED)))
    ended.start()
    assert jobs.wait("hen").state == TrainJob.STATE_FAILED
    ended.join()
    assert service.requests["watch"][0].after_sequence == 1


def test_several_watches_are_one(service, jobs):
    """Events of several jobs come under their keys, each job's in order; one that fails does not end the others."""
    service.finished("fox")
    service.finished("hen")
    told = list(together({key: jobs.watch(key) for key in ("fox", "hen", "owl")}))
    for key in ("fox", "hen"):
        events = service.runs[f"trainJobs/{key}"].events
        assert [event.sequence for each, event in told if each == key] == [0, *(event.sequence for event in events)]
    assert [type(event) for key, event in told if key == "owl"] == [TrainJobNotFound]


FILES = {"model.onnx": bytes(range(50)), "metrics.json": b"{}", "plots/curves.png": b"a picture", "empty.txt": b""}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drops=st.lists(st.integers(0, 14), max_size=8))
def test_fetch_resumes_where_it_was(service, jobs, tmp_path, drops):
    """Wherever the connection breaks, the files are whole, and no byte is asked for twice."""
    job_id = next(IDS)
    service.finished(job_id).files = dict(FILES)
    service.drops = list(drops)
    out = tmp_path / job_id
    places = jobs.fetch(job_id, out)
    assert {place.relative_to(out).as_posix(): place.read_bytes() for place in places} == FILES
    assert {path for path in out.rglob("*") if path.is_file()} == set(places)
    reads = [request for request in service.requests["read"] if request.parent.endswith(f"/{job_id}")]
    for path, content in FILES.items():
        offsets = [request.offset for request in reads if request.path == path]
        assert offsets == sorted(offsets)
        assert offsets[-1] <= len(content)


def test_fetch_takes_files_and_folders_by_path(service, jobs, tmp_path):
    """Only what is named is taken, one that is not there is a sentence, and what was there before is replaced."""
    service.finished("fox").files = dict(FILES)
    (tmp_path / "metrics.json").write_text("an older one")
    seen = []
    places = jobs.fetch(
        "fox", tmp_path, ["metrics.json", "plots"], show=lambda file, count: seen.append((file.path, count))
    )
    assert places == (tmp_path / "metrics.json", tmp_path / "plots" / "curves.png")
    assert (tmp_path / "metrics.json").read_bytes() == b"{}"
    assert seen == [("metrics.json", 2), ("plots/curves.png", 4), ("plots/curves.png", 8), ("plots/curves.png", 9)]
    with pytest.raises(ArtifactNotFound, match=r"the job has no file model\.pt"):
        jobs.fetch("fox", tmp_path, ["model.onnx", "model.pt"])
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("damage", ["digest", "too long", "changed"])
def test_a_file_that_arrives_damaged_is_not_kept(service, jobs, tmp_path, damage, monkeypatch):
    """What is there has the digest that the service says, or stays what it was."""
    run = service.finished("fox")
    run.files = {"model.onnx": b"sixteen bytes..."}
    (tmp_path / "model.onnx").write_text("an older one")
    if damage == "digest":
        run.digests = {"model.onnx": "0" * 64}
    elif damage == "too long":
        described = service._described
        monkeypatch.setattr(service, "_described", lambda run, path: _shortened(described(run, path)))
    else:
        service.drops = [2]
        monkeypatch.setattr(
            service, "_begin", lambda *_: run.files.update({"model.onnx": run.files["model.onnx"][::-1]})
        )
    with pytest.raises(FileNotFetched, match="fetch it again"):
        jobs.fetch("fox", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "an older one"


def _shortened(artifact):
    artifact.byte_count = 3
    return artifact


HOSTILE = [
    "", "/etc/passwd", "../out.txt", "plots/../../out.txt", ".", "..", "plots/", "/", "plots//x", "./x", "x\0y", "a\nb",
    "plots\\..\\x", "\x1b[31mred", "link/x", "link", "link/deep/x", "file/x", "folder", "two",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_a_hostile_path_writes_nothing(service, jobs, tmp_path, path):
    """A path that leads out of the folder, or through a link, is refused before the first file is written."""
    out, outside = tmp_path / "out", tmp_path / "outside"
    outside.mkdir()
    (out / "folder").mkdir(parents=True)
    (out / "link").symlink_to(outside)
    (out / "file").write_text("a file")
    run = service.finished("fox")
    run.files = {"good.txt": b"good", path: b"bad"}
    run.listed = ["good.txt", path, *(["two"] if path == "two" else [])]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileNotFetched):
        jobs.fetch("fox", out)
    assert sorted(tmp_path.rglob("*")) == before
    assert not service.requests["read"]


def test_a_file_and_a_folder_of_one_name_are_refused(service, jobs, tmp_path):
    """Nothing is written where the paths contradict each other."""
    run = service.finished("fox")
    run.files = {"a": b"", "a/b": b""}
    with pytest.raises(FileNotFetched, match="name another folder"):
        jobs.fetch("fox", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_a_link_is_replaced_and_not_followed(service, jobs, tmp_path):
    """What the link led to stays as it was."""
    (tmp_path / "kept.txt").write_text("kept")
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.onnx").symlink_to(tmp_path / "kept.txt")
    service.finished("fox").files = {"model.onnx": b"new"}
    jobs.fetch("fox", out)
    assert (tmp_path / "kept.txt").read_text() == "kept"
    assert (out / "model.onnx").read_bytes() == b"new"
    assert not (out / "model.onnx").is_symlink()


def test_a_file_that_cannot_be_written_is_a_sentence(service, jobs, tmp_path):
    """A name that is too long for the disk, or an out that is a file, is told with its place."""
    service.finished("fox").files = {"x" * 300: b"long"}
    with pytest.raises(FileNotFetched, match="File name too long"):
        jobs.fetch("fox", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFetched, match="cannot write"):
        jobs.fetch("fox", tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_token_goes_with_every_call(service, address, monkeypatch, tmp_path):
    """Unary calls and streams carry the token, and an id of the call."""
    seen = []
    monkeypatch.setattr(service, "_begin", lambda method, _request, context: seen.append((method, _metadata(context))))
    monkeypatch.setenv("TRAPLINE_TOKEN", "swordfish-swordfish-swordfish-swordfish")
    service.finished("fox").files = {"a.txt": b"a"}
    with TrainJobs(address) as with_token:
        with_token.fetch("fox", tmp_path)
        list(with_token.watch("fox"))
    assert [method for method, _ in seen] == ["artifacts", "read", "watch"]
    assert all("swordfish" in metadata["authorization"] and metadata["x-request-id"] for _, metadata in seen)


def _metadata(context: grpc.ServicerContext) -> dict:
    return dict(context.invocation_metadata())


def test_the_example_of_the_page_runs(service, address, capsys, monkeypatch, tmp_path):
    """The ten lines of docs/clients.md train, tell and fetch."""
    text = (Path(__file__).parents[3] / "docs" / "clients.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "TrainJobs(" in block]
    assert len(code.splitlines()) <= 11
    monkeypatch.chdir(tmp_path)
    train = threading.Thread(target=_train, args=(service,))
    train.start()
    exec(compile(code.replace("127.0.0.1:50052", address), "docs/clients.md", "exec"), {})
    train.join()
    assert capsys.readouterr().out == "400 images\nright on 93.1%\n"
    assert (tmp_path / "flowers-run" / "model.onnx").read_bytes() == b"a model"
    assert [path.name for path in (tmp_path / "flowers-run").iterdir()] == ["model.onnx"]


def _train(service):
    """Trains the job that is created, in a manner of speaking."""
    service.wait_for("watch")
    (job_id,) = [name.removeprefix("trainJobs/") for name in service.runs]
    service.runs[f"trainJobs/{job_id}"].files = {"model.onnx": b"a model", "plots/curves.png": b"a picture"}
    service.move(job_id, TrainJob.STATE_RUNNING)
    service.tell(job_id, sentence="400 images")
    service.tell(job_id, progress=TrainProgress(phase="scan", done=1, total=2))
    service.move(job_id, TrainJob.STATE_SUCCEEDED, result="right on 93.1%")
