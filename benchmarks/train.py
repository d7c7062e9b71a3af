"""Training, timed and tested: Trapline against fastai on the same files, splits, initial weights and size.

One row a run, added to the JSON file as the run ends; a row that is there already is not run again, so a collection can
be stopped at any time and gone on with. Rows taken beside other work (`--not-quiet`) count for accuracy only. What is
compared and how is written down in PROTOCOL.md.
"""

import argparse
import shutil
import time
from pathlib import Path

from preprocess import hardware
from processes import stop_on_terminate
from rows import Row, Rows, share_right
from splits import TOP, Divided, by_seed
from tools import BACKBONE, FASTAI, TRAPLINE, Setting, ceilings, fastai_python, options_of, run, start_once, weights
from train_page import page
from train_summary import summary

SETS = ("hymenoptera", "flowers", "trailcam", "wildlife", "scenes")
#: A row counts as quiet up to this share of the cores' time used by others.
MOST_OTHERS = 0.1
RESULTS = Path(__file__).parent / "results"


def identity(tool: str, divided: Divided, *, quiet: bool) -> Row:
    """What a row is found by."""
    return {"set": divided.name, "tool": tool, "seed": divided.number, "quiet": quiet, "split": divided.key}


def ordered(tools: list[str], seed: int) -> list[str]:
    """The tools of one seed; which goes first moves on."""
    turn = seed % len(tools)
    return tools[turn:] + tools[:turn]


def collect(arguments: argparse.Namespace, rows: Rows, setting: Setting) -> None:
    """Every run that the command line asks for and that the file lacks."""
    work = arguments.work
    for seed in range(arguments.first_seed, arguments.seeds):
        for name in arguments.sets.split(","):
            divided = by_seed(name, seed, work)
            for tool in ordered(arguments.tools.split(","), seed):
                called = " ".join([tool, *setting.trapline_options]) if tool in TRAPLINE else tool
                wanted = identity(called, divided, quiet=not arguments.not_quiet)
                if rows.find(wanted) is not None and not arguments.again:
                    continue
                out = work / "runs" / f"{name}-{seed}-{tool}-{time.time_ns()}"
                row = run(called, divided, out, setting)
                if row["others_share"] > MOST_OTHERS:
                    wanted["quiet"] = False
                rows.add(wanted, row, divided)
                shutil.rmtree(out)
                print(said(wanted | row), flush=True)


def said(row: Row) -> str:
    """One run in one line."""
    return (
        f"{time.strftime('%H:%M')} {row['set']} seed {row['seed']} {row['tool']}: {share_right(row):.3f}, "
        f"{row['seconds_total']:.1f} s, {row['peak_mib']:.0f} MiB, others {row['others_share']:.0%}"
        f"{'' if row['quiet'] else ' (not quiet)'}"
    )


def options() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS), help="names under data/, separated by commas")
    parser.add_argument("--seeds", type=int, default=5, help="runs a set and tool, seeds 0, 1, ... (default: 5)")
    parser.add_argument("--first-seed", type=int, default=0, help="leave out the seeds before it")
    parser.add_argument("--tools", default="fastai,trapline-head,trapline", help="of these and fastai-tuned")
    parser.add_argument("--json", type=Path, help="file for the rows; default: under results/; the page lies beside it")
    parser.add_argument("--not-quiet", action="store_true", help="other work goes on: rows count for accuracy only")
    parser.add_argument("--again", action="store_true", help="run also what the file has; the rows before are kept")
    parser.add_argument(
        "--allocator", action="store_true", help="fastai with the variables of ALLOCATOR; not for timing"
    )
    parser.add_argument("--trapline-options", metavar="WORDS", help="further options of trainer run, as one word")
    parser.add_argument("--fastai-python", type=Path, help="interpreter with fastai; default: .venv-fastai, made here")
    parser.add_argument("--ceilings", action="store_true", help="measure decode, feature and train-step rates as well")
    parser.add_argument("--page", action="store_true", help="no run: write the page of the rows that are there")
    parser.add_argument("--work", type=Path, default=TOP / ".cache" / "benchmarks", help="folder for splits and runs")
    arguments = parser.parse_args()
    unknown = set(arguments.tools.split(",")) - {*FASTAI, *TRAPLINE}
    if unknown:
        parser.error(f"--tools: {', '.join(sorted(unknown))} is none of {', '.join([*FASTAI, *TRAPLINE])}")
    if arguments.allocator and not arguments.not_quiet:
        parser.error("--allocator changes fastai's time and memory: use it with --not-quiet, or time fastai-tuned")
    return arguments


def main() -> None:
    """Runs what the command line asks for."""
    arguments = options()
    stop_on_terminate()
    if not weights().is_file():
        raise SystemExit(f"there are no weights {weights()}")
    path = arguments.json or RESULTS / f"train_{BACKBONE}_2-cores_{time.strftime('%Y-%m')}.json"
    rows = Rows(path)
    rows.content["hardware"] = hardware()
    if not arguments.page:
        tools = arguments.tools.split(",")
        python = fastai_python(arguments.fastai_python) if set(tools) & {*FASTAI} else None
        words = options_of(arguments.trapline_options)
        setting = Setting(fastai_python=python, allocator=arguments.allocator, trapline_options=words)
        start_once(setting, tools)
        collect(arguments, rows, setting)
        if arguments.ceilings:
            rows.content["ceilings"] = ceilings("flowers")
    found = summary(rows, SETS)
    rows.content["summary"] = found
    rows.save()
    path.with_suffix(".md").write_text(page(rows, found))
    print(page(rows, found))


if __name__ == "__main__":
    main()
