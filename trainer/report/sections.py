"""The sections of the report that show figures, each made of a run folder's files; `missing` says why one is empty."""

import itertools
from collections.abc import Mapping
from typing import Any

from . import charts
from .discretion import without_folders, without_groups
from .evidence import Evidence

View = dict[str, Any]

# Classes in a confusion matrix that still fits a page.
_MOST_CLASSES_IN_MATRIX = 30
_MOST_PAIRS = 8
_RULES = {
    "exif": "by camera and time",
    "file": "by the groups file",
    "folder": "by subfolder",
    "given": "as the data folder gives it",
    "name": "by consecutive file numbers",
    "near_duplicate": "by likeness, near duplicates together",
    "none": "photo by photo, without groups",
}
_METHODS = {"nearest_class_mean": "nearest class mean", "max_softmax": "highest score"}


def headline(evidence: Evidence) -> View:
    """The one figure that counts, how sure it is, what it was measured on; and the figures beside it."""
    metrics = evidence.metrics
    test = metrics.get("test")
    said = evidence.state.get("error")
    error = without_folders(said, evidence) if said else None
    if not test:
        return {"accuracy": None, "sentences": [evidence.missing("test figure")], "error": error, "tiles": []}
    count, split = test["image_count"], metrics.get("split") or {}
    sentences = [
        f"{round(test['accuracy'] * count):,} of {count:,} test photos are right. Neither training nor any choice saw "
        "these photos."
    ]
    if test.get("accuracy_interval"):
        low, high = test["accuracy_interval"]
        sentences.append(f"The true share lies between {low:.1%} and {high:.1%} (95 % interval).")
    if test.get("interval_sentence"):
        sentences.append(sentence_of(test["interval_sentence"]))
    if split:
        rule = _RULES.get(split.get("rule", ""), f"by {split.get('rule')}")
        sentences.append(sentence_of(f"The photos were divided {rule}: {split.get('sentence', '')}"))
    if evidence.stopped:
        sentences.append(
            f"This run {evidence.ending} after this was measured. The same trainer run command goes on with it."
        )
    if metrics.get("refit") == "all":
        sentences.append("The head in the exported file was fitted again on every photo after this was measured.")
    return {
        "accuracy": test["accuracy"],
        "interval": test.get("accuracy_interval"),
        "sentences": sentences,
        "error": error,
        "tiles": _tiles(test, metrics.get("thresholds") or {}),
    }


def judgement(evidence: Evidence) -> View:
    """The judge's sentences, the gravest first, and the notes of the split."""
    findings = [
        {
            "severity": row.get("severity", "advice"),
            "sentence": sentence_of(without_groups(row["sentence"], evidence)),
        }
        for row in evidence.metrics.get("judgement") or ()
    ]
    said = (evidence.metrics.get("split") or {}).get("notes", ())
    notes = [sentence_of(without_groups(note, evidence)) for note in said]
    return {"missing": None if findings else evidence.missing("judgement"), "findings": findings, "notes": notes}


def classes(evidence: Evidence) -> View:
    """The figures of each class on the test part; a figure that cannot be had is None."""
    found = (evidence.metrics.get("test") or {}).get("classes") or {}
    thresholds = (evidence.metrics.get("thresholds") or {}).get("classes") or {}
    names = ("recall", "precision", "f1", "average_precision", "support", "recall_interval", "precision_interval")
    rows = [
        {"label": label, "threshold": (thresholds.get(label) or {}).get("threshold")}
        | {name: figures.get(name) for name in names}
        for label, figures in found.items()
    ]
    return {
        "missing": None if rows else evidence.missing("class table"),
        "rows": rows,
        "has_intervals": any(row["recall_interval"] for row in rows),
        "has_thresholds": bool(thresholds),
        "empty": [row["label"] for row in rows if not row["support"]],
    }


def parts(evidence: Evidence) -> View:
    """The figures of the whole, of test, validation and held-out folds side by side; those that the run has."""
    named = (("test", "test"), ("validation", "validation"), ("out_of_fold", "training, out of fold"))
    names = ("image_count", "accuracy", "accuracy_interval", "balanced_accuracy", "macro_f1", "ece", "loss")
    rows = [
        {"part": name} | {figure: found.get(figure) for figure in names}
        for key, name in named
        if (found := evidence.metrics.get(key))
    ]
    return {"rows": rows}


def confusion(evidence: Evidence) -> View:
    """The confusion matrix as counts and shares of the true class, and the pairs most often mistaken."""
    matrix = (evidence.metrics.get("test") or {}).get("confusion")
    if not matrix:
        return {"missing": evidence.missing("confusion matrix")}
    labels = evidence.labels
    totals = [sum(row) for row in matrix]
    pairs = [
        {"true": labels[row], "predicted": labels[column], "count": matrix[row][column], "share": share}
        for row, column in itertools.product(range(len(labels)), repeat=2)
        if row != column and (share := _share(matrix[row][column], totals[row]))
    ]
    pairs.sort(key=lambda pair: -pair["count"])
    rows = [
        {
            "label": labels[row],
            "total": totals[row],
            "cells": [{"count": count, "share": _share(count, totals[row])} for count in counts],
        }
        for row, counts in enumerate(matrix)
    ]
    return {
        "missing": None,
        "rows": rows if len(labels) <= _MOST_CLASSES_IN_MATRIX else [],
        "most_classes": _MOST_CLASSES_IN_MATRIX,
        "pairs": pairs[:_MOST_PAIRS],
        "more_pairs": max(0, len(pairs) - _MOST_PAIRS),
    }


