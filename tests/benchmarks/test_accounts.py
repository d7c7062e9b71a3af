import os
import subprocess
import sys

from serving.accounts import MARK, Account, cpu_seconds, members, resident_mib

WORK = "import sys; [sum(range(20_000_000))]; print('done', flush=True); sys.stdin.read()"


def test_a_process_that_left_the_tree_still_counts():
    """A daemon of the server, no descendant of its first process any more, is found by its mark."""
    stay = "import os, signal; print(os.getpid(), flush=True); os.closerange(1, 3); signal.pause()"
    leave = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {stay!r}], start_new_session=True)"
    environment = os.environ | {MARK: "one"}
    left = subprocess.run([sys.executable, "-c", leave], env=environment, check=True, capture_output=True, text=True)
    daemon = int(left.stdout)
    try:
        assert daemon in members(os.getpid(), "one")
        assert daemon not in members(os.getpid(), "another")
        assert os.getpid() in members(os.getpid(), "another")
        assert resident_mib([daemon]) > 0
    finally:
        os.kill(daemon, 9)


def test_processor_time_of_a_server_is_its_own_and_not_the_generators():
    """A child that computes is the server; this process, which only waits, is the generator."""
    with subprocess.Popen([sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        before = Account.now(root=child.pid, mark="none", supervisor=0)
        child.stdout.readline()
        after = Account.now(root=child.pid, mark="none", supervisor=0)
        assert cpu_seconds([child.pid]) > 0
        child.stdin.close()
    used = after.since(before, seconds=1.0, images=10)
    assert used["server_cores"] > used["generator_cores"]
    assert used["server_cpu_ms_per_image"] == round(100 * used["server_cores"], 3)
    assert Account(machine=5, server=2, generator=1).since(
        Account(machine=1, server=0, generator=0), seconds=2, images=0
    ) == {
        "server_cpu_ms_per_image": None,
        "generator_cpu_ms_per_image": None,
        "server_cores": 1.0,
        "generator_cores": 0.5,
        "foreign_cores": 0.5,
    }
