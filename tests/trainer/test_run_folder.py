import json

import pytest

from trainer.errors import TrainerError, UsageError
from trainer.run import recorded
from trainer.run_folder import PLAN_FILE, open_run, write_atomically, write_json
from trainer.study.work import check_folder as study_folder
from trainer.world import World


def test_another_config_is_refused_and_named(tmp_path):
    """A folder of a run with other options is not touched, and the options are named with both values."""
    with open_run(tmp_path / "run", {"epochs": 3, "seed": 0}) as folder:
        folder.set_state("running")
        write_json(folder.path / PLAN_FILE, {})
    with (
        pytest.raises(UsageError, match=r"--epochs was 3, now 4"),
        open_run(tmp_path / "run", {"epochs": 4, "seed": 0}),
    ):
        pass


def test_a_run_that_never_trained_may_be_mended(tmp_path):
    """A run that failed before training, by a misspelt option or unusable photos, begins anew in the same folder."""
    with open_run(tmp_path / "run", {"weights": "wrong.pth"}) as folder:
        folder.set_state("failed", data_digest="old")
    with open_run(tmp_path / "run", {"weights": "right.pth"}) as folder:
        assert folder.state == {"config": {"weights": "right.pth"}}


def test_a_run_that_failed_with_a_plan_may_be_mended_until_it_has_trained(tmp_path):
    """Its advice, a lower rate say, can be followed in its folder; a head, a step or a study is never begun anew."""
    before, after = {"learning_rate": 0.9}, {"learning_rate": 0.1}
    with open_run(tmp_path / "run", before) as folder:
        folder.set_state("failed", split_digest="old")
        write_json(folder.path / PLAN_FILE, {})
        write_json(folder.checkpoint / "best.safetensors", {})
    for file, state, verb in (
        ("head.safetensors", "failed", {}),
        ("progress.safetensors", "failed", {}),
        (None, "interrupted", {}),
        (None, "failed", {"verb": "study"}),
    ):
        write_json(tmp_path / "run" / "state.json", {"config": before | verb, "state": state})
        if file is not None:
            write_json(tmp_path / "run" / "checkpoint" / file, {})
        with pytest.raises(UsageError, match=r"--learning-rate was 0\.9"), open_run(tmp_path / "run", after | verb):
            pass
        if file is not None:
            (tmp_path / "run" / "checkpoint" / file).unlink()
        assert (tmp_path / "run" / PLAN_FILE).is_file()
    write_json(tmp_path / "run" / "state.json", {"config": before, "state": "failed", "split_digest": "old"})
    with open_run(tmp_path / "run", after) as folder:
        assert folder.state == {"config": after}
        assert not (folder.path / PLAN_FILE).exists()


def test_memory_that_runs_out_is_told_in_the_state(tmp_path):
    """Outside of what has a batch size to try: a sentence that says what to do, and the same in the folder."""
    with open_run(tmp_path / "run", {}) as folder:
        with (
            pytest.raises(TrainerError, match=r"not enough memory .* run the same command again") as told,
            recorded(folder, World()),
        ):
            bytes(1 << 62)
        assert (folder.state["state"], folder.state["error"]) == ("failed", str(told.value))


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    """A folder with other things in it is never written into."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and no run folder"), open_run(tmp_path, {}):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_killed_in_its_first_write_goes_on(tmp_path):
    """What is left of it is no other program's, and goes."""
    (tmp_path / ".lock").write_text("")
    (tmp_path / ".state.json.4711.tmp").write_text("{")
    with open_run(tmp_path, {"epochs": 3}) as folder:
        assert folder.state == {"config": {"epochs": 3}}
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]


def test_one_process_at_a_time(tmp_path):
    """A second opener is told that the folder is in use."""
    with (
        open_run(tmp_path / "run", {}),
        pytest.raises(UsageError, match="another process is running in"),
        open_run(tmp_path / "run", {}),
    ):
        pass


def test_a_broken_state_file_is_named(tmp_path):
    """A state file that is no JSON is a sentence with its path."""
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(UsageError, match=r"state\.json cannot be read as JSON"), open_run(tmp_path, {}):
        pass


def test_a_failed_write_leaves_the_old_file(tmp_path):
    """A writer that fails half way changes nothing and leaves no temporary file."""
    write_json(tmp_path / "a.json", {"a": 1})

    def half(path):
        path.write_text("{")
        raise OSError(28, "No space left on device")

    with pytest.raises(TrainerError, match=r"the disk of .* is full"):
        write_atomically(tmp_path / "a.json", half)
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_nan_never_reaches_a_file(tmp_path):
    """JSON has no NaN, and neither have our files."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})


@pytest.mark.parametrize("state", [{}, {"serial": 7}, {"state": "done"}, {"config": "x"}, {"config": ["x"]}])
@pytest.mark.parametrize("planned", [True, False])
def test_another_programs_state_file_is_refused(tmp_path, state, planned):
    """A folder whose state.json names no options is somebody else's: nothing in it is written over or deleted."""
    write_json(tmp_path / "state.json", state)
    (tmp_path / ".draft.tmp").write_text("mine")
    if planned:
        write_json(tmp_path / PLAN_FILE, {})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with (
        pytest.raises(UsageError, match=r"state\.json names no options, so .* is no run folder"),
        open_run(tmp_path, {}),
    ):
        pass
    study_folder(tmp_path)  # says nothing of a study; opening it says what it is
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
