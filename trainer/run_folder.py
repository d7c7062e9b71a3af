"""A run's folder: its state, its lock, and files that are whole or absent, never half written."""

import errno
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import TrainerError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

#: Every choice of a run; written when training begins.
PLAN_FILE = "plan.json"
#: How a run stands, and its options.
STATE_FILE = "state.json"
_LOCK = ".lock"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary path beside `path`, and puts the result in place only when it is whole.

    Raises:
        TrainerError: The disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # Some writers make private files; a run folder is read by other people and programs.
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TrainerError(
                f"the disk of {path.parent} is full; free some space and run the same command again"
            ) from error
        raise TrainerError(f"cannot write {path} ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes `text`, whole or not at all."""
    write_atomically(
        path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="surrogateescape") and None
    )


def write_json(path: Path, value: object) -> None:
    """Writes `value` as JSON, whole or not at all; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        UsageError: The file is missing or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as JSON ({error}); is {path.parent} a run folder?") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds no JSON object; is {path.parent} a run folder?")
    return value


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]", facts: Mapping[str, object]) -> None:
    """Writes tensors and JSON facts as one safetensors file: data that no reader runs as code."""
    import safetensors.torch

    metadata = {"facts": json.dumps(facts, sort_keys=True)}

    def write(temporary: Path) -> None:
        try:
            safetensors.torch.save_file(dict(tensors), temporary, metadata=metadata)
        except safetensors.SafetensorError as error:
            # An error of the disk, which has its number in the text alone.
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error

    write_atomically(path, write)


def read_tensors(path: Path) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """The tensors and the facts of a file that `write_tensors` wrote."""
    import safetensors

    with safetensors.safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
        return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118  # not a dict


def read_facts(path: Path) -> dict[str, Any]:
    """The facts alone of a file that `write_tensors` wrote."""
    import safetensors

    # As NumPy's, which needs no torch.
    with safetensors.safe_open(path, framework="numpy") as file:
        facts: dict[str, Any] = json.loads(file.metadata()["facts"])
    return facts


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: The folder.
        state: What `state.json` held when the folder was opened; empty for a new run.
    """

    path: Path
    state: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether the run had finished."""
        return self.state.get("state") == "done"

    @property
    def checkpoint(self) -> Path:
        """Where what resuming needs is kept."""
        return self.path / "checkpoint"

    def set_state(self, state: str, **facts: object) -> None:
        """Records `running`, `interrupted`, `failed` or `done`, beside the facts known already."""
        self.state.update({"state": state, **facts})
        write_json(self.path / STATE_FILE, self.state)


@contextmanager
def open_run(path: Path, identity: Mapping[str, Any]) -> Iterator[RunFolder]:
    """The run folder at `path` for a run of these options; one process at a time.

    Raises:
        UsageError: The folder is no run's, another run's, or in use.
    """
    state_path = path / STATE_FILE
    if path.exists() and not path.is_dir():
        raise UsageError(f"--out: {path} is a file; name a folder for the run")
    if path.is_dir() and not state_path.exists() and any(map(_is_anothers, path.iterdir())):
        raise UsageError(f"--out: {path} is not empty and no run folder; name a new folder")
    state = read_json(state_path) if state_path.exists() else {}
    if state_path.exists() and not isinstance(state.get("config"), dict):
        # Many programs have a file of this name: what is in such a folder is not ours to write over.
        raise UsageError(f"--out: {state_path} names no options, so {path} is no run folder; name a new folder")
    untrained = bool(state) and _untrained(path, state)
    if untrained:
        # It ended before anything was trained, by a mistake in the options or the photos: mending it is no other run.
        state = {}
    if state:
        _same_options(path, state["config"], identity)
    with _locked(path, "--out: "):
        if untrained:
            (path / PLAN_FILE).unlink(missing_ok=True)
        for leftover in [*path.glob(".*.tmp"), *path.glob("*/.*.tmp")]:
            # Of a process that was killed while it wrote: nobody else writes here.
            leftover.unlink(missing_ok=True)
        yield RunFolder(path=path, state={"config": dict(identity), **state})


def _is_anothers(entry: Path) -> bool:
    """Whether a file in a folder without a state is none of a run that was killed amid its first write."""
    return entry.name != _LOCK and not entry.match(f".{STATE_FILE}.*.tmp")


def _untrained(path: Path, state: Mapping[str, Any]) -> bool:
    """Whether a run ended before it had a plan, or failed before it had a head or a step to go on from."""
    if not (path / PLAN_FILE).exists():
        return True
    # A study keeps what it trained in its points' folders.
    trained = (path / "checkpoint" / name for name in ("head.safetensors", "progress.safetensors"))
    return (
        state.get("state") == "failed"
        and state["config"].get("verb") != "study"
        and not any(file.exists() for file in trained)
    )


def finished_state(path: Path) -> dict[str, Any]:
    """What `state.json` of a run that is done holds.

    Raises:
        UsageError: It is no run folder, or the run is not done.
    """
    state = read_json(path / STATE_FILE)
    if state.get("state") != "done":
        raise UsageError(
            f"the run in {path} is {state.get('state')}, not done; "
            "run the same `trainer run` command again to finish it"
        )
    return state


@contextmanager
def open_finished(path: Path) -> Iterator[RunFolder]:
    """The folder of a run that is done, to add to it; one process at a time.

    Raises:
        UsageError: It is no run folder, the run is not done, or the folder is in use.
    """
    state = finished_state(path)
    with _locked(path):
        yield RunFolder(path=path, state=state)


@contextmanager
def _locked(path: Path, option: str = "") -> Iterator[None]:
    """Keeps other processes out of the folder, which is made where it is missing."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / _LOCK).open("w")
    except OSError as error:
        raise UsageError(f"{option}cannot write the folder {path} ({error.strerror}); name another one") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"{option}another process is running in {path}; wait for it or name another folder"
            ) from error
        yield


def _same_options(path: Path, before: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    changed = [name for name in identity if name != "groups_digest" and before.get(name) != identity[name]]
    if changed:
        was = ", ".join(f"--{name.replace('_', '-')} was {before.get(name)}, now {identity[name]}" for name in changed)
        raise UsageError(f"--out: {path} holds a run of other options ({was}); name a new folder or the old options")
    # Runs of earlier versions did not write it down.
    if before.get("groups_digest", identity.get("groups_digest")) != identity.get("groups_digest"):
        raise UsageError(
            f"--groups: {identity.get('groups')} is another file than when the run in {path} began; bring the old file "
            "back or name a new --out folder"
        )
