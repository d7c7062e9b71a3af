"""Torch without its compiler, until something needs it."""

import subprocess
import sys

import pytest

from trainer import torch_import

SCRIPT = """
import sys
from trainer.torch_import import importing_torch

with importing_torch("trainer.results") as imported:
    imported()
assert {"torch", "torchvision", "trainer.results"} <= set(sys.modules)
assert not [name for name in sys.modules if name.startswith("torch._dynamo")], "the compiler was imported"

import torch

layer = torch.nn.Linear(2, 2)
torch.optim.AdamW(layer.parameters()).step()
torch.compile(layer, backend="eager")(torch.ones(1, 2))
import torch._dynamo.utils as real
assert real.counters is not None
assert sys.modules["torch._dynamo.utils"] is real
module = sys.modules["torchvision.ops.roi_align"]
assert module.is_compile_supported("cpu") == real.is_compile_supported("cpu")
"""


@pytest.mark.full
def test_the_compiler_comes_only_where_it_is_used():
    """A run's imports leave `torch._dynamo` out; optimisers, compiling and torchvision get the real one afterwards."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_the_stand_in_gives_way(monkeypatch, tmp_path):
    """Its one name needs no import; any other is the real module's, which then takes the stand-in's place."""
    (tmp_path / "heavy_for_test.py").write_text(
        'OTHER = 7\n\ndef is_compile_supported(device):\n    return device == "here"\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch_import, "_COMPILER", "heavy_for_test")
    stand_in = torch_import._StandIn("heavy_for_test")
    monkeypatch.setitem(sys.modules, "heavy_for_test", stand_in)
    from heavy_for_test import is_compile_supported

    assert sys.modules["heavy_for_test"] is stand_in
    from heavy_for_test import OTHER

    assert OTHER == 7
    assert sys.modules["heavy_for_test"] is not stand_in
    assert is_compile_supported("here")
    assert not is_compile_supported("there")
