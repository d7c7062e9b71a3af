"""What Trapline's server counted, from its metrics page."""

import urllib.request
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Counters of all models together.

    Attributes:
        images_run: Images that the device ran.
        dropped: Images that it did not, by cause.
        calls: Calls ended, by code.
    """

    images_run: float
    dropped: dict[str, float]
    calls: dict[str, float]

    def since(self, before: "Counted") -> "Counted":
        """What was added since `before`."""
        return Counted(
            images_run=self.images_run - before.images_run,
            dropped=_difference(self.dropped, before.dropped),
            calls=_difference(self.calls, before.calls),
        )


def counted(address: str) -> Counted:
    """The counters of the server whose metrics page is at `address`."""
    with urllib.request.urlopen(address, timeout=30) as response:
        return parsed(response.read().decode())


def parsed(page: str) -> Counted:
    """The counters of a metrics page's text."""
    from prometheus_client.parser import text_string_to_metric_families

    images_run, dropped, calls = 0.0, {}, {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == "trapline_batch_images_sum":
                images_run += sample.value
            elif sample.name == "trapline_dropped_images_total":
                _add(dropped, sample.labels["cause"], sample.value)
            elif sample.name == "trapline_calls_total":
                _add(calls, sample.labels["code"], sample.value)
    return Counted(images_run=images_run, dropped=dropped, calls=calls)


def _add(sums: dict[str, float], name: str, value: float) -> None:
    sums[name] = sums.get(name, 0.0) + value


def _difference(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0.0) for name, value in after.items() if value != before.get(name, 0.0)}
