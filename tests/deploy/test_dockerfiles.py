import itertools
import json
import re
import subprocess
import sys
import tomllib
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

TOP = Path(__file__).parents[2]
HADOLINT = Path(sys.executable).with_name("hadolint")
NAMES = ("server", "trainer")
FOLDERS = {"server": {"/models"}, "trainer": {"/models", "/jobs", "/cache", "/photos"}}
#: What uv says when an index can't be reached.
NO_INDEX = ("Failed to fetch", "error sending request", "dns error", "timed out")


def instructions(text):
    """The instructions of a Dockerfile, each a word and the rest, without comments and with lines joined."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    lines = kept.replace("\\\n", " ").splitlines()
    return [tuple(re.split(r"\s+", line.strip(), maxsplit=1)) for line in lines if line.strip()]


def parsed(name):
    """Instructions before the first FROM, and those of each stage."""
    before, stages = [], []
    for word, rest in instructions((TOP / "deploy" / f"{name}.Dockerfile").read_text(encoding="utf-8")):
        if word == "FROM":
            stages.append([])
        (stages[-1] if stages else before).append((word, rest))
    return before, stages


def values(stage, word):
    """What the instructions of a kind say."""
    return [rest for kind, rest in stage if kind == word]


def variables(stage):
    """The environment that a stage sets."""
    return dict(pair.split("=", 1) for rest in values(stage, "ENV") for pair in rest.split())


def lint(path):
    """What hadolint finds."""
    command = [HADOLINT, "--format", "json", path]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return json.loads(done.stdout), done.returncode


@pytest.mark.parametrize("name", NAMES)
def test_hadolint_finds_nothing(name):
    """Both files are clean, and what is ignored is explained in the line above."""
    path = TOP / "deploy" / f"{name}.Dockerfile"
    assert lint(path) == ([], 0)
    lines = path.read_text(encoding="utf-8").splitlines()
    for before, line in itertools.pairwise(lines):
        assert "hadolint ignore" not in line or re.match(r"# \w", before), line


def test_hadolint_would_find_something(tmp_path):
    """The same check fails on a file with a floating tag and a shell-form entry."""
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nENTRYPOINT server run\n", encoding="utf-8")
    found, code = lint(bad)
    assert {each["code"] for each in found} == {"DL3007", "DL3025"}
    assert code == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_base_is_named_by_whoever_builds(name):
    """Every stage is on BASE_IMAGE, whose default no registry can serve, by a tag that does not float."""
    before, stages = parsed(name)
    (default,) = values(before, "ARG")
    assert re.fullmatch(r"BASE_IMAGE=[a-z.]+\.invalid/[a-z-]+:[\w.-]+", default)
    assert len(stages) == 2
    for stage in stages:
        assert re.fullmatch(r"\$\{BASE_IMAGE\}( AS builder)?", stage[0][1])
    assert not [rest for stage in [before, *stages] for _, rest in stage if "latest" in rest]


@pytest.mark.parametrize("name", NAMES)
def test_an_image_runs_as_nobody_in_particular(name):
    """A numeric user that is set last of all, exec form everywhere, and nothing but the venv from the builder."""
    _, (_, last) = parsed(name)
    assert values(last, "USER") == ["10001:10001"]
    words = [word for word, _ in last]
    assert {"RUN", "COPY"}.isdisjoint(words[words.index("USER") :])
    assert json.loads(values(last, "ENTRYPOINT")[0]) == [name]
    assert json.loads(values(last, "CMD")[0]) == [{"server": "run", "trainer": "serve"}[name]]
    assert json.loads(values(last, "HEALTHCHECK")[0].partition(" CMD ")[2])[0] == "trapline-health"
    assert values(last, "COPY") == ["--from=builder /opt/trapline /opt/trapline"]
    (made,) = values(last, "RUN")
    assert set(made.removeprefix("install -d -o 10001 -g 10001 ").split()) == FOLDERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_no_image_has_a_secret(name):
    """No argument and no variable is one, ADD fetches nothing, and pip's settings are there only while it runs."""
    before, stages = parsed(name)
    every = [each for stage in [before, *stages] for each in stage]
    assert {rest.partition("=")[0] for word, rest in every if word == "ARG"} == {"BASE_IMAGE", "EXTRAS"}
    assert not [key for stage in stages for key in variables(stage) if re.search("TOKEN|KEY|SECRET|PASS|PIP", key)]
    assert not values(every, "ADD")
    (install,) = values(stages[0], "RUN")
    assert install.startswith("--mount=type=secret,id=pip.conf,target=/etc/pip.conf ")


