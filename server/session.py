"""One version's ONNX file in ONNX Runtime: read, checked against its own metadata, warmed up, run."""

import hashlib
import logging
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trapline.errors import ModelInvalid
from trapline.model_file import INPUT_NAME, PROBABILITIES_NAME, from_properties
from trapline.processors import EXACT_INT8_ENTRY, adds_int8_products_exactly
from trapline.v1.metadata_pb2 import ModelMetadata

from .device import CPU_PROVIDER, CUDA_PROVIDER, load_cuda_libraries
from .pace import Pace

_log = logging.getLogger(__name__)

#: Largest model file that is read; protobuf, which ONNX is written in, ends here too.
MAX_FILE_BYTES = 2 * 1024**3
# A warm-up row may miss the sum of 1 by this much: half precision and int8 round.
_SUM_TOLERANCE = 0.02


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How sessions are made.

    Attributes:
        device: `cpu` or `cuda`; chosen by `device.choose_device`.
        threads: Threads inside one run on the CPU.
        max_batch: Most images in one batch.
        tf32: Whether CUDA may round to TF32.
        gpu_memory_bytes: Most GPU memory of one session; 0 for no limit.
    """

    device: Literal["cpu", "cuda"]
    threads: int
    max_batch: int
    tf32: bool = True
    gpu_memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One file of a version, as the load found it.

    Attributes:
        precision: Its arithmetic.
        digest: SHA-256, in hex; empty where it could not be opened.
        images_per_second: In full batches; 0 where it was not measured.
        problem: Why it cannot be served; empty where it can.
    """

    precision: str
    digest: str = ""
    images_per_second: float = 0.0
    problem: str = ""


