"""A Deployment's rolling update, played on one machine by the manifest's own numbers; and two ways to its Pods.

Played: the Deployment's controller (surge, then removal, Pod by Pod), and endpoints, which learn of a removal a while
after it began. True: DNS answers over UDP to gRPC's own resolver, nginx with `grpc_pass`, and the Pods' processes.
"""

import socketserver
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from .kubelet import Pod
from .workloads import Workload

#: How long after a Pod's removal began endpoints still lead to it: less than preStop sleeps.
PROPAGATION_SECONDS = 3.0


class Rollout:
    """The Pods of a Deployment.

    Args:
        workload: The Deployment.
        new_pod: Makes one more Pod, with an address of its own.
        publish: Told the addresses of ready Pods, whenever they change.
    """

    def __init__(self, workload: Workload, *, new_pod: Callable[[], Pod], publish: Callable[[list[str]], None]) -> None:
        self._spec, self._new_pod, self._publish = workload.document["spec"], new_pod, publish
        self.pods: list[Pod] = []
        self.exit_codes: list[int] = []
        self._lock = threading.Lock()
        self._ready: list[str] = []

    def _set_ready(self, address: str, *, ready: bool) -> None:
        with self._lock:
            self._ready = [each for each in self._ready if each != address] + ([address] if ready else [])
            self._publish(self._ready)

    def _add(self) -> None:
        pod = self._new_pod()
        self.pods.append(pod)
        pod.become_ready()
        self._set_ready(pod.address, ready=True)

    def begin(self) -> None:
        """Starts as many Pods as the manifest asks for."""
        for _ in range(self._spec["replicas"]):
            self._add()

    def restart(self) -> None:
        """Replaces every Pod, as `kubectl rollout restart` does by this Deployment's strategy."""
        strategy = self._spec["strategy"]["rollingUpdate"]
        assert (strategy["maxSurge"], strategy["maxUnavailable"]) == (1, 0)
        for old in list(self.pods):
            self._add()
            # Only then is it available.
            time.sleep(self._spec["minReadySeconds"])
            late = threading.Timer(PROPAGATION_SECONDS, self._set_ready, (old.address,), {"ready": False})
            late.start()
            self.exit_codes.append(old.stop())
            late.join()
            self.pods.remove(old)

    def kill(self) -> None:
        """Ends all at once."""
        for pod in self.pods:
            pod.kill()


class Names:
    """A DNS server with one name, as a headless Service has it: all addresses, for a moment each.

    Args:
        name: What is asked for.
    """

    def __init__(self, name: str) -> None:
        self.addresses: list[str] = []
        self.questions = 0
        names = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                question, socket = self.request
                answer = names.answer(question, name)
                socket.sendto(answer, self.client_address)

        self._server = socketserver.ThreadingUDPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def answer(self, message: bytes, name: str) -> bytes:
        """The answer to a question: addresses of IPv4 to the name, none of IPv6; other names there are not."""
        labels, at = [], 12
        while message[at]:
            labels.append(message[at + 1 : at + 1 + message[at]].decode("ascii"))
            at += 1 + message[at]
        kind = struct.unpack(">H", message[at + 1 : at + 3])[0]
        known = ".".join(labels) == name
        found = self.addresses if known and kind == 1 else []
        self.questions += known and kind == 1
        records = [struct.pack(">HHHIH4B", 0xC00C, 1, 1, 1, 4, *map(int, address.split("."))) for address in found]
        header = message[:2] + struct.pack(">HHHHH", 0x8580 if known else 0x8583, 1, len(records), 0, 0)
        return header + message[12 : at + 5] + b"".join(records)

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Proxy:
    """nginx before the Pods, as an ingress is: told of new endpoints, it loads its configuration anew.

    Args:
        folder: For its files.
        address: HOST:PORT that it listens at.
        port: Port of the Pods.
    """

    def __init__(self, folder: Path, *, address: str, port: int) -> None:
        self._folder, self._address, self._port = folder, address, port
        self._process: subprocess.Popen | None = None

    def publish(self, addresses: list[str]) -> None:
        """Leads calls to these Pods from now on; calls under way stay where they are."""
        servers = "".join(f"server {address}:{self._port}; " for address in addresses)
        (self._folder / "nginx.conf").write_text(
            f"""worker_processes 1; daemon off; pid {self._folder}/pid; error_log {self._folder}/error.log;
events {{ worker_connections 512; }}
http {{ access_log off; client_body_temp_path {self._folder}/body; proxy_temp_path {self._folder}/proxy;
fastcgi_temp_path {self._folder}/fastcgi; uwsgi_temp_path {self._folder}/uwsgi; scgi_temp_path {self._folder}/scgi;
upstream pods {{ {servers} keepalive 16; }}
server {{ listen {self._address} http2; client_max_body_size 0; client_body_timeout 3600s;
location / {{ grpc_pass grpc://pods; grpc_next_upstream error timeout http_502 non_idempotent;
grpc_read_timeout 3600s; grpc_send_timeout 3600s; error_page 502 = @unavailable; }}
location @unavailable {{ internal; default_type application/grpc; add_header grpc-status 14;
add_header content-length 0; return 204; }} }} }}
"""
        )
        if self._process is None:
            self._process = subprocess.Popen(["nginx", "-c", self._folder / "nginx.conf"], stderr=subprocess.DEVNULL)
        else:
            subprocess.run(
                ["nginx", "-c", self._folder / "nginx.conf", "-s", "reload"], check=True, stderr=subprocess.DEVNULL
            )

    def close(self) -> None:
        """Ends it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=30)
