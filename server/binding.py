"""Batches to a GPU through memory that is kept: pinned on the host, allocated once on the device, bound to the model.

A batch handed to ONNX Runtime as any array is copied to new memory on the device through a buffer of the driver's, with
the device waiting. Here it is written into pinned memory, which the device's copy engine reads by itself, and goes to
the device while the batch before it still runs: only the run itself needs the device for itself alone.
"""

import contextlib
import ctypes
import logging
import math
import queue
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_log = logging.getLogger(__name__)

# One batch is made ready while another runs.
_SETS = 2
# CU_MEMHOSTALLOC_PORTABLE: pinned for every context.
_PORTABLE = 1


class Bindings:
    """Runs batches of a session, from any number of threads.

    Args:
        sessions: ONNX Runtime's, with one uint8 input [N, height, width, 3], by the one batch size that each runs;
            others are padded.
        picture: Height, width and 3.
        outputs: Names of the outputs that are wanted, float32 [N, ...].
        device: `cuda`, or `cpu`, where nothing is pinned: the way is the same and can be tested.
    """

    def __init__(
        self,
        sessions: Mapping[int, Any],  # onnxruntime publishes no type hints
        *,
        picture: Sequence[int],
        outputs: Sequence[str],
        device: Literal["cpu", "cuda"],
    ) -> None:
        self._device = threading.Lock()
        self._free: queue.LifoQueue[_Set] = queue.LifoQueue()
        for _ in range(_SETS):
            self._free.put(_Set(sessions, picture, outputs, device))

    def run(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """The outputs of images uint8 [N, height, width, 3], each with N rows; N is at most the largest bucket."""
        one = self._free.get()
        try:
            one.load(pixels)
            with self._device:
                one.run()
            return one.taken(len(pixels))
        finally:
            self._free.put(one)


class _Set:
    """The memory of one batch under way: a place on the host, and one on the device for each bucket."""

    def __init__(
        self,
        sessions: Mapping[int, Any],
        picture: Sequence[int],
        outputs: Sequence[str],
        device: Literal["cpu", "cuda"],
    ) -> None:
        import onnxruntime

        self._sessions, self._buckets = sessions, sorted(sessions)
        self._host = host_memory((self._buckets[-1], *picture), np.uint8, pinned=device == "cuda")
        self._bound: dict[int, tuple[Any, Any, list[NDArray[np.float32]]]] = {}
        self._bucket = self._buckets[0]
        for bucket, session in sessions.items():
            shapes = [value.shape[1:] for value in session.run(outputs, {_input(session): self._host[:bucket]})]
            value = onnxruntime.OrtValue.ortvalue_from_shape_and_type((bucket, *picture), np.uint8, device, 0)
            binding = session.io_binding()
            binding.bind_ortvalue_input(_input(session), value)
            results = [host_memory((bucket, *shape), np.float32, pinned=device == "cuda") for shape in shapes]
            for name, result in zip(outputs, results, strict=True):
                binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(result, "cpu"))
            self._bound[bucket] = value, binding, results

    def load(self, pixels: NDArray[np.uint8]) -> None:
        """Brings a batch onto the device. The rows that pad it are an earlier one's, and their answers are dropped."""
        self._bucket = next(bucket for bucket in self._buckets if bucket >= len(pixels))
        self._host[: len(pixels)] = pixels
        self._bound[self._bucket][0].update_inplace(self._host[: self._bucket])

    def run(self) -> None:
        """Runs it; the outputs are on the host when this returns."""
        self._sessions[self._bucket].run_with_iobinding(self._bound[self._bucket][1])

    def taken(self, count: int) -> list[NDArray[np.float32]]:
        """The first `count` rows of the outputs, as copies: their place is written anew by the next batch."""
        return [result[:count].copy() for result in self._bound[self._bucket][2]]


def host_memory(shape: Sequence[int], kind: type[np.generic], *, pinned: bool) -> NDArray[Any]:
    """An array of zeros, in pinned memory where that is wanted and can be had."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    if pinned and size:
        try:
            return np.ndarray(shape, kind, memoryview(_pinned(size)))
        except (OSError, MemoryError) as error:
            _log.warning("event=memory_not_pinned bytes=%d error=%r", size, error)
    return np.zeros(shape, kind)


def _pinned(size: int) -> ctypes.Array[ctypes.c_char]:
    """Zeroed page-locked memory, given back when nothing refers to it any more.

    Raises:
        OSError: There is no driver, or it has none left.
    """
    pointer = ctypes.c_void_p()
    with _context() as driver:
        _check(driver.cuMemHostAlloc(ctypes.byref(pointer), ctypes.c_size_t(size), _PORTABLE))
    assert pointer.value is not None
    memory = (ctypes.c_char * size).from_address(pointer.value)
    ctypes.memset(pointer, 0, size)
    weakref.finalize(memory, _give_back, pointer.value).atexit = False
    return memory


def _give_back(address: int) -> None:
    with contextlib.suppress(OSError), _context() as driver:
        driver.cuMemFreeHost(ctypes.c_void_p(address))


@contextlib.contextmanager
def _context() -> Iterator[Any]:
    """The driver, with the context of the first device current: the one that ONNX Runtime works in.

    Raises:
        OSError: There is no driver, or no device.
    """
    driver, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
    _check(driver.cuInit(0))
    # Never released: the context ends with its last user, and all of its memory with it.
    _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
    _check(driver.cuCtxPushCurrent_v2(context))
    try:
        yield driver
    finally:
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def _check(status: int) -> None:
    if status != 0:
        raise OSError(f"CUDA driver error {status}")


def _input(session: Any) -> str:  # noqa: ANN401  # onnxruntime publishes no type hints
    return str(session.get_inputs()[0].name)
