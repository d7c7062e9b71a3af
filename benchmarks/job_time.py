"""What training as a job costs: the same run by `trainer run` and through the service, in turn.

One `trainer serve` for all of it. A repetition is two runs of the same options on the same photos with the same seed,
each with a run folder and a pixel cache of its own; which goes first alternates. By hand the clock runs from the start
of the process to its end; through the service from the call that creates the job to the event that tells its end, as a
watcher sees it. Both runs' weights must be the same bytes.

The photos are those of `trainer sample`, or `--data` below a folder.
Writes benchmarks/results/job_time_<hardware>_<yyyy-mm>.json and .md.
"""

import argparse
import contextlib
import datetime as dt
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preprocess import RESULTS, hardware, interval, ratio, versions
from processes import busy_seconds, children_seconds, stop_on_terminate

from clients.train_jobs import TrainJobs
from trapline.v1.train_pb2 import TrainJob

MOST_RATIO = 1.03
_START_SECONDS = 60
_TRAINER = [sys.executable, "-c", "from trainer.cli import program; program()"]


@contextlib.contextmanager
def service(data_root: Path, work: Path) -> Iterator[tuple[str, int]]:
    """A training service on loopback; its address and process."""
    command = [*_TRAINER, "serve", "--data-root", data_root, "--runs-root", work / "runs", "--metrics", ""]
    command += ["--listen", "127.0.0.1:0", "--cache-dir", work / "cache"]
    log = work / "service.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield _address(process, log), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith("trainer ready "):
                return dict(word.split("=", 1) for word in line.split()[2:])["listen"]
        time.sleep(0.05)
    raise SystemExit(f"the service did not start:\n{log.read_text(errors='replace')[-2000:]}")


def processor_seconds(pid: int) -> float:
    """Of a process and of its children that have ended, once it has none left."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    end = time.monotonic() + _START_SECONDS
    while children.read_text() and time.monotonic() < end:
        time.sleep(0.05)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def by_hand(data: Path, work: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Seconds, processor seconds and weights' digest of `trainer run`."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [*_TRAINER, "run", str(data), "--out", str(work / "run"), "--cache-dir", str(work / "hand-cache"), *words]
    began, used = time.monotonic(), children_seconds()
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    seconds, used = time.monotonic() - began, children_seconds() - used
    if done.returncode:
        raise SystemExit(f"trainer run failed:\n{done.stderr[-2000:]}")
    digest = hashlib.sha256((work / "run" / "weights.safetensors").read_bytes()).hexdigest()
    shutil.rmtree(work / "run")
    shutil.rmtree(work / "hand-cache", ignore_errors=True)
    return {"hand_seconds": seconds, "hand_cpu_seconds": used, "hand_digest": digest}


def by_service(jobs: TrainJobs, pid: int, dataset: str, work: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The same of the same run as a job; the service's own processor time is counted with it."""
    began, used = time.monotonic(), processor_seconds(pid)
    job = jobs.wait(jobs.create(dataset, **options))
    seconds, used = time.monotonic() - began, processor_seconds(pid) - used
    if job.state != TrainJob.STATE_SUCCEEDED:
        raise SystemExit(f"the job failed: {job.error.message}")
    digest = next(each.digest for each in jobs.artifacts(job) if each.path == "weights.safetensors")
    jobs.delete(job)
    shutil.rmtree(work / "cache", ignore_errors=True)
    return {"service_seconds": seconds, "service_cpu_seconds": used, "service_digest": digest}


def measure(arguments: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """A row a repetition."""
    data = arguments.data
    if data is None:
        data = work / "sample" / "photos"
        subprocess.run([*_TRAINER, "sample", str(work / "sample")], check=True, capture_output=True)
    options = {"backbone": arguments.backbone, "weights": "none", "image_px": 64, "epochs": arguments.epochs}
    rows = []
    with service(data.parent, work) as (address, pid), TrainJobs(address) as jobs:
        for number in range(-1, arguments.repetitions):
            busy, began = busy_seconds(), time.monotonic()
            row: dict[str, Any] = {"repetition": number, "first": "service" if number % 2 else "hand"}
            for way in ("service", "hand") if number % 2 else ("hand", "service"):
                found = (
                    by_hand(data, work, options) if way == "hand" else by_service(jobs, pid, data.name, work, options)
                )
                row |= found
            row["busy_cores"] = round((busy_seconds() - busy) / (time.monotonic() - began), 2)
            row["load"] = os.getloadavg()[0]
            print(json.dumps(row), flush=True)
            if number >= 0:  # the first pair fills the page cache
                rows.append(row)
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The ratio of the times, paired by repetition, and whether every pair has the same weights."""
    found: dict[str, Any] = {}
    for name, kind in (("service_to_hand", "seconds"), ("cpu_service_to_hand", "cpu_seconds")):
        service_seconds, hand_seconds = ([row[f"{way}_{kind}"] for row in rows] for way in ("service", "hand"))
        found |= ratio(name, service_seconds, hand_seconds)
    return found | {"same_weights": all(row["hand_digest"] == row["service_digest"] for row in rows)}


def page(result: dict[str, Any]) -> str:
    """The result as a page."""
    found, machine = result["summary"], result["hardware"]
    met = found["service_to_hand"] <= MOST_RATIO
    lines = [
        "# A run as a job, against the same run by hand",
        "",
        f"Through the service a run takes {interval(found, 'service_to_hand')} times as long as by `trainer run` "
        f"(wanted: at most {MOST_RATIO}): {'met' if met else 'NOT met'}. It takes "
        f"{interval(found, 'cpu_service_to_hand')} times the processor time, which other work disturbs less. Weights "
        f"of each pair are "
        f"{'the same bytes' if found['same_weights'] else 'DIFFERENT'}.",
        "",
        f"`{result['command']}`",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {result['date']}. "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        "",
        "| repetition | first | by hand, s | as a job, s | ratio | CPU by hand, s | CPU as a job, s | busy cores |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['repetition']} | {row['first']} | {row['hand_seconds']:.2f} | {row['service_seconds']:.2f} | "
        f"{row['service_seconds'] / row['hand_seconds']:.3f} | {row['hand_cpu_seconds']:.1f} | "
        f"{row['service_cpu_seconds']:.1f} | {row['busy_cores']:.2f} |"
        for row in result["rows"]
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5, help="pairs that count (default: 5)")
    parser.add_argument("--backbone", default="resnet18", help="what is trained, without weights (default: resnet18)")
    parser.add_argument("--epochs", type=int, default=12, help="unfrozen epochs (default: 12)")
    parser.add_argument("--data", type=Path, help="folder with one folder a class; default: that of `trainer sample`")
    parser.add_argument(
        "--json", type=Path, help="file for the result; default: under results/; the page lies beside it"
    )
    arguments = parser.parse_args()
    stop_on_terminate()
    with tempfile.TemporaryDirectory(prefix="trapline-jobs-") as folder:
        rows = measure(arguments, Path(folder))
    machine = hardware()
    result = {
        "command": " ".join(["benchmarks/job_time.py", *sys.argv[1:]]),
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "hardware": machine,
        "versions": versions(),
        "rows": rows,
        "summary": summary(rows),
    }
    slug = re.sub(r"[^a-z0-9]+", "-", f"{machine['cpu']} {machine['cores']} cores".lower()).strip("-")
    path = arguments.json or RESULTS / f"job_time_{slug}_{dt.datetime.now(tz=dt.UTC):%Y-%m}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(page(result), encoding="utf-8")
    print(page(result))


if __name__ == "__main__":
    main()
