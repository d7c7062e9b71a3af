"""pytriton: Triton's own front end and dynamic batcher, and Python callables that it reaches through shared memory."""

import numpy as np
import served
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def instance():
    """A callable with a model of its own; Triton calls each on a thread of its own."""
    model = served.Model()

    @batch
    def classify(image):
        return [np.array(model.best_of_files(image.ravel()), np.int64)[:, None]]

    return classify


if __name__ == "__main__":
    config = TritonConfig(http_port=served.PORT, grpc_port=served.GRPC_PORT, metrics_port=served.METRICS_PORT)
    with Triton(config=config) as triton:
        triton.bind(
            "bench",
            [instance() for _ in range(served.WORKERS)],
            inputs=[Tensor(name="image", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="index", dtype=np.int64, shape=(1,))],
            config=ModelConfig(
                max_batch_size=served.MAX_BATCH,
                batcher=DynamicBatcher(max_queue_delay_microseconds=int(1e6 * served.WAIT_SECONDS)),
            ),
        )
        triton.serve()
