"""Names the images of a kustomization by digest, as `kustomize edit set image` does where that program is there.

python deploy/set_images.py deploy/kustomize/overlays/cpu --server REGISTRY/NAME@sha256:... --trainer ...

Needs nothing but Python. What is no digest of an image, or looks made up, is refused, and nothing is written.
"""

import argparse
import itertools
import re
import sys
from pathlib import Path

#: What stands in the manifests. No resolver knows a name below `.invalid`, so that nothing else is run instead.
PLACEHOLDERS = {
    "server": "trapline.invalid/trapline-server",
    "trainer": "trapline.invalid/trapline-trainer",
}
_REFERENCE = re.compile(r"(?P<name>[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)+)(:[\w.-]+)?@sha256:(?P<digest>[0-9a-f]{64})")
_BLOCK = re.compile(r"^images:.*\n(?:[ \t#-].*\n|\n)*", re.MULTILINE)
#: Of 64 digits drawn at random fewer kinds than this come up once in 10^20 times.
_FEWEST_KINDS = 7


def problem(reference: str) -> str:
    """What is wrong with an image's reference; empty where nothing is."""
    if any(reference.startswith(f"{name}{end}") for name in PLACEHOLDERS.values() for end in (":", "@")):
        return f"{reference} is the placeholder; name the image that you built"
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        return f"{reference} must be REGISTRY/NAME@sha256: and 64 digits, as `podman push --digestfile` writes them"
    digest = found["digest"]
    repeats = any(digest == digest[:length] * (64 // length) for length in (1, 2, 4, 8, 16, 32))
    steps = {(int(after, 16) - int(before, 16)) % 16 for before, after in itertools.pairwise(digest)}
    if repeats or len(set(digest)) < _FEWEST_KINDS or len(steps) == 1:
        return f"{reference} has a made-up digest; take the one that the registry tells"
    return ""


def with_images(text: str, references: dict[str, str]) -> str:
    """A kustomization with `references`, by program, as its images; those it had are replaced."""
    lines = ["images:"]
    for program, reference in references.items():
        found = _REFERENCE.fullmatch(reference)
        if found is None:
            raise ValueError(problem(reference))
        lines += [
            f"  - name: {PLACEHOLDERS[program]}",
            f"    newName: {found['name']}",
            f"    digest: sha256:{found['digest']}",
        ]
    return _BLOCK.sub("", text).rstrip("\n") + "\n" + "\n".join(lines) + "\n"


def main() -> int:
    """The command; gives the exit code: 0 written, 2 usage."""
    parser = argparse.ArgumentParser(description="Name the images of a kustomization by digest.")
    parser.add_argument("folder", type=Path, help="folder of the kustomization that is applied, or one below it")
    for program in PLACEHOLDERS:
        parser.add_argument(f"--{program}", required=True, metavar="IMAGE", help="REGISTRY/NAME@sha256:DIGEST")
    chosen = vars(parser.parse_args())
    path = chosen["folder"] / "kustomization.yaml"
    references = {program: chosen[program] for program in PLACEHOLDERS}
    problems = [problem(reference) for reference in references.values() if problem(reference)]
    if not path.is_file():
        problems.append(f"{path} is missing; name a folder such as deploy/kustomize/overlays/cpu")
    if problems:
        print("set_images: error: " + "; ".join(problems), file=sys.stderr)
        return 2
    path.write_text(with_images(path.read_text(encoding="utf-8"), references), encoding="utf-8")
    print(f"{path} names " + " and ".join(references.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
