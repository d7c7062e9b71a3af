"""What can go wrong in a run, each with a sentence for the person who started it.

TraplineError (trapline.errors)
├── UsageError        exit code 2: an option, or a file or folder named on the command line, is wrong
└── TrainerError      exit code 1: the work failed
    ├── DatasetError      the photos cannot be trained on as they are
    ├── WeightsError      the initial weights cannot be had or do not fit
    ├── ParityError       the exported file and the checkpoint disagree
    └── PrecisionError    a cheaper file does not answer as the checked one does
"""

from trapline.errors import TraplineError, UsageError

__all__ = ["DatasetError", "ParityError", "PrecisionError", "TrainerError", "UsageError", "WeightsError"]


class TrainerError(TraplineError):
    """The work failed; the sentence says what to do."""


class DatasetError(TrainerError):
    """The photos cannot be trained on as they are."""


class WeightsError(TrainerError):
    """The initial weights cannot be had or do not fit the backbone."""


class ParityError(TrainerError):
    """The exported file and the checkpoint disagree on a test image."""


class PrecisionError(TrainerError):
    """A cheaper file does not answer as the checked one does."""
