import pytest

from trapline.request_id import is_request_id, new_request_id


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("7f3a-42", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("two words", False),
        ('quote"d', False),
        ("line\nbreak", False),
        (b"bytes", False),
    ],
)
def test_only_what_is_fit_for_a_line_is_an_id(given, kept):
    """Short, printable, and one word; an id that is made is one."""
    assert is_request_id(given) is kept
    assert is_request_id(new_request_id())
    assert new_request_id() != new_request_id()
