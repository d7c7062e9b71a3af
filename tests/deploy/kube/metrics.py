"""Metrics that autoscalers ask for: those that the server counts, with labels that they have."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import yaml

from .tools import TOP

if TYPE_CHECKING:
    from .crossref import Index

ADAPTER = TOP / "deploy" / "kustomize" / "components" / "autoscaling-hpa" / "adapter-values.yaml"
#: What Prometheus adds to each series, through a ServiceMonitor; and the bound of a histogram's bucket.
_ADDED = {"namespace", "pod", "service", "le"}
_SELECTOR = re.compile(r"([a-z][a-z0-9_]*)\{([^}]*)\}")


def counted() -> dict[str, set[str]]:
    """Labels of every series of a server, by its name."""
    from server.metrics import Metrics

    found = {}
    for each in Metrics().declared:
        ends = ("_bucket", "_sum", "_count") if each.kind == "histogram" else ("",)
        found |= {each.name + end: set(each.labels) for end in ends}
    return found


def expression_problems(expression: str) -> Iterator[str]:
    """Series that the server does not have, or labels that they do not have."""
    known, selectors = counted(), _SELECTOR.findall(expression)
    if not selectors:
        yield f"no series in {expression}"
    for name, matchers in selectors:
        labels = set(re.findall(r"([a-z_]+)\s*(?:=|!=|=~|!~)", matchers))
        if name not in known or labels - known[name] - _ADDED:
            yield f"the server has no series {name}{{{matchers}}}"
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        labels = {label.strip() for label in grouped.split(",") if "<<" not in label}
        if labels - _ADDED - set().union(*(known.get(name, set()) for name, _ in selectors)):
            yield f"grouped by labels that no series has: {grouped}"


def adapter_metrics() -> dict[str, str]:
    """What prometheus-adapter serves by the shipped values: the expression of each metric, by its name."""
    served = {}
    for rule in yaml.safe_load(ADAPTER.read_text(encoding="utf-8"))["rules"]["custom"]:
        series = re.match(r"[a-z0-9_]+", rule["seriesQuery"])[0]
        if re.match(rule["name"]["matches"], series) and set(rule["resources"]["overrides"]) == {"namespace", "pod"}:
            query = rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.GroupBy>>", "pod")
            served[rule["name"]["as"]] = query.replace("<<.LabelMatchers>>", 'namespace="trapline"')
    return served


def metric_problems(index: "Index") -> Iterator[str]:
    """What autoscalers ask for and nobody counts."""
    for scaler in index.of("HorizontalPodAutoscaler"):
        for metric in scaler["spec"]["metrics"]:
            name = metric["pods"]["metric"]["name"]
            if name not in adapter_metrics():
                yield f"the adapter serves no metric {name}"
            else:
                yield from expression_problems(adapter_metrics()[name])
    for scaler in index.of("ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            yield from expression_problems(trigger["metadata"]["query"])
    for monitor in index.of("ServiceMonitor"):
        yield from (
            f"metrics are at /metrics, not at {each['path']}"
            for each in monitor["spec"]["endpoints"]
            if each["path"] != "/metrics"
        )
