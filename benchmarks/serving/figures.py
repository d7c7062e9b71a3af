"""The arithmetic of the serving benchmarks; no package is needed, so that every environment can import it."""

import math
from collections.abc import Sequence

#: A level that others disturbed by this much or more does not count, in cores.
MOST_FOREIGN_CORES = 0.2
#: What refusing one call may cost, in seconds of processor time.
REFUSAL_SECONDS = 0.0004


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest of `values` that at least `share` of them do not exceed (nearest rank); None of none."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def milliseconds(seconds: float | None) -> float | None:
    """Seconds as milliseconds, to a hundredth; None stays None."""
    return None if seconds is None else round(seconds * 1000, 2)


def foreign_cores(*, busy_seconds: float, own_seconds: float, seconds: float) -> float:
    """Cores that neither the server nor the load generator used.

    Args:
        busy_seconds: Processor time of the whole machine, what its host took away included.
        own_seconds: Processor time of our process trees.
        seconds: Length of the level. The kernel counts in hundredths, so a little less than nothing is nothing.
    """
    return max(0.0, busy_seconds - own_seconds) / seconds


def combined_ceiling(*, cores: int, decode_seconds: float, model_seconds: float) -> float:
    """Images a second of a server that spends its cores on nothing but decoding and the model.

    Args:
        cores: Processors that the server may use.
        decode_seconds: Processor time to decode one image.
        model_seconds: Processor time of the model for one image, with one thread.
    """
    return cores / (decode_seconds + model_seconds)


def overload_budget(*, peak: float, cores: int, generator_cores: float, refusals_per_second: float) -> float:
    """Images a second that an overloaded server has room for: the peak, less what sending and refusing cost.

    Args:
        peak: Images a second of the closed loop before.
        cores: Processors that server and generator share.
        generator_cores: Processors that the generator used.
        refusals_per_second: Calls refused; each may cost `REFUSAL_SECONDS`.
    """
    left = cores - generator_cores - refusals_per_second * REFUSAL_SECONDS
    return max(0.0, peak * left / cores)


def dead_share(*, images_run: float, images_answered: int) -> float | None:
    """Share of the images that the device ran for nobody: their callers had no answer in time. None where none ran."""
    return None if images_run <= 0 else max(0.0, 1 - images_answered / images_run)


def seconds_until_normal(
    recovery: Sequence[tuple[float, float, str]], *, normal_seconds: float, calls: int = 10
) -> float | None:
    """How long after the flood answers were as before it; None where they never were.

    Args:
        recovery: One caller's calls after the flood: seconds since its end, latency in seconds, outcome.
        normal_seconds: Largest latency that is as before.
        calls: So many in a row must be right and fast; the end of the first of them counts.
    """
    in_a_row: list[float] = []
    for finished, latency, outcome in recovery:
        in_a_row = [*in_a_row, finished] if outcome == "OK" and latency <= normal_seconds else []
        if len(in_a_row) == calls:
            return in_a_row[0]
    return None
