"""What a caller asks for, checked before anything is queued: `TrainConfig` -> the options of the run.

Every mistake is reported, by the field that it is in. Nothing slow is imported and no photo is opened.
"""

import math
import os
import re
import stat
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from trapline.command_line import GivenAlone
from trapline.errors import RequestInvalid, UsageError
from trapline.train_config import option_names, options_of
from trapline.train_errors import DatasetInvalid
from trapline.v1.train_pb2 import TrainConfig

from ..config import RunConfig
from ..dataset.layout import PARTS, Layout, find_files, shown
from ..errors import TrainerError
from ..preflight import check_options, image_px
from .config import ServeConfig
from .names import NameRefused, check_name, open_file, open_folder

CONFIG_FIELD = "train_job.config"
# Errors travel in HTTP/2 headers, of which most programs take 8 KiB: what all violations may take, and how many of them
# the sentence repeats.
_ALL_BYTES, _REPEATED = 2_400, 2
_LONGEST_OPTION = 1024
_FLAG = re.compile(r"--([a-z][a-z-]*[a-z])")


class JobConfig(GivenAlone, RunConfig):
    """The options of a job's run: what is given here, and nothing out of the service's own environment."""


class _Violations:
    """What is wrong, by field; the first thing said of a field stays."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}

    def add(self, field: str, description: str) -> None:
        self.fields.setdefault(f"{CONFIG_FIELD}.{field}", " ".join(description.split()))

    def add_sentence(self, sentence: str, *, otherwise: str) -> None:
        """Adds a sentence that names options as flags, to each option that it names."""
        words = _FLAG.sub(lambda match: match[1].replace("-", "_"), sentence)
        named = [name.replace("-", "_") for name in _FLAG.findall(sentence)]
        fields = [name for name in dict.fromkeys(named) if name in option_names()] or [otherwise]
        for field in fields:
            self.add(field, words.removeprefix(f"{field}: "))

    def check(self) -> None:
        """Raises RequestInvalid where there is anything."""
        if not self.fields:
            return
        room = max(60, _ALL_BYTES // len(self.fields))
        violations = {field: _cut(text, room) for field, text in sorted(self.fields.items())}
        sentences = [f"{field.rpartition('.')[2]} {text}" for field, text in violations.items()]
        more = f"; and {len(sentences) - _REPEATED} fields more" if len(sentences) > _REPEATED else ""
        raise RequestInvalid("; ".join(sentences[:_REPEATED]) + more, violations=violations)


def checked(message: TrainConfig, service: ServeConfig, *, out: Path) -> JobConfig:
    """The options of the run that `message` asks for, with its photos below the data root and its folder `out`.

    Raises:
        RequestInvalid: Fields are wrong, or ask for more than the service allows; `violations` names each.
        DatasetInvalid: The dataset's folder cannot be trained on.
    """
    violations = _Violations()
    options = _recipe(message.recipe, violations) | options_of(message)
    for name, value in list(options.items()):
        if isinstance(value, str) and len(value) > _LONGEST_OPTION:
            violations.add(name, f"must be at most {_LONGEST_OPTION:,} characters long")
        elif isinstance(value, float) and not math.isfinite(value):
            violations.add(name, "must be a finite number")
        else:
            continue
        del options[name]
    _named(message, options, service, violations)
    if "model_id" in options and service.models is None:
        violations.add("model_id", "needs a model repository: this service was started without --models")
    config = _validated(options, service, dataset=message.dataset, out=out, violations=violations)
    violations.check()
    assert config is not None
    _within_limits(config, service, violations)
    violations.check()
    check_dataset(service.data_root, message.dataset, max_photos=service.max_photos)
    return config


def check_dataset(data_root: Path, dataset: str, *, max_photos: int) -> None:
    """Refuses a dataset that cannot be trained on.

    Raises:
        DatasetInvalid: It is missing, no folder of classes, too large, or has a link in it.
    """
    try:
        with open_folder(data_root, dataset) as folder:
            place = Path(f"/proc/self/fd/{folder}")
            try:
                layout = find_files(place)
                _no_links(place, layout)
            except (TrainerError, UsageError) as error:
                raise _invalid(str(error).replace(str(place), shown(dataset))) from error
    except NameRefused as error:
        raise _invalid(f"dataset {_shown(dataset)} {error}") from error
    count = len(layout.files)
    if not count:
        raise _invalid(f"dataset {_shown(dataset)} has no photos in its class folders; put some there")
    if count > max_photos:
        raise _invalid(
            f"dataset {_shown(dataset)} has {count:,} photos, and this service takes {max_photos:,} (--max-photos)"
        )


def _invalid(sentence: str) -> DatasetInvalid:
    text = _cut(sentence, _ALL_BYTES // 4)
    return DatasetInvalid(text, violations={f"{CONFIG_FIELD}.dataset": text})


def _no_links(root: Path, layout: Layout) -> None:
    """Refuses links: whoever may write below the data root could have a run read any file of this machine."""
    folders = {os.path.dirname(file.path) for file in layout.files}  # noqa: PTH120  # of 100,000 files: Path is slow
    places = [part for part in PARTS if part in layout.parts]
    places += [f"{part}/{label}" if part else label for part in layout.parts for label in layout.labels]
    for path in (*places, *sorted(folders), *(file.path for file in layout.files)):
        try:
            is_link = stat.S_ISLNK(os.lstat(f"{root}/{path}").st_mode)
        except FileNotFoundError:
            continue  # gone, or a class that this part has not
        if is_link:
            raise UsageError(f"{root}: {shown(path)} is a link, which this service does not follow; put a copy there")


@cache
def _recipes() -> Mapping[str, Mapping[str, Any]]:
    """The options of each recipe by its name."""
    folder = RunConfig.recipes
    assert folder is not None
    return {
        file.stem: {key.replace("-", "_"): value for key, value in yaml.safe_load(file.read_text("utf-8")).items()}
        for file in sorted(folder.glob("*.yaml"))
    }


def _recipe(name: str, violations: _Violations) -> dict[str, Any]:
    if name and name not in _recipes():
        violations.add("recipe", f"is no recipe of this trainer; choose one of {', '.join(_recipes())}")
    return dict(_recipes().get(name, {}))


def _named(message: TrainConfig, options: dict[str, Any], service: ServeConfig, violations: _Violations) -> None:
    """Puts paths in place of the names that `options` has, where the files are there."""
    try:
        check_name(message.dataset)
    except NameRefused as error:
        violations.add("dataset", str(error))
    for field in ("weights", "groups"):
        name = options.get(field)
        if name is None or (field == "weights" and name in ("auto", "none")):
            continue
        try:
            with open_file(service.data_root, name):
                options[field] = str(service.data_root / name)
        except NameRefused as error:
            choice = "; auto and none are no names" if field == "weights" else ""
            violations.add(field, f"{error}{choice}")
            del options[field]


def _validated(
    options: Mapping[str, Any], service: ServeConfig, *, dataset: str, out: Path, violations: _Violations
) -> JobConfig | None:
    places: dict[str, Any] = {
        "data": service.data_root / dataset,
        "out": out,
        "cache_dir": service.cache_dir,
        "cache_gib": service.cache_gib,
        "checkpoint_minutes": service.checkpoint_minutes,
        "publish": service.models if "model_id" in options else None,
    }
    try:
        return JobConfig(**places, **options)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_context=False):
            sentence = str(problem["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
            if problem["loc"] and str(problem["loc"][0]) in option_names():
                violations.add(str(problem["loc"][0]), sentence)
            else:
                violations.add_sentence(sentence, otherwise="dataset")
    return None


def _within_limits(config: JobConfig, service: ServeConfig, violations: _Violations) -> None:
    try:
        check_options(config)
        if (side_px := image_px(config)) > service.max_image_px:
            violations.add("image_px", f"{side_px} is more than this service allows, {service.max_image_px}")
    except UsageError as error:
        violations.add_sentence(str(error), otherwise="dataset")
    if config.epochs > service.max_epochs:
        violations.add("epochs", f"{config.epochs} is more than this service allows, {service.max_epochs}")


def _shown(name: str) -> str:
    return repr(_cut(name, 80))


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"
