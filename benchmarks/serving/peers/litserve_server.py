"""LitServe: a batched LitAPI; photos come as multipart uploads, its documented way for images."""

import litserve
import served
from fastapi import Request


class Api(litserve.LitAPI):
    """Decodes and runs in the worker, batched by LitServe."""

    def setup(self, device):  # noqa: ARG002  # LitServe's signature
        """Loads the model into the worker."""
        self.model = served.Model()

    def decode_request(self, request: Request):
        """Pixels of one upload."""
        return served.decode(request["image"].file.read())

    def batch(self, inputs):
        """The worker's own stacking is in the model."""
        return inputs

    def predict(self, batch):
        """One label a photo."""
        return self.model.best(batch)

    def unbatch(self, output):
        """Labels, one by one."""
        return output

    def encode_response(self, output):
        """One answer."""
        return {"index": output}


if __name__ == "__main__":
    api = Api(max_batch_size=served.MAX_BATCH, batch_timeout=served.WAIT_SECONDS)
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=served.WORKERS)
    server.run(port=served.PORT, host="127.0.0.1", log_level="warning", num_api_servers=1, generate_client_file=False)
