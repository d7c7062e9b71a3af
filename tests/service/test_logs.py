import json
import logging
import re

from trapline.service.logs import JsonLines


def event(message: str, *values: object, error: BaseException | None = None) -> dict:
    trouble = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("service.test", logging.INFO, "file", 1, message, values, trouble)
    line = JsonLines().format(record)
    assert "\n" not in line
    return json.loads(line)


def test_a_json_line_has_the_words_of_the_text():
    """The keys are those of the `key=value` form, numbers are numbers, and text is as it was."""
    entry = event("event=call method=%s seconds=%.6f images=%d said=%r", "Classify", 1.23456789, 3, 'a "b"')
    assert list(entry) == ["time", "level", "logger", "event", "method", "seconds", "images", "said"]
    assert list(entry.values())[1:] == ["INFO", "service.test", "call", "Classify", 1.234568, 3, 'a "b"']
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", entry["time"])


def test_what_has_no_words_is_a_message():
    """A library's sentence is kept whole, and a traceback is one field of the same line."""
    assert event("it is %d o'clock", 9)["message"] == "it is 9 o'clock"
    assert event("100% = all")["message"] == "100% = all"
    try:
        raise ValueError("of\ntwo lines")
    except ValueError as error:
        entry = event("event=internal_error error_id=%s", "ab", error=error)
    assert entry["error_id"] == "ab"
    assert entry["exception"].endswith("ValueError: of\ntwo lines")
