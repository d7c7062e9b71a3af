"""Writes `docs/configuration.md` from the declarations that flags, environment variables and YAML keys come from.

python docs/configuration.py
"""

import types
import typing
from collections.abc import Iterator
from pathlib import Path

from pydantic.fields import FieldInfo

from clients.cli import ClassifyOptions, ModelsOptions, ReloadOptions
from clients.train_options import (
    CancelOptions,
    DeleteOptions,
    FetchOptions,
    ListOptions,
    ShowOptions,
    SubmitOptions,
    WatchOptions,
)
from server.config import CheckConfig, ServerConfig
from trainer.config import (
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
from trainer.jobs.config import ServeConfig
from trapline.command_line import Options

PAGE = Path(__file__).with_suffix(".md")
VERBS: dict[str, type[Options]] = {
    "trainer sample": SampleConfig,
    "trainer run": RunConfig,
    "trainer lr-find": LrFindConfig,
    "trainer study": StudyConfig,
    "trainer compare": CompareConfig,
    "trainer evaluate": EvaluateConfig,
    "trainer report": ReportConfig,
    "trainer export": ExportConfig,
    "trainer publish": PublishConfig,
    "trainer serve": ServeConfig,
    "trainer cache list": CacheListConfig,
    "trainer cache clear": CacheClearConfig,
    "server run": ServerConfig,
    "server check": CheckConfig,
    "trapline classify": ClassifyOptions,
    "trapline models": ModelsOptions,
    "trapline reload": ReloadOptions,
    "trapline train submit": SubmitOptions,
    "trapline train list": ListOptions,
    "trapline train show": ShowOptions,
    "trapline train watch": WatchOptions,
    "trapline train cancel": CancelOptions,
    "trapline train delete": DeleteOptions,
    "trapline train fetch": FetchOptions,
}
_TOP = """\
<!-- Written by `python docs/configuration.py` from the declarations in the code. Do not edit. -->

# Configuration

An option is declared once and can be given in three ways. A flag wins over the environment variable, that over the file
of `--config`, that over the default. Only the verbs with `--config` below read a file: YAML, one `option: value` a
line, the option's name without the two hyphens. An option in the file that the verb does not have is an error; but
`server check` passes over those of `server run`, and `trainer lr-find` and `trainer study` over those of
`trainer run`, so that they may share one file. A name in capitals without hyphens is an argument, which only the
command line can give.

A switch has two flags, `--NAME` and `--no-NAME`; its environment variable takes `true` or `false`. Every verb has
`--help`, every program `--version`. Exit codes: 0 done, 1 the work failed or some items failed, 2 usage, 130 Ctrl-C,
143 SIGTERM (`server run` and `trainer serve` drain then, and end with 0, or with 1 where they had to cut calls off).
"""


def text() -> str:
    """The whole page."""
    return "\n".join([_TOP, *(_section(verb, options) for verb, options in VERBS.items())])


def flags(options: type[Options]) -> list[str]:
    """The names of a verb's options as they are typed, sorted; arguments in capitals."""
    return sorted(_flag(name, field) for name, field in options.model_fields.items())


def _section(verb: str, options: type[Options]) -> str:
    help_line = (options.__doc__ or "").strip().splitlines()[0]
    lines = [
        f"## {verb}",
        "",
        help_line,
        "",
        "| option | environment variable | default | meaning |",
        "|---|---|---|---|",
    ]
    # Arguments first, in the order they are typed in, then flags as `--help` has them.
    fields = sorted(options.model_fields.items(), key=lambda item: not _is_argument(item[1]))
    lines += [f"| {' | '.join(_row(options, name, field))} |" for name, field in fields]
    return "\n".join(lines) + "\n"


def _row(options: type[Options], name: str, field: FieldInfo) -> tuple[str, str, str, str]:
    variable = f"{options.model_config.get('env_prefix', '')}{field.alias or name}".upper()
    meaning = "; ".join([(field.description or "").rstrip("."), *_limits(field)])
    shown = f"`{_flag(name, field)}`"
    if field.annotation is bool:
        shown += f" `--no-{_flag(name, field).removeprefix('--')}`"
    return shown, "–" if _is_argument(field) else f"`{variable}`", _default(field), meaning.replace("|", "\\|")


def _flag(name: str, field: FieldInfo) -> str:
    name = field.alias or name
    return name.upper() if _is_argument(field) else "--" + name.replace("_", "-")


def _is_argument(field: FieldInfo) -> bool:
    return any("CliPositional" in repr(item) for item in field.metadata)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default in (None, "", ()):
        return "–"
    if isinstance(field.default, tuple):
        return f"`{','.join(field.default)}`"
    value = "on" if field.default is True else "off" if field.default is False else field.default
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _limits(field: FieldInfo) -> Iterator[str]:
    """What values are taken, as clauses."""
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    bounds = [(name, item) for item in _constraints(field) for name in words if hasattr(item, name)]
    numbers = ", ".join(f"{words[name]} {_number(getattr(item, name))}" for name, item in bounds)
    literals = [kind for kind in _kinds(field.annotation) if typing.get_origin(kind) is typing.Literal]
    choices = ", ".join(f"`{choice}`" for kind in literals for choice in typing.get_args(kind))
    if numbers:
        yield f"{numbers}, or {choices}" if choices else numbers
    elif choices:
        yield f"one of {choices}"


def _kinds(annotation: object) -> tuple[object, ...]:
    return (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else (annotation,)
    )


def _constraints(field: FieldInfo) -> Iterator[object]:
    yield from field.metadata
    for kind in _kinds(field.annotation):
        for item in getattr(kind, "__metadata__", ()):
            yield from getattr(item, "metadata", ())


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
