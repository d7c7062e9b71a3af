"""`trainer`: the verbs. Torch is imported by the work itself, never here, so that help and errors come at once."""

import contextlib
import importlib.util
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from trapline.command_line import Verb, tell
from trapline.command_line import main as command_line
from trapline.processors import thread_count

from .config import (
    CacheClearConfig,
    CacheListConfig,
    CompareConfig,
    EvaluateConfig,
    ExportConfig,
    LrFindConfig,
    PublishConfig,
    ReportConfig,
    RunConfig,
    SampleConfig,
    StudyConfig,
)
from .errors import TrainerError, UsageError
from .jobs.config import ServeConfig
from .preflight import check_options, finished_result
from .progress import Progress, console_report, silent_report
from .run_folder import RunFolder, finished_state, open_run, write_json
from .world import World, joined_world


def main() -> int:
    """Runs the verb on the command line; gives the exit code."""
    verbs = (
        Verb(name="sample", options=SampleConfig, run=_sample),
        Verb(name="run", options=RunConfig, run=_run),
        Verb(name="lr-find", options=LrFindConfig, run=_lr_find),
        Verb(name="study", options=StudyConfig, run=_study),
        Verb(name="compare", options=CompareConfig, run=_compare),
        Verb(name="evaluate", options=EvaluateConfig, run=_evaluate),
        Verb(name="report", options=ReportConfig, run=_report),
        Verb(name="export", options=ExportConfig, run=_export),
        Verb(name="publish", options=PublishConfig, run=_publish),
        Verb(name="serve", options=ServeConfig, run=_serve),
        Verb(name="cache list", options=CacheListConfig, run=_cache_list),
        Verb(name="cache clear", options=CacheClearConfig, run=_cache_clear),
    )
    if os.environ.get("LOCAL_RANK", "0") == "0":
        return command_line("trainer", verbs)
    # What is wrong with the command line is wrong for every process of a machine: its first one says it.
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = command_line("trainer", verbs)
    if code != UsageError.exit_code:
        tell(said.getvalue().removesuffix("\n"))
    return code


def program() -> NoReturn:
    """The console script; ends at once, where Python would take torch's modules apart for two seconds."""
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _run(config: RunConfig) -> int:
    _need("torch", "torchvision", "onnxruntime", "onnxscript", "sklearn", "jinja2", "PIL")
    check_options(config)
    with joined_world() as world, _opened(config, world) as folder:
        result = world.told(finished_result(config, folder) if world.first else None)
        if result is None:
            from .run import run

            with console_report() if world.first else silent_report() as report:
                result = run(config, folder, report, world)
    if world.first:
        print(result)
    return 0


def _lr_find(config: LrFindConfig) -> int:
    _need("torch", "torchvision", "sklearn", "matplotlib", "PIL")
    from .lr_find import check_folder, lr_find

    check_options(config.as_run())
    check_folder(config.out)
    with joined_world() as world, console_report() if world.first else silent_report() as report:
        found = lr_find(config, report, world)
    if world.first:
        print(found)
    return 0


def _study(config: StudyConfig) -> int:
    _need("torch", "torchvision", "onnxruntime", "onnxscript", "sklearn", "scipy", "matplotlib", "PIL")
    from .study.points import check_sizes
    from .study.work import check_folder, finished_study, study

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("a study trains its points in one process; start it without torchrun")
    check_options(config.as_run())
    check_sizes(config)
    check_folder(config.out)
    with open_run(config.out, config.identity()) as folder:
        result = finished_study(config, folder)
        if result is None:
            with console_report() as report:
                result = study(config, folder, report)
    print(result)
    return 0


def _compare(config: CompareConfig) -> int:
    _need("numpy", "scipy")
    from .compare.answers import read_answers, shared_photos
    from .compare.pairs import compared, table

    if len({run.resolve() for run in config.runs}) < max(2, len(config.runs)):
        raise UsageError("RUNS: name two or more different run folders")
    runs = [read_answers(run) for run in config.runs]
    comparison = compared(runs, shared_photos(runs))
    if config.json_file is not None:
        write_json(config.json_file, comparison.facts)
    print(table(comparison))
    return 0


