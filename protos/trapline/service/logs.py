"""The log: one line an event on standard error, as `key=value` words or as a JSON object a line.

A message is a template of `key=%s` words and their values, so both forms have the same keys, and JSON numbers too.
"""

import datetime as dt
import functools
import json
import logging
import re
import sys
from typing import Any, Literal

_WORD = re.compile(r"(\w+)=(\S*)")


def log_to_stderr(level: int, form: Literal["text", "json"] = "text") -> None:
    """Sends every event from `level` on to standard error, in that form."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(JsonLines())
    else:
        line = "time=%(asctime)s level=%(levelname)s logger=%(name)s %(message)s"
        handler.setFormatter(logging.Formatter(line, datefmt="%Y-%m-%dT%H:%M:%S%z"))
    # What no line of ours shows need not be found out for each (Python's logging HOWTO, "Optimization").
    for name in ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks"):
        setattr(logging, name, False)
    logging._srcfile = None
    logging.basicConfig(level=level, handlers=[handler])


class JsonLines(logging.Formatter):
    """An event as one line of JSON: `time`, `level`, `logger`, then its words; `message` where it has none."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end; a traceback is in `exception`."""
        time = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds")
        entry: dict[str, Any] = {"time": time, "level": record.levelname, "logger": record.name}
        words = _words(record.msg) if isinstance(record.msg, str) else None
        values = record.args if isinstance(record.args, tuple) else ()
        if words is None or sum("%" in form for _, form in words) != len(values):
            entry["message"] = record.getMessage()
        else:
            left = iter(values)
            entry |= {key: _value(form, next(left)) if "%" in form else form for key, form in words}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


@functools.lru_cache(maxsize=256)
def _words(template: str) -> tuple[tuple[str, str], ...] | None:
    """The template's words as keys and how their values are written; None where it is no row of words."""
    found = [_WORD.fullmatch(word) for word in template.split()]
    whole = [match for match in found if match]
    return tuple((match[1], match[2]) for match in whole) if whole and len(whole) == len(found) else None


def _value(form: str, value: object) -> object:
    """A number as it is, rounded as the text would be; anything else as the text has it."""
    if isinstance(value, float) and form.startswith("%."):
        return float(form % value)
    if isinstance(value, int | float) and form in ("%d", "%s"):
        return value
    return form % (value,) if form != "%r" else str(value)
