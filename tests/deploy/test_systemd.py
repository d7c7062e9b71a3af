import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

TOP = Path(__file__).parents[2]
NAMES = ("server", "trainer")
PROGRAMS = Path(sys.executable).parent
#: Of 10; a unit without any hardening has 9.6. What is left is mostly the network, and the trainer's users.
MOST_EXPOSED = {"server": 1.5, "trainer": 1.6}

#: `tests` has no packages to import from.
kit = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("units.py"))))
UNITS, unit, environment, analyzed = kit.UNITS, kit.unit, kit.environment, kit.analyzed


@pytest.fixture(name="installed")
def _installed(tmp_path):
    """The units in a folder, with the programs where they are here, and the drop-in for GPUs."""
    for name in NAMES:
        text = (UNITS / f"trapline-{name}.service").read_text(encoding="utf-8")
        assert "/opt/trapline/bin/" in text
        (tmp_path / f"trapline-{name}.service").write_text(text.replace("/opt/trapline/bin", str(PROGRAMS)))
        folder = tmp_path / f"trapline-{name}.service.d"
        folder.mkdir()
        shutil.copy(UNITS / "gpu.conf", folder)
    return tmp_path


def verified(folder, name):
    """What `systemd-analyze verify` says of ours: of the system's own units it says things, too."""
    done = analyzed("verify", "--man=no", folder / f"trapline-{name}.service")
    return [line for line in done.stderr.splitlines() if "trapline" in line or "gpu.conf" in line], done.returncode


@pytest.mark.parametrize("name", NAMES)
def test_systemd_understands_a_unit(installed, name):
    """`systemd-analyze verify` has nothing to say against the unit with its drop-in, and has against a misspelt one."""
    assert verified(installed, name) == ([], 0)
    drop_in = installed / f"trapline-{name}.service.d" / "gpu.conf"
    drop_in.write_text("[Service]\nPrivateDevcies=no\n")
    (said,), _ = verified(installed, name)
    assert "PrivateDevcies" in said


def exposure(path, most):
    """What `systemd-analyze security` counts, and its exit code for a bound."""
    done = analyzed("security", "--offline=true", f"--threshold={most * 10:.0f}", path)
    return float(re.search(r"exposure level for .*: ([\d.]+)", done.stdout)[1]), done.returncode


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_is_shut_in(name, tmp_path):
    """Its exposure stays below its bound, and without two of its lines it would not."""
    path, most = UNITS / f"trapline-{name}.service", MOST_EXPOSED[name]
    assert exposure(path, most)[0] <= most
    assert exposure(path, most)[1] == 0
    weaker = tmp_path / path.name
    weaker.write_text(re.sub(r"^(SystemCallFilter|ProtectSystem)=.*\n", "", path.read_text(), flags=re.MULTILINE))
    assert exposure(weaker, most)[1] != 0


@pytest.mark.parametrize("name", NAMES)
def test_a_units_grace_is_longer_than_its_drain(name):
    """A kill comes later than the service has drained; its variables are options that there are."""
    prefix = name.upper()
    (stop,) = unit(name)["TimeoutStopSec"]
    assert int(stop) >= int(environment(name)[f"{prefix}_DRAIN_SECONDS"]) + 15
    page = (TOP / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert not [key for key in environment(name) if key.startswith(prefix) and f"| `{key}` |" not in page]
    offered = re.findall(r"^#?([A-Z_]+)=", (UNITS / f"{name}.env").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(offered) >= 4
    assert not [key for key in offered if f"| `{key}` |" not in page]


def test_what_a_unit_writes_is_what_it_may_write():
    """The server reads everything; the trainer's folders are those that it may write, and both share one of models."""
    assert not unit("server")["ReadWritePaths"] + unit("server")["CacheDirectory"] + unit("server")["StateDirectory"]
    variables = environment("trainer")
    written = set(unit("trainer")["ReadWritePaths"][0].split())
    assert written == {variables["TRAINER_RUNS_ROOT"], variables["TRAINER_MODELS"]}
    assert variables["TRAINER_MODELS"] == environment("server")["SERVER_MODELS"]
    caches = {f"/var/cache/{each}" for each in unit("trainer")["CacheDirectory"][0].split()}
    assert {variables["HOME"], variables["TMPDIR"]} == caches
    assert Path(variables["TRAINER_CACHE_DIR"]).is_relative_to("/var/cache/trapline")


def test_a_trainer_finds_the_jobs_of_its_last_start():
    """It reads the descriptors of processes in /proc, for which both must be one user, in one user namespace.

    `PrivateUsers` would make a namespace each start; `DynamicUser` a user; the other values of `ProtectProc` hide more.
    """
    assert not unit("trainer")["PrivateUsers"] + unit("trainer")["DynamicUser"]
    assert unit("trainer")["ProtectProc"] in ([], ["invisible"])
    assert unit("trainer")["ProcSubset"] in ([], ["all"])
    assert unit("trainer")["User"] == ["trapline"]


def test_users_and_folders_are_made(tmp_path):
    """Tools of systemd's make the user and the folders that the units name, with the number that the images have."""
    if shutil.which("systemd-sysusers") is None or shutil.which("systemd-tmpfiles") is None:
        pytest.skip("systemd's tools are not installed")
    for folder, name in (("sysusers.d", "sysusers.conf"), ("tmpfiles.d", "tmpfiles.conf")):
        (tmp_path / "etc" / folder).mkdir(parents=True)
        shutil.copy(UNITS / name, tmp_path / "etc" / folder / "trapline.conf")
    users = ["systemd-sysusers", f"--root={tmp_path}"]
    subprocess.run(users, check=True, capture_output=True)
    assert re.search(r"^trapline:x:10001:10001:", (tmp_path / "etc" / "passwd").read_text(), re.MULTILINE)
    done = subprocess.run(
        ["systemd-tmpfiles", f"--root={tmp_path}", "--create"], check=False, capture_output=True, text=True
    )
    made = {f"/{path.relative_to(tmp_path)}" for path in (tmp_path / "srv").rglob("*")}
    assert made >= {environment("server")["SERVER_MODELS"], environment("trainer")["TRAINER_RUNS_ROOT"]}, done.stderr
    assert environment("trainer")["TRAINER_DATA_ROOT"] in made
