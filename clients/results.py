r"""Rows of results: a CSV or JSON file that is complete or has another name, or lines to read.

While a job runs, its rows go to `NAME.partial.csv` beside `NAME.csv`, in the order of the paths, each as soon as those
before it are done; a job that ends gives that file its name, in one step. So `NAME.csv` is always whole, and whoever
interrupts a job of 100,000 photos, or loses power, keeps every row that was done, in a file whose name says that more
are missing. The partial file of an earlier job is never written over: the next one is `NAME.partial-2.csv`.

Paths that are not valid UTF-8 are written with `\udcff`-like escapes in place of the bytes that are not, as Python
spells them in JSON, so that one odd name does not make a file unreadable.
"""

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from trapline.command_line import tell
from trapline.csv_rows import CsvRows
from trapline.errors import TraplineError, UsageError, reason_name
from trapline.v1.error_reason_pb2 import ErrorReason

from .answers import Result

#: Takes one result; rows come out in the order of the calls.
Write = Callable[[Result], None]

_SUFFIXES = (".csv", ".json")


def check_out(out: Path) -> None:
    """Sees that `out` can be written, before any work is done.

    Raises:
        UsageError: Its ending is unknown, its folder is not there or not writable, or it is a folder.
    """
    if out.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"--out: {out} must end in .csv or .json")
    # Not those of Path, which raise where a disk or a right is missing.
    if os.path.isdir(out):  # noqa: PTH112
        raise UsageError(f"--out: {out} is a folder; name a file")
    if not os.path.isdir(out.parent):  # noqa: PTH112
        raise UsageError(f"--out: there is no folder {out.parent}, or it cannot be reached; make it first")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise UsageError(f"--out: cannot write into {out.parent}; name a file elsewhere")


def partial_paths(out: Path) -> Iterator[Path]:
    """The names that a job's unfinished rows may have, first choice first."""
    yield out.with_name(f"{out.stem}.partial{out.suffix}")
    number = 2
    while True:
        yield out.with_name(f"{out.stem}.partial-{number}{out.suffix}")
        number += 1


@contextlib.contextmanager
def written_to(out: Path, *, top_k: int) -> Iterator[Write]:
    """Writes results to `out`, by its ending; see the module for what an interrupted job leaves.

    Args:
        out: A file that `check_out` found good; replaced when the job ends.
        top_k: How many predictions a CSV row has columns for.

    Raises:
        TraplineError: The file cannot be written, the disk is full, say.
    """
    rows = _json_rows if out.suffix.lower() == ".json" else _csv_rows
    with _in_a_sentence(out):
        partial, file = _create_partial(out)
    row_count = 0
    try:
        with _in_a_sentence(partial), file:
            with rows(file, top_k) as write:

                def write_one(result: Result) -> None:
                    nonlocal row_count
                    write(result)
                    file.flush()
                    row_count += 1

                yield write_one
            file.flush()
            os.fsync(file.fileno())
        with _in_a_sentence(out):
            partial.replace(out)
    except BaseException:
        if row_count:
            tell(f"{row_count:,} finished rows are kept in {partial}")
        else:
            partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def printed(*, top_k: int) -> Iterator[Write]:
    """Writes results to the standard output: lines to read on a terminal, CSV into a pipe or a file.

    Args:
        top_k: How many predictions a CSV row has columns for.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stdout.isatty():
        yield lambda result: print(_line(result), flush=True)
        return
    with _csv_rows(sys.stdout, top_k) as write:
        yield write
        sys.stdout.flush()


def row_of(result: Result) -> dict[str, Any]:
    """One result as the JSON object of its row; its keys are those of `docs/clients.md`.

    `status` is `ok` or a gRPC code's name; `reason` the ErrorReason without its prefix, empty where there is none.
    """
    path = "" if isinstance(result.source, bytes) else os.fsdecode(result.source)
    answer, refusal = result.answer, result.refusal
    has_reason = refusal is not None and refusal.reason != ErrorReason.ERROR_REASON_UNSPECIFIED
    predictions = answer.predictions if answer else ()
    return {
        "path": path,
        "status": refusal.code.name if refusal else "ok",
        "reason": reason_name(refusal) if refusal and has_reason else "",
        "model_version": answer.model_version if answer else "",
        "predictions": [{"label": item.label_id, "score": round(item.score, 6)} for item in predictions],
        "unknown_score": None if answer is None or answer.unknown_score is None else round(answer.unknown_score, 6),
    }


@contextlib.contextmanager
def _in_a_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise  # not ours: whoever read the terminal output left
        raise TraplineError(f"cannot write {path} ({error.strerror}); make room, or name another --out") from error


def _create_partial(out: Path) -> tuple[Path, TextIO]:
    for path in partial_paths(out):
        with contextlib.suppress(FileExistsError):
            return path, path.open("x", encoding="utf-8", errors="backslashreplace", newline="")
    raise AssertionError("there is always another name")


@contextlib.contextmanager
def _csv_rows(file: TextIO, top_k: int) -> Iterator[Write]:
    pairs = [f"{name}_{rank}" for rank in range(1, top_k + 1) for name in ("label", "score")]
    writer = CsvRows(file)
    writer.writerow(["path", "status", "reason", "model_version", *pairs, "unknown_score"])

    def write(result: Result) -> None:
        row = row_of(result)
        cells = [cell for item in row["predictions"][:top_k] for cell in (item["label"], f"{item['score']:.6f}")]
        padding = [""] * (len(pairs) - len(cells))
        unknown = "" if row["unknown_score"] is None else f"{row['unknown_score']:.6f}"
        writer.writerow([row["path"], row["status"], row["reason"], row["model_version"], *cells, *padding, unknown])

    yield write


@contextlib.contextmanager
def _json_rows(file: TextIO, _top_k: int) -> Iterator[Write]:
    separator = "["

    def write(result: Result) -> None:
        nonlocal separator
        file.write(f"{separator}\n{json.dumps(row_of(result))}")
        separator = ","

    try:
        yield write
    finally:
        file.write("[]\n" if separator == "[" else "\n]\n")


def _line(result: Result) -> str:
    row = row_of(result)
    if row["status"] != "ok":
        return f"{row['path']}  {row['status']} {row['reason']}".rstrip()
    seen = ", ".join(f"{item['label']} {item['score']:.3f}" for item in row["predictions"])
    unlike = row["unknown_score"] is not None and row["unknown_score"] > 1
    doubt = "  (unlike every class of the model)" if unlike else ""
    return f"{row['path']}  {seen or 'nothing above the score asked for'}{doubt}"
