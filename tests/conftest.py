import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

#: In no page: what a camera and a photo's EXIF say of themselves.
CAMERA, TAKEN = "Woodline Scout 5 #d3a27644", "2024:05:12 01:29:29"
#: Of a split, as `trainer.dataset` writes them: both name a group, the first one that no photo is of.
NOTES = [
    "groups by folder were dropped, because one group (Woodline, (north)/) holds 90 of the 200 photos of deer",
    f"2 groups (9 photos, e.g. {CAMERA}/7) lie in more than one of the given parts: scores on them flatter",
]


def pytest_collection_modifyitems(items):
    """Marks what may share the machine: tests that start no server and no job."""
    for item in items:
        where = item.path.relative_to(Path(__file__).parent)
        if where.parts[0] in {"benchmarks", "protos", "ratchets", "trainer"} and not where.match("test_jobs_*"):
            item.add_marker("computes")


@pytest.fixture(scope="session")
def shared():
    """The folder of real data and weights, where there is one."""
    folder = os.environ.get("TRAPLINE_SHARED")
    if not folder:
        pytest.skip("TRAPLINE_SHARED is not set: no real photos and weights here")
    return Path(folder)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """Certificates of a CA made for these tests, of another one, and expired ones: paths by name, as PEM files."""
    import trustme

    folder = tmp_path_factory.mktemp("certificates")
    ours, foreign = trustme.CA(), trustme.CA()
    past = {"not_before": datetime(2020, 1, 1, tzinfo=UTC), "not_after": datetime(2021, 1, 1, tzinfo=UTC)}
    issued = {
        "server": ours.issue_cert("localhost", "127.0.0.1"),
        "renewed": foreign.issue_cert("localhost", "127.0.0.1"),
        "misnamed": ours.issue_cert("elsewhere.example"),
        "late_server": ours.issue_cert("localhost", "127.0.0.1", **past),
        "client": ours.issue_cert("camera@hills.example"),
        "late": ours.issue_cert("camera@hills.example", **past),
        "foreign": foreign.issue_cert("camera@hills.example"),
    }
    paths = SimpleNamespace(ca=folder / "ca.pem", foreign_ca=folder / "foreign_ca.pem")
    ours.cert_pem.write_to_path(paths.ca)
    foreign.cert_pem.write_to_path(paths.foreign_ca)
    for name, leaf in issued.items():
        pair = SimpleNamespace(cert=folder / f"{name}.pem", key=folder / f"{name}.key")
        pair.cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        pair.key.write_bytes(leaf.private_key_pem.bytes())
        pair.key.chmod(0o600)
        setattr(paths, name, pair)
    return paths


