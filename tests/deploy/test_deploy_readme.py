"""deploy/README.md, as whoever reads nothing else would follow it."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).parents[2]
PAGE = (TOP / "deploy" / "README.md").read_text(encoding="utf-8")
ENVIRONMENT = "trapline-env"


def blocks(heading):
    """The commands of a section, a list for each block: lines with a prompt, with what goes on in the next line."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = []
    for text in re.findall(r"```console\n(.*?)```", section, re.DOTALL):
        lines = text.replace("\\\n", " ").splitlines()
        assert all(re.match(r"[$#] \S", line) for line in lines), lines
        found.append([line[2:] for line in lines])
    return found


class Shell:
    """One bash that is told one command after another, as a person would."""

    def __init__(self, folder):
        self._log = folder / "shell.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["bash"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                start_new_session=True,
            )  # fmt: skip

    def tell(self, line):
        """Gives the lines that the command, and what goes on in the background, wrote; asserts that it went well."""
        self._process.stdin.write(f"{line}\necho did $?\n")
        self._process.stdin.flush()
        return self.until(r"did 0", or_else=r"did \d+")

    def until(self, pattern, or_else="$^"):
        """The lines up to one that fits."""
        said = []
        for line in self._process.stdout:
            said.append(line.rstrip("\n"))
            if re.match(pattern, said[-1]):
                return said
            assert not re.match(or_else, said[-1]), [*said, self._log.read_text(errors="replace")[-3000:]]
        raise AssertionError([*said, self._log.read_text(errors="replace")[-3000:]])

    def close(self):
        """Ends it; what it has started in the background is to have ended."""
        self._process.stdin.close()
        assert self._process.wait(timeout=60) == 0

    def kill(self):
        """Ends it and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()
        self._process.wait()


@pytest.fixture(name="checkout")
def _checkout(tmp_path):
    """The repository's files as git would take them, in a folder of their own."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=True).stdout
    folder = tmp_path / "checkout"
    for name in filter(None, listed.split("\0")):
        if (TOP / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TOP / name, folder / name)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(name="shell")
def _shell(checkout, image_ports, monkeypatch):
    """A shell in it, on ports that are free here, and with no settings but those."""
    serve, metrics, train, train_metrics = image_ports(4)
    for key, port in (("SERVER_LISTEN", serve), ("SERVER_METRICS", metrics)):
        monkeypatch.setenv(key, f"127.0.0.1:{port}")
    for key, port in (("TRAINER_LISTEN", train), ("TRAINER_METRICS", train_metrics)):
        monkeypatch.setenv(key, f"127.0.0.1:{port}")
    # A cache of its own, so that a person's is neither used nor filled.
    monkeypatch.setenv("TRAINER_CACHE_DIR", str(checkout / "cache"))
    shell = Shell(checkout)
    shell.addresses = {"train": f"127.0.0.1:{train}", "classify": f"127.0.0.1:{serve}"}
    yield shell
    shell.kill()


def started(shell, commands):
    """Runs the commands that start both services; waits until they have said that they run."""
    said = [line for command in commands for line in shell.tell(command)]
    for wanted in ("trainer ready ", "server waiting "):
        while not any(line.startswith(wanted) for line in said):
            said += shell.until("(trainer ready|server waiting) ")


def ended(shell):
    """Ends both as the page says; each ends with 0."""
    assert "`kill %1 %2`" in PAGE
    shell.tell("kill %1 %2")
    shell.tell("wait %1 && wait %2")
    shell.close()


