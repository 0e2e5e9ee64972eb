"""PDF: text by page, put together again into paragraphs; protected, scanned and damaged files get a sentence."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.bundle import Bundle
from app.documents import Document, DocumentError
from app.formats.base import Content, SourceMap
from app.formats.pdf import read
from app.passages import PassageSplitter
from tests.pdfs import pdf
from tests.test_formats import paths

HANDBOOK = [
    [
        "Handbook 2024",
        "## Boiler",
        "The boiler in the cellar was serviced on 14 March by the infor-",
        "mation office, a well-known company that",
        "comes every year.",
        "",
        "A second paragraph, as long as the others on this page are, mostly.",
        "- an item of a list",
        "- another item, which is longer than its line and so it",
        "goes on in the next",
        "and the valve was replaced",
        "1",
    ],
    ["Handbook 2024", "on 21 May by a well-", "known plumber (Hansen).", "2"],
    ["Handbook 2024", "## Garden", "Pears are picked in September.", "3"],
]


def paragraphs(content: Content) -> list[tuple[int | None, str]]:
    """(page, text) of every paragraph."""
    places, at, found = SourceMap(content.text, content.anchors), 0, []
    for text in content.text.split("\n\n"):
        found.append((places.at(at).page, text))
        at += len(text) + 2
    return found


def test_wrapped_lines_are_paragraphs_again_without_page_numbers_and_running_heads() -> None:
    content = read(pdf(HANDBOOK))
    assert paragraphs(content) == [
        (1, "Boiler"),
        (
            1,
            "The boiler in the cellar was serviced on 14 March by the information office, a well-known company that "
            "comes every year.",
        ),
        (1, "A second paragraph, as long as the others on this page are, mostly."),
        (1, "- an item of a list"),
        (
            1,
            "- another item, which is longer than its line and so it goes on in the next and the valve was replaced "
            "on 21 May by a well-known plumber (Hansen).",
        ),
        (3, "Garden"),
        (3, "Pears are picked in September."),
    ]


def test_a_sentence_that_goes_on_over_a_pages_end_is_one_and_knows_both_pages(bundle: Bundle) -> None:
    content = read(pdf([["The valve was replaced on the"], ["twenty-first of May."]]))
    assert content.text == "The valve was replaced on the twenty-first of May."
    document = Document(__file__, content.kind, content.text, 0, "a", {}, "h", anchors=content.anchors)  # type: ignore[arg-type]
    (passage,) = PassageSplitter(bundle.tokenizer, bundle.manifest.passage_tokens).split(document)
    assert (passage.page, [anchor.page for anchor in passage.anchors]) == (1, [2])


def test_bookmarks_are_headings_where_their_words_stand() -> None:
    content = read(pdf(HANDBOOK, bookmarks=[("Boiler", 0), ("2. Garden", 2), ("Not there", 2)]))
    assert paths(content) == [["Boiler"], ["2. Garden"], ["Not there"]]
    garden = content.text.index("Garden")
    assert [heading.offset for heading in content.headings] == [0, garden, garden]


def test_title_author_and_date_are_metadata_and_the_name_of_a_file_is_no_title() -> None:
    content = read(pdf([["text"]], info="/Title (The house) /Author (A. Person) /CreationDate (D:20240314120000Z)"))
    assert (content.title, content.metadata["author"], content.metadata["date"]) == (
        "The house",
        "A. Person",
        "2024-03-14",
    )
    assert read(pdf([["text"]], info="/Title (Microsoft Word - house.doc)")).title == ""


def test_a_password_is_asked_for_only_where_it_is_needed() -> None:
    with pytest.raises(DocumentError, match="is protected by a password: save a copy without one"):
        read(pdf([["secret"]], password=b"sesame"))
    assert read(pdf([["not secret"]], password=b"")).text == "not secret"


def test_pictures_of_pages_are_refused_or_warned_of() -> None:
    with pytest.raises(DocumentError, match="holds only pictures of pages, no text: run OCR over it first"):
        read(pdf([None, None]))
    with pytest.raises(DocumentError, match="holds no text"):
        read(pdf([[]]))
    content = read(pdf([["text"], None, []]))
    assert content.text == "text"
    assert content.warning == "was read in part, 1 of 3 pages are pictures without text: run OCR over it first"


@pytest.mark.parametrize("data", [b"", b"%PDF-1.4", b"%PDF-1.4\n" + b"x" * 5000, pdf([["text"]])[:300]])
def test_a_damaged_file_is_refused(data: bytes) -> None:
    with pytest.raises(DocumentError, match="is no PDF that can be read"):
        read(data)


@pytest.mark.parametrize("at", range(0, 1500, 41))
def test_damage_anywhere_is_survived(at: int) -> None:
    data = bytearray(pdf(HANDBOOK, bookmarks=[("Boiler", 0)]))
    data[at : at + 9] = b"\xff\0<<(9 R["
    try:
        read(bytes(data))
    except DocumentError as error:
        assert ": " in str(error)


def test_several_threads_read_at_once() -> None:
    data = pdf([[f"Page {number} has a text."] for number in range(20)])
    with ThreadPoolExecutor(8) as pool:
        texts = {content.text for content in pool.map(lambda _: read(data), range(24))}
    assert len(texts) == 1
