"""Writes `docs/metrics.md` from the declarations that the server and the train service count by.

python docs/metrics.py
"""

from pathlib import Path

from server.metrics import Metrics
from trainer.jobs.metrics import TrainMetrics
from trapline.service.metrics import Declared

PAGE = Path(__file__).with_suffix(".md")
_TOP = """\
<!-- Written by `python docs/metrics.py` from the declarations in the code. Do not edit. -->

# Metrics

On `http://` + `--metrics` + `/metrics` of `server run` and of `trainer serve`, for Prometheus. A counter counts since
the start. A histogram has the suffixes `_bucket`, `_sum` and `_count`. The unit is the name's last word. Beside
these there are the usual `process_…` metrics, and a `…_created` for each counter and histogram: the Unix time of its
beginning.

Labels come from fixed sets: `method` and `code` of the contract and of gRPC, `cause` and `outcome` as the table and
[errors](errors.md) have them, `model` the models served (`unknown` for any other), `label` the model's own labels. The
series of a version are dropped once another has replaced it and its last image is answered.

## Of the server

| metric | kind | labels | unit | meaning |
|---|---|---|---|---|
"""
_TRAIN = """\

## Of the train service

`state` and `outcome` are the states of a [job](jobs.md) in lower case.

| metric | kind | labels | unit | meaning |
|---|---|---|---|---|
"""
_BOTTOM = """\

## Questions and their queries

```promql
# Share of calls refused or failed.
sum(rate(trapline_calls_total{code!="OK"}[5m])) / sum(rate(trapline_calls_total[5m]))

# Wait for a batch, 95th percentile, in seconds.
histogram_quantile(0.95, sum by (le, model) (rate(trapline_queue_seconds_bucket[5m])))

# Mean images of a batch.
rate(trapline_batch_images_sum[5m]) / rate(trapline_batch_images_count[5m])

# Share of the device's work that was done for callers already gone.
sum(rate(trapline_wasted_images_total[5m])) / sum(rate(trapline_batch_images_sum[5m]))

# Share of each label among the answers.
rate(trapline_predictions_total[1d])
  / ignoring (label) group_left sum without (label) (rate(trapline_predictions_total[1d]))

# Share of unknowns: images that the model itself finds unlike all of its classes.
rate(trapline_unknown_images_total[1d]) / rate(trapline_top_score_ratio_count[1d])

# The same for a model without an unknown score: images whose best label is at most 0.5 probable.
sum without (le) (rate(trapline_top_score_ratio_bucket{le="0.5"}[1d])) / rate(trapline_top_score_ratio_count[1d])

# Jobs that wait, and processes of jobs that died within the hour.
trapline_train_jobs{state="pending"}
increase(trapline_train_restarts_total[1h])
```

What to be woken by is in [`deploy/monitoring/`](operations.md#what-to-watch): rules, each with its entry in the
[runbook](runbook.md), and a dashboard.

Of known photos 5 % have an unknown score above 1, by the way it is made. The bounds of the last query's buckets are 0.1
to 0.9 in steps of 0.1, 0.95, 0.99. Compare a share with that of the weeks after the version was first served: where the
cameras stayed the same and it moved, look at photos before trusting the answers.
"""


def text() -> str:
    """The whole page."""
    of_server, of_trainer = ([_row(each) for each in kind().declared] for kind in (Metrics, TrainMetrics))
    return "".join([_TOP, *of_server, _TRAIN, *of_trainer, _BOTTOM])


def _row(declared: Declared) -> str:
    labels = ", ".join(f"`{label}`" for label in declared.labels) or "–"
    return f"| `{declared.name}` | {declared.kind} | {labels} | {declared.unit} | {declared.meaning.rstrip('.')} |\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
