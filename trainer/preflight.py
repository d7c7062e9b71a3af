"""What can be said of a run before any work: options that cannot work, and a result that is there already.

Imports nothing slow: usage errors and the answer for a finished run come in less than a second.
"""

from pathlib import Path

from .builders import builder_record, check_image_px
from .config import RunConfig
from .dataset.fingerprint import fingerprint
from .errors import UsageError
from .run_folder import RunFolder


def image_px(config: RunConfig) -> int:
    """Side of the square input, in pixels: as asked for, else the backbone's own."""
    return config.image_px or builder_record(config.backbone).image_px


def check_options(config: RunConfig) -> None:
    """Refuses at once what the scan and torch would only find out later.

    Raises:
        UsageError: An unknown backbone, a size it cannot take, a weights file or groups file that is not there.
    """
    check_image_px(config.backbone, image_px(config))
    if config.weights not in ("auto", "none") and not Path(config.weights).is_file():
        raise UsageError(f"--weights: there is no file {config.weights}; give a state dict, auto or none")
    if config.groups is not None and not config.groups.is_file():
        raise UsageError(f"--groups: there is no file {config.groups}; give a CSV with the columns path and group")


def finished_result(config: RunConfig, folder: RunFolder) -> str | None:
    """The result of a run that is done, where the data folder has not changed since; None where there is work to do."""
    if not folder.done or folder.state.get("fingerprint") != fingerprint(config.data):
        return None
    return str(folder.state["result"])
