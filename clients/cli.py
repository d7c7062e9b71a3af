"""`trapline`: photos through a running server, and train jobs of a running service, from a shell."""

import contextlib
import itertools
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

# gRPC would print each handshake that fails beside the sentence that we make of it; it reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from pydantic import BeforeValidator, Field
from pydantic_settings import CliPositionalArg, NoDecode, SettingsConfigDict

from trapline import command_line
from trapline.command_line import Verb, tell
from trapline.errors import UsageError

from . import train_cli
from .options import Address, ModelId, SecurityOptions, ServerOptions, split


class ClassifyOptions(SecurityOptions):
    """Classify photos and folders of photos."""

    paths: CliPositionalArg[list[str]] = Field(
        min_length=1,
        description="photos, taken whatever their names, and folders, walked for files with an image's name",
    )
    server: Annotated[tuple[Address, ...], NoDecode, BeforeValidator(split)] = Field(
        ("127.0.0.1:50051",),
        description="the server's address, HOST:PORT or a gRPC target; several share the work: A,B or the option twice",
    )
    model: ModelId = Field(description="id of the model to ask, as `trapline models` lists it")
    out: Path | None = Field(None, description="file for the rows, .csv or .json; without it they are printed")
    top_k: int = Field(3, ge=1, le=1000, description="predictions for each image, best first")
    model_thresholds: bool = Field(
        False, description="leave out predictions below the score that the model asks for in their class"
    )
    window: int = Field(64, ge=1, le=4096, description="most images under way at a time (and at most 128 MiB of them)")
    timeout_seconds: float = Field(
        60.0,
        gt=0,
        le=86_400,
        description="longest wait for one image's answer, in seconds (tried twice), and for a server lost half way",
    )


class ModelsOptions(ServerOptions):
    """List the models that a server serves."""

    model_config = SettingsConfigDict(env_prefix="TRAPLINE_", env_prefix_target="all")

    # The name `json` would hide a method of pydantic's.
    as_json: bool = Field(False, alias="json", description="print an array of Model in protobuf JSON")
    timeout_seconds: float = Field(10.0, gt=0, le=86_400, description="longest wait for the server, in seconds")


class ReloadOptions(ServerOptions):
    """Let a server pick up a model's new version, or serve an older one again."""

    model: CliPositionalArg[ModelId] = Field(description="id of the model, as `trapline models` lists it")
    version: str = Field("", description="version to serve and to stay with; the newest without it")
    timeout_seconds: float = Field(
        300.0, gt=0, le=86_400, description="longest wait for the model to be read and warmed up, in seconds"
    )


def _classify(options: ClassifyOptions) -> int:
    from . import progress, results, walk
    from .classifier import Classifier

    own: list[Path] = []
    if options.out is not None:
        results.check_out(options.out)
        own = [options.out, *itertools.islice(results.partial_paths(options.out), 9)]
    found = walk.find_images(options.paths, leave_out=own)
    if not found.paths:
        raise UsageError(f"no images there ({found.skipped_count:,} other files skipped); name photos or their folders")
    skipped = f" ({found.skipped_count:,} other files skipped)" if found.skipped_count else ""
    tell(f"{len(found.paths):,} images{skipped}")
    # Rows on the terminal show by themselves how far the job is.
    bar = sys.stderr.isatty() and (options.out is not None or not sys.stdout.isatty())
    with contextlib.ExitStack() as stack:
        classifier = stack.enter_context(
            Classifier(
                options.server,
                model=options.model,
                timeout_seconds=options.timeout_seconds,
                security=options.security,
            )
        )
        # Ended here whatever happens: an error's traceback would keep it until the interpreter ends.
        outcomes = stack.enter_context(
            contextlib.closing(
                classifier.classify_many(
                    found.paths, top_k=options.top_k, model_thresholds=options.model_thresholds, window=options.window
                )
            )
        )
        rows = (
            results.written_to(options.out, top_k=options.top_k)
            if options.out
            else results.printed(top_k=options.top_k)
        )
        write = stack.enter_context(rows)
        tally, show = stack.enter_context(progress.shown(len(found.paths), bar=bar))
        for result in outcomes:
            write(result)
            show(result)
    tell(tally.sentence() + (f"; rows in {options.out}" if options.out else ""))
    return 1 if tally.failures else 0


def _models(options: ModelsOptions) -> int:
    from google.protobuf.json_format import MessageToDict

    from .models import list_models, table_of

    models = list_models(options.server, timeout_seconds=options.timeout_seconds, security=options.security)
    if options.as_json:
        print(json.dumps([MessageToDict(model) for model in models], indent=2))
    elif models:
        print(table_of(models))
    else:
        tell(f"the server at {options.server} has no models; put one into its models folder, then `trapline reload ID`")
    return 0


def _reload(options: ReloadOptions) -> int:
    from .models import reload_model

    model = reload_model(
        options.server,
        model=options.model,
        version=options.version,
        timeout_seconds=options.timeout_seconds,
        security=options.security,
    )
    print(f"{model.name.removeprefix('models/')}: version {model.version} is served")
    return 0


VERBS = (
    Verb(name="classify", options=ClassifyOptions, run=_classify),
    Verb(name="models", options=ModelsOptions, run=_models),
    Verb(name="reload", options=ReloadOptions, run=_reload),
    *train_cli.VERBS,
)


def main() -> NoReturn:
    """The console script; ends the process.

    At once, without the interpreter's own end: by then threads of gRPC stand still, and what is torn down would wait
    for ever for a lock that one of them holds.
    """
    code = 1
    try:
        try:
            code = command_line.main("trapline", VERBS)
        except SystemExit as ended:  # a usage error, --help, SIGTERM
            code = ended.code if isinstance(ended.code, int) else 0
        except KeyboardInterrupt:  # a second Ctrl-C, while the first one was seen to
            code = 130
        except BaseException:  # noqa: BLE001  # the interpreter would tell it in its own end
            traceback.print_exc()
        with contextlib.suppress(OSError):
            sys.stderr.flush()
    finally:  # whatever comes meanwhile
        os._exit(code)
