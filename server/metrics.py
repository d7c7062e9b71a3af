"""What the server counts beside its calls: images, batches, models; labels from fixed sets and served models' ids."""

from trapline.service.metrics import ServiceMetrics

_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
#: The `model` label of images that named no model that is served.
UNKNOWN_MODEL = "unknown"


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


class Metrics(ServiceMetrics):
    """One server's metrics."""

    def __init__(self) -> None:
        super().__init__()
        self._models: dict[str, ModelMetrics] = {}
        counter, gauge, histogram, timer = self.counter, self.gauge, self.histogram, self.timer
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
        self.queue_limit = gauge(
            "trapline_queue_limit_seconds", "", "`--max-queue-ms`: calls that would wait longer are refused."
        )
        self.inference_seconds = timer("trapline_inference_seconds", "model", "Run of a batch.")
        self.batch_images = histogram("trapline_batch_images", "model", "Images in a batch.", _IMAGES)
        self.batch_failures = counter("trapline_batch_failures", "model", "Batches that the runtime failed to run.")
        self.load_seconds = timer("trapline_model_load_seconds", "model", "Reading and warming up a version.")
        self.load_failures = counter("trapline_model_load_failures", "model", "Versions that could not be served.")
        self.model_error = gauge(
            "trapline_model_error", "model", "1 while the newest version of a model cannot be served."
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
