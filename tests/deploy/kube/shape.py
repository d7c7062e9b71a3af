"""A small language of shapes: what a document must have, what it may have, and that it has nothing else."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Shape = Any


@dataclass(frozen=True)
class Named:
    """A list of items with exactly these names, in any order, each of its own shape (without the name)."""

    shapes: dict[str, Shape]


@dataclass(frozen=True)
class Within:
    """A whole number between two."""

    least: int
    most: int


def mismatches(shape: Shape, value: object, path: str = "") -> Iterator[str]:
    """Where a value is not of a shape.

    A dict's key with `?` at its end may be missing; a function says whether the value is right; a list is compared item
    by item; all else by being equal, and of the same type.
    """
    if isinstance(shape, dict):
        yield from _mapping(shape, value, path)
    elif isinstance(shape, Named):
        yield from _named(shape, value, path)
    elif isinstance(shape, list):
        if not isinstance(value, list) or len(value) != len(shape):
            yield f"{path}: must be a list of {len(shape)}"
            return
        for number, (wanted, item) in enumerate(zip(shape, value, strict=True)):
            yield from mismatches(wanted, item, f"{path}/{number}")
    elif isinstance(shape, Within):
        if type(value) is not int or not shape.least <= value <= shape.most:
            yield f"{path}: {value!r} must be {shape.least} to {shape.most}"
    elif isinstance(shape, Callable):
        if not shape(value):
            yield f"{path}: {value!r} is not right"
    elif type(value) is not type(shape) or value != shape:
        yield f"{path}: {value!r} must be {shape!r}"


def _mapping(shape: dict[str, Shape], value: object, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: must be a mapping"
        return
    known = {key.removesuffix("?") for key in shape}
    yield from (f"{path}/{key}: not expected here" for key in value if key not in known)
    for key, wanted in shape.items():
        name = key.removesuffix("?")
        if name in value:
            yield from mismatches(wanted, value[name], f"{path}/{name}")
        elif not key.endswith("?"):
            yield f"{path}/{name}: is missing"


def _named(shape: Named, value: object, path: str) -> Iterator[str]:
    items = value if isinstance(value, list) and all(isinstance(item, dict) for item in value) else None
    names = None if items is None else [str(item.get("name")) for item in items]
    if names is None or sorted(names) != sorted(shape.shapes):
        yield f"{path}: must have {sorted(shape.shapes)}, has {names}"
        return
    for name, item in zip(names, items, strict=True):
        rest = {key: each for key, each in item.items() if key != "name"}
        yield from mismatches(shape.shapes[name], rest, f"{path}/{name}")
