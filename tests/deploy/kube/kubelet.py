"""A Pod as processes of this machine, run by its manifest: command, variables, probes, preStop, grace.

True to a kubelet: the environment and command that it would make, gRPC probes of the manifest's port, service, period
and threshold, preStop before SIGTERM, SIGKILL when the grace is over. Played: a Pod's address is one of its own below
127.0.0.0/8, which takes the place of 0.0.0.0 and, for nobody shares the Pod's own loopback, of 127.0.0.1; volumes are
folders, whose names take the place of mount paths; there are no limits, no other user, no read-only root.
"""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .rendering import Document
from .workloads import Facts, Workload, command, environment

_PROGRAMS = Path(sys.executable).parent


def pod_address(number: int) -> str:
    """An address for one Pod of this process; those of another run of the tests are others."""
    return f"127.{100 + os.getpid() % 100}.{number}.1"


class Pod:
    """One Pod.

    Args:
        workload: What it is one of.
        maps: ConfigMaps, by name.
        address: Its own.
        volumes: Folders of volumes, by the name of the claim or Secret, or of the volume where it is the Pod's own.
        log: Folder for what it says.
        index: Its number in an Indexed Job.
        more: Variables that something else than the manifest sets.
    """

    def __init__(
        self,
        workload: Workload,
        maps: dict[str, dict[str, str]],
        *,
        address: str,
        volumes: dict[str, Path],
        log: Path,
        index: int = 0,
        more: dict[str, str] | None = None,
    ) -> None:
        self.workload, self.address, self._log, self._more = workload, address, log, more or {}
        self._facts = Facts(name=workload.name, index=index, maps=maps)
        self._folders = {}
        for volume in [*workload.pod["volumes"], *({"name": name} for name in workload.claims)]:
            outside = volume.get("persistentVolumeClaim", {}).get("claimName") or volume.get("secret", {}).get(
                "secretName"
            )
            folder = volumes[outside] if outside else volumes.get(volume["name"], log / volume["name"])
            folder.mkdir(parents=True, exist_ok=True)
            self._folders[volume["name"]] = folder
        self.process: subprocess.Popen | None = None
        self.said = log / "said"

    def _start(self, container: Document) -> subprocess.Popen:
        variables = environment(container, self._facts) | self._more
        words = command(container, variables)
        places = {mount["mountPath"]: str(self._folders[mount["name"]]) for mount in container["volumeMounts"]}

        place = re.compile(rf"(?<![\w./-])({'|'.join(places)})(?=[/\s]|$)")

        def local(text: str) -> str:
            text = place.sub(lambda found: places[found[1]], text)
            return re.sub(r"^(0\.0\.0\.0|127\.0\.0\.1)(?=:\d+$)", self.address, text)

        path = f"{_PROGRAMS}:{os.environ['PATH']}"
        variables = {name: local(value) for name, value in variables.items()} | {"PATH": path}
        with self.said.open("ab") as log:
            return subprocess.Popen(
                [local(word) for word in words], env=variables, cwd=self._log, stdout=log, stderr=subprocess.STDOUT
            )

    def start(self) -> None:
        """Runs the containers that come first to their end, then starts the main one."""
        for container in self.workload.pod.get("initContainers", ()):
            assert self._start(container).wait(timeout=120) == 0, self.said.read_text()
        self.process = self._start(self.workload.main)

    def probe(self, name: str) -> bool:
        """Whether a probe succeeds now."""
        probe = self.workload.main[name]
        with grpc.insecure_channel(f"{self.address}:{probe['grpc']['port']}") as channel:
            request = health_pb2.HealthCheckRequest(service=probe["grpc"]["service"])
            with suppress(grpc.RpcError):
                answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=probe["timeoutSeconds"])
                return answer.status == health_pb2.HealthCheckResponse.SERVING
        return False

    def wait_for(self, name: str, *, tries: int | None = None) -> None:
        """Tries a probe by its period until it succeeds; fails after `tries`, by default its threshold."""
        probe = self.workload.main[name]
        for _ in range(tries or probe["failureThreshold"]):
            if self.probe(name):
                return
            assert self.process.poll() is None, self.said.read_text()
            time.sleep(probe["periodSeconds"])
        raise AssertionError(f"{name} of {self.workload.name} did not succeed: {self.said.read_text()}")

    def become_ready(self) -> None:
        """Starts it and waits until it would get calls."""
        self.start()
        self.wait_for("startupProbe")
        # Asked for as long as the Pod lives: its threshold is for one that was ready.
        self.wait_for("readinessProbe", tries=60)

    def stop(self) -> int:
        """Ends it as its deletion does: preStop, SIGTERM, and no longer than its grace; gives the exit code."""
        end = time.monotonic() + self.workload.pod["terminationGracePeriodSeconds"]
        time.sleep(self.workload.main["lifecycle"]["preStop"]["sleep"]["seconds"])
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=end - time.monotonic())
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL

    def kill(self) -> None:
        """Ends it at once, where it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
