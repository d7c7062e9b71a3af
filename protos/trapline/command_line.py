"""How every Trapline program reads its options and ends: flags, environment, YAML, sentences, exit codes.

An option is declared once, as a field of an `Options` model. Its flag is the name in kebab case, its environment
variable the name in capitals behind the program's prefix, its YAML key the name in either case. A flag wins over the
environment, that over the file of `--config`, that over the default.

Exit codes: 0 done, 1 the work failed or some items failed, 2 usage, 130 Ctrl-C, 143 SIGTERM.
"""

import argparse
import errno
import importlib.metadata
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, NoReturn, cast

import yaml
from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from trapline.errors import TraplineError, UsageError

# The exit code of an end by SIGTERM.
_TERMINATED = 143


class Options(BaseSettings):
    """Base of a verb's options. Subclasses set `env_prefix`; the class's docstring is the verb's help.

    Attributes:
        others_in_file: Options of the program's other verbs, which the file of `--config` may hold and this verb skips.
        recipes: Folder of the YAML files that `--config recipe:NAME` means; None where the verb has none.
    """

    others_in_file: ClassVar[frozenset[str]] = frozenset()
    recipes: ClassVar[Path | None] = None

    model_config = SettingsConfigDict(
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        extra="forbid",
        frozen=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the base class's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the base class's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags come before these by themselves; then the environment, then the file of `--config`."""
        return init_settings, env_settings, _ConfigFile(settings_cls)


class _ConfigFile(PydanticBaseSettingsSource):
    """The YAML file that `--config` (or its environment variable) names."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ANN401  # the base class's
        """Never asked: `__call__` reads the whole file at once."""
        return None, field_name, field is None

    def __call__(self) -> dict[str, Any]:
        name = self.current_state.get("config") if "config" in self.settings_cls.model_fields else None
        if name is None:
            return {}
        path = _recipe(str(name), cast("type[Options]", self.settings_cls).recipes) or Path(str(name))
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"--config: cannot read {path} ({error.strerror}); name a YAML file of options") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"--config: {path} is not valid YAML ({' '.join(str(error).split())})") from error
        if content is None:
            return {}
        if not isinstance(content, dict):
            raise UsageError(f"--config: {path} must hold lines of `option: value`")
        values = {str(key).replace("-", "_"): value for key, value in content.items()}
        options = cast("type[Options]", self.settings_cls)
        unknown = sorted(set(values) - set(options.model_fields) - options.others_in_file)
        if unknown:
            raise UsageError(f"--config: {path} has unknown options: {', '.join(unknown)}")
        return {name: value for name, value in values.items() if name in options.model_fields}


class GivenAlone(Options):
    """Put before a verb's options: what the constructor is given, and nothing from the environment or a file."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # the base class's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the same
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the same
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the constructor is given."""
        return (init_settings,)


def _recipe(name: str, folder: Path | None) -> Path | None:
    """The file that `recipe:NAME` means; None for a path."""
    prefix = "recipe:"
    if folder is None or not name.startswith(prefix):
        return None
    recipe = name.removeprefix(prefix)
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if recipe not in known:
        raise UsageError(f"--config: there is no recipe {recipe!r}; choose one of {', '.join(known)}")
    return folder / f"{recipe}.yaml"


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb of a program.

    Attributes:
        name: What is typed after the program's name: one word, or two where several verbs share the first.
        options: The model whose fields are its options.
        run: The work; gives the exit code. Slow imports belong inside it.
    """

    name: str
    options: type[Options]
    run: Callable[[Any], int]


def main(program: str, verbs: Sequence[Verb], arguments: Sequence[str] | None = None) -> int:
    """Runs the verb that the command line names.

    Args:
        program: The console script's name.
        verbs: What it can do.
        arguments: The command line behind the program's name; `sys.argv` where absent.

    Returns:
        The exit code. Usage errors and `--help` end the process by SystemExit, as argparse does.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _replace_closed_outputs()
    try:
        try:
            return _run(program, verbs, words)
        finally:
            print(end="", flush=True)  # here, where what fails is told: at its exit Python would complain
    except BrokenPipeError:
        drop_output()
        return 0  # whoever read our output left (`| head`): nothing more to say
    except MemoryError:
        tell(f"{program}: error: there is not enough memory; end other programs, and run this again")
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        drop_output()
        tell(f"{program}: error: the disk is full; make room, and run this again")
        return 1


