"""What the server counts, in Prometheus's words: base units, labels from fixed sets and served models' ids only."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from trapline.errors import UsageError

from .addresses import cannot_listen, joined, split

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
#: The `model` label of images that named no model that is served.
UNKNOWN_MODEL = "unknown"


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


class ModelMetrics:
    """One model's children of what is counted for every image, bound once: to find one costs more than to count.

    Args:
        metrics: Whose.
        model_id: The model's id.
    """

    def __init__(self, metrics: "Metrics", model_id: str) -> None:
        self.answered = metrics.images.labels(model_id, "OK")
        self.queue_images = metrics.queue_images.labels(model_id)
        self.queue_bytes = metrics.queue_bytes.labels(model_id)
        self.preprocess_seconds = metrics.preprocess_seconds.labels(model_id)
        self.queue_seconds = metrics.queue_seconds.labels(model_id)
        self.inference_seconds = metrics.inference_seconds.labels(model_id)
        self.batch_images = metrics.batch_images.labels(model_id)


class Metrics:
    """One server's metrics, in a registry of its own so that two servers fit into one process.

    Attributes:
        declared: All of them, in the order of their page; `docs/metrics.py` writes that.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.declared: list[Declared] = []
        self._models: dict[str, ModelMetrics] = {}
        ProcessCollector(registry=self.registry)
        counter, gauge, histogram, timer = self._counter, self._gauge, self._histogram, self._timer
        self.calls = counter("trapline_calls", "method code", "Calls ended.")
        self.call_seconds = timer("trapline_call_seconds", "method", "Time of a unary call.")
        self.images = counter("trapline_images", "model outcome", "Images ended, by `OK`, `CANCELLED` or the reason.")
        self.dropped = counter(
            "trapline_dropped_images",
            "model cause",
            "Images not run: the caller left (`cancelled`), its deadline passed (`deadline`), or no room (`refused`).",
        )
        self.wasted = counter(
            "trapline_wasted_images",
            "model cause",
            "Images run for nobody: when their batch ended the caller had left (`cancelled`) or was late (`deadline`).",
        )
        self.queue_images = gauge("trapline_queue_images", "model", "Images accepted and not answered yet.")
        self.queue_bytes = gauge("trapline_queue_bytes", "model", "Bytes of their files.")
        self.preprocess_seconds = timer("trapline_preprocess_seconds", "model", "Decoding and resizing of an image.")
        self.queue_seconds = timer("trapline_queue_seconds", "model", "Waiting of an image for its batch.")
        self.inference_seconds = timer("trapline_inference_seconds", "model", "Run of a batch.")
        self.batch_images = histogram("trapline_batch_images", "model", "Images in a batch.", _IMAGES)
        self.batch_failures = counter("trapline_batch_failures", "model", "Batches that the runtime failed to run.")
        self.load_seconds = timer("trapline_model_load_seconds", "model", "Reading and warming up a version.")
        self.load_failures = counter("trapline_model_load_failures", "model", "Versions that could not be served.")
        self.credential_reloads = counter(
            "trapline_credential_reloads",
            "file outcome",
            "Changed files of certificates or tokens: taken over (`ok`), or the old ones kept (`failed`).",
        )
        self.model_info = gauge("trapline_model_info", "model version", "1 for the version that is served.")
        self.predictions = counter(
            "trapline_predictions",
            "model version label",
            "Images answered by the version that is served, by their best label.",
        )
        self.top_score = histogram(
            "trapline_top_score_ratio",
            "model version",
            "Probability, 0 to 1, of the best label of each image that the version that is served answered.",
            _SHARES,
        )
        self.unknown = counter(
            "trapline_unknown_images",
            "model version",
            "Images that the version that is served answered with an unknown score above 1: likely of no label.",
        )

    def of(self, model_id: str) -> ModelMetrics:
        """The metrics of a model that is served."""
        found = self._models.get(model_id)
        if found is None:
            found = self._models[model_id] = ModelMetrics(self, model_id)
        return found

    def _counter(self, name: str, labels: str, meaning: str) -> Counter:
        self._declare("counter", f"{name}_total", labels, meaning)
        return Counter(name, meaning, labels.split(), registry=self.registry)

    def _gauge(self, name: str, labels: str, meaning: str) -> Gauge:
        self._declare("gauge", name, labels, meaning)
        return Gauge(name, meaning, labels.split(), registry=self.registry)

    def _timer(self, name: str, labels: str, meaning: str) -> Histogram:
        return self._histogram(name, labels, meaning, _SECONDS)

    def _histogram(self, name: str, labels: str, meaning: str, buckets: Sequence[float]) -> Histogram:
        self._declare("histogram", name, labels, meaning)
        return Histogram(name, meaning, labels.split(), registry=self.registry, buckets=buckets)

    def _declare(self, kind: str, name: str, labels: str, meaning: str) -> None:
        # By Prometheus's rule the name ends with its unit; what only tells of something has none.
        unit = name.removesuffix("_total").rpartition("_")[2].replace("info", "–")
        declared = Declared(name=name, kind=kind, labels=tuple(labels.split()), unit=unit, meaning=meaning)
        self.declared.append(declared)


class MetricsPage:
    """The page that Prometheus reads, on its own thread."""

    def __init__(self, address: str, metrics: Metrics) -> None:
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
