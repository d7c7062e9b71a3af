"""Names as a picture can show them: whatever characters a folder's name has, and however long it is."""

from collections.abc import Callable

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_LEFT_OUT = "\N{HORIZONTAL ELLIPSIS}"


def drawable(text: str) -> str:
    """The text in one line, with a sign for each character that has no picture or would turn the writing round."""
    return "".join(character if character.isprintable() else _UNKNOWN for character in text)


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """The text, or the longest of its beginning and end that fits: names often differ at the end alone."""
    if fits(text):
        return text
    low, high = 0, len(text) - 1
    while low < high:
        kept = (low + high + 1) // 2
        low, high = (kept, high) if fits(_cut(text, kept)) else (low, kept - 1)
    return _cut(text, low)


def short_label(text: str, *, characters: int = 24) -> str:
    """A class's name for the axis of a plot."""
    return shortened(drawable(text), lambda candidate: len(candidate) <= characters)


def _cut(text: str, kept: int) -> str:
    begin = (kept + 1) // 2
    return text[:begin] + _LEFT_OUT + text[len(text) - (kept - begin) :]
