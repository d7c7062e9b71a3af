"""Which of a version's files is served: each precision that suits the device is opened, and the fastest one answers.

`model.onnx` is fp32 and always there; `trainer export` puts `model.int8.onnx` and `model.fp16.onnx` beside it, after it
has checked that they answer alike. What is wrong with one of those never keeps fp32 from being served.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from trapline.errors import ModelInvalid, ShuttingDown
from trapline.model_file import PRECISIONS, file_name
from trapline.service.errors import as_refusal

from .session import Candidate, Runtime, Session

_log = logging.getLogger(__name__)

# What may win on each device: ONNX Runtime has integer kernels for processors and half-precision ones for CUDA. The
# other way round both are slower than fp32.
_SUITS = {"cpu": ("int8",), "cuda": ("fp16",)}
_FP32 = PRECISIONS[0]
# A gain below this may be chance, and fp32 is what was checked against the checkpoint.
_LEAST_GAIN = 1.05
_ROUNDS = 3


Measure = Callable[[Mapping[str, Session], int], dict[str, float]]


def choose(
    folder: Path,
    runtime: Runtime,
    *,
    wanted: str,
    open_session: Callable[[Path], Session],
    measure: Measure | None = None,
) -> Session:
    """Opens what `folder` has for this device, and gives the fastest; its `candidates` tell what it was chosen from.

    Args:
        folder: A version's folder.
        runtime: How sessions are made.
        wanted: One precision, which is then served or nothing is; `auto` for the fastest.
        open_session: Loads and warms up one file; raises ModelInvalid.
        measure: Gives each session's images a second in batches of that many; `measured` where absent.

    Raises:
        ModelInvalid: The fp32 file cannot be served, or the precision that is wanted.
    """
    fp32 = open_session(folder / file_name())
    if fp32.precision != _FP32:
        raise ModelInvalid(
            f"{file_name()} says that it is {fp32.precision} and must be fp32; publish the version again"
        )
    if wanted == _FP32:
        return fp32
    if wanted == "auto":
        session = _fastest(folder, runtime, fp32, open_session=open_session, measure=measure or measured)
        _log.info("event=precision_chosen folder=%s precision=%s rates=%s", folder, session.precision, told(session))
        return session
    try:
        return _opened(folder / file_name(wanted), wanted, fp32, open_session)
    except ModelInvalid as error:
        raise ModelInvalid(f"--precision {wanted}: {error}") from error


def _fastest(
    folder: Path, runtime: Runtime, fp32: Session, *, open_session: Callable[[Path], Session], measure: Measure
) -> Session:
    sessions, candidates = {_FP32: fp32}, {_FP32: fp32.candidates[0]}
    for precision in _SUITS[runtime.device]:
        path = folder / file_name(precision)
        if not os.path.lexists(path):
            continue
        try:
            sessions[precision] = _opened(path, precision, fp32, open_session)
            candidates[precision] = sessions[precision].candidates[0]
        except ShuttingDown:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a broken file raises, fp32 is served
            candidates[precision] = Candidate(precision=precision, problem=str(as_refusal(error)))
            _log.error("event=precision_invalid file=%s reason=%r", path, candidates[precision].problem)
    # Where there is nothing to choose from, the seconds of measuring are spared.
    rates = measure(sessions, runtime.max_batch) if len(sessions) > 1 else {_FP32: 0.0}
    fastest = max(rates, key=lambda precision: rates[precision])
    session = sessions[fastest if rates[fastest] >= _LEAST_GAIN * rates[_FP32] else _FP32]
    session.candidates = tuple(
        replace(each, images_per_second=rates.get(name, 0.0)) for name, each in candidates.items()
    )
    return session


def problems(session: Session) -> str:
    """What is wrong with the files beside the one that is served, as a sentence; empty where nothing is."""
    return "; ".join(
        f"{file_name(each.precision)} cannot be served, {file_name(session.precision)} is: {each.problem}"
        for each in session.candidates
        if each.problem
    )


def measured(sessions: Mapping[str, Session], image_count: int) -> dict[str, float]:
    """Each session's images a second in batches of `image_count`: the best of a few rounds in which they take turns."""
    seconds = dict.fromkeys(sessions, float("inf"))
    rules = next(iter(sessions.values())).metadata.preprocessing
    shape = (image_count, rules.height_px, rules.width_px, 3)
    pixels = np.random.default_rng(image_count).integers(0, 256, shape, np.uint8)
    for _ in range(_ROUNDS):
        for precision, session in sessions.items():
            began = time.perf_counter()
            session.run(pixels)
            seconds[precision] = min(seconds[precision], time.perf_counter() - began)
    return {precision: image_count / max(value, 1e-9) for precision, value in seconds.items()}


def told(session: Session) -> str:
    """What it was chosen from, as one word: images a second of each precision, e.g. `fp32:58.1,int8:163.0`."""
    words = []
    for each in session.candidates:
        rate = f"{each.images_per_second:.1f}" if each.images_per_second else "unmeasured"
        words.append(f"{each.precision}:{'invalid' if each.problem else rate}")
    return ",".join(words)


def _opened(path: Path, precision: str, fp32: Session, open_session: Callable[[Path], Session]) -> Session:
    """The session of a cheaper file, which must be of the fp32 file beside it.

    Raises:
        ModelInvalid: It cannot be served in place of fp32.
    """
    session = open_session(path)
    metadata, expected = session.metadata, fp32.metadata
    problem = ""
    if session.precision != precision:
        problem = f"it says that it is {session.precision}"
    elif list(metadata.labels) != list(expected.labels):
        problem = f"its labels are not those of {file_name()}"
    elif metadata.preprocessing != expected.preprocessing:
        problem = f"its preprocessing is not that of {file_name()}"
    elif metadata.fp32_digest != fp32.digest:
        problem = f"it was made from another file than the {file_name()} beside it"
    if problem:
        raise ModelInvalid(f"{problem}; make it again with `trainer export`")
    return session
