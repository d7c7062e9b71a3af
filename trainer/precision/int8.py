"""The int8 file: weights and activations in eight bits, calibrated on training photos, the most exact that is worth it.

Static, with a step for each output channel of the weights, unsigned activations, and QuantizeLinear / DequantizeLinear
pairs, which ONNX Runtime fuses into its integer kernels. Normalisation and softmax stay in float32, and as many of the
first layers as the answers on training photos ask for. Why so: docs/design/0017.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)
from scipy.stats import norm, poisson

from trapline import model_file

from ..evaluate.model import open_network
from .aside import nodes_aside
from .biases import channel_means, round_weights
from .gate import most_flips

#: Training photos that the steps are taken from.
CALIBRATION_PHOTOS = 64
# What has integer kernels in ONNX Runtime, or passes eight bits on as they are.
_OPERATORS = (
    *("Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "MatMul", "MaxPool"),
    *("Mul", "Relu", "Reshape"),
)
_WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")
_ACTIVATIONS = ("Relu", "Clip")
# How many of the first layers stay in float32, tried in this order: each costs speed.
_FLOAT_LAYERS = (0, 1, 3, 6, 12)
# The first candidate is taken that is more likely than not to pass the gate. To ask for more would leave many layers in
# float32 for the sake of a few photos that lie near a tie, which flip almost as often then.
_LIKELY = 0.5
_LEAST_PROBABILITY = 1e-30


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One int8 network, and what calibration says of it.

    Attributes:
        model: The network, without metadata.
        float_layers: How many of the first layers are left in float32.
        noise: Root mean square change of the two best classes' difference of log-probability.
        flip_share: Share of photos that are expected to get another class: as many as lie within that noise of a tie.
    """

    model: onnx.ModelProto
    float_layers: int
    noise: float
    flip_share: float

    @property
    def facts(self) -> dict[str, float]:
        """The measure, for a record."""
        return {"float_layers": self.float_layers, "noise": self.noise, "expected_flip_share": self.flip_share}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the fp32 file says.

    Attributes:
        calibration: Of the photos to calibrate with, float32 [photos, labels].
        training: Of every training photo.
        validation: Of every validation photo: how near to a tie photos are that the network was not fitted to.
        judged_count: How many photos the gate will look at.
        unseen_count: How many of those the network was not fitted to.
    """

    calibration: NDArray[np.float32]
    training: NDArray[np.float32]
    validation: NDArray[np.float32]
    judged_count: int
    unseen_count: int


def best_int8(
    path: Path,
    batches: Callable[[], Iterable[NDArray[np.uint8]]],
    answers: Answers,
    *,
    threads: int,
    report: Callable[[int, int], None],
) -> tuple[Candidate, list[dict[str, float]]]:
    """The fastest int8 network that is expected to pass the gate, or else the most exact one; and what was tried.

    Args:
        path: The fp32 file.
        batches: Gives the pixels of the photos to calibrate with, uint8 [N, height_px, width_px, 3] each.
        answers: The fp32 file's.
        threads: Threads of ONNX Runtime.
        report: Told how many candidates of how many were tried.
    """
    with tempfile.TemporaryDirectory(prefix="trapline-int8-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        # Batch norms folded into convolutions; the shapes are simple, which spares the symbolic ones.
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        round_weights(model, channel_means(model, batches(), threads=threads))
        onnx.save(model, prepared)
        found: list[Candidate] = []
        float_nodes, aside = _float_nodes(model), nodes_aside(model)
        for number, (count, names) in enumerate(float_nodes.items()):
            report(number, len(float_nodes))
            quantised = _quantised(prepared, batches(), exclude=[*names, *aside])
            found.append(_measured(quantised, count, batches(), answers, threads=threads))
            if _expected_to_pass(found[-1], answers.judged_count):
                break
        report(len(float_nodes), len(float_nodes))
    likely = [candidate for candidate in found if _expected_to_pass(candidate, answers.judged_count)]
    chosen = min(likely or found, key=lambda candidate: candidate.flip_share)
    return chosen, [candidate.facts for candidate in found]


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime publishes no type hints
    """Photos as ONNX Runtime's calibration takes them."""

    def __init__(self, batches: Iterable[NDArray[np.uint8]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next batch; None after the last one."""
        batch = next(self._batches, None)
        return None if batch is None else {model_file.INPUT_NAME: batch}


def _quantised(prepared: Path, batches: Iterable[NDArray[np.uint8]], *, exclude: Sequence[str]) -> onnx.ModelProto:
    """The network in int8 but for the nodes `exclude`; ranges are measured once and kept beside `prepared`."""
    path = prepared.with_name("int8.onnx")
    quantize_static(
        prepared,
        path,
        _Reader(batches),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(_OPERATORS),
        per_channel=True,
        # Seven bits would be safe from saturation everywhere and cost the answers; see EXACT_INT8_ENTRY.
        reduce_range=False,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=list(exclude),
        calibrate_method=CalibrationMethod.MinMax,
        calibration_cache_path=prepared.with_name("ranges.json"),
    )
    return onnx.load(path)


def _float_nodes(model: onnx.ModelProto) -> dict[int, list[str]]:
    """For each of `_FLOAT_LAYERS` that leaves some to quantise: the nodes up to and with that many layers."""
    weights = {tensor.name for tensor in model.graph.initializer}
    aside = set(nodes_aside(model))
    nodes = [node for node in model.graph.node if node.name not in aside]
    layers = [
        index
        for index, node in enumerate(nodes)
        if node.op_type in _WITH_WEIGHTS and any(name in weights for name in node.input)
    ]
    found = {}
    for count in _FLOAT_LAYERS:
        if count < len(layers):
            # Up to the next layer: what lies between works on what the float one gives.
            end = layers[count]
            found[count] = [node.name for node in nodes[:end]]
    return found


def _measured(
    model: onnx.ModelProto, float_layers: int, batches: Iterable[NDArray[np.uint8]], answers: Answers, *, threads: int
) -> Candidate:
    """How far the network's answers on the calibration photos lie from the fp32 file's."""
    rows = np.concatenate(list(_answers(open_network(model.SerializeToString(), threads=threads), batches)))
    best = np.argsort(answers.calibration, axis=1)[:, -2:]
    change = _margins(rows, best) - _margins(answers.calibration, best)
    noise = float(np.sqrt((change**2).mean()))
    unseen = answers.unseen_count / answers.judged_count
    share = (1 - unseen) * _near_ties(answers.training, noise) + unseen * _near_ties(answers.validation, noise)
    return Candidate(model=model, float_layers=float_layers, noise=noise, flip_share=share)


def _near_ties(rows: NDArray[np.float32], noise: float) -> float:
    """Share of photos whose best class falls behind the second one, where their difference changes by such noise."""
    margins = _margins(rows, np.argsort(rows, axis=1)[:, -2:])
    return float(norm.cdf(-margins / max(noise, 1e-9)).mean())


def _margins(rows: NDArray[np.float32], best: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log-probability of the last class in `best` [photos, 2] less that of the first, float64 [photos]."""
    logs = np.log(np.maximum(rows.astype(np.float64), _LEAST_PROBABILITY))
    photos = np.arange(len(rows))
    difference: NDArray[np.float64] = logs[photos, best[:, 1]] - logs[photos, best[:, 0]]
    return difference


def _expected_to_pass(candidate: Candidate, judged_count: int) -> bool:
    return bool(poisson.cdf(most_flips(judged_count), candidate.flip_share * judged_count) >= _LIKELY)


def _answers(session: Any, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:  # noqa: ANN401  # no type hints
    for batch in batches:
        yield session.run([model_file.PROBABILITIES_NAME], {model_file.INPUT_NAME: batch})[0]
