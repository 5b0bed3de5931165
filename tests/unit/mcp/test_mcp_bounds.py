"""Long text is cut so that the rest can be read, and nothing is said twice or left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cellyard.mcp import bounds


@given(st.text(max_size=200), st.integers(2, 50))
def test_a_cut_keeps_begin_and_end_and_says_where_to_read_on(text: str, limit: int) -> None:
    shown = bounds.middle(text, limit, lambda offset: f"from {offset}")
    if len(text) <= limit:
        assert shown == text
        return
    head = limit - limit // 2
    assert shown.startswith(text[:head])
    assert shown.endswith(text[-(limit // 2) :])
    assert f"{len(text) - limit:,} of {len(text):,} characters left out; from {head} " in shown


@given(st.text(max_size=200), st.integers(1, 50))
def test_pages_join_to_the_whole(text: str, limit: int) -> None:
    joined = ""
    offset: int | None = 0
    while offset is not None:
        page = bounds.page(text, offset, limit)
        assert page.offset == len(joined)
        assert page.total == len(text)
        joined += page.content
        offset = page.next_offset
    assert joined == text


def test_a_page_behind_the_end_is_empty() -> None:
    page = bounds.page("abc", 10**15, 5)
    assert (page.content, page.offset, page.next_offset) == ("", 3, None)
