"""The page of `train.py`'s rows, which stands alone."""

from statistics import geometric_mean
from typing import Any

from intervals import Paired
from rows import Rows
from train_summary import PEER, own_tools


def page(rows: Rows, found: dict[str, Any]) -> str:
    """The rows of a file, summed up in `found`, as Markdown."""
    lines = ["# Training: Trapline against fastai", "", *_made_by(rows), "", "## What must be shown", ""]
    lines += [f"- {sentence}" for sentence in found["verdicts"]]
    lines += ["", "## Seconds and memory, quiet rows", "", *_timing(found["timing"])]
    lines += ["", "## Accuracy on the test part", "", *_accuracy(found["accuracy"])]
    lines += ["", "## Noise floor", "", *_noise(found["noise"])]
    if ceilings := rows.content.get("ceilings"):
        lines += ["", "## Ceilings of this machine, images a second", "", *_ceilings(ceilings)]
    return "\n".join([*lines, ""])


def _made_by(rows: Rows) -> list[str]:
    machine = rows.content["hardware"]
    own = [row for row in rows.rows if row["tool"] in own_tools(rows.rows)]
    peers = [row for row in rows.rows if row["tool"] == PEER]
    lines = ["How: `benchmarks/PROTOCOL.md`. Commands, one file:", ""]
    lines += [f"- `{command}`" for command in rows.content["commands"]]
    lines += ["", f"{machine['cpu']}, {machine['cores']} cores; {len(rows.rows)} runs count"]
    lines[-1] += f", {rows.superseded_count} were repeated and are kept as superseded."
    if own:
        commits = sorted({row["commit"] for row in own})
        lines.append(f"Trapline at {', '.join(commits)}, {_versions(own[-1]['versions'])}.")
        if len(commits) > 1:
            lines.append("**Rows of several commits are mixed here**; `--again` makes them of one.")
    if peers:
        lines.append(f"Peer: {_versions(peers[-1]['versions'])}.")
        faster = sum(bool(row["allocator"]) for row in peers)
        if faster:
            lines.append(
                f"{faster} of fastai's {len(peers)} runs had the allocator's variables: they count for accuracy only, "
                "since the arithmetic is the same."
            )
    return lines


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _timing(timed: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    lines = ["| set | tool | runs | seconds | times sooner than fastai | peak MiB | of fastai's |"]
    lines.append("|---|---|---|---|---|---|---|")
    ratios: dict[str, list[float]] = {}
    for name, tools in timed.items():
        for tool, figures in tools.items():
            sooner, memory = figures.get("times_sooner"), figures.get("share_of_memory")
            if sooner is not None:
                ratios.setdefault(tool, []).append(sooner)
            lines.append(
                f"| {name} | {tool} | {figures['runs']} | {figures['seconds']:.1f} | {_figure(sooner)} | "
                f"{figures['peak_mib']:.0f} | {_figure(memory)} |"
            )
    if len(lines) == 2:
        return ["No quiet rows yet."]
    lines += ["", "Geometric mean over the sets measured: "]
    lines[-1] += ", ".join(f"{tool} {geometric_mean(own):.2f}" for tool, own in ratios.items() if tool != PEER) + "."
    return lines


def _accuracy(accuracy: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["| tool | set | seeds | test answers | Trapline % | fastai % | difference, points (95 %) |"]
    lines.append("|---|---|---|---|---|---|---|")
    for tool, compared in accuracy.items():
        for name, figures in compared.items():
            result = Paired(**{key: value for key, value in figures.items() if key != "seeds"})
            lines.append(
                f"| {tool} | {name} | {figures['seeds']} | {result.answers} | {result.ours_percent:.2f} | "
                f"{result.theirs_percent:.2f} | {result.cell()} |"
            )
    return lines if len(lines) > 2 else ["No division has rows of both yet."]


def _noise(noise: dict[str, Any]) -> list[str]:
    lines = ["| tool | quiet seconds, % | accuracy, points | difference to fastai, points | changed by repeating |"]
    lines.append("|---|---|---|---|---|")
    for tool, own in noise.items():
        seconds, accuracy, difference = (
            _figure(own.get(name))
            for name in ("seconds_spread_percent", "accuracy_deviation_points", "difference_deviation_points")
        )
        repeated = f"{own['changed_answers']} answers in {own['repeated_runs']} runs"
        lines.append(f"| {tool} | {seconds} | {accuracy} | {difference} | {repeated} |")
    return [
        *lines,
        "",
        "Seconds: (longest − shortest) / median between the seeds of one set, the widest set's. Accuracy: standard",
        "deviation between seeds, each with its own split, mean over sets. Difference: the same, all sets pooled.",
    ]


def _ceilings(ceilings: dict[str, Any]) -> list[str]:
    lines = ["| what | images a second |", "|---|---|"]
    lines += [f"| {name} | {rate:.1f} |" for name, rate in ceilings["rates"].items()]
    share = ceilings["own_share_of_best_features"]
    lines += ["", f"The frozen pass of `trainer run` has {share:.1%} of the best arrangement's rate."]
    lines += ["", f"{ceilings['how']} Taken {ceilings['date']}, load {ceilings['load']} before."]
    return lines


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
