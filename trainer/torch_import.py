"""Imports torch beside other work, and leaves its compiler out until something needs it.

`import torchvision` imports `torch._dynamo`, eight seconds of it on two cores, for one function that tells whether
operators for detection can be compiled (`torchvision/ops/roi_align.py`, whose own comment says that it avoids this).
Classification never calls it. While torchvision is imported a stand-in answers for that one name; whatever else is
asked for, or called later, comes from the real module.
"""

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType

_COMPILER = "torch._dynamo.utils"


@contextmanager
def importing_torch(first: str, *later: str) -> Iterator[Callable[[], None]]:
    """Imports torch, torchvision and `first` beside the work inside; what is given waits for that, and starts `later`.

    Import nothing of torch in there before. Where an import failed, importing again says why. Where the work ends
    without having waited, `later` is not imported.
    """
    ready, waited_for, afterwards = threading.Event(), threading.Event(), list(later)

    def everything() -> None:
        with suppress(Exception):
            try:
                import_torch()
                importlib.import_module(first)
            finally:
                ready.set()
            waited_for.wait()
            for module in afterwards:
                importlib.import_module(module)

    def imported() -> None:
        ready.wait()
        waited_for.set()

    threading.Thread(target=everything, daemon=True).start()
    try:
        yield imported
    finally:
        if not waited_for.is_set():
            afterwards.clear()
            waited_for.set()


def import_torch() -> None:
    """Imports torch and torchvision."""
    importlib.import_module("torch")
    if _COMPILER in sys.modules:
        importlib.import_module("torchvision")
        return
    stand_in = _StandIn(_COMPILER)
    sys.modules[_COMPILER] = stand_in
    try:
        importlib.import_module("torchvision")
    finally:
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER]


class _StandIn(ModuleType):
    """Imports the module that it stands for where one of its names is used."""

    @staticmethod
    def is_compile_supported(device_type: str) -> bool:
        """The real module's answer."""
        return bool(importlib.import_module(_COMPILER).is_compile_supported(device_type))

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            # The import system asks for some that a module need not have.
            raise AttributeError(name)
        if sys.modules.get(_COMPILER) is self:
            del sys.modules[_COMPILER]
        return getattr(importlib.import_module(_COMPILER), name)
