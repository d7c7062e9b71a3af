"""What every server of one comparison gets: one model file, the same photos, and the right label of each photo."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from preprocess import made_photo

from trapline import preprocessing
from trapline.model_file import INPUT_NAME, PROBABILITIES_NAME, from_properties, to_properties
from trapline.v1.metadata_pb2 import Label, ModelMetadata, Preprocessing

from .peers.pixels import DECODES, scaled

IMAGE_PX = 224
#: The null model's input: a picture that takes no time to decode.
NULL_PX = 8
_PHOTOS, _LARGE_PHOTOS, _MEGAPIXEL = 32, 12, 1_000_000
_COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@dataclass(frozen=True, kw_only=True)
class Assets:
    """One model and its photos.

    Attributes:
        model: The ONNX file, in the project's format.
        image_px: Side of its input.
        photos: Image files.
        expected: Index of the right label of each photo, by how it is decoded: `documented` or `scaled`.
        photos_said: Where the photos are from.
        made_from: The fp32 file that a cheaper one of `trainer export` was made from, and is published beside.
    """

    model: Path
    image_px: int
    photos: list[Path]
    expected: dict[str, list[int]]
    photos_said: str
    made_from: Path | None = None

    @property
    def labels(self) -> int:
        """Labels that some photo has: the more, the surer are crossed answers found."""
        return len(set(self.expected["scaled"]))


def photos(size: str, folder: Path) -> tuple[list[Path], str]:
    """Photos of `size` (`WIDTHxHEIGHT`), and where they are from: data/large where it has such, else made here."""
    width, height = map(int, size.split("x"))
    shared = os.environ.get("TRAPLINE_SHARED")
    found = sorted((Path(shared) / "data" / "large").glob("*.jpg")) if shared else []
    of_size = [path for path in found if _size(path) == (width, height)]
    if len(of_size) > 1:
        return of_size[:_PHOTOS], "data/large"
    count = _PHOTOS if width * height < _MEGAPIXEL else _LARGE_PHOTOS
    folder.mkdir(parents=True, exist_ok=True)
    made = [folder / f"{size}-{number:02}.jpg" for number in range(count)]
    for number, path in enumerate(made):
        path.write_bytes(made_photo(width, height, number))
    return made, "made"


def random_model(backbone: str, files: list[Path], path: Path) -> None:
    """Exports the torchvision builder `backbone` with random weights, and a head that knows each photo by itself.

    The head gives every photo a label of its own (that of the nearest photo by the features), so that an answer which
    went to the wrong caller is seen. Speed does not depend on weights.
    """
    import torch

    from trainer.backbone import build
    from trainer.export import to_onnx

    torch.manual_seed(0)
    built = build(backbone, label_count=len(files), image_px=IMAGE_PX, weights="none")
    built.network.eval()
    with torch.no_grad():
        features = torch.cat(
            [built.features(torch.from_numpy(scaled(file.read_bytes(), IMAGE_PX).copy())[None]) for file in files]
        )
        centre = features.mean(0)
        nearest = features - centre
        # The logits are the squared distances, but for what all share; at this scale neighbours differ by e^10.
        scale = 20 / torch.cdist(nearest, nearest).square().median().clamp(min=1e-12)
        built.head.weight.copy_(scale * nearest)
        built.head.bias.copy_(-scale * (nearest @ centre + nearest.square().sum(1) / 2))
    metadata = ModelMetadata(
        model_id="bench",
        labels=[Label(id=f"photo-{number:02}", display_name=f"Photo {number}") for number in range(len(files))],
        preprocessing=preprocessing.rules(fit="stretch", image_px=IMAGE_PX),
        backbone=backbone,
    )
    to_onnx(built, metadata, path)


def null_model(path: Path) -> None:
    """A model that does next to nothing: which of red, green and blue a picture of 8 × 8 pixels is."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["colour"], axes=[1, 2], keepdims=0),
        helper.make_node("Softmax", ["colour"], [PROBABILITIES_NAME], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "nothing",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["N", NULL_PX, NULL_PX, 3])],
        [helper.make_tensor_value_info(PROBABILITIES_NAME, TensorProto.FLOAT, ["N", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    metadata = ModelMetadata(
        model_id="bench",
        labels=[Label(id=name, display_name=name.title()) for name in _COLOURS],
        preprocessing=preprocessing.rules(fit="stretch", image_px=NULL_PX),
        backbone="none",
    )
    helper.set_model_props(model, to_properties(metadata))
    onnx.save(model, path)


def null_photos(folder: Path) -> list[Path]:
    """Pictures of one colour, 8 × 8 pixels, not compressed: there is next to nothing to decode."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.bmp" for name in _COLOURS]
    for file, colour in zip(files, _COLOURS.values(), strict=True):
        Image.new("RGB", (NULL_PX, NULL_PX), colour).save(file)
    return files


def int8_model(source: Path, files: list[Path], path: Path) -> None:
    """A static QDQ int8 file of `source`, per channel, calibrated on the photos: for speed, no gate is passed."""
    import onnx
    from onnxruntime import quantization

    content = onnx.load(source)
    image_px = rules_of(source).width_px

    class Photos(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime publishes no type hints
        def __init__(self) -> None:
            self.left = iter(files)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            file = next(self.left, None)
            return None if file is None else {INPUT_NAME: scaled(file.read_bytes(), image_px)[None]}

    # Puts every weight and bias where the quantiser looks for them, and folds what is constant.
    prepared = path.with_suffix(".prepared.onnx")
    quantization.quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantization.quantize_static(
        prepared,
        path,
        Photos(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add"],
    )
    quantised = onnx.load(path)
    del quantised.metadata_props[:]
    quantised.metadata_props.extend(content.metadata_props)
    onnx.save(quantised, path)


def fp16_model(source: Path, path: Path) -> None:
    """The half-precision file of `source` as `trainer export` writes it, but for the gate: for speed."""
    import onnx

    from trainer.precision.fp16 import to_fp16

    metadata = metadata_of(source)
    metadata.precision, metadata.fp32_digest = "fp16", hashlib.sha256(source.read_bytes()).hexdigest()
    made = to_fp16(source)
    onnx.helper.set_model_props(made, to_properties(metadata))
    onnx.save(made, path)


def second_version(source: Path, path: Path) -> None:
    """The same model with its outputs in another order, and labels' ids that end in `-v2`.

    An answer with the scores of one version and the labels or the number of the other is then seen.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(source)
    metadata = metadata_of(source)
    order = np.roll(np.arange(len(metadata.labels)), 1)
    before = f"{PROBABILITIES_NAME}_before"
    for node in model.graph.node:
        node.output[:] = [before if name == PROBABILITIES_NAME else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(order, "order"))
    model.graph.node.append(helper.make_node("Gather", [before, "order"], [PROBABILITIES_NAME], axis=1))
    rolled = [metadata.labels[index] for index in order]
    labels = [Label(id=f"{label.id}-v2", display_name=label.display_name) for label in rolled]
    del metadata.labels[:]
    metadata.labels.extend(labels)
    helper.set_model_props(model, to_properties(metadata))
    onnx.save(model, path)


def label_ids(model: Path) -> list[str]:
    """Ids of the file's labels, in the order of its outputs."""
    return [label.id for label in metadata_of(model).labels]


def assets(model: Path, files: list[Path], said: str) -> Assets:
    """The assets, with the answers that the file itself gives in this process.

    Raises:
        SystemExit: The model wants its photos prepared as the peers cannot.
    """
    rules = rules_of(model)
    image_px = rules.width_px
    if rules != preprocessing.rules(fit="stretch", image_px=image_px):
        raise SystemExit(f"{model} wants another preprocessing than --fit stretch, bilinear, which the peers are given")
    run = session(model, threads=1)
    expected = {
        decode: [int(np.argmax(run(load(file.read_bytes(), image_px)[None]))) for file in files]
        for decode, load in DECODES.items()
    }
    return Assets(model=model, image_px=image_px, photos=files, expected=expected, photos_said=said)


def session(model: Path, *, threads: int) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """The bare runtime: uint8 [N, side, side, 3] -> probabilities, float32 [N, labels]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    opened = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda pixels: opened.run([PROBABILITIES_NAME], {INPUT_NAME: pixels})[0]  # type: ignore[no-any-return]


def rules_of(model: Path) -> Preprocessing:
    """How the file wants its photos prepared."""
    return metadata_of(model).preprocessing


def metadata_of(model: Path) -> ModelMetadata:
    """What the file says of itself."""
    import onnx

    return from_properties({entry.key: entry.value for entry in onnx.load(model).metadata_props})


def _size(photo: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(photo) as image:
        return image.size
