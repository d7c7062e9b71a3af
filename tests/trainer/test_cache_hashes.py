import os
import shutil
import time

import pytest

from trainer.dataset.cache.hashes import KnownHashes, file_key, is_settled

SHA256 = "ab" * 32


def test_what_was_put_is_found_by_another_opening(tmp_path):
    """Hashes survive closing; an unknown file has none; thousands are found at once."""
    keys = [number.to_bytes(16, "big") for number in range(3000)]
    hashes = KnownHashes.open(tmp_path / "files.sqlite")
    hashes.put(dict.fromkeys(keys[:2999], SHA256))
    hashes.close()
    hashes = KnownHashes.open(tmp_path / "files.sqlite")
    assert hashes.find(keys) == dict.fromkeys(keys[:2999], SHA256)
    hashes.close()


def test_half_a_year_unused_is_forgotten(tmp_path, monkeypatch):
    """What a run met within the last half year stays, what none did leaves when something new comes."""
    clock = [time.time()]
    monkeypatch.setattr(time, "time", lambda: clock[0])

    def visit(*, put=(), found=()):
        hashes = KnownHashes.open(tmp_path / "files.sqlite")
        there = hashes.find([*found])
        hashes.put(dict.fromkeys(put, SHA256))
        hashes.close()
        return sorted(there)

    visit(put=[b"a", b"b"])
    clock[0] += 100 * 86_400
    assert visit(found=[b"a"]) == [b"a"]
    clock[0] += 100 * 86_400
    visit(put=[b"c"])
    assert visit(found=[b"a", b"b", b"c"]) == [b"a", b"c"]


@pytest.mark.parametrize("damage", [lambda data: data[:5000], lambda _: b"hello " * 900, lambda _: b""])
def test_a_damaged_file_is_made_anew(tmp_path, damage):
    """Nothing is known then, and nothing else happens."""
    path = tmp_path / "files.sqlite"
    hashes = KnownHashes.open(path)
    hashes.put({number.to_bytes(16, "big"): SHA256 for number in range(500)})
    hashes.close()
    path.write_bytes(damage(path.read_bytes()))
    hashes = KnownHashes.open(path)
    hashes.put({b"new": SHA256})
    assert hashes.find([b"new"]) == {b"new": SHA256}
    hashes.close()


def test_a_file_written_anew_is_another_file(tmp_path):
    """The same size and time of change do not deceive; another name or another folder does not matter."""
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    before = path.stat()
    key = file_key(before)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").rename(tmp_path / "renamed")
    assert file_key(path.stat()) == key
    other = tmp_path / "other.jpg"
    while (other.write_bytes(b""), other.stat().st_ctime_ns)[1] <= before.st_ctime_ns:
        pass  # the file system's clock ticks every few milliseconds
    with path.open("r+b") as file:
        file.write(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert file_key(path.stat()) != key
    shutil.copy2(path, tmp_path / "b.jpg")
    assert file_key((tmp_path / "b.jpg").stat()) != file_key(path.stat())


def test_what_changed_a_moment_ago_is_not_settled(tmp_path):
    """Two seconds must lie between the last change and the reading."""
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    now = time.time_ns()
    assert not is_settled(path.stat(), now)
    assert is_settled(path.stat(), now + 3 * 10**9)
    os.utime(path, ns=(0, now - 10**12))
    assert not is_settled(path.stat(), time.time_ns())