def test_five_commands_start_both_services(checkout, shell):
    """There are five; the last three, in an environment that is there already, start trainer and server."""
    commands, _ = blocks("On one machine")
    assert len(commands) == 5
    assert commands[0] == f"python3 -m venv {ENVIRONMENT}"
    assert commands[1] == f"{ENVIRONMENT}/bin/pip install -c constraints.txt '.[trainer,server]'"
    (checkout / ENVIRONMENT).symlink_to(Path(sys.prefix))
    started(shell, commands[2:])
    ended(shell)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_the_page_leads_to_an_answer(checkout, shell):
    """Every command of the page, from an empty environment on: installed, started, trained, published, classified."""
    commands, using = blocks("On one machine")
    started(shell, commands)
    for line in using:
        kind = "train" if "trapline train " in line else "classify"
        shell.tell(f"export TRAPLINE_SERVER={shell.addresses[kind]}")
        shell.tell(line)
    ended(shell)
    answers = {Path(row["path"]).name: row for row in rows_of(checkout / "answers.csv")}
    truth = {Path(row["path"]).name: row["label"] for row in rows_of(checkout / "data" / "unseen.csv")}
    assert {row["status"] for row in answers.values()} == {"ok"}
    assert len(answers) == len(truth) == 24
    assert sum(answers[name]["label_1"] == label for name, label in truth.items()) >= 18


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_real_photos_through_the_service(checkout, shell, shared):
    """Flowers below the data root: submitted, watched to their end, and classified by the server a moment later."""
    commands, _ = blocks("On one machine")
    (checkout / ENVIRONMENT).symlink_to(Path(sys.prefix))
    started(shell, commands[2:])
    shutil.copytree(shared / "data" / "flowers", checkout / "data" / "flowers", copy_function=shutil.copy)
    shutil.copy(shared / "weights" / "mobilenet_v2.pth", checkout / "data")
    trapline = f"{ENVIRONMENT}/bin/trapline"
    options = "--model-id flowers --backbone mobilenet_v2 --weights mobilenet_v2.pth --epochs 0"
    shell.tell(f"{trapline} train submit flowers {options} --server {shell.addresses['train']} --watch")
    server = f"--server {shell.addresses['classify']}"
    # The server looks every 2 s, and tries the model out.
    shell.tell(f"for _ in $(seq 120); do {trapline} models {server} 2>&1 | grep flowers && break; sleep 0.5; done")
    shell.tell(f"{trapline} classify data/flowers {server} --model flowers --out answers.csv")
    ended(shell)
    rows = rows_of(checkout / "answers.csv")
    assert len(rows) == 750
    assert {row["status"] for row in rows} == {"ok"}
    assert sum(row["label_1"] in Path(row["path"]).parts for row in rows) >= 600


def rows_of(path):
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_units_are_installed_where_systemd_looks(tmp_path):
    """The page's `install` lines put every file of deploy/systemd in its place, and its last line names both units."""
    (commands,) = blocks("To stay: systemd")
    for line in commands:
        if line.startswith("install "):
            # The group is made by systemd-sysusers, in the line before.
            words = line.replace(" -g trapline", "").replace(" /etc/", f" {tmp_path}/etc/").split()
            subprocess.run(words, cwd=TOP, check=True)
    installed = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert installed == {
        "etc/sysusers.d/trapline.conf",
        "etc/tmpfiles.d/trapline.conf",
        "etc/systemd/system/trapline-server.service",
        "etc/systemd/system/trapline-trainer.service",
        "etc/trapline/server.env",
        "etc/trapline/trainer.env",
    }
    assert commands.index("systemd-sysusers") < commands.index("systemd-tmpfiles --create")
    assert commands[-1] == "systemctl enable --now trapline-trainer trapline-server"
    assert "- To upgrade, `systemctl stop trapline-trainer trapline-server` first" in PAGE  # `enable` restarts nothing


def test_pins_are_written_where_servers_read_them():
    """Servers may not write them; the page's paths are those of unit, compose file and trainer's Pod."""
    page = (TOP / "docs" / "operations.md").read_text(encoding="utf-8")
    host, pod, inside = re.search(
        r"`echo 1 > (\S+)/ID/pinned`, as root.*?exec (\S+) -- sh -c 'echo 1 > (\S+)/ID/pinned'`", page, re.DOTALL
    ).groups()
    unit = (TOP / "deploy" / "systemd" / "trapline-server.service").read_text(encoding="utf-8")
    assert f"SERVER_MODELS={host}\n" in unit
    assert "ProtectSystem=strict" in unit
    assert "ReadWritePaths" not in unit
    services = yaml.safe_load((TOP / "deploy" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    home = host.removesuffix("/models")
    assert services["server"]["volumes"] == [f"${{TRAPLINE_HOME:-{home}}}/models:/models:ro"]
    base = TOP / "deploy" / "kustomize" / "base"
    for file, kind, writes in (("server.yaml", "Deployment", False), ("trainer.yaml", "StatefulSet", True)):
        documents = yaml.safe_load_all((base / file).read_text(encoding="utf-8"))
        (workload,) = [each for each in documents if each["kind"] == kind]
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == "models"]
        assert (mount["mountPath"], not mount.get("readOnly", False)) == (inside, writes)
    assert pod == f"{workload['metadata']['name']}-0"


def test_images_are_built_by_arguments_that_there_are():
    """What the page tells the engine of is in the Dockerfiles."""
    for line in blocks("In containers")[0]:
        dockerfile = TOP / re.search(r"-f (\S+)", line)[1]
        declared = set(re.findall(r"^ARG (\w+)", dockerfile.read_text(encoding="utf-8"), re.MULTILINE))
        assert set(re.findall(r"--build-arg (\w+)=", line)) <= declared
    assert set(re.findall(r"--build-arg (\w+)=", PAGE)) == declared
