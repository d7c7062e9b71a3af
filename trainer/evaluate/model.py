"""An exported file run as a server runs it: by ONNX Runtime on the CPU, fed by the contract's preprocessing."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from trapline import model_file, preprocessing
from trapline.errors import ModelInvalid, Refusal
from trapline.processors import EXACT_INT8_ENTRY, adds_int8_products_exactly
from trapline.v1.metadata_pb2 import ModelMetadata

from ..errors import UsageError

_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """A loaded file.

    Attributes:
        metadata: What the file says about itself.
        session: ONNX Runtime's session on the CPU.
    """

    metadata: ModelMetadata
    session: onnxruntime.InferenceSession

    @property
    def labels(self) -> list[str]:
        """The classes' ids, in output order."""
        return [label.id for label in self.metadata.labels]

    def scores(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Softmax probabilities, and last the unknown score where the file has one, of uint8 [N, H, W, 3] pixels.

        Returns:
            Float32 [N, labels], or [N, labels + 1].
        """
        names = [model_file.PROBABILITIES_NAME]
        if self.metadata.HasField("unknowns"):
            names.append(model_file.UNKNOWN_SCORE_NAME)
        return np.column_stack(self.session.run(names, {model_file.INPUT_NAME: pixels}))

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Softmax probabilities, float32 [N, labels], of uint8 [N, H, W, 3] pixels."""
        return self.scores(pixels)[:, : len(self.labels)]


def load(path: Path, *, threads: int) -> ExportedModel:
    """The exported file at `path`.

    Raises:
        UsageError: It is missing, no ONNX file, or says nothing about itself that can be used.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read {path} ({error.strerror}); name an exported .onnx file or a finished run"
        ) from error
    try:
        session = open_network(data, threads=threads)
        properties = session.get_modelmeta().custom_metadata_map
    except Exception as error:  # ONNX Runtime raises classes of its own for each kind of bad file
        raise UsageError(f"{path} is no ONNX file that can be run; name a file that `trainer run` exported") from error
    try:
        metadata = model_file.from_properties(properties)
    except ModelInvalid as error:
        raise UsageError(f"{path}: {error}") from error
    return ExportedModel(metadata=metadata, session=session)


def open_network(data: bytes, *, threads: int) -> onnxruntime.InferenceSession:
    """ONNX Runtime's session of an ONNX file's bytes, on the CPU, with exact products of int8."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if not adds_int8_products_exactly():
        options.add_session_config_entry(*EXACT_INT8_ENTRY)
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def classify_files(
    model: ExportedModel, paths: Iterable[Path], *, threads: int, report: Callable[[int], None]
) -> Iterator[tuple[Path, NDArray[np.float32] | str]]:
    """Each path with its scores as `ExportedModel.scores` gives them, or with the reason why it has none; in order.

    Args:
        model: The loaded file.
        paths: Image files.
        threads: Decoding threads.
        report: Told how many are done.
    """
    done = 0
    iterator = iter(paths)
    with ThreadPoolExecutor(threads) as pool:
        while batch := list(islice(iterator, _BATCH)):
            pixels = list(pool.map(lambda path: _pixels(path, model.metadata), batch))
            whole = [item for item in pixels if not isinstance(item, str)]
            rows = iter(model.scores(np.stack(whole))) if whole else iter(())
            for path, item in zip(batch, pixels, strict=True):
                yield path, item if isinstance(item, str) else next(rows)
            done += len(batch)
            report(done)


def _pixels(path: Path, metadata: ModelMetadata) -> NDArray[np.uint8] | str:
    try:
        return preprocessing.load_image(path.read_bytes(), metadata.preprocessing)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except Refusal as error:
        return error.message
