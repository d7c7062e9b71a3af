"""Serving, measured: Trapline's server against other servers with the same model file and photos on the same cores.

One row a level (server, decode, callers, repetition), added to the JSON file as it ends; a row that is there already is
not measured again, so a collection can be stopped at any time and gone on with. Servers take turns within each
repetition, alone on the machine with the load generator. What is compared and how is written down in PROTOCOL.md.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from preprocess import hardware
from processes import stop_on_terminate
from rows import Row, Rows
from serving.assets import Assets, assets, int8_model, null_model, null_photos, photos, random_model
from serving.environments import PEERS, NotInstalled
from serving.figures import MOST_FOREIGN_CORES, combined_ceiling
from serving.levels import RETRIES, LevelFailed, bare_rates, generator, level, load_of
from serving.page import page
from serving.peer_starts import NAMES
from serving.recorded import own_versions, peer_versions, result_path
from serving.servers import TOP, Running, Wanted, running

from trapline.processors import thread_count

#: Images in flight on one stream.
IN_FLIGHT = 32
#: Peers keep whatever queue builds up, so for this comparison Trapline's bound on the wait is out of the way as well.
PATIENT = ("--max-queue-ms", "60000", "--max-queue-images", "1024")


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A server of the comparison: name, decode and precision as the rows have them, and what it serves."""

    name: str
    decode: str
    precision: str
    assets: Assets

    def identity(self, arguments: argparse.Namespace) -> Row:
        """What all its rows have in common."""
        return {
            "server": self.name,
            "decode": self.decode,
            "precision": self.precision,
            "model": model_name(arguments),
            "image": "8x8" if arguments.null_model else arguments.image,
        }


def model_name(arguments: argparse.Namespace) -> str:
    """The model as the rows name it."""
    return "null-model" if arguments.null_model else str(arguments.backbone)


def made_assets(arguments: argparse.Namespace, folder: Path) -> dict[str, Assets]:
    """Model and photos by precision."""
    if arguments.null_model:
        null_model(folder / "null.onnx")
        return {"fp32": assets(folder / "null.onnx", null_photos(folder / "photos"), "made")}
    files, said = photos(arguments.image, folder / "photos")
    fp32, int8 = arguments.model or folder / "fp32.onnx", arguments.int8_model or folder / "int8.onnx"
    if arguments.model is None:
        random_model(arguments.backbone, files, fp32)
    found = {"fp32": assets(fp32, files, said)}
    if "int8" in arguments.precision:
        if arguments.int8_model is None:
            int8_model(fp32, files, int8)
        found["int8"] = replace(assets(int8, files, said), made_from=fp32 if arguments.int8_model else None)
    return found


def contenders(arguments: argparse.Namespace, made: dict[str, Assets]) -> list[Contender]:
    """Trapline with each precision, and each peer with each decode."""
    ours = [
        Contender(name="trapline", decode="scaled", precision=precision, assets=made[precision])
        for precision in arguments.precision
    ]
    return ours + [
        Contender(name=name, decode=decode, precision="fp32", assets=made["fp32"])
        for name in arguments.peers
        for decode in arguments.decodes
    ]


def ordered(found: list[Contender], repetition: int) -> list[Contender]:
    """The contenders of one repetition; which goes first moves on."""
    turn = repetition % len(found)
    return found[turn:] + found[:turn]


def collect(arguments: argparse.Namespace, rows: Rows, found: list[Contender]) -> None:
    """Every level that the command line asks for and that the file lacks."""
    skipped: dict[str, str] = rows.content.setdefault("skipped", {})
    for name in {contender.name for contender in found} & skipped.keys():
        del skipped[name]  # it is tried again
    for repetition in range(arguments.repetitions):
        for contender in ordered(found, repetition):
            lacking = [
                wanted
                for wanted in wanted_levels(contender, arguments)
                if rows.find({**wanted, "repetition": repetition, "quiet": True}) is None
            ]
            if not lacking or contender.name in skipped:
                continue
            try:
                measure(contender, lacking, repetition, arguments, rows)
            except (NotInstalled, LevelFailed) as failed:
                # One peer that cannot run must not cost the others their figures; Trapline must run.
                if contender.name == "trapline":
                    raise SystemExit(f"trapline: {failed}") from failed
                skipped[contender.name] = str(failed)
                rows.save()
                print(f"SKIPPED {contender.name}: {failed}", file=sys.stderr, flush=True)


