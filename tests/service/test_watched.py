from pathlib import Path
from types import SimpleNamespace

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
