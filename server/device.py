"""Which device models run on: `auto` takes CUDA where it really works, and `cuda` never falls back in silence."""

import contextlib
import ctypes
import io
import logging
from typing import Any, Literal

import numpy as np

from trapline.errors import TraplineError

_log = logging.getLogger(__name__)

CUDA_PROVIDER, CPU_PROVIDER = "CUDAExecutionProvider", "CPUExecutionProvider"
# An ONNX file of one Identity node: a session of it shows whether the provider's libraries load at all.
_PROBE = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """The device to load models for.

    Raises:
        TraplineError: `cuda` was wanted and does not work here; the sentence says why.
    """
    if wanted == "cpu":
        return "cpu"
    problem = cuda_problem()
    if not problem:
        return "cuda"
    if wanted == "cuda":
        raise TraplineError(f"--device cuda: {problem}; repair that, or take --device cpu")
    _log.info("event=device_chosen device=cpu because=%r", problem)
    return "cpu"


def cuda_problem() -> str:
    """Why CUDA cannot be used; empty where it can."""
    # The driver is asked first: loading CUDA's libraries where there is no GPU costs seconds and hundreds of MiB.
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver was found (libcuda.so.1)"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value < 1:
        return "the NVIDIA driver has no GPU for this process"
    import onnxruntime

    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return "the ONNX Runtime installed here was built without CUDA (install onnxruntime-gpu)"
    load_cuda_libraries(onnxruntime)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(_PROBE, options, providers=[CUDA_PROVIDER])
    if CUDA_PROVIDER not in session.get_providers():
        return "ONNX Runtime could not load CUDA's libraries (install trapline[server,cuda])"
    return ""


def device_works() -> bool:
    """Whether CUDA does anything at all: after some errors every call of a process fails until it ends."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(_PROBE, options, providers=[CUDA_PROVIDER])
        answer = session.run(None, {"x": np.ones(1, np.float32)})[0]
    except Exception as error:  # noqa: BLE001  # whatever is raised, it does not work
        _log.error("event=device_probed error=%r", error)
        return False
    return CUDA_PROVIDER in session.get_providers() and answer.tolist() == [1.0]


def load_cuda_libraries(onnxruntime: Any) -> None:  # noqa: ANN401  # a module without type hints
    """Loads CUDA and cuDNN out of the nvidia-* wheels, where they are installed, ahead of the system's."""
    if not hasattr(onnxruntime, "preload_dlls"):
        return
    said = io.StringIO()  # it prints what it misses instead of raising
    with contextlib.redirect_stdout(said):
        onnxruntime.preload_dlls()
    if said.getvalue():
        _log.warning("event=cuda_libraries_missing said=%r", said.getvalue()[:2000])
