"""What the machine and the control groups leave, read from files as Linux writes them."""

import mmap

import pytest

from trainer.capacity import available_memory_bytes, used_memory_bytes

MIB = 1 << 20


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(name="system")
def _system(tmp_path):
    """A machine with 8 GiB available and no control groups; its files, and what is available by them."""
    write(tmp_path / "meminfo", "MemTotal:       16384000 kB\nMemFree:  99 kB\nMemAvailable:    8388608 kB\n")
    write(tmp_path / "cgroup", "0::/\n")

    def available():
        return available_memory_bytes(meminfo=tmp_path / "meminfo", group=tmp_path / "cgroup", root=tmp_path / "groups")

    return tmp_path, available


def test_without_limits_it_is_what_the_machine_has(system):
    """MemAvailable counts, in KiB, where no group limits anything or its limit is `max`."""
    home, available = system
    assert available() == 8192 * MIB
    write(home / "groups" / "memory.max", "max\n")
    write(home / "groups" / "memory.current", "5\n")
    assert available() == 8192 * MIB


def test_a_limit_of_version_2_counts_without_files_that_can_be_dropped(system):
    """1 GiB allowed, 600 MiB used, 200 of them files read long ago: 624 MiB are left."""
    home, available = system
    write(home / "groups" / "memory.max", f"{1024 * MIB}\n")
    write(home / "groups" / "memory.current", f"{600 * MIB}\n")
    write(home / "groups" / "memory.stat", f"anon {300 * MIB}\ninactive_file {200 * MIB}\nactive_file 7\n")
    assert available() == 624 * MIB


def test_a_limit_around_the_own_group_counts_too(system):
    """The tightest of the groups from the own one up decides."""
    home, available = system
    write(home / "cgroup", "0::/slice/job\n")
    for folder, limit in (("slice", 500), ("slice/job", 900)):
        write(home / "groups" / folder / "memory.max", f"{limit * MIB}\n")
        write(home / "groups" / folder / "memory.current", f"{100 * MIB}\n")
    assert available() == 400 * MIB


def test_a_limit_of_version_1_counts(system):
    """The older files say the same under other names."""
    home, available = system
    write(home / "cgroup", "5:cpu:/x\n4:memory:/box\n0::/\n")
    write(home / "groups" / "memory" / "box" / "memory.limit_in_bytes", f"{300 * MIB}\n")
    write(home / "groups" / "memory" / "box" / "memory.usage_in_bytes", f"{100 * MIB}\n")
    write(home / "groups" / "memory" / "box" / "memory.stat", f"inactive_file 1\ntotal_inactive_file {50 * MIB}\n")
    assert available() == 250 * MIB


def test_a_group_over_its_limit_leaves_nothing(system):
    """Never less than nothing."""
    home, available = system
    write(home / "groups" / "memory.max", "1000\n")
    write(home / "groups" / "memory.current", "2000\n")
    assert available() == 0


def test_where_the_system_does_not_say_nothing_is_claimed(tmp_path):
    """Elsewhere than on Linux the answer is None, not a number made up."""
    nowhere = tmp_path / "nowhere"
    assert available_memory_bytes(meminfo=nowhere, group=nowhere, root=nowhere) is None


def test_memory_that_is_taken_is_seen():
    """100 MiB written to are 100 MiB more."""
    # Pages straight from the system: what an allocator hands out may be memory that the process has kept.
    with mmap.mmap(-1, 100 * MIB) as taken:
        before = used_memory_bytes()
        taken.write(b"x" * (100 * MIB))
        assert used_memory_bytes() - before > 90 * MIB
