"""Formats: one function for all of them, places that lead back to the file, and a sentence for every broken file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.documents import DocumentError, read_document
from app.formats import FORMATS, MAX_BYTES, MAX_CONTAINER_BYTES, max_bytes, read
from app.formats.base import (
    MAX_CHARACTERS,
    Anchor,
    Content,
    HeadingPath,
    LineMap,
    SourceMap,
    Writer,
    moved,
    without,
)
from app.tree import scan


def rows(content: Content) -> list[tuple[int, str]]:
    """(line of the file, text) of every line of a content that is not empty."""
    places, at, found = SourceMap(content.text, content.anchors), 0, []
    for line in content.text.split("\n"):
        if line.strip():
            found.append((places.at(at + len(line) - len(line.lstrip())).line, line))
        at += len(line) + 1
    return found


def paths(content: Content) -> list[list[str]]:
    """The heading paths of a content, in order."""
    return [heading.path for heading in content.headings]


def check_places(content: Content, source: str) -> None:
    """Every character of a cleaned text is where its place says, and its line is that of the file."""
    places, lines = SourceMap(content.text, content.anchors), LineMap(source)
    for offset, character in enumerate(content.text):
        place = places.at(offset)
        assert source[place.start] == character
        assert place.line == lines.line(place.start)


def test_every_format_of_the_table_is_found_and_has_a_module(notes: Path) -> None:
    for suffix in FORMATS:
        (notes / f"a{suffix.upper()}").write_bytes(b"")
        assert (Path(__file__).parent.parent / "app" / "formats" / f"{FORMATS[suffix]}.py").is_file()
    assert len(scan(notes).files) == len(FORMATS)


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_empty_file_is_an_empty_note_or_a_sentence(notes: Path, suffix: str) -> None:
    path = notes / f"a{suffix}"
    path.write_bytes(b"")
    try:
        assert read_document(path).text == ""
    except DocumentError as error:
        assert suffix in (".pdf", ".docx", ".ipynb", ".eml", ".mbox")
        assert ": " in str(error)


@pytest.mark.parametrize("suffix", FORMATS)
@settings(deadline=None, max_examples=40)
@given(data=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_any_bytes_under_any_name_are_read_or_refused_with_a_sentence(suffix: str, data: bytes) -> None:
    try:
        content = read(suffix, data)
    except DocumentError as error:
        assert str(error)[0].islower() and ": " in str(error)
        return
    content.text.encode()
    offsets = [anchor.offset for anchor in content.anchors]
    assert offsets == sorted(offsets)
    assert all(0 <= heading.offset <= len(content.text) for heading in content.headings)


MARKS = st.sampled_from(
    "%% <!-- --> <% %> [[ ]] [ ] ( ) | ! ` ``` ```dataview ~~~ # ## > > [!note] \\ ^id #tag [a]: {{date}} * :END: .. "
    "_ :: :ref:` ` === --- ~~~ #+TITLE: #+BEGIN_SRC #+END_SRC :PROPERTIES: * one two word. \n \n\n \r\n".split(" ")
)


@pytest.mark.parametrize("suffix", [".md", ".rst", ".org"])
@settings(deadline=None, max_examples=150)
@given(pieces=st.lists(MARKS, max_size=40), space=st.sampled_from(["", " "]))
def test_what_is_left_of_any_text_is_exactly_the_files(suffix: str, pieces: list[str], space: str) -> None:
    text = space.join(pieces)
    check_places(read(suffix, text.encode()), text)


HOSTILE = [
    "%%",
    "<!--",
    "[",
    "](",
    "[[",
    "`",
    "> [!",
    "<",
    "<a href='",
    "<div hidden>",
    "* ",
    ":a:\n",
    ".. ",
    "``",
    "#+a:",
]


@pytest.mark.parametrize("suffix", [".md", ".rst", ".org", ".html"])
def test_marks_that_are_never_closed_do_not_cost_more_than_their_length(suffix: str) -> None:
    """Each of these took minutes where a closing mark is looked for from every opening one."""
    for mark in HOSTILE:
        read(suffix, mark.encode() * (60_000 // len(mark)))


def test_files_with_pictures_in_them_may_be_larger_than_text() -> None:
    assert [max_bytes(suffix) for suffix in (".md", ".TXT", ".pdf", ".MBOX")] == [
        MAX_BYTES,
        MAX_BYTES,
        MAX_CONTAINER_BYTES,
        MAX_CONTAINER_BYTES,
    ]


def test_a_text_file_of_fifty_megabytes_is_refused_unread(notes: Path) -> None:
    path = notes / "log.txt"
    with path.open("wb") as file:
        file.truncate(50_000_000)
    with pytest.raises(DocumentError, match="holds 50 MB, at most 20 MB are read: split it into smaller notes"):
        read_document(path)


def test_more_text_than_a_document_may_hold_is_refused() -> None:
    out = Writer()
    out.add("x" * MAX_CHARACTERS)
    with pytest.raises(DocumentError, match="holds more than 20 million characters of text: split it"):
        out.add("x")


def test_text_without_ranges_leads_back_to_the_file() -> None:
    source = "one\n%%two\nthree%% four\r\nfive"
    text, anchors = without(source, [(4, 17), (9, 12)])
    assert text == "one\n four\r\nfive"
    places = SourceMap(text, anchors)
    assert places.at(text.index("four")) == Anchor(5, source.index("four"), 3, None)
    assert places.at(text.index("five"))[1:] == (source.index("five"), 4, None)


def test_what_was_cut_out_moves_to_what_follows_it() -> None:
    source = "ab##cd#"
    text, anchors = without(source, [(0, 1), (2, 4), (6, 7)])
    assert text == "bcd"
    assert [moved(anchors, start) for start in range(7)] == [0, 0, 1, 1, 1, 2, 3]
    assert moved([], 5) == 5


def test_a_slice_needs_only_the_anchors_that_tell_more_than_counting() -> None:
    text = "a\nb\nc\nd"
    runs_on = [Anchor(0, 0, 1, None), Anchor(2, 2, 2, None), Anchor(4, 4, 9, None), Anchor(6, 6, 10, None)]
    assert SourceMap(text, runs_on).within(2, 7) == [Anchor(2, 4, 9, None)]
    assert SourceMap(text, runs_on).within(4, 7) == []
    paged = [Anchor(0, 0, 1, 1), Anchor(2, 2, 2, 2)]
    assert SourceMap(text, paged).within(0, 7) == [Anchor(2, 2, 2, 2)]


def test_a_place_without_anchors_is_that_of_the_text() -> None:
    assert SourceMap("a\nb").at(2) == Anchor(2, 2, 2, None)
    assert SourceMap("a\nb", [Anchor(2, 7, 5, 3)]).at(1) == Anchor(1, 1, 1, None)


def test_lines_lead_back_to_their_first_character() -> None:
    lines = LineMap("a\nb\r\nc")
    assert [lines.start(line) for line in (1, 2, 3, 9)] == [0, 2, 5, 5]


def test_a_heading_ends_those_of_its_level_and_below() -> None:
    path = HeadingPath()
    assert [path.push(*heading) for heading in ((1, "A"), (3, " B  c "), (2, "D"), (2, ""), (1, "E"))] == [
        ["A"],
        ["A", "B c"],
        ["A", "D"],
        ["A"],
        ["E"],
    ]
