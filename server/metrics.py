"""What the server counts, in Prometheus's words: base units, labels from fixed sets and served models' ids only."""

import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from trapline.errors import UsageError

from .addresses import cannot_listen, joined, split

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
#: The `model` label of images that named no model that is served.
UNKNOWN_MODEL = "unknown"


class Metrics:
    """One server's metrics, in a registry of its own so that two servers fit into one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        model = ["model"]
        self.calls = Counter("trapline_calls", "Calls ended.", ["method", "code"], registry=registry)
        self.call_seconds = Histogram(
            "trapline_call_seconds", "Time of a unary call.", ["method"], buckets=_SECONDS, registry=registry
        )
        self.images = Counter(
            "trapline_images", "Images ended, by OK or the reason why not.", ["model", "outcome"], registry=registry
        )
        self.dropped = Counter(
            "trapline_dropped_images",
            "Images not run: cancelled or past their deadline while waiting, or refused at the door.",
            ["model", "cause"],
            registry=registry,
        )
        self.queue_images = Gauge(
            "trapline_queue_images", "Images accepted and not answered yet.", model, registry=registry
        )
        self.queue_bytes = Gauge("trapline_queue_bytes", "Bytes of those images.", model, registry=registry)
        self.queue_seconds = Histogram(
            "trapline_queue_seconds", "Waiting of an image.", model, buckets=_SECONDS, registry=registry
        )
        self.preprocess_seconds = Histogram(
            "trapline_preprocess_seconds", "Decoding of an image.", model, buckets=_SECONDS, registry=registry
        )
        self.inference_seconds = Histogram(
            "trapline_inference_seconds", "Run of a batch.", model, buckets=_SECONDS, registry=registry
        )
        self.batch_images = Histogram(
            "trapline_batch_images", "Images in a batch.", model, buckets=_IMAGES, registry=registry
        )
        self.batch_failures = Counter(
            "trapline_batch_failures", "Batches that the runtime failed to run.", model, registry=registry
        )
        self.load_failures = Counter(
            "trapline_model_load_failures", "Versions that could not be served.", model, registry=registry
        )
        self.load_seconds = Histogram(
            "trapline_model_load_seconds",
            "Reading and warming up a version.",
            model,
            buckets=_SECONDS,
            registry=registry,
        )
        self.credential_reloads = Counter(
            "trapline_credential_reloads",
            "Changed files of certificates or tokens, taken over or not.",
            ["file", "outcome"],
            registry=registry,
        )
        self.model_info = Gauge(
            "trapline_model_info", "1 for the version that is served.", ["model", "version"], registry=registry
        )


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