@pytest.mark.parametrize("name", NAMES)
def test_an_image_listens_where_the_table_says(name):
    """The ports are those of the design's table, and every folder is one that the image has."""
    _, (_, last) = parsed(name)
    table = (TOP / "docs" / "design" / "0022-deployment.md").read_text(encoding="utf-8")
    row = re.search(r"^\| port names.*$", table, re.MULTILINE)[0].split("|")[2 + NAMES.index(name)]
    ports = dict(re.findall(r"`(\w+)` (\d+)", row))
    environment = variables(last)
    prefix = name.upper()
    for key, port in (("LISTEN", "grpc"), ("HEALTH", "health"), ("METRICS", "metrics")):
        assert environment[f"{prefix}_{key}"] == f"0.0.0.0:{ports[port]}"
    assert values(last, "EXPOSE") == [f"{ports['grpc']} {ports['health']} {ports['metrics']}"]
    assert f"127.0.0.1:{ports['health']}" in values(last, "HEALTHCHECK")[0]
    folders = {value for key, value in environment.items() if key.startswith(prefix) and value.startswith("/")}
    assert folders == FOLDERS[name]
    page = (TOP / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert not [key for key in environment if key.startswith(prefix) and f"| `{key}` |" not in page]


@pytest.mark.parametrize(
    ("name", "extras", "has_torch"), [("server", "", False), ("server", "server,cuda", False), ("trainer", "", True)]
)
def test_the_servers_image_has_no_torch(name, extras, has_torch):
    """What the Dockerfile installs, by default and for CUDA, resolves without torch; the trainer's has it."""
    _, (builder, _) = parsed(name)
    extras = extras or dict(rest.split("=") for rest in values(builder, "ARG"))["EXTRAS"]
    assert '".[${EXTRAS}]"' in values(builder, "RUN")[0]
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "-c", "constraints.txt", "--quiet"]
    command += ["--no-annotate", "--no-header", *(word for extra in extras.split(",") for word in ("--extra", extra))]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    if done.returncode and any(words in done.stderr for words in NO_INDEX):
        pytest.skip(f"the package index can't be reached: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    names = {line.partition("==")[0] for line in done.stdout.splitlines()}
    assert {"grpcio", "numpy"} < names
    assert ("torch" in names) == has_torch


def test_the_builder_gets_what_the_wheel_is_made_of():
    """The context is a list of what may enter, and has all that the wheel's build reads."""
    lines = (TOP / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
    folders = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {folder.partition("/")[0] for folder in folders} | set(project["project"]["license-files"])
    needed |= {"pyproject.toml", "constraints.txt", project["project"]["readme"], "deploy", "deploy/health.py"}
    assert {pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")} == needed
    assert "deploy/*" in patterns


@pytest.fixture(name="answering")
def _answering():
    """A health service and its address."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_the_prober_says_what_the_service_says(answering):
    """0 where the service asked for is SERVING; 1 where it is not, where it is unknown, and where nobody answers."""
    servicer, address = answering
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    servicer.set("liveness", health_pb2.HealthCheckResponse.SERVING)

    def probed(*words):
        command = [sys.executable, TOP / "deploy" / "health.py", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with futures.ThreadPoolExecutor(4) as pool:
        asked = [(address, "liveness"), (address,), (address, "other"), ("127.0.0.1:1",)]
        alive, ready, unknown, nobody = pool.map(lambda words: probed(*words), asked)
    assert (alive.returncode, alive.stdout) == (0, "SERVING\n")
    assert (ready.returncode, ready.stdout) == (1, "NOT_SERVING\n")
    assert unknown.returncode == nobody.returncode == 1
    assert "UNAVAILABLE" in nobody.stderr
    assert "Traceback" not in unknown.stderr + nobody.stderr