def wanted_levels(contender: Contender, arguments: argparse.Namespace) -> list[Row]:
    """The identities of a contender's levels, but for the repetition."""
    identity = contender.identity(arguments)
    found = [{**identity, "method": "unary", "callers": callers} for callers in arguments.callers]
    if arguments.stream and contender.name == "trapline":
        found.append({**identity, "method": "stream", "callers": IN_FLIGHT})
    return found


def measure(
    contender: Contender, lacking: list[Row], repetition: int, arguments: argparse.Namespace, rows: Rows
) -> None:
    """One server's levels of one repetition: the ceilings first, then the server is started."""
    bare = bare_rates(contender.assets, seconds=arguments.bare_seconds)
    python = generator(arguments.work, peers=bool(arguments.peers))
    wanted = Wanted(
        name=contender.name,
        decode=contender.decode,
        assets=contender.assets,
        cores=bare["cores"],
        options=PATIENT if contender.name == "trapline" else (),
    )
    with running(wanted, arguments.work) as server:
        for identity in lacking:
            for attempt in range(arguments.retries + 1):
                row = ceilings(bare, contender.decode) | one_level(server, identity, arguments, python)
                quiet = row["foreign_cores"] < MOST_FOREIGN_CORES
                rows.add({**identity, "repetition": repetition}, {"quiet": quiet, "attempt": attempt, **row})
                print(said({**identity, **row, "repetition": repetition, "quiet": quiet}), flush=True)
                if quiet:
                    break


def one_level(server: Running, identity: Row, arguments: argparse.Namespace, python: Path) -> Row:
    """The figures of one level.

    Raises:
        LevelFailed: The server never answered right, or ended; the end of what it printed is in the text.
    """
    load = load_of(
        server,
        protocol="trapline-stream" if identity["method"] == "stream" else server.protocol,
        callers=identity["callers"],
        seconds=arguments.seconds,
        warm_seconds=arguments.warm_seconds,
        ready_seconds=arguments.ready_seconds,
    )
    try:
        row = level(load, python)
    except LevelFailed as failed:
        raise LevelFailed(f"{failed}; the server's last words: {server.said()}") from failed
    del row["recovery"], row["late_p99_ms"], row["refused_p99_ms"]
    return row | {"resident_mib": round(server.resident_mib()), "seconds": arguments.seconds}


def ceilings(bare: dict[str, Any], decode: str) -> Row:
    """The ceilings as a row has them, with the decode of its server."""
    decode_ms, model_ms = bare["decode_cpu_ms"][decode], bare["model_cpu_ms"]
    combined = combined_ceiling(cores=bare["cores"], decode_seconds=decode_ms / 1000, model_seconds=model_ms / 1000)
    return {
        "bare_images_per_second": bare["bare_images_per_second"],
        "combined_ceiling_images_per_second": round(combined, 2),
        "decode_cpu_ms": decode_ms,
        "model_cpu_ms": model_ms,
    }


def said(row: Row) -> str:
    """One level in one line."""
    wrong = {outcome: count for outcome, count in row["outcomes"].items() if outcome != "OK"}
    return (
        f"{time.strftime('%H:%M')} #{row['repetition']} {row['server']} {row['decode']} {row['precision']} "
        f"{row['method']} × {row['callers']}: {row['images_per_second']} images/s, p50 {row['p50_ms']} ms, "
        f"p99 {row['p99_ms']} ms, server CPU {row['server_cpu_ms_per_image']} ms/image, "
        f"foreign cores {row['foreign_cores']}{'' if row['quiet'] else ' (does not count)'}"
        f"{f', NOT RIGHT: {wrong}' if wrong else ''}"
    )


