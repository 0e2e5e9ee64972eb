"""
PDF by page: the text layer as PDFium reads it, put together again into paragraphs.

A page's lines are joined where a paragraph was only wrapped, words that were hyphenated at a line's end made whole,
page numbers and lines that stand at the edge of most pages left out. Bookmarks become headings where their words are
found on their page. A place is a page; its line is one of the extracted text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from statistics import median
from threading import Lock
from typing import TYPE_CHECKING, Any

from app.formats.base import Content, DocumentError, Writer, encodable

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument, PdfPage

MAX_PAGES = 10_000
MAX_BOOKMARKS = 10_000
_ONE_AT_A_TIME = Lock()
"""PDFium keeps global state and may not be called from two threads."""

_BULLET = re.compile(r"(?:[•‣◦▪●○■□–—*·-]|\(?\d{1,3}[.)]|\(?[a-zA-Z][.)])\s+\S")
_LINE_END = re.compile(r"(\r\n|\r|\n|(?<=[\x02\ufffe])(?![\r\n]))")
"""PDFium writes a mark in place of a hyphen and the line end after it."""
_SENTENCE_END = re.compile(r"[.!?:;…][\"'”’)\]]*$")
_HYPHENS = "\x02\xad\ufffe-\u2010"
_FILE_NAME = re.compile(r"\.\w{2,5}$|^untitled|^microsoft word", re.IGNORECASE)


def read(data: bytes) -> Content:
    """
    The text of every page.

    Raises:
        DocumentError: If it is broken, protected, has no text, or too many pages.
    """
    import pypdfium2
    from pypdfium2.raw import FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY

    with _ONE_AT_A_TIME:
        try:
            document = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError as error:
            if error.err_code in (FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY):
                raise DocumentError("is protected by a password: save a copy without one") from error
            raise DocumentError("is no PDF that can be read, or a damaged one: print it to a new PDF") from error
        try:
            return _content(document)
        finally:
            document.close()


def _content(document: PdfDocument) -> Content:
    if len(document) > MAX_PAGES:
        raise DocumentError(f"has {len(document):,} pages, at most {MAX_PAGES:,} can be read: split it")
    pages, pictures, broken = [], 0, 0
    for number in range(len(document)):
        try:
            lines, picture = _page(document, number)
        except _errors():
            lines, picture = [], False
            broken += 1
        pages.append(lines)
        pictures += picture and not lines
    if not any(pages):
        if pictures:
            raise DocumentError("holds only pictures of pages, no text: run OCR over it first")
        raise DocumentError("holds no text: run OCR over it first if it is a scan")
    pages = _without_edges(pages)
    metadata = _metadata(document)
    out, kept, bookmarks = Writer(), _hyphenated(pages), _bookmarks(document)
    ended = True
    for number, lines in enumerate(pages):
        for text, titles in _paragraphs(lines, _titles(lines, bookmarks.get(number, [])), kept):
            if ended or titles or not text[0].islower():
                out.block()
            else:  # a sentence that goes on over a page's end
                out.add(" ")
            for level, title in titles:
                out.heading(level, title)
            out.add(text, page=number + 1)
            ended = _SENTENCE_END.search(text) is not None
    return out.content("text", metadata.get("title", ""), metadata, _warning(len(pages), pictures, broken))


def _warning(pages: int, pictures: int, broken: int) -> str | None:
    if broken:
        return f"was read in part, {broken:,} of {pages:,} pages are damaged: print it to a new PDF to find all of it"
    if pictures:
        return f"was read in part, {pictures:,} of {pages:,} pages are pictures without text: run OCR over it first"
    return None


def _errors() -> tuple[type[Exception], ...]:
    """What PDFium's binding raises at a damaged page."""
    from pypdfium2 import PdfiumError

    return PdfiumError, ValueError, IndexError, AssertionError


Paragraph = tuple[str, list[tuple[int, str]]]
"""Text, and the (level, title) of the bookmarks that lead to it."""
Line = tuple[str, float, float, float]
"""Text, then left, bottom and height of its first character; zeros where they cannot be told."""


def _page(document: PdfDocument, number: int) -> tuple[list[Line], bool]:
    """The lines of a page in reading order, and whether there are pictures on it."""
    page = document[number]
    try:
        text_page = page.get_textpage()
        try:
            text = text_page.get_text_range()
            placed = len(text) == text_page.count_chars()
            lines: list[Line] = []
            at = 0
            for raw in _LINE_END.split(text):
                line = raw.strip(" \t\0")
                if line and line not in "\r\n":
                    first = at + len(raw) - len(raw.lstrip(" \t\0"))
                    left, bottom, _, top = text_page.get_charbox(first, loose=True) if placed else (0.0, 0.0, 0.0, 0.0)
                    lines.append((encodable(line), left, bottom, top - bottom))
                at += len(raw)
        finally:
            text_page.close()
        return lines, not lines and _has_picture(page)
    finally:
        page.close()


def _has_picture(page: PdfPage) -> bool:
    from pypdfium2.raw import FPDF_PAGEOBJ_IMAGE

    return next(iter(page.get_objects(filter=[FPDF_PAGEOBJ_IMAGE], max_depth=3)), None) is not None