class Runs:
    """`trainer` in fresh processes, one after another, forked from one that has torch imported: seconds less each."""

    def __init__(self, log):
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).parent / "e2e" / "runs.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # An arena of glibc's a thread takes 64 MiB or more of the address space that a test leaves a run.
            env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        )

    def __call__(self, *arguments, kill_after=None, **job):
        """Its exit status (as Popen.returncode has it) and what it said; killed after so many seconds, where given."""
        self._log.write_text("")
        job = {"arguments": [str(argument) for argument in arguments], "log": str(self._log), **job}
        print(json.dumps(job), file=self._process.stdin, flush=True)
        process = int(self._process.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        code = int(self._process.stdout.readline())
        said = self._log.read_text(encoding="utf-8")
        assert "Traceback" not in said, said
        return code, said

    def close(self):
        """Ends the process that the others are forked from."""
        self._process.stdin.close()
        assert self._process.wait(timeout=60) == 0
        self._process.stdout.close()


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
    """Runs `trainer` without importing torch again: gives its exit status and what it said."""
    runs = Runs(tmp_path_factory.mktemp("log") / "log")
    yield runs
    runs.close()


#: `lose_device()` for a process with a CUDA context: a kernel that traps. As after a real fault of a device, every
#: later call of the process fails, in new sessions too.
LOSE_DEVICE = """
import ctypes

def lose_device(*_):
    driver, context, module, function = ctypes.CDLL("libcuda.so.1"), *(ctypes.c_void_p() for _ in range(3))
    code = b".version 6.3\\n.target sm_75\\n.address_size 64\\n.visible .entry fault() { trap; ret; }\\n"
    steps = (
        lambda: driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0),
        lambda: driver.cuCtxSetCurrent(context),
        lambda: driver.cuModuleLoadData(ctypes.byref(module), ctypes.c_char_p(code)),
        lambda: driver.cuModuleGetFunction(ctypes.byref(function), module, b"fault"),
        lambda: driver.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, None, None, None),
    )
    statuses = [step() for step in steps]
    assert not any(statuses), statuses
    assert driver.cuCtxSynchronize() != 0
"""


@pytest.fixture(scope="session")
def lose_device():
    """Code that defines `lose_device`."""
    return LOSE_DEVICE


@pytest.fixture(scope="session")
def draw_run():
    """The function that writes the folder of a run which never trained: every file that a report reads."""
    return write_run


def write_run(folder, *, labels=("deer", "empty", "fox", "hog"), count=260, absent=(), side_px=64, seed=0):
    """Writes `folder` as a run of `count` test and as many validation photos leaves it, and gives it.

    Answers are drawn at random, nine in ten of them right; the figures follow from them, but for those that need a
    network. Labels in `absent` have no test photo.
    """
    import numpy as np

    from trainer.evaluate.metrics import figures

    chance = np.random.default_rng(seed)
    (folder / "plots").mkdir(parents=True)
    rows, measured = [], {}
    for part in ("train", "val", "test"):
        present = [index for index, label in enumerate(labels) if part != "test" or label not in absent]
        targets = chance.permutation(np.resize(present, count))
        logits = chance.normal(0, 1, (count, len(labels)))
        logits[np.arange(count), targets] += 4 * (chance.random(count) < 0.9)
        shares = np.exp(2 * logits) / np.exp(2 * logits).sum(axis=1, keepdims=True)
        names = [f"{labels[target]}/{part}-{number:05}.jpg" for number, target in enumerate(targets)]
        rows += [
            (name, labels[target], part, share) for name, target, share in zip(names, targets, shares, strict=True)
        ]
        measured[part] = figures(shares.astype(np.float32), targets, labels) | _more_figures(shares, targets)
    rows.sort(key=lambda row: row[0])
    _write_rows(folder, rows, labels)
    metrics = _metrics(labels, measured, count, named=next(row[0] for row in rows if row[2] == "test"))
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    _write_facts(folder)
    _write_pictures(folder, rows, chance, side_px=side_px)
    return folder


def _more_figures(shares, targets):
    """Calibration by ten bins of equal count, as the design names its fields."""
    import numpy as np

    from trainer.evaluate.intervals import wilson_interval

    scores, right = shares.max(axis=1), shares.argmax(axis=1) == targets
    bins = []
    for members in np.array_split(np.argsort(scores), 10):
        low, high = wilson_interval(int(right[members].sum()), len(members))
        figures = {"confidence": float(scores[members].mean()), "accuracy": float(right[members].mean())}
        bins.append({"count": len(members), "low": low, "high": high} | figures)
    gaps = [row["count"] * abs(row["confidence"] - row["accuracy"]) for row in bins]
    return {
        "group_count": len(targets),
        "interval_method": "wilson",
        "interval_sentence": "each photo is a group of its own, so the interval is Wilson's",
        "ece": sum(gaps) / len(targets),
        "ece_interval": [0.01, 0.06],
        "ece_sentence": "by 10 bins of equal count",
        "reliability": bins,
        "mean_average_precision": 0.91,
    }


def _metrics(labels, measured, count, *, named):
    from trainer.evaluate.intervals import wilson_interval

    for part in measured.values():
        for row in part["classes"].values():
            for name in ("recall", "precision"):
                share, support = row[name], row["support"]
                row[f"{name}_interval"] = (
                    wilson_interval(round(share * support), support) if share and support else None
                )
    epochs = [
        {"epoch": epoch, "train_loss": None if epoch == 0 else 0.9 / epoch, "standard_error": 0.01}
        | {"validation_loss": 0.5 + 0.05 * abs(epoch - 2), "validation_accuracy": 0.8 + 0.01 * epoch}
        | {"learning_rate": 1e-4 / (epoch + 1)}
        for epoch in range(5)
    ]
    thresholds = {
        label: {"threshold": 0.5 + 0.05 * index, "validation_precision": 0.96, "validation_count": 40}
        | {"test_precision": 0.95, "test_precision_interval": [0.9, 0.99], "test_count": 38}
        for index, label in enumerate(labels)
    }
    thresholds[labels[0]] = {"threshold": None, "test_precision": None, "test_count": 0}
    return {
        "labels": list(labels),
        "test": measured["test"],
        "validation": measured["val"],
        "calibration": {"temperature": 1.31, "validation_loss_before": 0.41, "validation_loss_after": 0.37}
        | {"sentence": "fitted on 260 validation photos"},
        "thresholds": {"target_precision": 0.95, "classes": thresholds, "left_to_person_share": 0.083}
        | {"sentence": "no score of deer was precise enough"},
        "unknowns": {"method": "nearest_class_mean", "threshold": 0.42, "sentence": "measured class by class"}
        | {"auroc": {"nearest_class_mean": 0.88, "max_softmax": 0.81}}
        | {"classes": {label: {"nearest_class_mean": 0.88, "max_softmax": 0.81} for label in labels}},
        "judgement": [
            {"code": "weakest", "severity": "serious", "sentence": "the weakest class is fox; it is taken for deer"},
            {"code": "few", "severity": "advice", "sentence": f"look at {named} first"},
            {"code": "calibrated", "severity": "fine", "sentence": "scores can be taken at their word"},
            {"code": "single_group", "severity": "fine"}
            | {"sentence": f"one group, {CAMERA}/7, holds 200 of the 260 test photos (77%); {CAMERA}/7 is one place"},
        ],
        "split": {"rule": "exif", "notes": NOTES, "digest": "b" * 64}
        | {"sentence": f"{count} groups of {3 * count} photos, none of them in two parts", "group_count": count},
        "out_of_fold": {"image_count": count, "accuracy": 0.877, "loss": 0.432, "ece": 0.021, "temperature": 1.1},
        "suspects": {"image_count": 7, "confident_image_count": 3, "asked_image_count": 2 * count}
        | {"sentence": "the network answered validation and test photos, training photos are left out"},
        "stage": "finetune",
        "epoch": 2,
        "head": {"strength": 0.1, "cross_validated_loss": {"0.01": 0.9, "0.1": 0.6, "1.0": 0.7}},
        "history": epochs,
        "parity": {"image_count": count, "top1_agreement": 1.0, "largest_difference": 3e-06},
        "data_digest": "a" * 64,
        "refit": "none",
    }


def _write_facts(folder):
    state = {
        "state": "done",
        "config": {"backbone": "mobilenet_v2", "weights": "/secret/place/mobilenet.pth", "epochs": 4, "groups": None},
        "places": {"data": "/secret/place/hills", "cache_dir": "/secret/cache"},
    }
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    plan = {"image_px": 224, "fit": "stretch", "device": "cpu", "versions": {"python": "3.11.7", "torch": "2.15.0"}}
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")


def _write_rows(folder, rows, labels):
    def write(name, header, lines):
        with (folder / name).open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *lines])

    write("split.csv", ("path", "label", "part", "group"), [(*row[:3], f"{CAMERA}/7") for row in rows])
    write(
        "scan.csv",
        ("path", "label", "part", "status", "reason", "sha256", "camera", "taken"),
        [(row[0], row[1], "", "ok", "", "c" * 64, CAMERA, TAKEN) for row in rows]
        + [("deer/broken.jpg", "deer", "", "unreadable", "is no image", "", "", "")],
    )
    predictions = [
        (path, part, label, labels[int(share.argmax())], f"{share.max():.6f}", "0.25", *(f"{one:.6f}" for one in share))
        for path, label, part, share in rows
        if part != "train"
    ]
    header = (
        "path",
        "part",
        "label",
        "predicted",
        "score",
        "unknown_score",
        *(f"probability_{name}" for name in labels),
    )
    write("predictions.csv", header, predictions)
    doubted = [row for row in rows if row[2] == "train"][:7]
    write(
        "suspects.csv",
        ("path", "part", "label", "suggested", "score", "label_score", "rank_score", "group"),
        [(path, part, label, labels[-1], "0.93", "0.02", "0.9", f"{CAMERA}/7") for path, label, part, _ in doubted],
    )
    named = {part: [row[0] for row in rows if row[2] == part] for part in ("train", "val", "test")}
    pairs = [
        (named["test"][0], "test", named["train"][0], "train", 3, True, False),
        (named["test"][1], "test", named["train"][1], "train", 7, False, True),
        (named["test"][2], "test", named["val"][2], "val", 2, True, False),
        (named["val"][3], "val", named["train"][3], "train", 4, False, False),
    ]
    header = ("path", "part", "other_path", "other_part", "distance", "same_group", "given")
    write("duplicates.csv", header, pairs)


