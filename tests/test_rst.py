"""reStructuredText: titles by order of their adornments, markup out, lines those of the file."""

from __future__ import annotations

import pytest

from app.formats.rst import read
from tests.test_formats import check_places, paths, rows


def clean(text: str) -> str:
    """A file's text without its markup, every place checked."""
    content = read(text.encode())
    check_places(content, text)
    return content.text


def test_titles_become_headings_by_the_order_of_their_adornments() -> None:
    text = "=====\nHouse\n=====\n\nBoiler\n======\n\nhot\n\nValve\n~~~~~\n\nsmall\n\nGarden\n======\n\npears\n"
    content = read(text.encode())
    assert content.title == "House"
    assert paths(content) == [
        ["House"],
        ["House", "Boiler"],
        ["House", "Boiler", "Valve"],
        ["House", "Garden"],
    ]
    assert [content.text[heading.offset :].split("\n")[0] for heading in content.headings] == [
        "House",
        "Boiler",
        "Valve",
        "Garden",
    ]
    assert rows(content) == [
        (2, "House"),
        (5, "Boiler"),
        (8, "hot"),
        (10, "Valve"),
        (13, "small"),
        (15, "Garden"),
        (18, "pears"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "two lines\nof a paragraph\n-----\n",
        "text\n\n-----\n\ntext\n",
        "=====  =====\na      b\n=====  =====\n",
        "A long title\n--\n",
        "  indented\n  ------\n",
    ],
)
def test_lines_that_only_look_like_titles_are_none(text: str) -> None:
    assert paths(read(text.encode())) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (".. a comment\n   of two\n\n   paragraphs\n\ntext\n", "\n\ntext\n"),
        ("a\n\n.. _target: https://example.com\n\nb\n", "a\n\n\n\nb\n"),
        (".. image:: a.png\n   :alt: no\n\ntext", "\n\ntext"),
        (".. note:: Take care.\n   It is hot.\n", "Take care.\n   It is hot.\n"),
        (".. code-block:: sh\n   :linenos:\n\n   make test\n", "sh\n\n\n   make test\n"),
        ("See :ref:`the valve <valve>` and :doc:`boiler`.\n", "See the valve and boiler.\n"),
        ("`The site <https://example.com>`_ or ``code`` or `term`", "The site or ``code`` or `term`"),
        ("a [1]_\n\n.. [1] the footnote\n", "a [1]_\n\n.. [1] the footnote\n"),
    ],
)
def test_markup_is_out_and_words_stay(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_the_field_list_at_the_top_is_metadata() -> None:
    assert read(b"Title\n=====\n\n:Author: A. Person\n:Date: 2024-03-14\n\ntext\n").metadata == {
        "author": "A. Person",
        "date": "2024-03-14",
    }