def _without_edges(pages: Sequence[list[Line]]) -> list[list[Line]]:
    """Pages without their numbers and without the first or last line that most of them share."""

    def shape(line: Line) -> str:
        return re.sub(r"\d+", "0", line[0]).casefold()

    edges = Counter(shape(line) for page in pages if page for line in {page[0], page[-1]})
    often = max(3, len(pages) / 2)

    def noise(line: Line) -> bool:
        return bool(re.fullmatch(r"(?:page\s+)?\W*\d{1,4}\W*(?:(?:of|/)\s*\d{1,4})?", line[0], re.I)) or (
            edges[shape(line)] >= often
        )

    found = []
    for page in pages:
        first, last = 0, len(page)
        if len(page) > 1 and noise(page[0]):
            first = 1
        if last - first > 1 and noise(page[-1]):
            last -= 1
        found.append(page[first:last])
    return found


def _hyphenated(pages: Sequence[list[Line]]) -> set[str]:
    """Words that have a hyphen inside a line somewhere, and keep it at a line's end."""
    words = (word for page in pages for line in page for word in re.findall(r"\w+-\w+", line[0]))
    return {word.casefold() for word in words}


def _paragraphs(lines: Sequence[Line], titles: dict[int, list[tuple[int, str]]], kept: set[str]) -> Iterator[Paragraph]:
    """The paragraphs of a page, each with the bookmarks that lead to it."""
    steps = [above[2] - below[2] for above, below in pairwise(lines) if above[2] > below[2] > 0]
    gap = median(steps) if steps else 0.0
    width = max((len(line[0]) for line in lines), default=0)
    text = ""
    above: list[tuple[int, str]] = []
    for number, line in enumerate(lines):
        if number and (number in titles or number - 1 in titles or _begins(lines[number - 1], line, gap, width)):
            yield text, above
            text, above = "", []
        if number in titles:
            above = titles[number]
        text = _joined(text, line[0], kept)
    if text:
        yield text, above


def _begins(above: Line, line: Line, gap: float, width: int) -> bool:
    """Whether a line begins a paragraph of its own."""
    if _BULLET.match(line[0]):
        return True
    ended = _SENTENCE_END.search(above[0]) is not None
    goes_on = line[0][0].islower() or above[0][-1] in _HYPHENS
    if above[3] > 0 and line[3] > 0:
        step = above[2] - line[2]
        if step <= 0:  # the next column
            return not goes_on
        if (gap and step > 1.45 * gap) or abs(above[3] - line[3]) > 0.2 * max(above[3], line[3]):
            return True
        if ended and line[1] - above[1] > 0.8 * line[3]:  # indented
            return True
    short = len(above[0]) < 0.6 * width
    return short and not goes_on


def _joined(text: str, line: str, kept: set[str]) -> str:
    """A paragraph and its next line; a word that was hyphenated only for the line's end becomes whole."""
    if not text:
        return _clean(line)
    if text[-1] in _HYPHENS and text[-2:-1].isalnum() and line[0].isalnum():
        first, second = re.search(r"\w*$", text[:-1]), re.match(r"\w+", line)
        word = f"{first[0] if first else ''}-{second[0] if second else ''}".casefold()
        whole = line[0].islower() and text[-2].isalpha() and word not in kept
        return text[:-1] + ("" if whole else "-") + _clean(line)
    return f"{text} {_clean(line)}"


def _clean(line: str) -> str:
    """A line without control characters; a hyphen that PDFium marked at its end is kept as one."""
    line = re.sub(r"[\x02\xad\ufffe]\s*$", "-", line)
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f\xad\ufffe\uffff]", "", line)


def _titles(lines: Sequence[Line], bookmarks: Sequence[tuple[int, str]]) -> dict[int, list[tuple[int, str]]]:
    """Line -> the bookmarks that lead to it; to the first line where a bookmark's words are not found on its page."""
    found: dict[int, list[tuple[int, str]]] = {}
    shapes = [_letters(line[0]) for line in lines]
    at = 0
    for level, title in bookmarks:
        shape = _letters(title)
        place = at
        for number in range(at, len(lines)):
            if shape and shapes[number].endswith(shape) and len(shapes[number]) <= len(shape) + 12:
                place = number
                break
        found.setdefault(place, []).append((level, title))
        at = place
    return found


def _letters(text: str) -> str:
    return re.sub(r"\W+", "", text).casefold()


def _bookmarks(document: PdfDocument) -> dict[int, list[tuple[int, str]]]:
    """Page, from 0 -> (level, title) of the bookmarks to it."""
    found: dict[int, list[tuple[int, str]]] = {}
    try:
        for bookmark in islice(document.get_toc(max_depth=6), MAX_BOOKMARKS):
            target = bookmark.get_dest()
            page = target.get_index() if target else None
            title = " ".join(encodable(bookmark.get_title()).replace("\0", "").split())
            if page is not None and title:
                found.setdefault(page, []).append((bookmark.level + 1, title))
    except _errors():
        return {}
    return found


def _metadata(document: PdfDocument) -> dict[str, Any]:
    """Title, author and date of the file; a title that is the name of a file is none."""
    try:
        given = document.get_metadata_dict(skip_empty=True)
    except _errors():
        return {}
    found = {}
    for key in ("Title", "Author", "Subject", "Keywords"):
        value = " ".join(encodable(given.get(key, "")).replace("\0", "").split())
        if value and not (key == "Title" and _FILE_NAME.search(value)):
            found[key.lower()] = value
    if date := re.match(r"D:(\d{4})(\d\d)(\d\d)", given.get("CreationDate", "")):
        found["date"] = "-".join(date.groups())
    return found
