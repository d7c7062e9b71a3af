"""What this machine could do at most: images a second of decoding, of features, of training steps, each on its own.

No run can be faster than these allow; what `trainer run` itself makes of the frozen pass is measured between them.
`train.py --ceilings` runs this file in a process of its own, which is started
with the allocator's variables, and keeps the JSON object that it prints.
"""

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from trainer import backbone
from trainer.planning import fast_bfloat16
from trainer.recipe import probe
from trapline import preprocessing

_OWN = "features, trainer run"
_BACKBONE = "mobilenet_v2"
_RULES = preprocessing.rules(fit="stretch", image_px=224)
_THREADS = 2
_BATCH = 32
_IMAGES = 256
_TRAINED_IMAGES = 96
_PASSES = 3
_LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
_HOW = (
    f"{_BACKBONE}, 224 px, batches of {_BATCH}, {_THREADS} threads, freed memory kept; medians of {_PASSES} passes, "
    f"alternating, over {_IMAGES} photos ({_TRAINED_IMAGES} in training steps)."
)


class Body(nn.Module):
    """The network without its classifier: float32 [n, 3, 224, 224] -> features [n, channels]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.layers = network.get_submodule("features")

    def forward(self, image: Tensor) -> Tensor:
        """The pooled features."""
        pooled: Tensor = self.layers(image).mean((2, 3))
        return pooled


def measured(photos: Path, weights: Path) -> dict[str, float]:
    """Every rate; the kinds alternate, so that a slow moment of the machine meets all of them."""
    torch.set_num_threads(_THREADS)
    data = [path.read_bytes() for path in sorted(photos.rglob("*.jpg"))[:_IMAGES]]
    pixels = decoded(data)
    passes: dict[str, Callable[[], object]] = {"decode and resize": partial(decoded, data)}
    counts = {"decode and resize": len(data)}
    for layout, memory_format in _LAYOUTS.items():
        for narrow in (False, True):
            kind = f"torch {'bfloat16' if narrow else 'float32'} {layout}"
            body = Body(network(weights)).eval().to(memory_format=memory_format)
            passes[f"features, {kind}"] = partial(features, body, pixels, layout=layout, narrow=narrow)
            counts[f"features, {kind}"] = len(pixels)
            trained = network(weights).train().to(memory_format=memory_format)
            some = pixels[:_TRAINED_IMAGES]
            passes[f"training steps, {kind}"] = partial(steps, trained, some, layout=layout, narrow=narrow)
            counts[f"training steps, {kind}"] = len(some)
    name = "features, ONNX Runtime float32"
    passes[name], counts[name] = partial(features_by_session, session(Body(network(weights))), pixels), len(pixels)
    own = backbone.build(_BACKBONE, label_count=2, image_px=224, weights=str(weights))
    passes[_OWN], counts[_OWN] = partial(own_features, own, pixels), len(pixels)
    rates: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(1 + _PASSES):
        for name, one_pass in passes.items():
            began = time.perf_counter()
            one_pass()
            rates[name].append(counts[name] / (time.perf_counter() - began))
    # The first pass warms caches and threads.
    return {name: round(median(rates[name][1:]), 1) for name in sorted(rates)}


def decoded(data: list[bytes]) -> NDArray[np.uint8]:
    """The photos as uint8 [n, 224, 224, 3], by the loader of trainer and server."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return np.stack(list(pool.map(lambda photo: preprocessing.load_image(photo, _RULES), data)))


def network(weights: Path) -> nn.Module:
    """The backbone with the initial weights; the classifier's may be missing."""
    built: nn.Module = torchvision.models.get_model(_BACKBONE, weights=None)
    built.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), strict=False)
    return built


def batches(pixels: NDArray[np.uint8], layout: str) -> Iterator[Tensor]:
    """Float32 [n, 3, 224, 224] in the given layout; the values' range is all that matters here."""
    for begin in range(0, len(pixels), _BATCH):
        batch = torch.from_numpy(pixels[begin : begin + _BATCH]).permute(0, 3, 1, 2).float()
        yield (batch / 64 - 2).contiguous(memory_format=_LAYOUTS[layout])


def features(body: nn.Module, pixels: NDArray[np.uint8], *, layout: str, narrow: bool) -> None:
    """One frozen pass."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        for batch in batches(pixels, layout):
            body(batch)


def features_by_session(body: onnxruntime.InferenceSession, pixels: NDArray[np.uint8]) -> None:
    """One frozen pass by ONNX Runtime."""
    for batch in batches(pixels, "contiguous"):
        body.run(None, {"image": batch.numpy()})


def own_features(built: backbone.Backbone, pixels: NDArray[np.uint8]) -> None:
    """One frozen pass as `trainer run` makes it."""
    device = torch.device("cpu")
    probe.features(
        built,
        lambda positions: pixels[list(positions)],
        len(pixels),
        batch_size=_BATCH,
        device=device,
        bfloat16=fast_bfloat16(device),
        report=lambda _done, _total: None,
    )


def session(body: nn.Module) -> onnxruntime.InferenceSession:
    """The body as a session of ONNX Runtime."""
    program = torch.onnx.export(
        body.eval(),
        (torch.zeros(2, 3, 224, 224),),
        dynamo=True,
        input_names=["image"],
        dynamic_shapes={"image": {0: torch.export.Dim("N")}},
        verbose=False,
    )
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _THREADS
    return onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])


def steps(trained: nn.Module, pixels: NDArray[np.uint8], *, layout: str, narrow: bool) -> None:
    """One epoch of plain training steps, all layers."""
    optimizer = torch.optim.AdamW(trained.parameters(), 1e-5)
    for batch in batches(pixels, layout):
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            scores = trained(batch)
        loss = functional.cross_entropy(scores.float(), torch.zeros(len(batch), dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    found = measured(Path(sys.argv[1]), Path(sys.argv[2]))
    best = max(rate for name, rate in found.items() if name.startswith("features, ") and name != _OWN)
    print(json.dumps({"how": _HOW, "rates": found, "own_share_of_best_features": round(found[_OWN] / best, 3)}))
