"""The embedded data set: `trainer sample OUT` draws a few hundred camera-trap pictures, the same ones every time."""

from .folder import SampleSummary, write_sample

__all__ = ["SampleSummary", "write_sample"]
