"""What a page must not tell, taken out of sentences that were written for the person at the machine.

Groups are called by folders, cameras and sites, and errors name files by their whole paths.
"""

import re
from collections.abc import Iterator, Mapping

from ..dataset.layout import shown
from .evidence import Evidence

# Where a sentence names a group, also one by a rule that was dropped, which split.csv does not have.
_HOLDS = re.compile(
    r"\b(?P<before>one group)(?:, (?P<name>.+?),| \((?P<within>.+?)\))(?P<after> holds [\d,]+ of)",
    re.DOTALL | re.IGNORECASE,
)
_LIE = re.compile(r"(?<= photos), e\.g\. .+?(?=\) lie in more than one)", re.DOTALL)
# The folders before a path's last name; with spaces within, but not at the ends of their names.
_FOLDERS = re.compile(r"(?<![\w./])/(?:[^\s/](?:[^/\n;:,()]*[^\s/])?/)+")


def without_groups(text: str, evidence: Evidence) -> str:
    """The text with the name of every group replaced by the first line of `split.csv` that has it."""
    lines = {written: line for name, line in evidence.groups.items() for written in (name, shown(name))}

    def numbered(found: re.Match[str]) -> str:
        line = lines.get(found["name"] or found["within"])
        return found["before"] + (f" (of line {line} of split.csv)" if line else "") + found["after"]

    text = _LIE.sub("", _HOLDS.sub(numbered, text))
    for name in sorted(_telling(lines, evidence), key=len, reverse=True):
        if name in text:
            text = re.sub(rf"(?<![\w/]){re.escape(name)}(?!\w)", f"the group of line {lines[name]}", text)
    return text


def _telling(lines: Mapping[str, int], evidence: Evidence) -> Iterator[str]:
    """Names to look for anywhere: a number is a figure too, and a word one of the sentence; a class stays.

    Where a group is told `_HOLDS` and `_LIE` have it whatever its name; paths are `gallery.nameless`'s business.
    """
    kept = {shown(name) for name in (*evidence.labels, *evidence.lines)}
    return (name for name in lines if shown(name) not in kept and not name.isdigit() and not name.isalpha())


def without_folders(text: str, evidence: Evidence) -> str:
    """The text without folders of the machine: of the run's and the data's paths what lies in them, else last names."""
    places = evidence.state.get("places") or {}
    known = {str(path): "the run folder" for path in (evidence.run, evidence.run.resolve())}
    for name, place in places.items():
        known[str(place)] = f"the {name.removesuffix('_dir').removesuffix('_as_given')} folder"
    for folder in sorted(known, key=len, reverse=True):
        if not folder.strip("./"):
            continue  # where the command was typed
        start, name = r"(?<![\w./-])", re.escape(folder.rstrip("/"))
        # One name alone may be a word of the sentence; as a folder it has a colon behind it.
        end = r"(?![\w/-])" if "/" in folder else "(?=:)"
        text = re.sub(start + name + "/", "", text)
        text = re.sub(start + name + end, known[folder], text)
    return _FOLDERS.sub("", text)