class Session:
    """A model that has run its warm-up and can be asked.

    Attributes:
        metadata: What the file says about itself, checked.
        digest: SHA-256 of the file, in hex.
        providers: Execution providers in force, first choice first.
        pace: How long its batches took at warm-up.
        candidates: The files that it was chosen from, itself among them; see `precision.choose`.
    """

    def __init__(self, content: bytes, runtime: Runtime, *, decode_threads: int = 1) -> None:
        """Loads an ONNX file's bytes.

        Raises:
            ModelInvalid: It cannot be served; the sentence says why.
        """
        self.digest = hashlib.sha256(content).hexdigest()
        self._session = _open(content, runtime)
        try:
            self.metadata: ModelMetadata = from_properties(self._session.get_modelmeta().custom_metadata_map)
            _check_graph(self._session, self.metadata)
        except UnicodeDecodeError as error:
            raise ModelInvalid("the text in the file is not UTF-8: it is broken; publish it again") from error
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        self._buckets = _buckets(runtime.max_batch) if runtime.device == "cuda" else ()
        self.candidates: tuple[Candidate, ...] = (Candidate(precision=self.precision, digest=self.digest),)
        self.pace = self._warm_up(runtime.max_batch, decode_threads)

    @property
    def precision(self) -> str:
        """The file's arithmetic: `fp32`, `int8` or `fp16`."""
        return self.metadata.precision or "fp32"

    @property
    def label_count(self) -> int:
        """Number of scores for each image."""
        return len(self.metadata.labels)

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Softmax probabilities, float32 [N, labels], of upright RGB images, uint8 [N, height_px, width_px, 3]."""
        count = len(pixels)
        # On CUDA each new batch size makes cuDNN choose its algorithms again: only sizes that were warmed up are run.
        bucket = next((size for size in self._buckets if size >= count), count)
        if bucket > count:
            pixels = np.concatenate([pixels, np.zeros((bucket - count, *pixels.shape[1:]), np.uint8)])
        scores: NDArray[np.float32] = self._session.run([PROBABILITIES_NAME], {INPUT_NAME: pixels})[0]
        return scores[:count]

    def _warm_up(self, max_batch: int, decode_threads: int) -> Pace:
        """Runs every batch size that will be padded to (on the CPU the smallest and the largest), and times them."""
        seconds = {size: self._try(size) for size in self._buckets or sorted({1, max_batch})}
        seconds[1] = self._try(1)  # again: a first run also allocates
        if self._buckets:
            seconds[max_batch] = self._try(max_batch)
        return Pace(
            one_seconds=seconds[1],
            full_seconds=seconds[max_batch],
            max_batch=max_batch,
            decode_threads=decode_threads,
        )

    def _try(self, image_count: int) -> float:
        rules = self.metadata.preprocessing
        shape = (image_count, rules.height_px, rules.width_px, 3)
        pixels = np.random.default_rng(image_count).integers(0, 256, shape, np.uint8)
        pixels[0] = 127  # an even picture: what divides by an image's own spread shows it here
        began = time.perf_counter()
        try:
            scores = self.run(pixels)
        except Exception as error:
            _log.warning("event=warm_up_failed error=%r", error)
            raise ModelInvalid(
                f"the model loads but fails to run {image_count} images of {rules.width_px} × {rules.height_px} px; "
                "its input must be uint8 [N, height, width, 3] with a dynamic N: export it again"
            ) from error
        seconds = time.perf_counter() - began
        if scores.shape != (image_count, self.label_count):
            raise ModelInvalid(
                f"the output {PROBABILITIES_NAME!r} has shape {list(scores.shape)} for {image_count} images and "
                f"{self.label_count} labels; export it again"
            )
        if not np.isfinite(scores).all():
            raise ModelInvalid("the model's scores are not finite numbers; train or export it again")
        if (scores < -1e-6).any() or (abs(scores.sum(axis=1) - 1) > _SUM_TOLERANCE).any():
            raise ModelInvalid(
                "the model's scores are no probabilities, they do not sum to 1; export it with a softmax"
            )
        return seconds


def read_file(path: Path) -> bytes:
    """A model file's bytes.

    Raises:
        ModelInvalid: There is no such regular file, it cannot be read, or it is too large.
    """
    try:
        # Not blocking: a named pipe of that name would hold the loader for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ModelInvalid(f"{path.name} is no regular file; publish the version again")
            if status.st_size > MAX_FILE_BYTES:
                raise ModelInvalid(
                    f"{path.name} has {status.st_size:,} bytes, the limit is {MAX_FILE_BYTES:,}; use a smaller model"
                )
            return file.read()
    except FileNotFoundError as error:
        raise ModelInvalid(f"the version's folder has no {path.name}; publish the version again") from error
    except OSError as error:
        raise ModelInvalid(f"{path.name} cannot be read ({error.strerror}); check its permissions and disk") from error


def _open(content: bytes, runtime: Runtime) -> Any:  # noqa: ANN401  # onnxruntime publishes no type hints
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = runtime.threads
    options.inter_op_num_threads = 1
    # Spinning burns the cores that decode the next images, and idles at full load.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Of a model given as bytes ONNX Runtime still reads weights in other files, those below the working folder (seen
    # with 1.31). Below a folder that cannot be, it finds none.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", f"{os.devnull}/none")
    if not adds_int8_products_exactly():
        options.add_session_config_entry(*EXACT_INT8_ENTRY)
    providers: list[Any] = [CPU_PROVIDER]
    if runtime.device == "cuda":
        load_cuda_libraries(onnxruntime)
        cuda = {
            # The default searches for the best algorithm at each new batch size: 300 to 1300 ms a time.
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
            "use_tf32": str(int(runtime.tf32)),
        }
        if runtime.gpu_memory_bytes:
            cuda["gpu_mem_limit"] = str(runtime.gpu_memory_bytes)
        providers.insert(0, (CUDA_PROVIDER, cuda))
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:
        _log.warning("event=model_refused error=%r", error)
        if "external" in str(error).lower():
            message = "its weights lie in another file (external data); export it as one file"
        else:
            message = "ONNX Runtime cannot load the file: it is broken, cut off or no ONNX model; publish it again"
        raise ModelInvalid(message) from error
    if runtime.device == "cuda" and session.get_providers()[0] != CUDA_PROVIDER:
        raise ModelInvalid("ONNX Runtime did not take the model onto the GPU; see the server's log")
    return session


def _check_graph(session: Any, metadata: ModelMetadata) -> None:  # noqa: ANN401  # onnxruntime publishes no type hints
    rules = metadata.preprocessing
    inputs, outputs = session.get_inputs(), {output.name: output for output in session.get_outputs()}
    wanted = [rules.height_px, rules.width_px, 3]
    if len(inputs) != 1 or inputs[0].name != INPUT_NAME or inputs[0].type != "tensor(uint8)":
        found = ", ".join(f"{item.name} {item.type}" for item in inputs) or "none"
        raise ModelInvalid(f"its one input must be {INPUT_NAME!r}, uint8, and it has: {found}; export it again")
    shape = list(inputs[0].shape)
    if len(shape) != 4 or any(
        isinstance(has, int) and has != want for has, want in zip(shape[1:], wanted, strict=True)
    ):
        raise ModelInvalid(f"its input has shape {shape}, its metadata says {['N', *wanted]}; export it again")
    if isinstance(shape[0], int):
        raise ModelInvalid(f"its batch size is fixed at {shape[0]}; export it with a dynamic one")
    output = outputs.get(PROBABILITIES_NAME)
    if output is None or output.type != "tensor(float)":
        found = ", ".join(f"{name} {item.type}" for name, item in outputs.items()) or "none"
        raise ModelInvalid(
            f"it must have a float32 output {PROBABILITIES_NAME!r}, and it has: {found}; export it again"
        )


def _buckets(max_batch: int) -> tuple[int, ...]:
    """1, 2, 4, 8 ... and `max_batch` itself."""
    powers = [1 << exponent for exponent in range(max_batch.bit_length()) if 1 << exponent < max_batch]
    return (*powers, max_batch)
