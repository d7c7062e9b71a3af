from pathlib import Path
from types import SimpleNamespace

from trapline.errors import UsageError
from trapline.service.metrics import ServiceMetrics
from trapline.service.watched import Watched


def replace(path: Path, content: str) -> None:
    """Puts new content in a file's place in one step, as renewing programs do."""
    other = path.with_suffix(".new")
    other.write_text(content)
    other.rename(path)


def test_files_are_watched_by_signature(tmp_path, monkeypatch):
    """A change while a file is read is seen at the next look: what was read then is not kept for good."""
    monkeypatch.setattr("trapline.service.watched.LOOK_SECONDS", 0.0)
    path, state = tmp_path / "file", SimpleNamespace(meddles=False)
    path.write_text("one")

    def read() -> str:
        content = path.read_text()
        if state.meddles:
            state.meddles = False
            replace(path, "three")
        return content

    watched = Watched("certificates", [path], read=read, metrics=ServiceMetrics())
    assert watched.current() == "one"
    replace(path, "two")
    state.meddles = True
    assert watched.current() == "two"
    assert watched.current() == "three"


def test_content_that_cannot_be_used_is_told_until_it_can(tmp_path, monkeypatch):
    """The gauge is 1 while the old content is kept; the counts are there at 0 from the start."""
    monkeypatch.setattr("trapline.service.watched.LOOK_SECONDS", 0.0)
    path, metrics = tmp_path / "file", ServiceMetrics()
    path.write_text("good")

    def read() -> str:
        if path.read_text() == "bad":
            raise UsageError("it is bad")
        return path.read_text()

    def counted() -> tuple[float | None, ...]:
        value, name = metrics.registry.get_sample_value, "trapline_credential_reloads_total"
        counts = [value(name, {"file": "tokens", "outcome": outcome}) for outcome in ("ok", "failed")]
        return value("trapline_credentials_kept", {"file": "tokens"}), *counts

    watched = Watched("tokens", [path], read=read, metrics=metrics)
    assert counted() == (0, 0, 0)
    replace(path, "bad")
    assert (watched.current(), *counted()) == ("good", 1, 0, 1)
    replace(path, "better")
    assert (watched.current(), *counted()) == ("better", 0, 1, 1)


def test_what_could_not_be_read_is_tried_again(tmp_path, monkeypatch):
    """Who may read a file changes without its time, size or inode: the new content is in force once it can be read."""
    monkeypatch.setattr("trapline.service.watched.LOOK_SECONDS", 0.0)
    path, state, metrics = tmp_path / "file", SimpleNamespace(denied=False), ServiceMetrics()
    path.write_text("old")

    def read() -> str:
        if state.denied:
            raise UsageError("cannot read it (Permission denied)")
        return path.read_text()

    watched = Watched("tokens", [path], read=read, metrics=metrics)
    replace(path, "new")
    state.denied = True
    assert [watched.current() for _ in range(3)] == ["old"] * 3
    labels = {"file": "tokens", "outcome": "failed"}
    assert metrics.registry.get_sample_value("trapline_credential_reloads_total", labels) == 1
    state.denied = False
    assert watched.current() == "new"
