"""Tokens as files and headers carry them."""

import pytest

from trapline.credentials import check_token, read_tokens, token_header, token_of
from trapline.errors import UsageError

TOKEN = "abcDEF0123456789._~+/-=="


def test_a_header_carries_its_token():
    """What one side writes the other reads, whatever the case of the scheme."""
    assert token_of(token_header(TOKEN)) == TOKEN
    assert token_of(f"BEARER {TOKEN}") == TOKEN


@pytest.mark.parametrize(
    "header", ["", TOKEN, "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer  {TOKEN}", f"Bearer {TOKEN} ", "Bearer short"]
)
def test_what_is_no_bearer_token_is_none(header):
    """Another scheme, more than one space, nothing, too little: no token."""
    assert token_of(header) is None


def test_a_file_names_its_tokens(tmp_path):
    """Names stand before the colon; a token without one has its line's; comments and empty lines are passed over."""
    file = tmp_path / "tokens"
    file.write_text(f"# people\n\nanna@hills:{TOKEN}\n  {TOKEN}x\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"line 4 of .* is no token"):
        read_tokens(file, flag="--token-file")
    file.write_text(f"# people\n\nanna@hills:{TOKEN}\n  x{TOKEN}  \n", encoding="utf-8")
    assert read_tokens(file, flag="--token-file") == {"anna@hills": TOKEN, "line-4": f"x{TOKEN}"}


@pytest.mark.parametrize(
    "token", ["short", "x" * 15, "sixteen letters with spaces", "é" * 16, "x" * 1025, "x" * 16 + "\n"]
)
def test_no_sentence_repeats_what_is_no_token(token):
    """Too short, too long, odd characters: a sentence that says how to make one, without the secret in it."""
    with pytest.raises(UsageError, match="openssl rand") as failed:
        check_token(token, source="TRAPLINE_TOKEN")
    assert token.strip() not in str(failed.value)
