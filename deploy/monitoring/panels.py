"""What the dashboard shows: panels, their titles and their queries, by row."""

from dataclasses import dataclass

_MODEL = '{model=~"$model"}'


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture.

    Attributes:
        title: What it shows.
        unit: As Grafana names units.
        queries: PromQL by what its lines are called.
        description: What to make of it.
    """

    title: str
    unit: str
    queries: dict[str, str]
    description: str = ""


def _share(part: str, whole: str) -> str:
    return f"sum by (job, model) (rate({part}[5m])) / sum by (job, model) (rate({whole}[5m]))"


def _quantile(share: float, metric: str, by: str, matchers: str = "") -> str:
    return f"histogram_quantile({share}, sum by ({by}, le) (rate({metric}_bucket{matchers}[5m])))"


SERVICES = [
    Panel(
        title="Ready",
        unit="short",
        queries={"{{job}} {{instance}}": "trapline_ready", "{{job}} {{instance}} up": 'up{job=~"trapline-.*"}'},
        description="1 while health says SERVING, and while Prometheus can read the metrics.",
    ),
    Panel(title="Alerts", unit="short", queries={"{{alertname}}": 'ALERTS{alertname=~"Trapline.*"}'}),
    Panel(title="Calls by code", unit="reqps", queries={"{{job}} {{code}}": "job_code:trapline_calls:rate5m"}),
    Panel(
        title="Time of a call",
        unit="s",
        queries={
            "{{method}} median": _quantile(0.5, "trapline_call_seconds", "job, method"),
            "{{method}} 99 %": _quantile(0.99, "trapline_call_seconds", "job, method"),
        },
        description="Of unary calls; a stream takes as long as its caller likes.",
    ),
    Panel(
        title="Memory",
        unit="bytes",
        queries={"{{job}} {{instance}}": 'process_resident_memory_bytes{job=~"trapline-.*"}'},
    ),
    Panel(
        title="Processors",
        unit="short",
        queries={"{{job}} {{instance}}": 'rate(process_cpu_seconds_total{job=~"trapline-.*"}[5m])'},
        description="Cores in use.",
    ),
]
SERVING = [
    Panel(
        title="Images by outcome",
        unit="short",
        queries={"{{model}} {{outcome}}": f"job_model_outcome:trapline_images:rate5m{_MODEL}"},
        description="Images a second.",
    ),
    Panel(
        title="Refused and given up",
        unit="percentunit",
        queries={
            "{{model}} refused": _share(
                'trapline_images_total{outcome="QUEUE_FULL",model=~"$model"}', f"trapline_images_total{_MODEL}"
            ),
            "{{model}} given up": _share(
                'trapline_images_total{outcome=~"CANCELLED|DEADLINE_EXCEEDED",model=~"$model"}',
                f"trapline_images_total{_MODEL}",
            ),
            "{{model}} run for nobody": f"job_model:trapline_wasted_images:ratio_rate5m{_MODEL}",
        },
    ),
    Panel(
        title="Images not run",
        unit="short",
        queries={
            "{{model}} {{cause}}": f"sum by (job, model, cause) (rate(trapline_dropped_images_total{_MODEL}[5m]))"
        },
        description="Images a second.",
    ),
    Panel(
        title="Wait for a batch",
        unit="s",
        queries={
            "{{model}} median": _quantile(0.5, "trapline_queue_seconds", "job, model", _MODEL),
            "{{model}} 95 %": f"job_model:trapline_queue_seconds:p95_rate5m{_MODEL}",
            "limit": "max by (job) (trapline_queue_limit_seconds)",
        },
        description="Calls that would wait longer than the limit are refused; streams wait.",
    ),
    Panel(
        title="Queue",
        unit="short",
        queries={"{{instance}} {{model}}": f"trapline_queue_images{_MODEL}"},
        description="Images accepted and not answered yet.",
    ),
    Panel(title="Queue, bytes", unit="bytes", queries={"{{instance}} {{model}}": f"trapline_queue_bytes{_MODEL}"}),
    Panel(
        title="Images in a batch",
        unit="short",
        queries={"{{model}}": f"job_model:trapline_batch_images:mean_rate5m{_MODEL}"},
        description="Mean. Near --max-batch the device is full.",
    ),
    Panel(
        title="Decoding an image",
        unit="s",
        queries={
            "{{model}} mean": _share(
                f"trapline_preprocess_seconds_sum{_MODEL}", f"trapline_preprocess_seconds_count{_MODEL}"
            ),
            "{{model}} 95 %": _quantile(0.95, "trapline_preprocess_seconds", "job, model", _MODEL),
        },
    ),
    Panel(
        title="Running a batch",
        unit="s",
        queries={
            "{{model}} mean": _share(
                f"trapline_inference_seconds_sum{_MODEL}", f"trapline_inference_seconds_count{_MODEL}"
            ),
            "{{model}} 95 %": _quantile(0.95, "trapline_inference_seconds", "job, model", _MODEL),
        },
    ),
]
MODELS = [
    Panel(
        title="Versions served",
        unit="short",
        queries={
            "{{model}} {{version}}": f"count by (job, model, version) (trapline_model_info{_MODEL})",
        },
        description="By how many servers.",
    ),
    Panel(
        title="Versions that cannot be served",
        unit="short",
        queries={
            "{{model}} now": f"max by (job, model) (trapline_model_error{_MODEL})",
            "{{model}} failures in an hour": (
                f"sum by (job, model) (increase(trapline_model_load_failures_total{_MODEL}[1h]))"
            ),
        },
    ),
    Panel(
        title="Batches that failed, credentials kept",
        unit="short",
        queries={
            "{{instance}} {{model}} failed": f"increase(trapline_batch_failures_total{_MODEL}[10m])",
            "{{instance}} {{file}} kept": "trapline_credentials_kept",
        },
    ),
    Panel(
        title="Share of each label, a day",
        unit="percentunit",
        queries={
            "{{model}} {{version}} {{label}}": f"job_model_version_label:trapline_predictions:ratio_rate1d{_MODEL}"
        },
        description="Among the answers, by their best label.",
    ),
    Panel(
        title="Share of unknowns, a day",
        unit="percentunit",
        queries={
            "{{model}} {{version}}": f"job_model_version:trapline_unknown_images:ratio_rate1d{_MODEL}",
            "{{model}} {{version}} of a week": f"job_model_version:trapline_unknown_images:ratio_rate7d{_MODEL}",
        },
        description="Images that look like no label; of known photos 5 % do.",
    ),
    Panel(
        title="Share of unsure answers, a day",
        unit="percentunit",
        queries={
            "{{model}} {{version}}": (
                'sum by (job, model, version) (rate(trapline_top_score_ratio_bucket{le="0.5",model=~"$model"}[1d]))'
                f" / sum by (job, model, version) (rate(trapline_top_score_ratio_count{_MODEL}[1d]))"
            )
        },
        description="Answers whose best label is at most 0.5 probable.",
    ),
]
JOBS = [
    Panel(title="Jobs by state", unit="short", queries={"{{state}}": "sum by (job, state) (trapline_train_jobs)"}),
    Panel(
        title="Jobs ended in a day",
        unit="short",
        queries={"{{outcome}}": "sum by (job, outcome) (increase(trapline_train_ended_jobs_total[1d]))"},
    ),
    Panel(
        title="Time of a job",
        unit="s",
        queries={
            "{{state}} median": (
                "histogram_quantile(0.5, sum by (job, state, le) (rate(trapline_train_job_seconds_bucket[1d])))"
            )
        },
        description="That it was pending, and that it ran.",
    ),
    Panel(
        title="Processes that died in an hour",
        unit="short",
        queries={"{{instance}}": "increase(trapline_train_restarts_total[1h])"},
    ),
    Panel(
        title="Longest silence of a running job",
        unit="s",
        queries={"{{instance}}": "trapline_train_silent_seconds"},
    ),
    Panel(
        title="Room for runs",
        unit="bytes",
        queries={
            "{{instance}} free": "trapline_train_free_bytes",
            "{{instance}} required": "trapline_train_required_free_bytes",
        },
    ),
]
ROWS = {"Services": SERVICES, "Serving": SERVING, "Models and what they answer": MODELS, "Train jobs": JOBS}
