"""What serving must show, line by line: met, not met, or not measured yet."""

from collections.abc import Callable

from .summary import Compared, Level, compared

_CALLERS = 32


def verdicts(found: list[Level]) -> list[str]:
    """A sentence for each thing that must be shown."""
    fp32 = compared(found)
    lines = [
        _share_of_ceiling(found),
        _each(fp32, "images/s ahead of every peer, intervals above 1", (8, 32), lambda one: one.rate[1] > 1, _rate),
        _each(fp32, "p99 not worse than any peer's", (8, 32), lambda one: one.p99[0] >= 1, _p99),
        _each(fp32, "not behind the best by more than 5 %", (1,), lambda one: one.rate[0] >= 0.95, _rate),
        _null(found, "unary", 0.5),
        _null(found, "stream", 0.2),
        _stream(found),
    ]
    for backbone, least in (("resnet18", 1.8), ("mobilenet_v2", 2.5)):
        large = [one for one in fp32 if one.ours.key["image"] == "2048x1536" and one.ours.key["model"] == backbone]
        for decode, ratio in (("documented", least), ("scaled", 1.1)):
            chosen = [one for one in large if one.theirs.key["decode"] == decode]
            lines.append(_best(chosen, f"{backbone}, 2048x1536, against the best peer with decode {decode}", ratio))
    chosen = [
        one
        for one in compared(found, precision="int8")
        if (one.ours.key["model"], one.ours.key["image"]) == ("resnet18", "640x480")
    ]
    lines.append(_best(chosen, "int8 resnet18, 640x480, against the best peer's fp32", 2.4))
    return lines


def _share_of_ceiling(found: list[Level]) -> str:
    said = f"at {_CALLERS} callers at least 0.95 of the combined ceiling (resnet18, fp32, 640x480)"
    wanted = {"server": "trapline", "precision": "fp32", "method": "unary", "callers": _CALLERS}
    wanted |= {"model": "resnet18", "image": "640x480"}
    shares = [level.medians["share_of_ceiling"] for level in found if wanted.items() <= level.key.items()]
    if not shares or shares[0] is None:
        return f"{said}: not measured yet"
    return f"{said}: {_met(yes=shares[0] >= 0.95)}, {shares[0]:.3f}"


def _each(
    pairs: list[Compared],
    said: str,
    callers: tuple[int, ...],
    holds: Callable[[Compared], bool],
    figure: Callable[[Compared], str],
) -> str:
    said = f"at {' and '.join(map(str, callers))} callers {said} (resnet18, fp32, 640x480)"
    chosen = [
        one
        for one in pairs
        if one.ours.key["callers"] in callers
        and (one.ours.key["model"], one.ours.key["image"]) == ("resnet18", "640x480")
    ]
    if {one.ours.key["callers"] for one in chosen} != set(callers):
        return f"{said}: not measured yet"
    bad = [f"{_name(one.theirs)} at {one.ours.key['callers']}: {figure(one)}" for one in chosen if not holds(one)]
    return f"{said}: {_met(yes=not bad)}, {len(chosen)} comparisons" + (f"; {'; '.join(bad)}" if bad else "")


def _best(pairs: list[Compared], said: str, least: float) -> str:
    """The peer that comes nearest, at 32 callers."""
    said = f"{said} at least {least} times the images/s at {_CALLERS} callers"
    pairs = [one for one in pairs if one.ours.key["callers"] == _CALLERS]
    if not pairs:
        return f"{said}: not measured yet"
    nearest = min(pairs, key=lambda one: one.rate[0])
    return f"{said}: {_met(yes=nearest.rate[0] >= least)}, {_rate(nearest)} ({_name(nearest.theirs)})"


def _null(found: list[Level], method: str, most_ms: float) -> str:
    said = f"a null model costs at most {most_ms} ms server CPU an image ({method})"
    spent = _null_ms(found, method)
    if spent is None:
        return f"{said}: not measured yet"
    return f"{said}: {_met(yes=spent <= most_ms)}, {spent:.3f} ms"


def _stream(found: list[Level]) -> str:
    said = "a core streams at least 2 times as many images of a null model as it answers calls"
    unary, stream = _null_ms(found, "unary"), _null_ms(found, "stream")
    if unary is None or stream is None:
        return f"{said}: not measured yet"
    return f"{said}: {_met(yes=unary >= 2 * stream)}, {unary / stream:.2f}"


def _null_ms(found: list[Level], method: str) -> float | None:
    wanted = {"server": "trapline", "method": method, "callers": _CALLERS, "model": "null-model"}
    spent = [level.medians["server_cpu_ms_per_image"] for level in found if wanted.items() <= level.key.items()]
    return spent[0] if spent else None


def _met(*, yes: bool) -> str:
    return "met" if yes else "NOT met"


def _rate(one: Compared) -> str:
    return cell(one.rate)


def _p99(one: Compared) -> str:
    return cell(one.p99)


def cell(values: tuple[float, float, float]) -> str:
    """A ratio and its interval."""
    return f"{values[0]:.2f} ({values[1]:.2f} to {values[2]:.2f})"


def _name(level: Level) -> str:
    return f"{level.key['server']}, decode {level.key['decode']}"
