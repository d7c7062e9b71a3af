"""Writes `docs/errors.md` from the classes that the errors are raised as.

python docs/errors.py
"""

from pathlib import Path

from trainer.errors import TrainerError
from trapline import errors, train_errors
from trapline.errors import Refusal, TraplineError, UsageError, reason_name

PAGE = Path(__file__).with_suffix(".md")
#: The refusals that cross the wire; programs may have some of their own, which never do.
_MODULES = (errors.__name__, train_errors.__name__)
REFUSALS = [kind for kind in Refusal.__subclasses__() if kind.__module__ in _MODULES]
_TOP = """\
<!-- Written by `python docs/errors.py` from the declarations in the code. Do not edit. -->

# Errors

Every error of Trapline's services is a gRPC status with a sentence that says what to do and one `ErrorInfo`: `domain`
`trapline.v1`, a `reason`, and `metadata` with the sentence's variables. In a batch or a stream the same status sits in
the image's own result and the others go on. Branch on the reason, never on the text.

In Python each reason is a class of `trapline.errors`, or of `trapline.train_errors`; `from_rpc_error` and `from_status`
make it of what came over the wire. "Retry" means that the very same request may succeed later.

| class | code | reason | cause | `metadata` | retry | what the caller should do |
|---|---|---|---|---|---|---|
"""
_MIDDLE = """\

A retry should wait longer each time, with some chance in it; `Classifier` and `trapline classify` do that
([clients](clients.md#retries)). Each call ends with its id in the trailing metadata, `x-request-id`, which the server's
log line of the call has too ([serving](serving.md#log)).

No text of a library leaves the server: what is not one of these classes becomes `INTERNAL`, and the log has the whole.
Errors that gRPC itself makes have no `ErrorInfo`, and no reason in a CSV row. A request above `--max-message-mib` gets
RESOURCE_EXHAUSTED: do not take that for a full queue. A caller whose own deadline runs out first sees DEADLINE_EXCEEDED
without a reason. Where no server answers, or none that TLS lets the client talk to, the clients say
UNAVAILABLE with a sentence of their own (`clients.connection.ServerUnreachable`).

## On the command line

The programs print one sentence and no traceback, and end with the class's exit code.

| class | exit code | cause |
|---|---|---|
"""


def text() -> str:
    """The whole page."""
    # Some modules have errors of their own, which they handle themselves.
    of_trainer = [kind for kind in TrainerError.__subclasses__() if kind.__module__ == TrainerError.__module__]
    on_the_command_line = [UsageError, TraplineError, Refusal, TrainerError, *of_trainer]
    return "".join(
        [
            _TOP,
            *(_row(kind) for kind in REFUSALS),
            _MIDDLE,
            *(_exit_row(kind) for kind in on_the_command_line),
        ]
    )


def _row(kind: type[Refusal]) -> str:
    variables = ", ".join(f"`{name}`" for name in kind.variables) or "–"
    cells = [f"`{kind.__name__}`", kind.code.name, f"`{reason_name(kind(''))}`", kind.cause, variables]
    return f"| {' | '.join([*cells, 'yes' if kind.retry else 'no', kind.remedy])} |\n"


def _exit_row(kind: type[TraplineError]) -> str:
    first_line = (kind.__doc__ or "").splitlines()[0].rstrip(".")
    return f"| `{kind.__name__}` | {kind.exit_code} | {first_line[0].lower()}{first_line[1:]} |\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
