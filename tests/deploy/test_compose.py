import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((TOP / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
#: Apache-2.0, and the one distribution that has the schema of the compose specification in it.
SCHEMA_FROM = "docker-compose==1.29.2"
PARSER = "podman-compose==1.5.0"
CHECK = """
import json, sys, jsonschema
schema, document = (json.load(open(name)) for name in sys.argv[1:])
for error in jsonschema.Draft7Validator(schema).iter_errors(document):
    print("/".join(map(str, error.path)), error.message)
"""


def defaults(text):
    """What `${NAME:-default}` is where nothing is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def volumes(service):
    """Source, folder in the container, and whether that is read only."""
    words = [defaults(text).split(":") for text in SERVICES[service]["volumes"]]
    return [(source, target, rest == ["ro"]) for source, target, *rest in words]


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text)[1])


@pytest.fixture(name="tools", scope="session")
def _tools():
    """A venv of their own with a validator of JSON schemas and podman-compose, and the schema beside it."""
    folder = TOP / ".cache" / "compose"
    if not (folder / "compose_spec.json").exists():
        python = folder / "venv" / "bin" / "python"
        uv = [sys.executable, "-m", "uv"]
        for command in (
            [*uv, "venv", "--quiet", "--clear", folder / "venv"],
            [*uv, "pip", "install", "--quiet", "--python", python, "jsonschema", PARSER, "pip"],
            [python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, SCHEMA_FROM],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"the package index has no {SCHEMA_FROM} for us: {done.stderr.strip()[-200:]}")
        (wheel,) = folder.glob("docker_compose-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            text = archive.read("compose/config/compose_spec.json")
        (folder / "compose_spec.json").write_bytes(text)
    return folder


def complaints(tools, document, tmp_path):
    """What the schema of the compose specification says against a document."""
    path = tmp_path / "document.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    command = [tools / "venv" / "bin" / "python", "-c", CHECK, tools / "compose_spec.json", path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_compose_specification_knows_every_key(tools, tmp_path):
    """The file is one of the specification's; a misspelt key is not."""
    # `name` came into the specification after that schema.
    document = {key: value for key, value in COMPOSE.items() if key != "name"}
    assert complaints(tools, document, tmp_path) == ""
    wrong = {**document, "services": {"server": {**SERVICES["server"], "read_olny": True}}}
    assert "read_olny" in complaints(tools, wrong, tmp_path)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_shut_in(service):
    """No capability, no new privileges, nothing to write to but volumes and /tmp; memory and processes have bounds."""
    settings = SERVICES[service]
    assert settings["read_only"] is True
    assert settings["user"] == "10001:10001"
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"/tmp:size=\d+[mg],mode=1777", settings["tmpfs"][0])
    assert settings["pids_limit"] > 0
    assert {"privileged", "cap_add", "network_mode", "pid", "devices"}.isdisjoint(settings)
    assert all(text.startswith("127.0.0.1:") for text in settings["ports"])


def test_grace_and_memory_leave_room():
    """The engine waits longer than the drain lasts, and a trial's memory fits beside the server's."""
    for service, settings in SERVICES.items():
        drain = int(settings["environment"][f"{service.upper()}_DRAIN_SECONDS"])
        assert seconds(settings["stop_grace_period"]) >= drain + 15
    settings = SERVICES["server"]
    memory_mib = int(settings["mem_limit"].removesuffix("g")) * 1024
    assert int(settings["environment"]["SERVER_MODEL_MEMORY_MIB"]) <= memory_mib / 2


def test_both_services_have_one_folder_of_models():
    """The trainer writes where the server only reads, and every folder that a variable names is a volume."""
    (shared,) = [source for source, target, _ in volumes("server") if target == "/models"]
    assert (shared, "/models", True) in volumes("server")
    assert (shared, "/models", False) in volumes("trainer")
    assert [target for _, target, is_read_only in volumes("trainer") if is_read_only] == ["/photos"]
    for service, settings in SERVICES.items():
        folders = {value for value in settings["environment"].values() if value.startswith("/")}
        assert folders == {target for _, target, _ in volumes(service)}


def test_images_are_built_from_files_that_are_there():
    """Each service builds from the Dockerfile of its name, on a base that nobody serves unless one is named."""
    for service, settings in SERVICES.items():
        build = settings["build"]
        assert (TOP / "deploy" / build["context"] / build["dockerfile"]).name == f"{service}.Dockerfile"
        assert (TOP / "deploy" / build["context"] / build["dockerfile"]).exists()
        assert ".invalid/" in defaults(build["args"]["BASE_IMAGE"])
        assert settings["image"] == f"trapline-{service}:local"


@pytest.fixture(name="local")
def _local(tmp_path, image_program, image_ports):
    """Starts a service as a process of this machine, its folders below one folder and its ports free ones."""

    def start(service):
        settings = SERVICES[service]
        pairs, environment = {}, {}
        for source, target, _ in volumes(service):
            pairs[target] = tmp_path / Path(source).name
            pairs[target].mkdir(exist_ok=True)
        listening = [value for value in settings["environment"].values() if ":" in value]
        ports = dict(zip((value.rpartition(":")[2] for value in listening), image_ports(len(listening)), strict=True))
        for key, value in settings["environment"].items():
            host, _, port = value.rpartition(":")
            environment[key] = f"{host}:{ports[port]}" if host else str(pairs.get(value, value))
        (probe, address, *name) = settings["healthcheck"]["test"][1:]
        assert probe == "trapline-health"
        port = ports[address.rpartition(":")[2]]
        program = Path(sys.executable).with_name(service)
        running = image_program([program, *settings["command"]], environment, health=f"127.0.0.1:{port}")
        return running, [sys.executable, TOP / "deploy" / "health.py", running.health, *name]

    return start


def test_the_server_runs_as_composed(local, image_kit, tmp_path):
    """Its command and variables start it without a model: alive, not ready; it serves what is published and drains."""
    server, probe = local("server")
    server.says("SERVING", "liveness")
    assert subprocess.run(probe, check=False).returncode == 0
    server.says("NOT_SERVING")
    image_kit.publish(tmp_path / "models", "colours", 1, image_kit.model_bytes())
    server.says("SERVING")
    assert server.end()[0] == 0


def test_the_trainer_runs_as_composed(local):
    """Its command and variables start it until it is ready; it ends with 0."""
    trainer, probe = local("trainer")
    trainer.says("SERVING")
    assert subprocess.run(probe, check=False).returncode == 0
    assert trainer.end()[0] == 0


@pytest.mark.full
@pytest.mark.usefixtures("image_engine")
def test_podman_compose_understands_it(tools):
    """podman-compose reads the file and would run both services with what they are shut in by."""
    command = [tools / "venv" / "bin" / "podman-compose", "--verbose", "--dry-run", "-f", "deploy/compose.yaml", "up"]
    done = subprocess.run([*command, "--no-build"], capture_output=True, text=True, check=False, cwd=TOP)
    assert done.returncode == 0, done.stderr
    created = [line for line in done.stderr.splitlines() if "podman create" in line]
    for service in SERVICES:
        (line,) = [line for line in created if f" trapline-{service}:local " in line]
        for words in ("--read-only", "--cap-drop ALL", "no-new-privileges", "--init", "10001:10001", "127.0.0.1:"):
            assert words in line, words
