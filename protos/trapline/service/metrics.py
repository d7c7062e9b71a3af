"""What every service counts, in Prometheus's words: base units, labels from fixed sets. Programs declare more."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from trapline.errors import UsageError

from .addresses import cannot_listen, joined, split

# Last words of names that only tell of something.
_UNITLESS = frozenset({"info", "ready", "error", "kept"})
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What the page of metrics tells of one.

    Attributes:
        name: As Prometheus has it, without the suffixes of a histogram.
        kind: `counter`, `gauge` or `histogram`.
        labels: Names of its labels.
        unit: What it counts or measures in.
        meaning: A sentence.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    unit: str
    meaning: str


class ServiceMetrics:
    """One service's metrics, in a registry of its own so that two services fit into one process.

    Attributes:
        declared: All of them, in the order of their page; `docs/metrics.py` writes that.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.declared: list[Declared] = []
        ProcessCollector(registry=self.registry)
        self.calls = self.counter("trapline_calls", "method code", "Calls ended.")
        self.call_seconds = self.timer("trapline_call_seconds", "method", "Time of a unary call.")
        self.credential_reloads = self.counter(
            "trapline_credential_reloads",
            "file outcome",
            "Changed files of certificates or tokens: taken over (`ok`), or the old ones kept (`failed`).",
        )
        self.credentials_kept = self.gauge(
            "trapline_credentials_kept",
            "file",
            "1 while a file of certificates or tokens has changed into what cannot be used, and the old ones are kept.",
        )
        self.ready = self.gauge("trapline_ready", "", "1 while health says SERVING: calls are taken and answered.")

    def counter(self, name: str, labels: str, meaning: str) -> Counter:
        """A count that only grows; its name as Prometheus has it gets `_total`. `labels` are words."""
        self._declare("counter", f"{name}_total", labels, meaning)
        return Counter(name, meaning, labels.split(), registry=self.registry)

    def gauge(self, name: str, labels: str, meaning: str) -> Gauge:
        """What is the case now. `labels` are words."""
        self._declare("gauge", name, labels, meaning)
        return Gauge(name, meaning, labels.split(), registry=self.registry)

    def timer(self, name: str, labels: str, meaning: str) -> Histogram:
        """A histogram of seconds, 1 ms to 30 s. `labels` are words."""
        return self.histogram(name, labels, meaning, _SECONDS)

    def histogram(self, name: str, labels: str, meaning: str, buckets: Sequence[float]) -> Histogram:
        """How often each size came, up to each of `buckets`. `labels` are words."""
        self._declare("histogram", name, labels, meaning)
        return Histogram(name, meaning, labels.split(), registry=self.registry, buckets=buckets)

    def _declare(self, kind: str, name: str, labels: str, meaning: str) -> None:
        # By Prometheus's rule the name ends with its unit; what only tells of something has none.
        last = name.removesuffix("_total").rpartition("_")[2]
        unit = "–" if last in _UNITLESS else last
        declared = Declared(name=name, kind=kind, labels=tuple(labels.split()), unit=unit, meaning=meaning)
        self.declared.append(declared)


class MetricsPage:
    """The page that Prometheus reads, on its own thread.

    Args:
        address: HOST:PORT of `--metrics`.
        metrics: What it shows.

    Raises:
        UsageError: The address cannot be listened on.
    """

    def __init__(self, address: str, metrics: ServiceMetrics) -> None:
        host, port = split(address)
        try:
            started: tuple[WSGIServer, threading.Thread] = start_http_server(port, addr=host, registry=metrics.registry)
        except OSError as error:
            raise UsageError(cannot_listen("--metrics", address, error)) from error
        self._server, self._thread = started
        self.address = joined(host, self._server.server_port)

    def close(self) -> None:
        """Stops serving the page and gives its port back."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
