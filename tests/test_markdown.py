"""Markdown: what a person who reads the note does not see is out, all else is the file's, character by character."""

from __future__ import annotations

import pytest

from app.formats.markdown import read, split_front_matter
from store.fields import date_of
from tests.test_formats import check_places, paths, rows


def clean(text: str) -> str:
    """A note's text without its noise, every place checked."""
    content = read(text.encode())
    check_places(content, text)
    return content.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[[Boiler]]", "Boiler"),
        ("see [[Boiler|the boiler]]s.", "see the boilers."),
        ("[[house/Boiler#Service]]", "house/Boiler#Service"),
        ("[[Boiler#^a1b2]]", "Boiler"),
        ("[[#Service]]", "Service"),
        ("| [[Boiler\\|the boiler]] |", "| the boiler |"),
        ("[[Boiler|]]", "Boiler"),
        ("[[never closed", "[[never closed"),
        ("[[a\nb]]", "[[a\nb]]"),
        ("![[Boiler]]", "Boiler"),
        ("a ![[plan.PNG|300]] b", "a  b"),
        ("![[scan.pdf#page=3]]", ""),
    ],
)
def test_a_wiki_link_is_its_text(text: str, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[the site](https://example.com/a_(b)?c=d#e)", "the site"),
        ('[the site](<a b.md> "a title")', "the site"),
        ("![the plan](plan.png)", "the plan"),
        ("[![badge](a.svg)](https://example.com) text", "badge text"),
        ("[the [inner] site](x)", "the [inner] site"),
        ("[one][ref] and [ref][]\n\n[ref]: https://example.com 'x'\n", "one and ref\n\n\n"),
        ("[one][unknown] [x] - [ ] (y)", "[one][unknown] [x] - [ ] (y)"),
        ("a note[^1]\n\n[^1]: the footnote", "a note[^1]\n\n[^1]: the footnote"),
        ("\\[not a link](x)", "\\[not a link](x)"),
        ("[across\n\nparagraphs](x)", "[across\n\nparagraphs](x)"),
        ("<https://example.com> https://example.com", "<https://example.com> https://example.com"),
    ],
)
def test_a_link_is_its_text_without_its_target(text: str, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a %%hidden%% b", "a b"),
        ("a\n%%\nhidden [[x|y]]\n\n# not a heading\n%%\nb", "a\n\nb"),
        ("a <!-- hidden\n\n --> b", "a b"),
        ("100%% sure", "100%% sure"),
        ("a <!-- never closed", "a <!-- never closed"),
        ("<% tp.date.now() %>\ntext", "\ntext"),
        ("# {{title}}\n{{date:YYYY-MM-DD}} {{ jinja }}", "# \n {{ jinja }}"),
        ("serviced in March. ^a1b2c3\nx^2\n", "serviced in March.\nx^2\n"),
        ("> [!warning]- Careful\n> hot", "> Careful\n> hot"),
        ("`= this.due` and `= 3`", " and "),
        ("```dataview\nLIST FROM #x\n```\ntext", "text"),
        ("- item\n  ```dataviewjs\n  dv.list()\n  ```\n- next", "- item\n- next"),
    ],
)
def test_comments_queries_and_templates_are_out(text: str, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "```sh\n[[ -f x ]] && a %%b%% [c](d) <!-- e --> #f\n```\n",
        "~~~\n%%a%%\n",
        "text\n\n    %%indented%% [a](b)\n",
        "`%%a%%` and ``[[b|`c`]]``",
        "[link `](x)` text",
        "price 3 * 4 [sic] (see above) 50% off, a_b_c, C# and F#",
        "---\ntitle: x\n---\n\n# Heading\n\n* item\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
    ],
)
def test_code_and_prose_stay_as_they_stand(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_and_headings_are_those_of_the_file(end: str) -> None:
    text = end.join(
        [
            "---",
            "title: T",
            "---",
            "%%",
            "out",
            "%%",
            "# [[House|The house]]",
            "",
            "```dataview",
            "LIST",
            "```",
            "## [B](x)",
        ]
    )
    content = read(text.encode())
    assert [(line, row.strip()) for line, row in rows(content)[3:]] == [(7, "# The house"), (12, "## B")]
    check_places(content, text)
    assert paths(content) == [["The house"], ["The house", "B"]]
    assert [content.text[heading.offset :].split(end)[0] for heading in content.headings] == ["# The house", "## B"]


TAGS = """---
tags: [front]
---
# Heading #heading

A #first and (#second), **#third** and #work/travel-2025, #日本 #🐝.

- #item, #a_b
> #quoted

#alone
"""


def test_tags_are_found_where_words_stand() -> None:
    content = read(TAGS.encode())
    assert content.tags == [
        "heading", "first", "second", "third", "work/travel-2025", "日本", "🐝", "item", "a_b", "quoted", "alone"
    ]  # fmt: skip
    assert content.metadata["tags"] == ["front"]


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
def test_what_is_no_tag(text: str) -> None:
    assert read(text.encode()).tags == []


def test_front_matter_whose_aliases_multiply_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    metadata, start, warning = split_front_matter("---\n" + "\n".join(lines) + "\n---\nbody\n")
    assert (metadata, start) == ({}, 0)
    assert warning is not None and "no valid YAML" in warning


@pytest.mark.parametrize("link", ['"[[2024-03-14]]"', "[[2024-03-14]]", "'[[2024-03-14|today]]'"])
def test_a_link_to_a_day_is_the_notes_date(link: str) -> None:
    assert date_of(read(f"---\ncreated: {link}\n---\ntext\n".encode()).metadata) == "2024-03-14"


def test_an_escaped_backtick_begins_no_code() -> None:
    assert read(b"\\``` left alone").text == "\\``` left alone"
