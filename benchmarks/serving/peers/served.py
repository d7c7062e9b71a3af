"""What every peer serves: the same decode, session and batch, so that only the serving layer differs.

Runs inside a peer's own environment; what to serve comes in variables that serve.py sets.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pixels
from numpy.typing import NDArray

PORT, GRPC_PORT, METRICS_PORT = (int(os.environ[f"BENCH_{name}_PORT"]) for name in ("HTTP", "GRPC", "METRICS"))
#: Processes that run the model, and threads of each: as many together as there are cores.
WORKERS, THREADS = int(os.environ["BENCH_WORKERS"]), int(os.environ["BENCH_THREADS"])
CORES = WORKERS * THREADS
MAX_BATCH, WAIT_SECONDS = 16, 0.002
_IMAGE_PX = int(os.environ["BENCH_IMAGE_PX"])
_DECODE = pixels.DECODES[os.environ["BENCH_DECODE"]]


def decode(data: bytes) -> NDArray[np.uint8]:
    """One photo's pixels, uint8 [side, side, 3]."""
    return _DECODE(data, _IMAGE_PX)


class Model:
    """The model, warmed up, and threads to decode what came as one batch."""

    def __init__(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=providers)
        self._pool = ThreadPoolExecutor(THREADS)
        for count in (1, MAX_BATCH):
            self.best([np.zeros((_IMAGE_PX, _IMAGE_PX, 3), np.uint8)] * count)

    def best(self, batch: Iterable[NDArray[np.uint8]]) -> list[int]:
        """The index of the best label of each of a batch of pixels."""
        scores = self._session.run(["probabilities"], {"image": np.stack(list(batch))})[0]
        return [int(index) for index in scores.argmax(axis=1)]

    def best_of_files(self, files: Iterable[bytes]) -> list[int]:
        """The same of photos, decoded side by side."""
        return self.best(self._pool.map(decode, files))
