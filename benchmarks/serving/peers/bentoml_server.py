"""BentoML: a batchable API with adaptive batching; photos come as multipart uploads."""

from pathlib import Path

import bentoml
import served


@bentoml.service(workers=served.WORKERS, traffic={"timeout": 60, "max_concurrency": 256})
class Classifier:
    """Decodes and runs what BentoML put together."""

    def __init__(self):
        self.model = served.Model()

    @bentoml.api(batchable=True, max_batch_size=served.MAX_BATCH, max_latency_ms=60_000)
    def classify(self, images: list[Path]) -> list[int]:
        """One label a photo."""
        return self.model.best_of_files(path.read_bytes() for path in images)
