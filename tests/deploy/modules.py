"""Modules that no package holds: other tests' conftest.py, and scripts of deploy/."""

import importlib.util


def module_at(path):
    """The module that the file is."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
