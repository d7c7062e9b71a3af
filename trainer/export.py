"""The checked ONNX file: uint8 NHWC in, probabilities out, metadata inside, the same answers as the checkpoint."""

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trapline import model_file
from trapline.v1.metadata_pb2 import ModelMetadata

from .backbone import Backbone
from .errors import ParityError, TrainerError
from .evaluate.model import classify_files, load
from .evaluate.unknowns import Unknowns
from .progress import Progress, Report
from .run_folder import write_atomically

#: Largest difference of a probability between the file and the checkpoint, float32 both.
TOLERANCE = 1e-4
#: Largest difference of an unknown score, as a share of the score or of 1.
UNKNOWN_TOLERANCE = 2e-3
_OPSET = 18
# Families with an operator that tracing cannot write: pooling to a size that does not divide its input, and attention.
_NOT_TRACED = ("alexnet", "vgg", "vit_")
# Of protobuf, less room for the graph.
_LARGEST_FILE = 2**31 - 2**24


class _Served(nn.Module):
    """The network as it is served: pixels in, probabilities and unknown score out."""

    def __init__(self, backbone: Backbone, head: nn.Linear, *, temperature: float, unknowns: Unknowns | None) -> None:
        super().__init__()
        self.network, self.head, self.backbone = backbone.network, head, backbone
        self.temperature, self.unknowns = temperature, unknowns
        means = unknowns.means if unknowns else None
        if means is not None:
            device = head.weight.device
            self.register_buffer("centre", torch.from_numpy(means.centre).to(device))
            self.register_buffer("share", torch.from_numpy(1 / means.scale).to(device))
            self.register_buffer("classes", torch.from_numpy(means.classes.T.copy()).to(device))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.network(self.backbone.normalised(image))
        logits = self.head(features)
        if self.temperature != 1:
            logits = logits / self.temperature
        probabilities: Tensor = logits.softmax(dim=1)
        if self.unknowns is None:
            return probabilities
        if self.unknowns.means is None:
            return probabilities, (1 - probabilities.amax(dim=1)) / self.unknowns.unit
        values = (features - self.centre) * self.share
        lengths = (values * values).sum(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
        nearest = 1 - (values / lengths @ self.classes).amax(dim=1)
        return probabilities, nearest / self.unknowns.unit


@contextmanager
def _without_head(backbone: Backbone) -> Iterator[nn.Linear]:
    """The head, while the network gives what the head sees: for all builders it is the last layer."""
    head = backbone.head
    backbone.network.set_submodule(backbone.head_path, nn.Identity())
    try:
        yield head
    finally:
        backbone.network.set_submodule(backbone.head_path, head)


def to_onnx(
    backbone: Backbone,
    metadata: ModelMetadata,
    path: Path,
    *,
    temperature: float = 1.0,
    unknowns: Unknowns | None = None,
) -> None:
    """Writes the network and `metadata` to `path` as one self-contained file, whole or not at all.

    Args:
        backbone: The network.
        metadata: What the file says of itself; with `unknowns` where they are given.
        path: The file.
        temperature: What logits are divided by before softmax.
        unknowns: How the output `unknown_score` is made; without it there is none.

    Raises:
        TrainerError: The network is too large for a single file (2 GiB).
    """
    rules = metadata.preprocessing
    backbone.network.eval()
    # Two images: an example of one would fix the number.
    example = torch.zeros(2, rules.height_px, rules.width_px, 3, dtype=torch.uint8, device=backbone.head.weight.device)
    try:
        with _quiet(), torch.no_grad(), _without_head(backbone) as head:
            graph = _traced if is_traced(backbone.name) else _not_traced
            served = _Served(backbone, head, temperature=temperature, unknowns=unknowns).eval()
            model = graph(
                served,
                example,
                [model_file.PROBABILITIES_NAME, model_file.UNKNOWN_SCORE_NAME][: 1 + (unknowns is not None)],
            )
        for key, value in model_file.to_properties(metadata).items():
            model.metadata_props.add(key=key, value=value)
        data = model.SerializeToString()
    except (ValueError, RuntimeError) as error:
        if not _too_large(backbone):
            raise
        raise TrainerError(
            f"{backbone.name} is too large for one ONNX file (2 GiB); choose a smaller backbone"
        ) from error
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def is_traced(name: str) -> bool:
    """Whether the builder `name` is exported by tracing."""
    return not name.startswith(_NOT_TRACED)


def _traced(network: nn.Module, example: Tensor, outputs: list[str]) -> onnx.ModelProto:
    """The graph by tracing: in a tenth of the time of `_not_traced` (docs/design/0013)."""
    buffer = io.BytesIO()
    torch.onnx.export(
        network,
        (example,),
        buffer,  # type: ignore[arg-type]  # a buffer does as well as a path
        dynamo=False,
        opset_version=_OPSET,
        input_names=[model_file.INPUT_NAME],
        output_names=outputs,
        dynamic_axes={name: {0: "N"} for name in (model_file.INPUT_NAME, *outputs)},
    )
    return onnx.load_from_string(buffer.getvalue())


def _not_traced(network: nn.Module, example: Tensor, outputs: list[str]) -> onnx.ModelProto:
    """The graph by `torch.export`."""
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        input_names=[model_file.INPUT_NAME],
        output_names=outputs,
        dynamic_shapes={"image": {0: torch.export.Dim("N")}},
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _too_large(backbone: Backbone) -> bool:
    """Whether the tensors alone fill a file as large as its format allows."""
    sizes: list[int] = [value.nbytes for value in backbone.network.state_dict().values()]
    return sum(sizes) > _LARGEST_FILE


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How well file and checkpoint agree.

    Attributes:
        image_count: Test images compared.
        top1_agreement: Share of them with the same best class.
        largest_difference: Largest difference of any probability.
        largest_unknown_difference: Largest difference of any unknown score, as a share of 1 and the score; None where
            the file has none.
    """

    image_count: int
    top1_agreement: float
    largest_difference: float
    largest_unknown_difference: float | None = None


def check_parity(
    model_path: Path,
    photos: Sequence[Path],
    expected: NDArray[np.float32],
    *,
    unknown_scores: NDArray[np.float32] | None = None,
    threads: int,
    report: Report,
) -> Parity:
    """Runs every photo through the file as a server would, and compares with the checkpoint.

    Args:
        model_path: The exported file.
        photos: Test photos.
        expected: The checkpoint's probabilities, float32 [photos, labels].
        unknown_scores: Its unknown scores, float32 [photos], where the file has them.
        threads: Decoding and inference threads.
        report: Where progress goes.

    Raises:
        ParityError: A photo gets another best class, a probability that differs by more than `TOLERANCE`, or an unknown
            score that differs by more than `UNKNOWN_TOLERANCE`.
    """
    model = load(model_path, threads=threads)
    total = len(photos)
    largest, agreeing, unlike = 0.0, 0, 0.0
    rows = classify_files(
        model,
        photos,
        threads=threads,
        report=lambda done: report.progress(Progress(phase="parity", done=done, total=total)),
    )
    for number, ((photo, scores), reference) in enumerate(zip(rows, expected, strict=True)):
        if isinstance(scores, str):
            raise ParityError(f"{photo} could be read for training and not for the exported file's check: {scores}")
        row = scores[: len(reference)]
        difference = float(np.abs(row - reference).max())
        best, wanted = int(row.argmax()), int(reference.argmax())
        # Two classes that share the first place to within the tolerance have no best one to disagree on.
        same = best == wanted or float(reference[wanted] - reference[best]) <= TOLERANCE
        # Turned round, as what is no number is not above anything.
        if not difference <= TOLERANCE or not same:
            raise ParityError(
                f"the exported file and the checkpoint disagree on {photo}: {model.labels[best]} {row[best]:.4f} "
                f"against {model.labels[wanted]} {reference[wanted]:.4f}, largest difference {difference:.2g}; "
                "the file is not to be trusted: report this with the run's plan.json"
            )
        largest, agreeing = max(largest, difference), agreeing + (best == wanted)
        if unknown_scores is not None:
            unlike = max(unlike, _unlike(photo, float(scores[-1]), float(unknown_scores[number])))
    return Parity(
        image_count=total,
        top1_agreement=agreeing / total,
        largest_difference=largest,
        largest_unknown_difference=None if unknown_scores is None else unlike,
    )


def _unlike(photo: Path, score: float, expected: float) -> float:
    """How far an unknown score is off, as a share; refused where that is too much."""
    difference = abs(score - expected) / max(1.0, expected)
    if not difference <= UNKNOWN_TOLERANCE:
        raise ParityError(
            f"the exported file and the checkpoint disagree on how unlike all classes {photo} is: {score:.4f} against "
            f"{expected:.4f}; the file is not to be trusted: report this with the run's plan.json"
        )
    return difference


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own warnings and log lines, which say nothing that a person could act on."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
