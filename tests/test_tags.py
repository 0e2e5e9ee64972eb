"""Tags in a note's text: those that a person would call so, and none in code, addresses or headings' signs."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.documents import read_document
from app.tags import text_tags

TEXT = """---
tags: [front]
---
# Heading #heading

A #first and (#second), **#third** and #work/travel-2025, #日本 #🐝.

- #item, #a_b
> #quoted

#alone
"""


def tags(folder: Path, text: str, name: str = "a.md") -> list[str]:
    path = folder / name
    path.write_text(text)
    return text_tags(read_document(path))


def test_tags_are_found_where_words_stand(notes: Path) -> None:
    assert tags(notes, TEXT) == [
        "heading", "first", "second", "third", "work/travel-2025", "日本", "🐝", "item", "a_b", "quoted", "alone"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "# Heading",
        "####### seven",
        "`#code` and ``x #code``",
        "```\n#fenced\n```",
        "    #indented",
        "[link](#anchor) and <a href='#anchor'>x</a>",
        "https://example.org/#anchor and mail#x",
        "C# and issue #12 and #2025-01",
        "a `x`#glued",
        "\\\\#escaped",
        "# # #",
    ],
)
def test_what_is_no_tag(notes: Path, text: str) -> None:
    assert tags(notes, text) == []


def test_plain_text_has_no_tags(notes: Path) -> None:
    assert tags(notes, "#first", "a.txt") == []
