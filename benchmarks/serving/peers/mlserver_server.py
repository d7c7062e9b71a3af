"""MLServer: a custom runtime with adaptive batching, open inference protocol over gRPC."""

import served
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput


class Classifier(MLModel):
    """Decodes and runs what MLServer put together."""

    async def load(self):
        """Loads the model into the worker."""
        self.model = served.Model()
        return True

    async def predict(self, payload):
        """One label a photo."""
        data = payload.inputs[0].data
        data = getattr(data, "root", data)
        files = [data] if isinstance(data, bytes | str) else list(data)
        best = self.model.best_of_files(file if isinstance(file, bytes) else file.encode("latin-1") for file in files)
        output = ResponseOutput(name="index", datatype="INT64", shape=[len(best), 1], data=best)
        return InferenceResponse(model_name=self.name, outputs=[output])
