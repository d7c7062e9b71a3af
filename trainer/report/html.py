"""The report of a run: one HTML file that asks no network for anything and opens from a disk.

Everything in it is read from files of the run folder. Labels and file names are hostile text here: the template escapes
what it writes, the data is JSON in which no tag can begin, and the page's policy runs the page's own script only.
"""

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..dataset.layout import shown
from ..run_folder import write_text
from . import gallery, provenance, sections
from .colours import shades
from .evidence import Evidence, read_evidence
from .thumbnails import THUMBNAILS_FILE, read_thumbnails

#: In the run folder.
REPORT_FILE = "report.html"
# In the order of the page; each has a template of its name.
_SECTIONS = {
    "classes": "Classes",
    "confusion": "Confusion",
    "photos": "Photos",
    "suspects": "Suspects",
    "calibration": "Calibration",
    "thresholds": "Thresholds",
    "unknowns": "Unknowns",
    "curves": "Curves",
    "pictures": "Pictures",
    "data": "Data",
    "model": "Model",
    "choices": "Choices",
}
_TEMPLATES = Path(__file__).parent / "templates"


def write_report(run: Path, *, images: bool) -> Path:
    """Writes `report.html` into the run folder `run`, which may have ended in any way, and gives its path.

    Args:
        run: The run folder.
        images: Whether the page shows photos and names files; without, it has neither.

    Raises:
        UsageError: It is no run folder, or holds what no run writes.
        TrainerError: The page cannot be written.
    """
    evidence = read_evidence(run)
    thumbnails = read_thumbnails(run / THUMBNAILS_FILE) if images else {}
    view = {
        "headline": sections.headline(evidence),
        "judgement": sections.judgement(evidence),
        "data": provenance.data(evidence),
        "classes": sections.classes(evidence),
        "parts_of_run": sections.parts(evidence),
        "confusion": sections.confusion(evidence),
        "curves": sections.curves(evidence),
        "calibration": sections.calibration(evidence),
        "thresholds": sections.thresholds(evidence),
        "unknowns": sections.unknowns(evidence),
        "photos": gallery.photo_section(evidence, thumbnails, images=images),
        "suspects": gallery.suspects(evidence, thumbnails, images=images),
        "pictures": gallery.pictures(evidence, images=images),
        "model": provenance.model(evidence),
        "choices": provenance.choices(evidence),
    }
    if not images:
        view = gallery.nameless(view, evidence)
        if view["headline"]["error"]:
            view["headline"]["error"] = "state.json says why; the sentence may name files, so it is not shown here."
    page = _page(
        view,
        title=_title(evidence, images=images),
        data=gallery.photos(evidence, images=images),
        pieces=gallery.pieces(evidence, thumbnails),
    )
    path = run / REPORT_FILE
    write_text(path, page)
    return path


def _page(view: dict[str, Any], *, title: str, data: dict[str, Any], pieces: Sequence[Sequence[str | None]]) -> str:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_written,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "number": _number, "interval": _interval}
    script = _text("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("page.html").render(
        **view,
        shown=[(name, title) for name, title in _SECTIONS.items() if not view[name]["missing"]],
        absent=[(title, view[name]["missing"]) for name, title in _SECTIONS.items() if view[name]["missing"]],
        title=title,
        policy=policy,
        # Files of this package: the only text that is not escaped.
        style=Markup(_text("report.css")),  # noqa: S704
        script=Markup(script),  # noqa: S704
        shades=shades(),
        photo_data=_json(data),
        pieces=[_json(piece) for piece in pieces],
    )


def _title(evidence: Evidence, *, images: bool) -> str:
    options = evidence.state.get("config") or {}
    folder = Path((evidence.state.get("places") or {}).get("data") or "").name if images else ""
    named = [name for name in (options.get("model_id") or folder, options.get("backbone")) if name]
    return ", ".join(named) or "a run"


def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _json(value: object) -> Markup:
    """JSON for a script element: in ASCII, and without a character that could begin or end a tag."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704  # what could end the element was replaced above


def _written(value: object) -> object:
    """What the template writes for a value: a dash for none, and text that UTF-8 can hold."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, str) and not isinstance(value, Markup):
        return shown(value)
    return value


def _percent(value: float | None, digits: int = 1) -> str | None:
    return None if value is None or not math.isfinite(value) else f"{value:.{digits}%}"


def _number(value: float | None, digits: int = 3) -> str | None:
    return None if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _interval(pair: Sequence[float] | None) -> str | None:
    return None if not pair else f"{pair[0]:.1%} to {pair[1]:.1%}"