@contextmanager
def _opened(config: RunConfig, world: World) -> Iterator[RunFolder]:
    """The run's folder; processes beside the first one write into one that is thrown away."""
    if world.first:
        with open_run(config.out, config.identity()) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield RunFolder(path=Path(scratch), state={})


def _evaluate(config: EvaluateConfig) -> int:
    _need("onnxruntime", "sklearn", "PIL")
    from .evaluate.folder import evaluate

    with console_report() as report:
        figures = evaluate(_model_file(config.model), config.data, threads=thread_count("auto"), report=report)
    if config.json_file is not None:
        write_json(config.json_file, figures)
    low, high = figures["accuracy_interval"]  # always there: nothing is known of groups
    print(
        f"accuracy {figures['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}), balanced "
        f"{figures['balanced_accuracy']:.1%}, on {figures['image_count']} images"
    )
    for label, row in figures["classes"].items():
        shown = {name: "–" if row[name] is None else f"{row[name]:.3f}" for name in ("precision", "recall", "f1")}
        print(
            f"  {label:<24} "
            + "  ".join(f"{name} {value:>5}" for name, value in shown.items())
            + f"  of {row['support']}"
        )
    print(f"calibration: {figures['ece_sentence']}")
    skipped = figures["unknown_class_image_count"], figures["unreadable_image_count"]
    if any(skipped):
        print(f"left out: {skipped[0]} images of classes that the model does not know, {skipped[1]} unreadable files")
    return 0


def _report(config: ReportConfig) -> int:
    _need("jinja2", "safetensors", "PIL")
    from .report.html import write_report

    if config.pictures:
        _need("torch", "torchvision", "onnxruntime", "matplotlib")
        from .report.rebuild import rebuild

        with console_report() as report:
            rebuild(config.run, config, report)
    print(f"report: {write_report(config.run, images=config.images)}")
    return 0


def _export(config: ExportConfig) -> int:
    _need("onnx", "onnxruntime", "scipy", "sklearn", "PIL")
    from .precision.export import export

    with console_report() as report:
        result = export(config, report)
    print(result)
    return 0


def _publish(config: PublishConfig) -> int:
    _need("onnxruntime", "PIL")
    from .evaluate.model import load
    from .publish import chosen_id, publish

    path = _model_file(config.model)
    model_id = chosen_id(path, load(path, threads=1).metadata, config.model_id)
    version = publish(path, config.models, model_id)
    print(f"published {model_id} version {version.name}: {version}")
    return 0


def _sample(config: SampleConfig) -> int:
    _need("numpy", "PIL")
    from .sample import write_sample

    with console_report() as report:
        summary = write_sample(
            config.out,
            seed=config.seed,
            report=lambda done, total: report.progress(Progress(phase="draw", done=done, total=total)),
        )
    print(summary)
    return 0


def _serve(config: ServeConfig) -> int:
    _need("grpc_health", "grpc_reflection", "prometheus_client", "torch", "torchvision", "onnxruntime", "jinja2", "PIL")
    from .jobs.program import serve

    return serve(config)


def _cache_list(config: CacheListConfig) -> int:
    _need("PIL", "platformdirs")
    from .dataset.cache.clearing import table
    from .dataset.cache.folder import user_cache_folder

    print(table(user_cache_folder(config.cache_dir)))
    return 0


def _cache_clear(config: CacheClearConfig) -> int:
    _need("PIL", "platformdirs")
    from .dataset.cache.clearing import clear
    from .dataset.cache.folder import user_cache_folder

    cleared = clear(user_cache_folder(config.cache_dir), older_than_days=config.older_than_days)
    print(cleared.sentences)
    return 1 if cleared.some_in_use else 0


def _model_file(path: Path) -> Path:
    """The ONNX file that a path means: itself, or that of a finished run."""
    if not path.exists():
        raise UsageError(f"there is no {path}; name an exported .onnx file or a run folder")
    if path.is_file():
        return path
    finished_state(path)
    return path / "model.onnx"


def _need(*modules: str) -> None:
    """Refuses at once, not after a minute of work, where the extra was not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        install = "install Trapline with pip install '.[trainer]' at its repository's top"
        raise TrainerError(f"{', '.join(missing)} not installed; {install}")
