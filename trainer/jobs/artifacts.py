"""The files of a run, as clients see them: listed with digests, read in chunks from one descriptor.

Regular files only, reached without a link; neither hidden ones nor the run's own: `checkpoint/`, and `state.json`,
which names folders of this machine.
"""

import hashlib
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..run_folder import STATE_FILE
from .folders import RUN
from .names import OF_THE_NAME, NameRefused, check_name, file_in, open_file, open_folder

CHUNK_BYTES = 1024 * 1024
_HIDDEN, _OWN = ".", frozenset({"checkpoint", STATE_FILE})
_CACHED = 16_384


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A file of a run.

    Attributes:
        path: Its name below the run's folder.
        byte_count: Its size.
        digest: SHA-256 of its bytes, in hex.
    """

    path: str
    byte_count: int
    digest: str


class OpenArtifact:
    """An artifact that is read: whatever happens to its name, these are the bytes of one file."""

    def __init__(self, artifact: Artifact, file: int) -> None:
        self.artifact, self._file = artifact, file

    def chunk(self, offset: int) -> bytes:
        """The bytes from `offset` on, `CHUNK_BYTES` at most; empty at the end that `artifact` tells.

        Raises:
            NameRefused: The file has become shorter.
        """
        wanted = min(CHUNK_BYTES, self.artifact.byte_count - offset)
        if wanted <= 0:
            return b""
        content = os.pread(self._file, wanted, offset)
        if not content:
            raise NameRefused("was cut off while it was read; read it again")
        return content


class Artifacts:
    """The artifacts of all jobs; every method blocks on the disk, and may be called by any thread.

    Args:
        root: Folder of the jobs' folders.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._digests: OrderedDict[tuple[int, ...], str] = OrderedDict()
        # One file is hashed at a time: who asks for the same one waits for its digest and does not make it again.
        self._hashing = threading.Lock()

    def list(self, job_id: str) -> list[Artifact]:
        """What the job has made so far, by path; nothing where it has not begun."""
        try:
            with open_folder(self._root, f"{job_id}/{RUN}") as folder:
                return sorted(self._below(folder, ""), key=lambda artifact: artifact.path)
        except NameRefused:
            return []

    @contextmanager
    def open(self, job_id: str, path: str) -> Iterator[OpenArtifact]:
        """The artifact `path` of a job, open.

        Raises:
            NameRefused: The path is malformed, or there is no such artifact.
        """
        first, *others = check_name(path)
        if first in _OWN or any(segment.startswith(_HIDDEN) for segment in (first, *others)):
            raise NameRefused("names no artifact")
        with open_file(self._root, f"{job_id}/{RUN}/{path}") as file:
            yield OpenArtifact(self._described(path, file), file)

    def _below(self, folder: int, prefix: str) -> Iterator[Artifact]:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(_HIDDEN)]
        for name in names:
            path = prefix + name
            try:
                check_name(path)
                if path in _OWN:
                    continue
                mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    yield from self._inside(folder, name, f"{path}/")
                elif stat.S_ISREG(mode):
                    yield self._file(folder, name, path)
            except (NameRefused, OSError) as error:
                if isinstance(error, OSError) and error.errno not in OF_THE_NAME:
                    raise
                continue  # a name that nobody could ask for, or what has gone since, or may not be read

    def _inside(self, folder: int, name: str, prefix: str) -> Iterator[Artifact]:
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            yield from self._below(inner, prefix)
        finally:
            os.close(inner)

    def _file(self, folder: int, name: str, path: str) -> Artifact:
        file = file_in(folder, name)
        try:
            return self._described(path, file)
        finally:
            os.close(file)

    def _described(self, path: str, file: int) -> Artifact:
        facts = os.fstat(file)
        key = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
        with self._hashing:
            digest = self._digests.get(key)
            if digest is None:
                digest = self._digests[key] = _digest(file, facts.st_size)
                if len(self._digests) > _CACHED:
                    self._digests.popitem(last=False)
            self._digests.move_to_end(key)
        return Artifact(path=path, byte_count=facts.st_size, digest=digest)


def _digest(file: int, byte_count: int) -> str:
    """SHA-256 of the first `byte_count` bytes, which a log that grows meanwhile still begins with."""
    digest, offset = hashlib.sha256(), 0
    while offset < byte_count:
        content = os.pread(file, min(CHUNK_BYTES, byte_count - offset), offset)
        if not content:
            raise NameRefused("was cut off while it was read; read it again")
        digest.update(content)
        offset += len(content)
    return digest.hexdigest()
