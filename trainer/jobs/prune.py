"""Ended jobs are deleted, with their runs, once there are more than the operator keeps, or once they are too old."""

import asyncio
import logging
import time
from contextlib import suppress

from trapline.train_errors import TrainJobNotFound, TrainJobWrongState

from .config import ServeConfig
from .runner import Runner
from .store import Store

_LOG = logging.getLogger(__name__)
#: How often it is looked.
PRUNE_SECONDS = 60.0
_DAY_SECONDS = 86_400.0


async def prune(config: ServeConfig, store: Store, runner: Runner) -> int:
    """Deletes what need not be kept; gives how many jobs that were."""
    old: list[str] = []
    if config.keep_days:
        old += await store.ended_before(time.time() - config.keep_days * _DAY_SECONDS)
    if config.keep_runs:
        old += await store.ended_beyond(config.keep_runs)
    count = 0
    for job_id in dict.fromkeys(old):
        with suppress(TrainJobNotFound, TrainJobWrongState):  # somebody else was faster
            await runner.delete(job_id)
            count += 1
    if count:
        _LOG.info("event=pruned jobs=%d", count)
    return count


async def prune_for_ever(config: ServeConfig, store: Store, runner: Runner) -> None:
    """Prunes every minute; never ends by itself."""
    while True:
        try:
            await prune(config, store, runner)
        except Exception:  # noqa: BLE001  # a disk that is away for a moment must not end it
            _LOG.exception("event=prune_failed")
        await asyncio.sleep(PRUNE_SECONDS)
