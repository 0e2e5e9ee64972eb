"""Passages: exact slices that cover every word, fit the reader, and know their line and heading path."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.bundle import Bundle
from app.documents import Document, read_document
from app.formats.base import LineMap
from app.formats.markdown import headings
from app.passages import Passage, PassageSplitter, TokenCounts


@pytest.fixture(scope="session")
def splitter(bundle: Bundle) -> PassageSplitter:
    """As the indexer makes it."""
    return PassageSplitter(bundle.tokenizer, bundle.manifest.passage_tokens)


def markdown(text: str, title: str = "Title", body_start: int = 0) -> Document:
    found = headings(text, body_start)
    return Document(Path("/a.md"), "markdown", text, body_start, title, {}, "hash", headings=found)


def heading_paths(document: Document) -> list[tuple[int, list[str]]]:
    """(line, heading path from there on) of every heading, in order."""
    lines = LineMap(document.text)
    return [(lines.line(heading.offset), heading.path) for heading in document.headings]


def sections(*headings: str, words: int = 100) -> str:
    """One section for each heading, each long enough to be a passage of its own."""
    return "\n\n".join(f"{heading}\n\n{'word ' * words}" for heading in headings) + "\n"


def check(passages: list[Passage], document: Document, bundle: Bundle) -> None:
    """What holds for any document."""
    for passage in passages:
        assert document.text[passage.start : passage.end] == passage.text
        assert len(bundle.tokenizer.encode(passage.text, add_special_tokens=False).ids) <= 144
        assert passage.line == 1 + len(re.findall(r"\r\n|\r|\n", document.text[: passage.start]))
    for before, after in pairwise(passages):
        assert before.end <= after.start
    for word in re.finditer(r"\w", document.text[document.body_start :]):
        at = document.body_start + word.start()
        assert any(passage.start <= at < passage.end for passage in passages)


LINES = st.sampled_from(
    [
        "# Heading",
        "## A longer heading with words",
        "Some words of text. And a second sentence, which is longer than the first one was.",
        "- an item",
        "1. a number",
        "```",
        "    code()",
        "| a | b |",
        "|---|---|",
        "> quoted",
        "",
        "",
        "🐝 naïve cafe\u0301 日本語",
        "---",
        "[link](target.md) `code` **bold**",
        "x" * 400,
        "word " * 200,
    ]
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES, max_size=25), st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["markdown", "text"]))
def test_passages_are_exact_fit_and_cover_every_word(
    splitter: PassageSplitter, bundle: Bundle, lines: list[str], end: str, kind: str
) -> None:
    document = Document(Path("/a"), kind, end.join(lines), 0, "Title", {}, "hash")
    check(splitter.split(document), document, bundle)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=300))
def test_any_text_is_cut_without_loss(splitter: PassageSplitter, bundle: Bundle, text: str) -> None:
    document = markdown(text)
    check(splitter.split(document), document, bundle)


def test_the_sample_notes_are_cut_as_promised(splitter: PassageSplitter, bundle: Bundle) -> None:
    for path in (Path(__file__).parent.parent / "examples" / "notes").rglob("*.*"):
        document = read_document(path)
        passages = splitter.split(document)
        assert passages
        check(passages, document, bundle)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_offsets_and_lines_count_the_front_matter(notes: Path, splitter: PassageSplitter, end: str) -> None:
    text = end.join(["---", "title: Heating", "---", "", "# Boiler", "", "Serviced in March. 🐝", ""])
    (notes / "a.md").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (passage,) = splitter.split(read_document(notes / "a.md"))
    assert text[passage.start : passage.end] == passage.text
    assert passage.text.startswith("# Boiler")
    assert (passage.line, passage.heading) == (5, "Heating > Boiler")


def test_pieces_without_a_letter_or_digit_are_left_out(splitter: PassageSplitter) -> None:
    assert splitter.split(markdown("---\n\n***\n\n...\n")) == []
    assert splitter.split(markdown("")) == []


def test_headings_below_are_added_and_headings_of_the_same_level_replaced(splitter: PassageSplitter) -> None:
    document = markdown(sections("# One", "## Two", "### Three", "## Four", "# Five"))
    found = [passage.heading for passage in splitter.split(document)]
    assert list(dict.fromkeys(found)) == [
        "Title > One",
        "Title > One > Two",
        "Title > One > Two > Three",
        "Title > One > Four",
        "Title > Five",
    ]


def test_duplicate_headings_are_told_apart_by_their_line(splitter: PassageSplitter) -> None:
    document = markdown(sections("# A", "## Notes", "# B", "## Notes"))
    found = [passage.heading for passage in splitter.split(document)]
    assert list(dict.fromkeys(found)) == ["Title > A", "Title > A > Notes", "Title > B", "Title > B > Notes"]


def test_text_before_the_first_heading_has_the_title_alone(splitter: PassageSplitter) -> None:
    document = markdown("word " * 100 + "\n\n" + sections("# One"))
    assert [passage.heading for passage in splitter.split(document)] == ["Title", "Title > One"]


@pytest.mark.parametrize("fence", ["```sh\n# not a heading\n```", "~~~\n# not a heading\n~~~", "    # not a heading"])
def test_headings_in_code_are_no_headings(splitter: PassageSplitter, fence: str) -> None:
    document = markdown(f"# One\n\n{fence}\n\n{'word ' * 100}\n\n{sections('## Two')}")
    assert [path for _, path in heading_paths(document)] == [["One"], ["One", "Two"]]
    assert {passage.heading for passage in splitter.split(document)} == {"Title > One", "Title > One > Two"}


def test_headings_in_quotes_and_lists_are_no_headings() -> None:
    assert heading_paths(markdown("> # Quoted\n\n- # Listed\n")) == []


def test_an_underlined_heading_counts_from_its_text() -> None:
    assert heading_paths(markdown("text\n\nOne\n===\n\nTwo\n---\n")) == [(3, ["One"]), (6, ["One", "Two"])]


def test_a_heading_without_text_ends_the_one_before() -> None:
    assert heading_paths(markdown("# One\n\n#\n\n## Two\n")) == [(1, ["One"]), (3, []), (5, ["Two"])]


def test_a_title_is_not_repeated_as_the_first_heading(splitter: PassageSplitter) -> None:
    document = markdown(sections("# BOILER", "## Service"), title="Boiler")
    assert [passage.heading for passage in splitter.split(document)] == ["BOILER", "BOILER > Service"]


def test_the_heading_at_the_top_is_the_title(notes: Path, splitter: PassageSplitter) -> None:
    (notes / "garden.md").write_text(sections("# Garden", "## Frost dates", "# Tools"))
    found = [passage.heading for passage in splitter.split(read_document(notes / "garden.md"))]
    assert found == ["Garden", "Garden > Frost dates", "Garden > Tools"]


def test_a_passage_with_several_headings_has_the_path_of_its_start(splitter: PassageSplitter) -> None:
    (passage,) = splitter.split(markdown("# One\n\na\n\n## Two\n\nb\n\n## Three\n\nc\n"))
    assert passage.heading == "Title > One"


def test_a_text_file_has_no_headings(splitter: PassageSplitter) -> None:
    document = Document(Path("/a.txt"), "text", "# One\n\ntext", 0, "a", {}, "hash")
    assert [passage.heading for passage in splitter.split(document)] == ["a"]


def test_lines_are_counted_for_every_line_end() -> None:
    lines = LineMap("a\nb\r\nc\rd\n")
    assert [lines.line(i) for i in range(10)] == [1, 1, 2, 2, 2, 3, 3, 4, 4, 5]


@given(
    st.text(
        st.sampled_from("ab Zé.,-_#\u0301\n\t\x0b\x0c\x1c\x85\xa0\u2009\u2028\u200b\ufeff\ud7a3日本🙂"), max_size=60
    )
)
@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_tokens_counted_by_words_are_those_of_the_whole(bundle: Bundle, text: str) -> None:
    assert TokenCounts(bundle.tokenizer).of(text) == len(bundle.tokenizer.encode(text, add_special_tokens=False).ids)


def test_counts_of_words_do_not_pile_up(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.passages._MOST_KEPT", 3)
    counts = TokenCounts(bundle.tokenizer)
    assert counts.of("one two three four five " + "long" * 50) == counts.of("one two three four five " + "long" * 50)
    assert 0 < len(counts) <= 3
    assert all(len(word) < 50 for word in counts)
