"""Files of a train job, from the service's disk to this one: read in chunks, checked, and put in their place."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from trapline.errors import TraplineError
from trapline.train_errors import ArtifactNotFound
from trapline.v1.train_pb2 import ReadTrainJobArtifactRequest, TrainJobArtifact

from .connection import Connection, call_metadata
from .resuming import resumed

#: What is told of a file that is under way: which one, and how many of its bytes are here.
Show = Callable[[TrainJobArtifact, int], None]


class FileNotFetched(TraplineError):
    """A file of a job was not taken from the service; what was at its place stays."""


def chosen(artifacts: Iterable[TrainJobArtifact], paths: Iterable[str]) -> Sequence[TrainJobArtifact]:
    """Those that `paths` name, each a file or a folder of files.

    Raises:
        ArtifactNotFound: There is nothing under one of them.
    """
    found: dict[str, TrainJobArtifact] = {}
    for path in paths:
        under = [each for each in artifacts if each.path == path or each.path.startswith(f"{path.rstrip('/')}/")]
        if not under:
            raise ArtifactNotFound(f"the job has no file {path}, or not yet; leave it out, or fetch all", path=path)
        found.update((each.path, each) for each in under)
    return tuple(found.values())


def places(artifacts: Sequence[TrainJobArtifact], out: Path) -> dict[str, Path]:
    """Where each file goes below `out`, by its path; nothing is written.

    Raises:
        FileNotFetched: A path leads anywhere else, through a link say, or two want the same place.
    """
    found = {}
    folders = set()
    for artifact in artifacts:
        path = artifact.path
        names = path.split("/")
        if not all(name and name.isprintable() and name not in {".", ".."} and "\\" not in name for name in names):
            raise FileNotFetched(
                f"the service names a file {path!r}, which is no path below a folder; nothing was written"
            )
        above = [out.joinpath(*names[:depth]) for depth in range(1, len(names))]
        with _told(out):
            blocked = [folder for folder in above if folder.is_symlink() or (folder.exists() and not folder.is_dir())]
        if blocked:
            raise FileNotFetched(f"{blocked[0]} is a link or a file, where a folder must be; name another folder")
        folders.update(above)
        if path in found:
            raise FileNotFetched(f"the service names the file {path!r} twice")
        found[path] = out.joinpath(*names)
    with _told(out):
        blocked = [place for place in found.values() if place in folders or place.is_dir()]
    if blocked:
        raise FileNotFetched(f"{blocked[0]} is to be a file, and there is or will be a folder; name another folder")
    return found


def fetch(
    connection: Connection, request: ReadTrainJobArtifactRequest, place: Path, *, lost_seconds: float, show: Show
) -> None:
    """Puts a file in its place once it is whole and has the digest that the service, which listed it, says.

    Raises:
        FileNotFetched: It does not arrive as it is, or cannot be written.
        Refusal: The service refuses, or there is no contact for `lost_seconds`.
    """
    digest, described = hashlib.sha256(), TrainJobArtifact()

    def open_stream() -> Any:  # noqa: ANN401  # gRPC's own
        request.offset = file.tell()
        return connection.train_stub.ReadTrainJobArtifact(request, metadata=call_metadata())

    def has_all() -> bool:
        return bool(described.digest) and file.tell() == described.byte_count

    with _beside(place) as file:
        messages = resumed(connection, open_stream, has_all=has_all, lost_seconds=lost_seconds, reached=True)
        with contextlib.closing(messages):
            for message in messages:
                if message.WhichOneof("content") == "artifact":
                    if described.digest not in ("", message.artifact.digest):
                        raise FileNotFetched(f"{request.path} changed while it was read; fetch it again")
                    described.CopyFrom(message.artifact)
                    continue
                file.write(message.chunk)
                digest.update(message.chunk)
                if file.tell() > described.byte_count:
                    break
                show(described, file.tell())
        if not has_all() or digest.hexdigest() != described.digest.lower():
            raise FileNotFetched(f"{request.path} did not arrive as the service has it; fetch it again")


@contextlib.contextmanager
def _beside(place: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place when all is well and is gone otherwise."""
    partial = place.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        with _told(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(place)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _told(place: Path) -> Iterator[None]:
    """What the disk refuses, as a sentence."""
    try:
        yield
    except OSError as error:
        raise FileNotFetched(f"cannot write {place} ({error.strerror}); make room, or name another folder") from error
