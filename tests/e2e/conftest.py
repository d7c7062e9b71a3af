import csv
import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROGRAMS = Path(sys.executable).parent


@pytest.fixture(scope="session")
def call():
    """Runs one of Trapline's programs to its end and gives what it said."""

    def run(program, *arguments, code=0, timeout_seconds=110):
        done = subprocess.run(
            [PROGRAMS / program, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_seconds,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def serving():
    """A context in which a server serves a model repository; gives its address."""

    @contextmanager
    def serve(models, *options):
        command = [
            PROGRAMS / "server",
            "run",
            "--models",
            models,
            "--listen",
            "127.0.0.1:0",
            "--metrics",
            "127.0.0.1:0",
        ]
        process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            for line in process.stdout:
                if line.startswith("server ready"):
                    break
            yield line.split("listen=")[1].split()[0]
        finally:
            process.terminate()
            assert process.wait(timeout=30) == 0
            process.stdout.close()

    return serve


@pytest.fixture(scope="session")
def draw_jpegs():
    """Writes noisy JPEG photos of one colour, some stored turned as EXIF says, large enough for a scaled decode."""

    def draw(folder, colour, *, count, seed):
        chance = np.random.default_rng(seed)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            rows = np.linspace(0, 60, 384)[:, None, None]
            pixels = np.clip(np.array(colour) + rows + chance.integers(-50, 50, (384, 512, 3)), 0, 255)
            exif = Image.Exif()
            exif[0x0112] = int(chance.integers(1, 9))
            path = folder / f"{colour[0]}-{number:03}.jpg"
            Image.fromarray(pixels.astype(np.uint8)).save(path, quality=85, exif=exif)

    return draw


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with `photos` of three classes and random `weights.pth`, with which fine-tuning beats the head.

    Classes differ in colour and photos in light, by about as much: losses stay far from nothing.
    """
    import torch

    from trainer import backbone

    folder, chance = tmp_path_factory.mktemp("home"), np.random.default_rng(0)
    for label, colour in {"red": (160, 80, 80), "green": (80, 160, 80), "blue": (80, 80, 160)}.items():
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(16):
            pixels = np.array(colour) + chance.integers(-60, 60, 3) + chance.integers(-60, 60, (48, 48, 3))
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            image.save(folder / "photos" / label / f"{number:03}.png")
    torch.manual_seed(0)
    built = backbone.build("squeezenet1_1", label_count=1000, image_px=32, weights="none")
    torch.save(built.network.state_dict(), folder / "weights.pth")
    return folder


@pytest.fixture(scope="session")
def command(home):
    """Gives the command line of a run on `home` that fine-tunes for 20 steps and writes a checkpoint at each."""
    options = (
        *("--weights", home / "weights.pth", "--backbone", "squeezenet1_1", "--group-by", "none", "--image-px", "32"),
        *("--batch-size", "7", "--epochs", "4", "--learning-rate", "0.0003", "--earliest-rate", "0.1"),
        *("--checkpoint-minutes", "0.00001"),
    )

    def line(out, *more, photos=home / "photos"):
        """Of an option that is there twice the last counts."""
        words = ("run", photos, "--out", out, "--cache-dir", out.parent / "cache", *options, *more)
        return [str(word) for word in words]

    return line


def rows_of(path):
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def answers_match():
    """Compares what a server answered with what the checkpoint said of the same photos."""

    def match(run, answers, photos):
        """Every test photo's served answer has the checkpoint's best class, and its probabilities within 1e-4."""
        served = {Path(row["path"]).resolve(): row for row in rows_of(answers)}
        labels = json.loads((run / "metrics.json").read_text())["labels"]
        compared = 0
        for row in rows_of(run / "predictions.csv"):
            if row["part"] != "test":
                continue
            answer = served[(photos / row["path"]).resolve()]
            assert answer["status"] == "ok"
            assert answer["label_1"] == row["predicted"]
            for rank in range(1, len(labels) + 1):
                wanted = float(row[f"probability_{answer[f'label_{rank}']}"])
                assert float(answer[f"score_{rank}"]) == pytest.approx(wanted, abs=1e-4)
            compared += 1
        return compared

    return match
