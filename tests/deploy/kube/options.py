"""Variables of containers: options that the program of the command has, with values that it takes."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .workloads import Facts, Workload, command, environment

if TYPE_CHECKING:
    from .crossref import Index

#: Variables that other programs read: Python's libraries, and torchrun.
OTHERS = {"HOME", "JOB_NAME", "PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"}
#: Options that name what is written; all other paths are only read.
_WRITTEN = {"out", "publish", "cache_dir", "runs_root"}
_MARGIN_SECONDS = 15
_PORTS = {"listen": "grpc", "health": "health", "metrics": "metrics", "admin": "admin"}
_UNITS = {"Mi": 2**20, "Gi": 2**30}


def option_class(words: list[str]) -> type:
    """The options of the verb that a command line names."""
    from server.config import ServerConfig
    from trainer.config import RunConfig
    from trainer.jobs.config import ServeConfig

    known = {("server", "run"): ServerConfig, ("trainer", "serve"): ServeConfig, ("trainer", "run"): RunConfig}
    if words[:2] == ["torchrun", "--no-python"]:
        words = words[2:]
    return known[words[0], words[1]]


def parsed(words: list[str], variables: dict[str, str]) -> object:
    """The options as the program itself reads them.

    Raises:
        ValueError: It would refuse them.
    """
    kind, arguments = option_class(words), words[4:] if words[0] == "torchrun" else words[2:]
    kept = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        return kind(_cli_parse_args=arguments)
    except SystemExit as error:
        raise ValueError(f"{words} is no command line of it") from error
    finally:
        os.environ.clear()
        os.environ.update(kept)


def option_problems(index: "Index") -> Iterator[str]:
    """Commands and variables that a program does not take, or that do not fit its Pod."""
    for each in index.workloads:
        facts, where = Facts(name=each.name, maps=index.maps), f"{each.kind} {each.name}"
        variables = environment(each.main, facts)
        words = command(each.main, variables)
        kind = option_class(words)
        prefix = kind.model_config["env_prefix"]
        raw = " ".join(each.main["command"])
        for name in variables:
            option = name.startswith(prefix) and name[len(prefix) :].lower() in kind.model_fields
            if not option and name not in OTHERS and f"$({name})" not in raw:
                yield f"{where}: nobody reads the variable {name}"
        try:
            options = parsed(words, variables)
        except ValueError as error:
            yield f"{where}: its options are refused: {error}"
            continue
        if re.search(r"\$\(", " ".join([*words, *variables.values()])):
            yield f"{where}: a variable in its command is not defined"
        yield from _places(each, options, where)
        if "lifecycle" in each.main:
            yield from _addresses(each, options, where)
            yield from _drain(each, options, where)
        yield from _room(each, options, where)


def _places(each: Workload, options: object, where: str) -> Iterator[str]:
    """Every path lies on a volume that may be written where it is written, and may not where it is only read."""
    mounts = {mount["mountPath"]: mount for mount in each.main["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in each.pod["volumes"]}
    for name, value in options:
        if not isinstance(value, Path):
            continue
        place = next((str(up) for up in (value, *value.parents) if str(up) in mounts), None)
        if place is None:
            yield f"{where}: {name} {value} lies on no volume"
            continue
        written = name in _WRITTEN or (name == "models" and each.main["name"] == "trainer")
        if written == mounts[place].get("readOnly", False):
            yield f"{where}: {name} {value} is {'written' if written else 'only read'}; its mount says otherwise"
        secret = volumes.get(mounts[place]["name"], {}).get("secret")
        if secret:
            yield from _in_secret(secret["secretName"], value, where)


def _in_secret(name: str, path: Path, where: str) -> Iterator[str]:
    from .crossref import SECRETS

    if path.name not in SECRETS.get(name, ()):
        yield f"{where}: the Secret {name} has no key {path.name}"


def _addresses(each: Workload, options: object, where: str) -> Iterator[str]:
    """Ports are those of the container; what is reached from outside listens on all addresses, and admins' on none."""
    ports = {port["name"]: port["containerPort"] for port in each.main["ports"]}
    for option, port in _PORTS.items():
        host, _, number = str(getattr(options, option)).rpartition(":")
        wanted = f"127.0.0.1:{ports.get(port)}" if option == "admin" else f"0.0.0.0:{ports.get(port)}"
        if f"{host}:{number}" != wanted and not (option == "admin" and not host and port not in ports):
            yield f"{where}: --{option} is {host}:{number}, must be {wanted}"


def _drain(each: Workload, options: object, where: str) -> Iterator[str]:
    """Grace is at least preStop, the drain and a margin."""
    before = each.main["lifecycle"]["preStop"]["sleep"]["seconds"]
    least = before + options.drain_seconds + _MARGIN_SECONDS
    if each.pod["terminationGracePeriodSeconds"] < least or before < 5 or options.drain_seconds < 30:
        yield f"{where}: grace must be at least {least} s: preStop {before} + drain {options.drain_seconds} + 15"


def bytes_of(quantity: str) -> float:
    """Bytes of a quantity with the unit Mi or Gi."""
    return float(quantity[:-2]) * _UNITS[quantity[-2:]]


def _room(each: Workload, options: object, where: str) -> Iterator[str]:
    """Volumes fit the limit of storage, the cache its volume, a model's trial half of the memory."""
    limits = each.main["resources"]["limits"]
    sizes = {one["name"]: bytes_of(one["emptyDir"]["sizeLimit"]) for one in each.pod["volumes"] if "emptyDir" in one}
    if sum(sizes.values()) > bytes_of(limits["ephemeral-storage"]):
        yield f"{where}: its volumes may take more than its ephemeral storage"
    if "cache" in sizes and options.cache_gib * 2**30 >= sizes["cache"]:
        yield f"{where}: the cache is larger than its volume"
    if hasattr(options, "model_memory_mib"):
        trial = options.model_memory_mib * 2**20
        if not 0 < trial <= bytes_of(limits["memory"]) / 2:
            yield f"{where}: a model's trial may take more than half of the memory"
