import pytest

from trainer.jobs.config import ServeConfig
from trapline.command_line import Verb, main


def given(*arguments):
    """The options of that command line, or the exit code of its refusal."""
    found = []
    verb = Verb(name="serve", options=ServeConfig, run=lambda config: found.append(config) or 0)
    code = main("trainer", [verb], ["serve", *arguments])
    return found[0] if found else code


def test_what_must_be_given(tmp_path):
    """Two folders; the rest has defaults, on ports beside the server's."""
    config = given("--data-root", str(tmp_path / "a"), "--runs-root", str(tmp_path / "b"))
    assert (config.listen, config.metrics, config.parallel, config.gpus) == (
        "127.0.0.1:50052",
        "127.0.0.1:9101",
        1,
        "auto",
    )
    assert config.min_free_bytes == 2 * 1024**3


@pytest.mark.parametrize("value", ["auto", "none", "0", "0,2"])
def test_gpus(tmp_path, value):
    """All, none, or some by number."""
    assert given("--data-root", str(tmp_path / "a"), "--runs-root", str(tmp_path / "b"), "--gpus", value).gpus == value


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--gpus", "0,0"], "--gpus"),
        (["--gpus", "-1"], "--gpus"),
        (["--gpus", ""], "--gpus"),
        (["--gpus", "all"], "--gpus"),
        (["--parallel", "0"], "--parallel"),
        (["--max-pending", "0"], "--max-pending"),
        (["--keep-days", "-1"], "--keep-days"),
        (["--listen", ""], "--listen"),
        (["--runs-root", "{a}"], "apart"),
        (["--runs-root", "{a}/inside"], "apart"),
        (["--data-root", "{b}/inside"], "apart"),
        (["--models", "{b}"], "--models must not lie in --runs-root"),
        (["--models", "{b}/models"], "--models must not lie in --runs-root"),
        (["--cache-dir", "{b}/cache"], "--cache-dir must not lie in --runs-root"),
    ],
)
def test_what_is_refused(tmp_path, capsys, arguments, word):
    """Each with the option's name, and 2."""
    places = {"a": tmp_path / "a", "b": tmp_path / "b"}
    arguments = [each.format(**places) for each in arguments]
    assert given("--data-root", str(places["a"]), "--runs-root", str(places["b"]), *arguments) == 2
    assert word in capsys.readouterr().err


def test_the_users_cache_is_no_job(tmp_path, monkeypatch, capsys):
    """Also a cache that nobody named is outside of the jobs' folder; a job beside it would be deleted with it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    assert given("--data-root", str(tmp_path / "a"), "--runs-root", str(tmp_path / "home")) == 2
    assert "--cache-dir must not lie in --runs-root" in capsys.readouterr().err
    assert given("--data-root", str(tmp_path / "a"), "--runs-root", str(tmp_path / "home" / "jobs")) != 2
