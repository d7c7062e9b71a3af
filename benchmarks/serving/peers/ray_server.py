"""Ray Serve: replicas with `@serve.batch`; the body is the photo."""

import os
import time

import ray
import served
from ray import serve


@serve.deployment(num_replicas=served.WORKERS, max_ongoing_requests=256, ray_actor_options={"num_cpus": served.THREADS})
class Classifier:
    """Decodes and runs what Ray put together."""

    def __init__(self):
        self.model = served.Model()

    @serve.batch(max_batch_size=served.MAX_BATCH, batch_wait_timeout_s=served.WAIT_SECONDS)
    async def classify(self, files: list[bytes]) -> list[int]:
        """One label a photo."""
        return self.model.best_of_files(files)

    async def __call__(self, request):
        """One answer."""
        return {"index": await self.classify(await request.body())}


if __name__ == "__main__":
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("BENCH_", "TRAPLINE_")) or name == "PYTHONPATH"
    }
    # The proxy and the controller ask for no core of their own.
    ray.init(num_cpus=served.CORES, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": variables})
    serve.start(http_options={"host": "127.0.0.1", "port": served.PORT})
    serve.run(Classifier.bind(), name="bench", route_prefix="/")
    while True:
        time.sleep(3600)
