"""What of the report shows photos, and what names them: the gallery, the suspects, the sheets."""

import base64
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ..dataset.layout import shown
from .evidence import Evidence
from .sections import sentence_of
from .thumbnails import MOST_DUPLICATES, MOST_PHOTOS, MOST_SUSPECTS, shown_first

View = dict[str, Any]

# Of pairs in two parts: title and what they do to the figures.
_KINDS = {
    "leaks": (
        "Photos that lie in two parts",
        "Nearly the same picture in two parts: what is trained on is also measured on. The figures flatter by these.",
    ),
    "choices": (
        "Photos of the test part that validation has too",
        "Nearly the same picture in both: the test part has been chosen by. The test figures flatter a little.",
    ),
    "views": (
        "Similar views in two parts",
        "Grouped apart, so most likely a fixed camera at other times: expect less of a camera in another place.",
    ),
}
# Thumbnails in one piece of data: the page takes a piece apart when one of its photos is first shown.
_PIECE = 200


def photos(evidence: Evidence, *, images: bool) -> View:
    """The test photos, then those of validation, largest loss first, in columns as the page's script takes them.

    Args:
        evidence: The run.
        images: Whether files may be named.
    """
    rows = shown_first(evidence.predictions)
    number = {label: index for index, label in enumerate(evidence.labels)}
    return {
        "labels": [shown(label) for label in evidence.labels],
        "names": [shown(row.path) for row in rows] if images else None,
        "lines": [evidence.lines.get(row.path) for row in rows],
        "parts": [row.part for row in rows],
        "truth": [number[row.label] for row in rows],
        "predicted": [number[row.predicted] for row in rows],
        "scores": [round(row.score, 4) for row in rows],
        "losses": [round(row.loss, 4) for row in rows],
        "unknown": [row.unknown_score for row in rows],
        "best": [[[number[label], round(score, 4)] for label, score in row.best] for row in rows],
        "piece": _PIECE,
    }


def pieces(evidence: Evidence, thumbnails: Mapping[int, bytes]) -> list[list[str | None]]:
    """The thumbnails of `photos`, in its order, in pieces, as base64; None for a photo without one."""
    if not thumbnails:
        return []
    found = [thumbnails.get(evidence.lines.get(row.path, 0)) for row in shown_first(evidence.predictions)]
    encoded = [base64.b64encode(data).decode("ascii") if data else None for data in found]
    return [encoded[start : start + _PIECE] for start in range(0, len(encoded), _PIECE)]


def photo_section(evidence: Evidence, thumbnails: Mapping[int, bytes], *, images: bool) -> View:
    """What is said above the gallery."""
    count = len(evidence.predictions)
    notes = []
    if count > MOST_PHOTOS:
        notes.append(
            f"The {MOST_PHOTOS:,} of {count:,} photos with the largest loss are shown, those of the test part first; "
            "predictions.csv has all."
        )
    if not images:
        notes.append(
            "Photos and file names were left out of this page (--no-images); a photo is called by its line in "
            "split.csv."
        )
    elif not thumbnails:
        notes.append(
            "The run folder has no thumbnails.zip, so photos are named and not shown: the run was made with "
            "--no-images, or by a version of Trapline that wrote none."
        )
    return {"missing": None if count else evidence.missing("list of predictions"), "notes": notes, "count": count}


def suspects(evidence: Evidence, thumbnails: Mapping[int, bytes], *, images: bool) -> View:
    """Photos whose label is doubted, and photos that lie in two parts, each with its picture where there is one."""
    name = _namer(evidence, images=images)
    rows = [
        {
            "name": name(row["path"]),
            "picture": _uri(thumbnails.get(evidence.lines.get(row["path"], 0)), "jpeg"),
            "label": row["label"],
            "suggested": row["suggested"],
            "score": _number(row.get("score")),
            "label_score": _number(row.get("label_score")),
            "part": row.get("part") or "",
        }
        for row in evidence.suspects[:MOST_SUSPECTS]
    ]
    pairs = [
        {"first": name(row["path"]), "second": name(row["other_path"])}
        | {key: row.get(key) or "" for key in ("part", "other_part", "distance")}
        | {"kind": _kind(row, evidence)}
        for row in evidence.duplicates[:MOST_DUPLICATES]
    ]
    looked = (evidence.run / "suspects.csv").is_file()
    unseen = None if looked else evidence.missing("list of doubted labels (suspects.csv)")
    facts = evidence.metrics.get("suspects") or {}
    return {
        "missing": None if pairs else unseen,
        "note": unseen,
        "rows": rows,
        "count": len(evidence.suspects),
        "asked": facts.get("asked_image_count"),
        "photo_count": len(evidence.lines),
        "sentence": sentence_of(facts.get("sentence") or ""),
        "kinds": [
            {"title": title, "sentence": sentence, "pairs": some}
            for kind, (title, sentence) in _KINDS.items()
            if (some := [pair for pair in pairs if pair["kind"] == kind])
        ],
        "more_pairs": len(evidence.duplicates) - len(pairs),
    }