def _run(program: str, verbs: Sequence[Verb], words: list[str]) -> int:
    verb = next((verb for verb in verbs if words and verb.name == words[0]), None)
    family = [verb for verb in verbs if words and verb.name.startswith(f"{words[0]} ")]
    if family:
        members = [replace(verb, name=verb.name.removeprefix(f"{words[0]} ")) for verb in family]
        return _run(f"{program} {words[0]}", members, words[1:])
    if verb is None:
        parser = _top_level(program, verbs)
        parser.parse_args(words)
        parser.error("name the verb first")
    try:
        # A stop asked for by SIGTERM runs the same clean-up as any other end; a server installs its own drain.
        signal.signal(signal.SIGTERM, _terminated)
        return verb.run(_parse(program, verb, words[1:]))
    except TraplineError as error:
        tell(f"{program} {verb.name}: error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _hurry_output()
        tell(f"{program} {verb.name}: interrupted")
        return 130
    except SystemExit as ended:
        if ended.code == _TERMINATED:
            _hurry_output()
        raise


def _replace_closed_outputs() -> None:
    """Gives an output that the shell closed (`2>&-`) a place to go; Python has None for it, which has no methods."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # to the end


def _hurry_output() -> None:
    """Prints what is left as far as its reader takes it now: one that pauses (`| less`) holds up no end asked for."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:
        return  # no file: somebody in this process reads it
    waits = os.get_blocking(descriptor)
    try:
        os.set_blocking(descriptor, False)
        try:
            sys.stdout.flush()
        finally:
            os.set_blocking(descriptor, waits)  # other processes may write there, too
    except BlockingIOError:
        drop_output()


def drop_output() -> None:
    """Lets what could not be printed go nowhere, or Python would try once more at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(line: str) -> None:
    """Prints a line on standard error. That nobody reads it any more, a log's reader say, changes nothing."""
    try:
        print(line, file=sys.stderr, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _parse(program: str, verb: Verb, words: Sequence[str]) -> Options:
    try:
        return verb.options(_cli_parse_args=list(words), _cli_prog_name=f"{program} {verb.name}")
    except ValidationError as error:
        lines = [_sentence(verb.options, dict(problem)) for problem in error.errors(include_url=False)]
        raise UsageError("; ".join(lines) + f" (see `{program} {verb.name} --help`)") from error
    except SettingsError as error:  # raised for options of several values only
        hint = """write several values as JSON, e.g. '["a", "b"]'"""
        raise UsageError(f"{error}; {hint} (see `{program} {verb.name} --help`)") from error


def _sentence(options: type[Options], problem: dict[str, Any]) -> str:
    """One problem as `--flag: what is wrong (got ...)`."""
    message = str(problem["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    if not problem["loc"]:
        return message
    name = str(problem["loc"][0])
    field = options.model_fields.get(name)
    positional = field is not None and any("CliPositional" in repr(item) for item in field.metadata)
    label = name.upper() if positional else "--" + name.replace("_", "-")
    if problem["type"] == "missing":
        return f"{label} is required"
    return f"{label}: {message} (got {problem.get('input')!r})"


def _top_level(program: str, verbs: Sequence[Verb]) -> argparse.ArgumentParser:
    width = max(len(verb.name) for verb in verbs)
    lines = [f"  {verb.name:<{width}}  {(verb.options.__doc__ or '').strip().splitlines()[0]}" for verb in verbs]
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} VERB ...",
        epilog="verbs:\n" + "\n".join(lines) + f"\n\n`{program} VERB --help` tells a verb's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = importlib.metadata.version("trapline")
    parser.add_argument("--version", action="version", version=f"{program} {version}")
    parser.add_argument("VERB", choices=[verb.name for verb in verbs], help=argparse.SUPPRESS)
    return parser


def _terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(_TERMINATED)