def _write_pictures(folder, rows, chance, *, side_px):
    import numpy as np
    from PIL import Image

    from trainer.report.thumbnails import write_thumbnails

    slopes = np.linspace(0, 1, side_px, dtype=np.float32)
    picture = slopes[:, None, None] * slopes[None, :, None] * np.array([90, 110, 60])

    def pixels(positions):
        colours = chance.integers(20, 150, (len(positions), 1, 1, 3))
        noise = chance.integers(-25, 26, (len(positions), side_px, side_px, 1))
        return np.clip(picture + colours + noise, 0, 255).astype(np.uint8)

    shown = [index for index, row in enumerate(rows) if row[2] != "train"]
    doubted = [index for index, row in enumerate(rows) if row[2] == "train"][:7]
    write_thumbnails(SimpleNamespace(pixels=pixels), [*doubted, *shown], folder / "thumbnails.zip")
    for name in ("top_losses", "grad_cam", "best_fox", "worst_fox"):
        drawn = Image.fromarray(np.tile(pixels([0])[0], (3, 5, 1)))
        drawn.save(folder / "plots" / f"{name}.png")
    entries = [
        {"file": f"plots/{name}.png", "kind": name.removesuffix("_fox"), "title": name.replace("_", " ")}
        | {"sentence": "How to read it.", "photos": [{"path": rows[0][0], "true": rows[0][1]}]}
        for name in ("top_losses", "grad_cam", "best_fox", "worst_fox")
    ]
    layers = [{"path": "features.0", "kind": "Conv2d", "output_shape": [32, 112, 112], "parameters": 864}]
    found = {
        "pictures": [*entries, {"file": "../outside.png", "title": "outside", "sentence": "", "photos": []}],
        "non_zero_shares": [{"layer": f"features.{depth}", "share": 0.83 - 0.09 * depth} for depth in range(5)],
        "non_zero_sentence": "measured on 200 test photos",
        "model_summary": {"rows": layers, "parameter_count": 2_230_277, "trainable_count": 2_230_277},
        "notes": [],
    }
    (folder / "pictures.json").write_text(json.dumps(found), encoding="utf-8")