def _kind(row: Mapping[str, str], evidence: Evidence) -> str:
    """Which of `_KINDS` a row of `duplicates.csv` is; one of before, which does not say, is taken for a repeat."""
    ungrouped = (evidence.metrics.get("split") or {}).get("rule") == "none"
    said = [row.get(name) for name in ("same_group", "given")]
    if not ungrouped and "True" not in said and said[0] == "False":
        return "views"
    return "leaks" if "train" in (row.get("part"), row.get("other_part")) else "choices"


def pictures(evidence: Evidence, *, images: bool) -> View:
    """The sheets of `pictures.json` and the range test, each as data in the page; best and worst of a class apart."""
    rows = (evidence.pictures.get("pictures") or []) if images else []
    drawn = [
        {"title": sentence_of(row.get("title") or Path(row["file"]).stem), "sentence": row.get("sentence") or ""}
        | {"uri": uri, "of_class": row.get("kind") in ("best", "worst")}
        for row in rows
        if (uri := _sheet_uri(evidence.run, row["file"]))
    ]
    rates = _png_uri(evidence.run / "plots" / "lr_find.png")
    if images:
        missing = None if drawn else evidence.missing("sheet of photos (pictures.json)")
    else:
        missing = "Sheets that show photos were left out of this page (--no-images)."
    return {
        "missing": missing,
        "sheets": [sheet for sheet in drawn if not sheet["of_class"]],
        "of_classes": [sheet for sheet in drawn if sheet["of_class"]],
        "notes": evidence.pictures.get("notes") or [] if images else [],
        "rates": rates,
    }


def nameless(value: Any, evidence: Evidence) -> Any:  # noqa: ANN401  # a view holds values of any kind
    """The value with every photo's path in its strings replaced by its line in `split.csv`."""
    if isinstance(value, str):
        # Every photo lies in its class's folder, so a text without a slash names none.
        return _without_paths(value, evidence.lines) if "/" in value else value
    if isinstance(value, dict):
        return {key: nameless(inner, evidence) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(nameless(inner, evidence) for inner in value)
    return value


def _without_paths(text: str, lines: Mapping[str, int]) -> str:
    # Long paths first: one may be a part of another.
    named = [(path, line) for path, line in lines.items() if path in text or shown(path) in text]
    for path, line in sorted(named, key=lambda item: len(item[0]), reverse=True):
        for written in (path, shown(path)):
            text = text.replace(written, f"line {line}")
    return text


def _namer(evidence: Evidence, *, images: bool) -> Callable[[str], str]:
    if images:
        return shown
    return lambda path: f"line {evidence.lines[path]}" if path in evidence.lines else "a photo"


def _number(text: str | None) -> float | None:
    return float(text) if text else None


def _sheet_uri(run: Path, name: str) -> str | None:
    """A sheet as a JPEG, a sixth of its PNG's size; None where it is not there, or not in the run folder."""
    path = (run / name).resolve()
    if not path.is_relative_to(run.resolve()) or not path.is_file():
        return None
    buffer = io.BytesIO()
    with Image.open(path) as image:
        # Drawn anew from its pixels, so whatever else was in the file stays out.
        image.convert("RGB").save(buffer, "JPEG", quality=85, subsampling=0, exif=b"")
    return _uri(buffer.getvalue(), "jpeg")


def _png_uri(path: Path) -> str | None:
    return _uri(path.read_bytes(), "png") if path.is_file() else None


def _uri(data: bytes | None, kind: str) -> str | None:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}" if data else None
