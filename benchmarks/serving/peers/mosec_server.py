"""mosec: a stage of processes that decode, then a batched stage that runs the model; the body is the photo."""

import served
from mosec import Server, Worker


class Decode(Worker):
    """Decodes; as many processes as cores."""

    def deserialize(self, data):
        """The body as it is."""
        return data

    def forward(self, data):
        """Pixels of one photo."""
        return served.decode(data)


class Classify(Worker):
    """Runs batches."""

    def __init__(self):
        super().__init__()
        self.model = served.Model()

    def forward(self, data):
        """One label a photo."""
        return [{"index": index} for index in self.model.best(data)]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Decode, num=served.CORES)
    server.append_worker(
        Classify, num=served.WORKERS, max_batch_size=served.MAX_BATCH, max_wait_time=int(1000 * served.WAIT_SECONDS)
    )
    server.run()
