"""One version's ONNX file in ONNX Runtime: read, checked against its own metadata, warmed up, run."""

import hashlib
import logging
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trapline.errors import ModelInvalid
from trapline.model_file import INPUT_NAME, PROBABILITIES_NAME, UNKNOWN_SCORE_NAME, from_properties
from trapline.processors import EXACT_INT8_ENTRY, adds_int8_products_exactly
from trapline.v1.metadata_pb2 import ModelMetadata

from .binding import Bindings
from .device import CPU_PROVIDER, CUDA_PROVIDER, load_cuda_libraries
from .warm_up import warm_up

_log = logging.getLogger(__name__)

#: Largest model file that is read; protobuf, which ONNX is written in, ends here too.
MAX_FILE_BYTES = 2 * 1024**3


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
        arrangement: How its batches run, by the measurement at warm-up.
        candidates: The files that it was chosen from, itself among them; see `precision.choose`.
    """

    def __init__(self, content: bytes, runtime: Runtime) -> None:
        """Loads an ONNX file's bytes.

        Raises:
            ModelInvalid: It cannot be served; the sentence says why.
        """
        self.digest = hashlib.sha256(content).hexdigest()
        self.max_batch, self.threads, self.on_gpu = runtime.max_batch, runtime.threads, runtime.device == "cuda"
        #: Batch sizes that are run, others are padded to; empty where any may be.
        self.buckets = _buckets(runtime.max_batch) if self.on_gpu else ()
        if self.on_gpu:
            runtime = replace(runtime, gpu_memory_bytes=runtime.gpu_memory_bytes // len(self.buckets))
        self._session = _open(content, runtime)
        try:
            self.metadata: ModelMetadata = from_properties(self._session.get_modelmeta().custom_metadata_map)
            _check_graph(self._session, self.metadata)
        except UnicodeDecodeError as error:
            raise ModelInvalid("the text in the file is not UTF-8: it is broken; publish it again") from error
        has_unknowns = self.metadata.HasField("unknowns")
        self._outputs = [PROBABILITIES_NAME, UNKNOWN_SCORE_NAME] if has_unknowns else [PROBABILITIES_NAME]
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        self.candidates: tuple[Candidate, ...] = (Candidate(precision=self.precision, digest=self.digest),)
        self._bindings = self._bound(content, runtime) if self.on_gpu else None
        # A run's number of threads is its session's: for batches side by side there is a second one.
        self._shared = _open(content, replace(runtime, threads=1)) if runtime.threads > 1 and not self.on_gpu else None
        self.arrangement = warm_up(self)
        if self.arrangement.shared is None:
            self._shared = None

    def _bound(self, content: bytes, runtime: Runtime) -> Bindings:
        # A session for each size: where a session's batch has another size than the one before, cuDNN plans all of its
        # convolutions anew, which takes some 100 ms.
        sessions = {size: _open(content, runtime) for size in self.buckets[1:]}
        rules = self.metadata.preprocessing
        return Bindings(
            {self.buckets[0]: self._session, **sessions},
            picture=(rules.height_px, rules.width_px, 3),
            outputs=self._outputs,
            device=runtime.device,
        )

    @property
    def precision(self) -> str:
        """The file's arithmetic: `fp32`, `int8` or `fp16`."""
        return self.metadata.precision or "fp32"

    @property
    def score_count(self) -> int:
        """Number of scores for each image: one a label, and the unknown score where the model has one."""
        return len(self.metadata.labels) + self.metadata.HasField("unknowns")

    @property
    def has_lanes(self) -> bool:
        """Whether batches can run side by side, each on one thread."""
        return self._shared is not None

    def run(self, pixels: NDArray[np.uint8], *, alone: bool = True) -> NDArray[np.float32]:
        """Scores, float32 [N, score_count], of upright RGB images, uint8 [N, height_px, width_px, 3].

        A row has the labels' softmax probabilities, and last the unknown score where the model has one.

        Args:
            pixels: The images.
            alone: Whether the batch has all threads, and not one of several lanes.
        """
        if self._bindings is not None:
            outputs = self._bindings.run(pixels)
        else:
            session = self._session if alone or self._shared is None else self._shared
            outputs = session.run(self._outputs, {INPUT_NAME: pixels})
        return outputs[0] if len(outputs) == 1 else np.column_stack(outputs)


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
    for wanted_name in (PROBABILITIES_NAME, *((UNKNOWN_SCORE_NAME,) if metadata.HasField("unknowns") else ())):
        output = outputs.get(wanted_name)
        if output is None or output.type != "tensor(float)":
            found = ", ".join(f"{name} {item.type}" for name, item in outputs.items()) or "none"
            raise ModelInvalid(f"it must have a float32 output {wanted_name!r}, and it has: {found}; export it again")


def _buckets(max_batch: int) -> tuple[int, ...]:
    """1, 4, 16, 64 ... and `max_batch` itself: each costs the memory of a session."""
    powers = [1 << exponent for exponent in range(0, max_batch.bit_length(), 2) if 1 << exponent < max_batch]
    return (*powers, max_batch)