def curves(evidence: Evidence) -> View:
    """Charts of the epochs and of the head's strength."""
    metrics = evidence.metrics
    chosen = int(metrics["epoch"]) if evidence.measured else None
    drawn = charts.epoch_charts(evidence.history, chosen=chosen)
    head = metrics.get("head") or {}
    strengths = charts.strength_chart(head.get("cross_validated_loss") or {}, chosen=head.get("strength"))
    if strengths is not None:
        drawn = [strengths, *drawn]
    epochs = evidence.history[-1]["epoch"] if len(evidence.history) > 1 else 0
    if not evidence.measured:
        sentence = f"This run {evidence.ending}. Epoch {epochs} is the last one that its checkpoint has."
    elif epochs:
        sentence = f"All layers were trained for {epochs} epochs; the weights of epoch {chosen} were kept."
    else:
        sentence = "No layer but the head was trained, so there are no epochs to draw."
    missing = None if drawn or evidence.measured else evidence.missing("epoch to draw")
    return {"missing": missing, "charts": drawn, "sentence": sentence}


def calibration(evidence: Evidence) -> View:
    """Whether a score of 0.9 is right nine times in ten."""
    metrics, test = evidence.metrics, evidence.metrics.get("test") or {}
    chart = charts.reliability_chart(test.get("reliability") or (), name="reliability", title="Reliability, test part")
    found = metrics.get("calibration") or {}
    return {
        "missing": None if chart or found else evidence.missing("calibration"),
        "chart": chart,
        "bins": test.get("reliability") or [],
        "ece": test.get("ece"),
        "ece_interval": test.get("ece_interval"),
        "sentences": [sentence_of(text) for text in (test.get("ece_sentence"), found.get("sentence")) if text],
        "without": sentence_of(test.get("reliability_sentence") or ""),
        "temperature": found.get("temperature"),
        "before": found.get("validation_loss_before"),
        "after": found.get("validation_loss_after"),
    }


def thresholds(evidence: Evidence) -> View:
    """The score from which a class is precise enough, and what is then left to a person."""
    found = evidence.metrics.get("thresholds") or {}
    return {
        "missing": None if found else evidence.missing("list of thresholds"),
        "target": found.get("target_precision"),
        "left": found.get("left_to_person_share"),
        "sentence": sentence_of(found.get("sentence") or ""),
        "rows": [{"label": label, **row} for label, row in (found.get("classes") or {}).items()],
        "without": sentence_of(found.get("interval_sentence") or ""),
    }


def unknowns(evidence: Evidence) -> View:
    """How well classes that the network does not know are told from those that it does."""
    found = evidence.metrics.get("unknowns") or {}
    auroc = found.get("auroc") or {}
    methods = [name for name in _METHODS if auroc.get(name) is not None]
    rows = [
        {"label": label, "figures": [row.get(name) for name in methods]}
        for label, row in (found.get("classes") or {}).items()
    ]
    return {
        "missing": None if found else evidence.missing("measure of unknown classes"),
        "method": _METHODS.get(found.get("method") or ""),
        "threshold": found.get("threshold"),
        "methods": [_METHODS[name] for name in methods],
        "means": [auroc[name] for name in methods],
        "rows": rows,
        "sentence": sentence_of(found.get("sentence") or ""),
    }


def _tiles(test: Mapping[str, Any], limits: Mapping[str, Any]) -> list[View]:
    """The figures beside the headline: those that the run has."""
    shown = (
        ("Balanced accuracy", "balanced_accuracy", "mean of the classes' recalls"),
        ("Macro F1", "macro_f1", "mean of the classes' F1"),
        ("Mean average precision", "mean_average_precision", "ranking by score, mean of the classes"),
        ("Calibration error", "ece", "mean gap between score and share right"),
    )
    tiles = [
        {"name": name, "value": test[key], "interval": test.get(f"{key}_interval"), "note": note}
        for name, key, note in shown
        if test.get(key) is not None
    ]
    if limits.get("left_to_person_share") is not None:
        target = limits.get("target_precision")
        note = f"of test photos, where {target:.0%} precision is asked for" if target else "of test photos"
        share = limits["left_to_person_share"]
        tiles.append({"name": "Left to a person", "value": share, "interval": None, "note": note})
    return tiles


def _share(count: int, total: int) -> float | None:
    return count / total if total else None


def sentence_of(text: str) -> str:
    """The text with a capital and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if not text or text[-1] in ".!?" else ".")
