"""Debian's Prometheus for the tests: its tools, a server of it, and the shipped rules with shorter times."""

import copy
import json
import os
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path

import yaml

TOP = Path(__file__).parents[2]
FOLDER = TOP / "deploy" / "monitoring"
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = r"(\d+)(ms|s|m|h|d)"
# A metric of ours, of a process, of Prometheus itself, or a recorded one; and what is asked of its labels.
_SELECTOR = re.compile(r"\b([a-z_]+:[a-z_]+:\w+|(?:trapline|process)_\w+|up|ALERTS)\b(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')


#: Without what Debian recommends beside it: the node exporter would take the server's port.
INSTALL = ("install", "--no-install-recommends")


class Unavailable(Exception):
    """Prometheus is not here and cannot be had; says why."""


def install(package="prometheus", program="promtool"):
    """Sees to it that Debian's package is there, with its program."""
    if shutil.which(program):
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise Unavailable(f"no {program} here, and no root with apt-get to install Debian's package {package}")
    for words in (("update", "-qq"), (*INSTALL, "-y", "-qq", package)):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(["apt-get", *words], capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise Unavailable(f"Debian's package {package} cannot be installed: {done.stderr.strip()[-200:]}")


def promtool(*arguments):
    """Whether it is content, and what it says."""
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout + done.stderr


def shipped():
    """The shipped rules, as they are read from their file."""
    return yaml.safe_load((FOLDER / "rules.yml").read_text(encoding="utf-8"))


def alerts(rules):
    """The alerts among the rules, by name."""
    return {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule}


def records(rules):
    """The recorded metrics' expressions, by name."""
    return {rule["record"]: rule["expr"] for group in rules["groups"] for rule in group["rules"] if "record" in rule}


def asked(expression):
    """Metrics that an expression asks for, each with what it asks of their labels: pairs of name and value."""
    for name, matchers in _SELECTOR.findall(expression):
        yield name, MATCHER.findall(matchers)


def faster(rules, factor):
    """The same rules with every duration divided by `factor`: windows, offsets, `for`, intervals, silent seconds."""

    def shorter(match):
        return f"{match[1]}{round(int(match[2]) * _SECONDS[match[3]] * 1000 / factor)}ms"

    changed = copy.deepcopy(rules)
    for group in changed["groups"]:
        for timed in (group, *group["rules"]):
            for key in ("interval", "for"):
                if key in timed:
                    timed[key] = re.sub(f"^(){_DURATION}$", shorter, timed[key])
        for rule in group["rules"]:
            rule["expr"] = re.sub(rf"(\[|\boffset ){_DURATION}", shorter, rule["expr"])
            rule["expr"] = re.sub(r"(?<=_silent_seconds > )\d+", lambda at: f"{int(at[0]) / factor:g}", rule["expr"])
    return changed


class Prometheus:
    """A Prometheus that scrapes what its folder's `JOB.json` name, once a second.

    Args:
        folder: Its own.
        rules: What it evaluates, once a second.
        port: Of its pages.
        jobs: Names of the jobs.
    """

    def __init__(self, folder, rules, port, jobs):
        self._folder, self._address = folder, f"http://127.0.0.1:{port}"
        (folder / "rules.yml").write_text(yaml.safe_dump(rules))
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {"job_name": job, "file_sd_configs": [{"files": [f"{job}.json"], "refresh_interval": "1s"}]}
                for job in jobs
            ],
        }
        for job in jobs:
            self.scrape(job)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        with (folder / "prometheus.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
            )

    def scrape(self, job, *addresses):
        """Has the job's targets be these from now on."""
        path, new = self._folder / f"{job}.json", self._folder / f"{job}.new"
        new.write_text(json.dumps([{"targets": list(addresses)}]))
        new.rename(path)

    def ask(self, expression):
        """What the expression is now: pairs of labels and value."""
        words = urllib.parse.urlencode({"query": expression})
        result = self._get(f"/api/v1/query?{words}")["result"]
        return [(each["metric"], float(each["value"][1])) for each in result]

    def firing(self):
        """The alerts that fire now, by name: their labels and annotations."""
        found = {}
        for alert in self._get("/api/v1/alerts")["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert)
        return found

    def until_up(self, seconds=30):
        """Waits until it answers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()
            with suppress(OSError):
                self.firing()
                return
            time.sleep(0.2)
        raise AssertionError((self._folder / "prometheus.log").read_text())

    def close(self):
        """Ends it."""
        self._process.terminate()
        self._process.wait(timeout=30)

    def _get(self, path):
        with urllib.request.urlopen(self._address + path, timeout=10) as answer:
            return json.load(answer)["data"]
