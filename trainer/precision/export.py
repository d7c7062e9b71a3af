"""`trainer export`: a cheaper file of a finished run, made, compared with the checked one, kept where it agrees."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from trapline import model_file
from trapline.csv_rows import CsvRows
from trapline.processors import thread_count
from trapline.v1.metadata_pb2 import ModelMetadata

from ..config import ExportConfig
from ..errors import PrecisionError, UsageError
from ..evaluate.model import ExportedModel, load
from ..progress import Progress, Report
from ..publish import chosen_id, publish_beside, take_back
from ..run_folder import RunFolder, open_finished, write_atomically, write_json, write_text
from .fp16 import to_fp16
from .gate import Gate, judge
from .int8 import CALIBRATION_PHOTOS, Answers, best_int8
from .photos import RunPhotos, run_photos

MODEL_FILE = model_file.file_name()
#: What is tried, in this order.
_AUTO = ("int8", "fp16")


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A cheaper network and how it came about.

    Attributes:
        model: The network, without metadata.
        facts: For the record.
        calibrated: Positions of the photos that it was made with.
    """

    model: onnx.ModelProto
    facts: dict[str, Any]
    calibrated: NDArray[np.int64]


def export(config: ExportConfig, report: Report) -> str:
    """Makes, checks and keeps what `config` asks for; gives the result as sentences.

    Raises:
        UsageError: The run is not done, its photos are not where they were, or its file can't be published as it says.
        PrecisionError: No file passed; nothing was kept, and the sentence says what would have been lost.
    """
    with open_finished(config.run) as folder:
        model = load(folder.path / MODEL_FILE, threads=thread_count("auto"))
        # Before minutes of work.
        model_id = chosen_id(folder.path / MODEL_FILE, model.metadata, config.model_id) if config.publish else ""
        data, cache_dir = _places(config, folder)
        wanted = _AUTO if config.precision == "auto" else (config.precision,)
        with run_photos(
            folder.path, model.metadata, data=data, cache_dir=cache_dir, cache_gib=config.cache_gib, report=report
        ) as photos:
            before = _answers(model, photos, phase="fp32", report=report)
            gates = {
                precision: _tried(precision, folder.path, model.metadata, photos, before, report=report)
                for precision in wanted
            }
        sentences = [_sentences(precision, gate, folder.path) for precision, gate in gates.items()]
        if config.publish is not None:
            refused = [precision for precision, gate in gates.items() if not gate.passed]
            deleted = take_back(folder.path / MODEL_FILE, config.publish, model_id, refused)
            sentences += [f"deleted: {path}; `trapline reload {model_id}` takes it out of service" for path in deleted]
        if not any(gate.passed for gate in gates.values()):
            raise PrecisionError("\n".join(sentences))
        if config.publish is not None:
            version = publish_beside(folder.path / MODEL_FILE, config.publish, model_id)
            sentences.append(f"published with {model_id} version {version.name}: {version}")
    return "\n".join(sentences)


def _places(config: ExportConfig, folder: RunFolder) -> tuple[Path, Path | None]:
    """Where the photos and their decoded pixels are."""
    places = folder.state.get("places", {})
    if config.data is None and "data" not in places:
        raise UsageError(f"--data is required: the run in {folder.path} does not say where its photos are")
    cache_dir = config.cache_dir or (Path(places["cache_dir"]) if "cache_dir" in places else None)
    return config.data or Path(places["data"]), cache_dir


def _tried(
    precision: str,
    run: Path,
    metadata: ModelMetadata,
    photos: RunPhotos,
    before: NDArray[np.float32],
    *,
    report: Report,
) -> Gate:
    """Makes the file, compares it, and puts it in place where it passes; removes what an earlier export left if not."""
    path = run / model_file.file_name(precision)
    make = {"int8": _int8, "fp16": _fp16}[precision]
    made = make(run / MODEL_FILE, photos, before, report)
    _describe(made.model, metadata, precision=precision, fp32=run / MODEL_FILE)
    judged = np.setdiff1d(np.arange(len(photos.photos)), made.calibrated)
    candidate = path.with_name(f".{path.name}.candidate.tmp")
    try:
        candidate.write_bytes(made.model.SerializeToString())
        after = _answers(load(candidate, threads=thread_count("auto")), photos, phase=precision, report=report)
        gate = judge(
            before[judged],
            after[judged],
            targets=photos.targets[judged],
            labels=[label.id for label in metadata.labels],
            paths=[photos.photos[index].path for index in judged],
        )
        _record(run, precision, gate, made)
        if gate.passed:
            write_atomically(path, candidate.replace)
        else:
            path.unlink(missing_ok=True)
    finally:
        candidate.unlink(missing_ok=True)
    return gate