def options() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = lambda text: [word for word in text.split(",") if word]  # noqa: E731  # a type for three options
    parser.add_argument("--peers", type=words, default=list(PEERS), help=f"of {', '.join(NAMES)}; '' for none")
    parser.add_argument("--callers", type=lambda text: [int(word) for word in words(text)], default=[1, 8, 32])
    parser.add_argument("--backbone", default="resnet18", help="torchvision builder, with random weights")
    parser.add_argument("--model", type=Path, help="a file of `trainer run` instead, whose backbone --backbone names")
    parser.add_argument("--image", default="640x480", metavar="WxH", help="size of the photos")
    parser.add_argument("--precision", type=words, default=["fp32"], help="what Trapline serves: fp32, int8 or both")
    parser.add_argument("--int8-model", type=Path, help="a file of `trainer export` instead of one quantised here")
    parser.add_argument("--decodes", type=words, default=["documented", "scaled"], help="the peers' decode")
    parser.add_argument(
        "--stream", action="store_true", help=f"Trapline's stream as well, {IN_FLIGHT} images in flight"
    )
    parser.add_argument("--null-model", action="store_true", help="a model and pictures that cost next to nothing")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=15, help="of a level, that count")
    parser.add_argument("--warm-seconds", type=float, default=4, help="of the same load before them")
    parser.add_argument("--ready-seconds", type=float, default=120, help="until a server's first right answer, at most")
    parser.add_argument("--bare-seconds", type=float, default=0.8, help="for each figure of the ceilings")
    parser.add_argument("--retries", type=int, default=RETRIES, help="more tries of a level that others disturbed")
    parser.add_argument("--json", type=Path, help="file for the rows; default: under results/; the page lies beside it")
    parser.add_argument(
        "--page", action="store_true", help="measure nothing: write the page of the rows that are there"
    )
    parser.add_argument("--work", type=Path, default=TOP / ".cache" / "benchmarks", help="folder for environments")
    arguments = parser.parse_args()
    for name, wanted, known in (
        ("--peers", arguments.peers, NAMES),
        ("--precision", arguments.precision, ("fp32", "int8")),
        ("--decodes", arguments.decodes, ("documented", "scaled")),
    ):
        if unknown := set(wanted) - set(known):
            parser.error(f"{name}: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", arguments.image):
        parser.error(f"--image: {arguments.image} must be WIDTHxHEIGHT, e.g. 640x480")
    if arguments.null_model and (arguments.model or "int8" in arguments.precision):
        parser.error("--null-model is a model of its own: leave out --model and --precision int8")
    if min(arguments.callers, default=0) < 1 or arguments.repetitions < 1:
        parser.error("--callers and --repetitions must be at least 1")
    return arguments


def main() -> None:
    """Measures what the command line asks for."""
    arguments = options()
    stop_on_terminate()
    machine = hardware() | {"threads": thread_count("auto")}
    path = arguments.json or result_path(f"serve_{model_name(arguments)}", machine)
    rows = Rows(path)
    if not arguments.page:
        rows.content["hardware"] = machine
        rows.content["versions"] = rows.content.get("versions", {}) | {"trapline": own_versions()}
        if arguments.peers:
            rows.content["versions"] |= peer_versions(arguments.peers, arguments.work)
        with tempfile.TemporaryDirectory() as folder:
            made = made_assets(arguments, Path(folder))
            rows.content["photos"] = made["fp32"].photos_said
            rows.content["labels"] = {precision: each.labels for precision, each in made.items()}
            collect(arguments, rows, contenders(arguments, made))
        rows.content["hardware"]["load_after"] = round(os.getloadavg()[0], 2)
    rows.save()
    path.with_suffix(".md").write_text(page(rows))
    print(page(rows))


if __name__ == "__main__":
    main()
