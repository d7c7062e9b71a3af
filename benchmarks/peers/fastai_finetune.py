"""fastai's documented recipe on one divided folder: `vision_learner(...).fine_tune(3)`, exported, then tested.

Runs in an environment of its own, so it imports nothing of Trapline. `DATA` has train/, val/ and test/ with one folder
a class. The clock stops where `exported.json` appears in `--out`; the test part is scored after that.

`vision_learner` finds no pooling layer in torchvision's MobileNetV2 and has no record of its normalisation: both are
given through `model_meta`, as its own table gives them for the builders that it knows.
"""

import argparse
import json
import time
from pathlib import Path

import fastai
import torch
import torchvision
from fastai.vision import learner as vision
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    FuncSplitter,
    ImageBlock,
    Learner,
    Resize,
    accuracy,
    get_image_files,
    imagenet_stats,
    set_seed,
    vision_learner,
)

IMAGE_PX = 224


class Builder:
    """A torchvision builder whose pretrained weights come from a file; fastai calls it like one of its own."""

    def __init__(self, name: str, weights: Path) -> None:
        self.name, self.weights = name, weights

    def __call__(self, **_options: object) -> torch.nn.Module:
        """The network; the classifier's tensors may be missing, since fastai cuts it off."""
        network = getattr(torchvision.models, self.name)(weights=None)
        state = torch.load(self.weights, map_location="cpu", weights_only=True)
        missing, unknown = network.load_state_dict(state, strict=False)
        if unknown or not all(name.startswith("classifier") for name in missing):
            raise SystemExit(f"{self.weights} does not fit {self.name}: missing {missing[:3]}, unknown {unknown[:3]}")
        return network


def in_validation(path: Path) -> bool:
    """Whether a photo lies in `val/`."""
    return ARGUMENTS.data / "val" in path.parents


def label(path: Path) -> str:
    """A photo's class: the folder below its part."""
    return path.relative_to(ARGUMENTS.data).parts[1]


def photos_to_learn(data: Path) -> list[Path]:
    """The photos of `train/` and `val/`, sorted: the disk's order would be another in each copy of the folder."""
    return sorted(get_image_files(data, folders=["train", "val"]))


def trained() -> Learner:
    """The learner after `fine_tune`."""
    set_seed(ARGUMENTS.seed)
    builder = Builder(ARGUMENTS.backbone, ARGUMENTS.weights)
    vision.model_meta[builder] = {
        "cut": -1,
        "split": vision.default_split,
        "stats": imagenet_stats,
        "weights": "from the file",
    }
    loaders = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=photos_to_learn,
        splitter=FuncSplitter(in_validation),
        get_y=label,
        item_tfms=Resize(IMAGE_PX, method="squish"),
    ).dataloaders(ARGUMENTS.data, bs=ARGUMENTS.batch_size, num_workers=2)
    learner = vision_learner(loaders, builder, metrics=accuracy, path=ARGUMENTS.out)
    with learner.no_bar():
        learner.fine_tune(ARGUMENTS.epochs)
    return learner


def main() -> None:
    """Trains, exports, says when, and only then tests."""
    ARGUMENTS.out.mkdir(parents=True, exist_ok=True)
    learner = trained()
    learner.export("export.pkl")
    (ARGUMENTS.out / "exported.json").write_text(json.dumps({"monotonic": time.monotonic()}))
    photos = sorted(get_image_files(ARGUMENTS.data / "test"))
    with learner.no_bar():
        probabilities, _ = learner.get_preds(dl=learner.dls.test_dl(photos))
    said = [learner.dls.vocab[index] for index in probabilities.argmax(dim=1).tolist()]
    answers = {
        "right": {
            path.relative_to(ARGUMENTS.data / "test").as_posix(): int(answer == label(path))
            for path, answer in zip(photos, said, strict=True)
        },
        "train_count": len(learner.dls.train_ds),
        "versions": {
            "fastai": fastai.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
    }
    (ARGUMENTS.out / "answers.json").write_text(json.dumps(answers))


def options() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/, val/ and test/")
    parser.add_argument("--out", type=Path, required=True, help="folder for export.pkl, exported.json, answers.json")
    parser.add_argument("--weights", type=Path, required=True, help="state-dict file")
    parser.add_argument("--backbone", default="mobilenet_v2", help="torchvision builder")
    parser.add_argument("--epochs", type=int, default=3, help="unfrozen epochs, after one frozen")
    parser.add_argument("--batch-size", type=int, default=64, help="fastai's default is 64")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice")
    return parser.parse_args()


if __name__ == "__main__":
    ARGUMENTS = options()
    main()
