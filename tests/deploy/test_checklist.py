import re
from pathlib import Path

TOP = Path(__file__).parents[2]
PAGE = (TOP / "docs" / "checklist.md").read_text(encoding="utf-8")
#: The items that must be there, one a row: none is dropped without a word.
ITEMS = (
    *("Probes", "Drain", "Balancing", "GPU", "A dead GPU", "Autoscaling", "Disruption", "Security context", "Network"),
    *("Model delivery", "Version roll-out", "Config", "Trainer", "Overload"),
    *("Alerts", "Dashboard", "Backup and restore", "Sizing", "One machine", "Images"),
)


def rows():
    """Item, where, held by, what is not shown."""
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[0] != "item":
            yield cells


def test_every_item_has_a_place_and_a_test():
    """Each once, in a row of four."""
    found = list(rows())
    assert [re.match(r"[^:]+?(?= on the queue|:|$)", cells[0])[0] for cells in found] == list(ITEMS)
    for cells in found:
        assert len(cells) == 4
        assert all(cells), cells
        assert re.search(r"`(tests|benchmarks)/\S+\.py`", cells[2]), cells[0]


def test_every_test_that_is_named_is_there():
    """And holds a test; so are programs' files and folders of the deployment."""
    for cells in rows():
        for name in re.findall(r"`([^`]+)`", cells[2]):
            text = (TOP / name).read_text(encoding="utf-8")
            assert name.startswith("benchmarks/") or re.search(r"^(async )?def test_", text, re.MULTILINE), name
        for name in re.findall(r"`([\w/.-]+)`", cells[1]):
            if not name.startswith("--"):
                places = (TOP / name, TOP / "deploy" / "kustomize" / name)
                assert any(place.exists() for place in places), name