def _int8(path: Path, photos: RunPhotos, before: NDArray[np.float32], report: Report) -> _Made:
    positions = photos.calibration(CALIBRATION_PHOTOS)
    candidate, tried = best_int8(
        path,
        lambda: photos.batches(positions),
        Answers(
            calibration=before[positions],
            training=before[photos.positions("train")],
            validation=before[photos.positions("val")],
            judged_count=len(photos.photos) - len(positions),
            unseen_count=len(photos.positions("val")) + len(photos.positions("test")),
        ),
        threads=thread_count("auto"),
        report=lambda done, total: report.progress(Progress(phase="calibrate", done=done, total=total)),
    )
    facts = {
        "calibration_image_count": len(positions),
        "calibration_images": [photos.photos[index].path for index in positions],
        "tried": tried,
        **candidate.facts,
    }
    return _Made(model=candidate.model, facts=facts, calibrated=positions)


def _fp16(path: Path, _photos: RunPhotos, _before: NDArray[np.float32], _report: Report) -> _Made:
    return _Made(model=to_fp16(path), facts={}, calibrated=np.array([], dtype=np.int64))


def _describe(model: onnx.ModelProto, metadata: ModelMetadata, *, precision: str, fp32: Path) -> None:
    """Gives the network the fp32 file's metadata, its own precision, and the fp32 file's digest."""
    described = ModelMetadata()
    described.CopyFrom(metadata)
    described.precision = precision
    described.fp32_digest = hashlib.sha256(fp32.read_bytes()).hexdigest()
    del model.metadata_props[:]
    for key, value in model_file.to_properties(described).items():
        model.metadata_props.add(key=key, value=value)


def _answers(model: ExportedModel, photos: RunPhotos, *, phase: str, report: Report) -> NDArray[np.float32]:
    """Probabilities of every photo, float32 [photos, labels]."""
    total = len(photos.photos)
    rows: list[NDArray[np.float32]] = []
    done = 0
    for batch in photos.batches(range(total)):
        rows.append(model.probabilities(batch))
        done += len(batch)
        report.progress(Progress(phase=f"{phase} answers", done=done, total=total))
    return np.concatenate(rows)


def _record(run: Path, precision: str, gate: Gate, made: _Made) -> None:
    """Writes `precision_<name>.json`, and every flip as a row of `precision_<name>_flips.csv`."""
    write_json(run / f"precision_{precision}.json", {"precision": precision, **gate.to_json(), **made.facts})
    buffer = io.StringIO()
    writer = CsvRows(buffer)
    writer.writerow(["path", "label", "fp32", f"{precision}", "fp32_score", f"{precision}_score"])
    for flip in gate.flips:
        (before, before_score), (after, after_score) = flip.before, flip.after
        writer.writerow([flip.path, flip.label, before, after, f"{before_score:.6f}", f"{after_score:.6f}"])
    write_text(run / f"precision_{precision}_flips.csv", buffer.getvalue())


def _sentences(precision: str, gate: Gate, run: Path) -> str:
    changed = f"; changed: {gate.flipped_classes()}" if gate.flips else ""
    flips = run / f"precision_{precision}_flips.csv"
    if gate.passed:
        return f"{precision}: {gate.sentence()}{changed}; kept as {run / model_file.file_name(precision)}"
    return (
        f"{precision} is refused and fp32 stays: {'; '.join(gate.problems)}. {gate.sentence()}{changed}; "
        f"{flips} has each photo"
    )
