"""Breaks manifests as a tired hand does, at a place that a seed chooses; it knows nothing of what the manifests mean.

A place is any key, item or value of any document, each as likely as another. A hand drops it, misspells it, changes a
number, or loses a whole document.
"""

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass

from .rendering import Document


@dataclass(frozen=True)
class Place:
    """One key of a mapping, or one item of a list, and the way to it."""

    holder: dict | list
    key: str | int
    path: str

    @property
    def value(self) -> object:
        """What is there."""
        return self.holder[self.key]


def places(value: object, path: str) -> Iterator[Place]:
    """All places in a value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield Place(value, key, f"{path}/{key}")
        yield from places(value[key], f"{path}/{key}")


def mutated(documents: list[Document], seed: int) -> tuple[list[Document], str]:
    """A broken copy of documents, and what was done to it."""
    chance, broken = random.Random(seed), copy.deepcopy(documents)
    found = [
        place for document in broken for place in places(document, f"{document['kind']} {document['metadata']['name']}")
    ]
    hand = chance.choice([_drop, _misspell_key, _mistype, _change_number, None])
    if hand is None:  # a whole document is lost
        lost = broken.pop(chance.randrange(len(broken)))
        return broken, f"{lost['kind']} {lost['metadata']['name']}: lost"
    fit = [place for place in found if _fits(hand, place)]
    place = chance.choice(fit)
    before = place.value
    after = hand(place, chance)
    return (
        broken,
        f"{place.path}: {hand.__name__.strip('_')} {before if not isinstance(before, dict) else '{}'} {after}",
    )


def _fits(hand: object, place: Place) -> bool:
    if hand is _misspell_key:
        return isinstance(place.holder, dict)
    if hand is _change_number:
        return type(place.value) is int
    # An empty text has no letter to get wrong.
    return hand is _drop or isinstance(place.value, bool | int) or (isinstance(place.value, str) and place.value != "")


def _drop(place: Place, _chance: random.Random) -> str:
    del place.holder[place.key]
    return ""


def _misspell_key(place: Place, chance: random.Random) -> str:
    name = _misspelt(str(place.key), chance)
    items = [(name if key == place.key else key, value) for key, value in place.holder.items()]
    place.holder.clear()
    place.holder.update(items)
    return f"-> {name}"


def _mistype(place: Place, chance: random.Random) -> str:
    value = place.value
    if isinstance(value, bool):
        place.holder[place.key] = not value
    elif isinstance(value, int):
        place.holder[place.key] = int(_misspelt(str(value), chance) or 0)
    else:
        place.holder[place.key] = _misspelt(str(value), chance)
    return f"-> {place.value!r}"


def _change_number(place: Place, chance: random.Random) -> str:
    # One off where it is a number of four digits or more, as ports and users are; else ten times as much, or nothing.
    value = place.value
    place.holder[place.key] = value + chance.choice((-1, 1)) if value >= 1000 else chance.choice((value * 10, 0, -1))
    if place.value == value:
        place.holder[place.key] = -1
    return f"-> {place.value!r}"


def _misspelt(text: str, chance: random.Random) -> str:
    """A letter left out, doubled, or changed for its neighbour; never the same text."""
    while True:
        at = chance.randrange(len(text))
        result = chance.choice(
            (
                text[:at] + text[at + 1 :],
                text[:at] + text[at] + text[at:],
                text[:at] + text[at : at + 2][::-1] + text[at + 2 :],
            )
        )
        if result not in (text, ""):
            return result
