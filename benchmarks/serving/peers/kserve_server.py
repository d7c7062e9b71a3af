"""KServe's model server, open inference protocol over gRPC. It has no batcher in its process: each photo runs alone."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import served
from kserve import InferOutput, InferResponse, Model, ModelServer

POOL = ThreadPoolExecutor(served.CORES)


class Classifier(Model):
    """Decodes and runs in threads, as many as cores."""

    def load(self):
        """Loads the model."""
        self.model = served.Model()
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):  # noqa: ARG002  # KServe passes them by name
        """One label."""
        data = payload.inputs[0].data
        file = data.ravel()[0] if isinstance(data, np.ndarray) else data[0]
        best = await asyncio.get_running_loop().run_in_executor(POOL, self.model.best_of_files, [file])
        return InferResponse(payload.id, self.name, [InferOutput("index", [1, 1], "INT64", best)])


if __name__ == "__main__":
    model = Classifier("bench")
    model.load()
    ModelServer(http_port=served.PORT, grpc_port=served.GRPC_PORT, workers=1, enable_latency_logging=False).start(
        [model]
    )
