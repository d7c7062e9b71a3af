import pytest
from rows import Rows
from serve import ordered
from serving.page import page
from serving.summary import compared, levels
from serving.verdicts import verdicts


def row(server, repetition, rate, **changes):
    return {
        "server": server,
        "decode": "scaled" if server == "trapline" else "documented",
        "precision": "fp32",
        "method": "unary",
        "callers": 32,
        "model": "resnet18",
        "image": "640x480",
        "repetition": repetition,
        "quiet": True,
        "images": 100,
        "images_per_second": rate,
        "p50_ms": 10.0,
        "p99_ms": 1000 / rate,
        "server_cpu_ms_per_image": 40.0,
        "generator_cpu_ms_per_image": 0.4,
        "bare_images_per_second": 60.0,
        "combined_ceiling_images_per_second": 54.0,
        "foreign_cores": 0.05,
        "resident_mib": 300,
        "outcomes": {"OK": 100},
        "date": "2030-01-02 03:04",
        "commit": "abc",
        **changes,
    }


def test_ratios_are_paired_by_repetition():
    """A slow moment of the machine that meets both sides leaves the ratio as it is; a row without its pair is out."""
    rates = [50.0, 25.0, 40.0]
    rows = [row("trapline", number, rate) for number, rate in enumerate(rates)]
    rows += [row("mosec", number, rate / 1.25) for number, rate in enumerate(rates)]
    rows.append(row("trapline", 3, 500.0))
    (one,) = compared(levels(rows))
    assert one.pairs == 3
    assert one.rate == pytest.approx((1.25, 1.25, 1.25))
    assert one.p99 == pytest.approx((1.25, 1.25, 1.25))


def test_disturbed_rows_enter_no_median():
    """A level that others disturbed stays in the file and out of the figures."""
    rows = [row("trapline", 0, 50.0), row("trapline", 1, 10.0, quiet=False, foreign_cores=0.9)]
    (level,) = levels(rows)
    assert level.medians["images_per_second"] == 50.0
    assert level.medians["share_of_ceiling"] == pytest.approx(50 / 54, abs=0.001)
    assert not levels(rows[1:])


def test_calls_without_a_right_answer_are_shown():
    """A server that answers wrongly is no faster for it, and the page says how often it did."""
    (level,) = levels([row("mosec", 0, 50.0, outcomes={"OK": 3, "WRONG": 2, "HTTP 503": 1})])
    assert level.failed == 3


def test_verdicts_say_met_not_met_and_not_measured():
    """A claim without its rows is not met by silence."""
    rows = [row("trapline", number, 52.0) for number in range(3)] + [row("mosec", number, 40.0) for number in range(3)]
    rows += [row(name, number, 50.0, callers=8) for name in ("trapline", "mosec") for number in range(3)]
    said = {line.split(":")[0]: line for line in verdicts(levels(rows))}
    assert ": met, 0.963" in next(line for line in said.values() if "0.95 of the combined ceiling" in line)
    ahead = next(line for line in said.values() if "ahead of every peer" in line)
    assert "NOT met" in ahead
    assert "mosec, decode documented at 8: 1.00" in ahead
    assert "at 32" not in ahead.partition("NOT met")[2]
    for part in ("2048x1536", "int8", "null model", "not behind the best"):
        assert all("not measured yet" in line for line in said.values() if part in line)


def test_the_page_names_what_was_left_out(tmp_path):
    """A peer that could not start is on the page with its reason."""
    rows = Rows(tmp_path / "rows.json")
    for each in (row("trapline", 0, 52.0), row("mosec", 0, 40.0)):
        rows.add({name: each[name] for name in ("server", "repetition")}, each)
    rows.content["skipped"] = {"pytriton": "no libpython"}
    text = page(rows)
    assert "Left out: pytriton: no libpython" in text
    assert "| mosec | documented | unary | 32 | 40 |" in text
    assert "1.30 (1.30 to 1.30)" in text


def test_who_goes_first_moves_on():
    """Each server is first, last and between in turn."""
    names = ["a", "b", "c"]
    assert [ordered(names, repetition) for repetition in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]
