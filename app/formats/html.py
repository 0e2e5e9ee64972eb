"""
HTML: the words of a page, with the line of the source that each stands on.

A reader of its own and not a library's tree, because no parser at hand tells where a piece of text stood; it is one
pass over tags, and whatever is broken in a page is read as text or skipped. Scripts, styles, navigation and what is
hidden are left out; where a page has a `<main>`, only that is read. Headings, lists, tables and code are written as
Markdown has them, so that the text is cut as a note would be.
"""

from __future__ import annotations

import codecs
import re
from contextlib import suppress
from html import unescape

from app.formats.base import Content, LineMap, Writer, decode

_SIGN = re.compile(r"<(?:!--|[!?]|/?([A-Za-z][^\s/>]*+))")
_ATTRIBUTE_END = re.compile(r"[>\"']")
_HIDDEN = re.compile(r"\bhidden\b(?!-)|aria-hidden=[\"']?true|display:\s*none", re.IGNORECASE)
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset=[\"']?\s*([\w:.-]+)", re.IGNORECASE)
_SPACE = re.compile(r"[ \t\r\n\f]+")
_LINE_END = re.compile(r"\r\n|\r|\n")

_WINDOWS = {"ascii", "iso8859-1"}
"""Encodings whose pages have the quotes and dashes of Windows."""
_RAW = {"script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"}
"""Elements whose content is no markup."""
_LEFT_OUT = {"nav", "template", "svg", "math", "select", "button", "object", "dialog", "noscript"}
_BLOCKS = set(
    "address article aside blockquote body caption center dd details div dl dt fieldset figcaption figure footer form "
    "header hr html legend main ol p pre section summary table ul".split()
)
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_WHITE = " \t\r\n\f"
_MAY_HIDE = {"div", "section", "span", "aside", "ul", "ol", "table", "details", "article", "figure", "footer", "header"}
"""Elements that always have an end tag, so that what is hidden in them ends."""


def read(data: bytes) -> Content:
    """
    The text of a page.

    Raises:
        DocumentError: If it is no text, or holds too much of it.
    """
    declared = _CHARSET.search(data[:4096])
    text = _declared(data, declared[1].decode("ascii", "replace")) if declared else None
    return extract(text if text is not None else decode(data))


def _declared(data: bytes, encoding: str) -> str | None:
    """The text in the encoding that a page says it has, as browsers take it; None where that is not so."""
    try:
        name = codecs.lookup(encoding).name
        if b"\0" in data or data.startswith(codecs.BOM_UTF8) or name.startswith(("utf-16", "utf-32")):
            return None  # what was found as ASCII stands in no UTF-16
        if name not in _WINDOWS:
            return data.decode(name)
    except (LookupError, ValueError):
        return None
    for likelier in ("utf-8", "cp1252"):
        with suppress(ValueError):
            return data.decode(likelier)
    return None


def extract(source: str, first_line: int | None = 1) -> Content:
    """The text of a page's source; without a first line, its lines are those of the extracted text."""
    main = _Page(source, first_line, only_main=True).read() if re.search(r"<main[\s>]", source, re.I) else None
    return main if main and re.search(r"\w", main.text) else _Page(source, first_line, only_main=False).read()


class _Page:
    def __init__(self, source: str, first_line: int | None, only_main: bool) -> None:
        self._source, self._first = source, first_line
        self._lines = LineMap(source)
        self._out = Writer()
        self._only_main, self._main = only_main, 0
        self._title = ""
        self._left_out: list[str] = []
        self._pre = 0
        self._lists: list[int | None] = []
        self._heading: tuple[int, int, list[str]] | None = None
        """Level, offset and words of the heading that is open."""
        self._in_cells = False
        self._fresh = True
        """Nothing stands on this line yet that a space would have to part from."""
        self._marked = False
        """A bullet or a heading's sign waits for its words."""
        self._place: int | None = first_line
        """Line of the tag that is read."""
        self._space = False
        """White space was read and not written yet."""

    def read(self) -> Content:
        """Everything, from the first tag to the last."""
        source, at = self._source, 0
        while sign := _SIGN.search(source, at):
            self._text(at, sign.start())
            if sign[0] == "<!--":
                end = source.find("-->", sign.end())
                at = end + 3 if end >= 0 else len(source)
            elif sign[1] is None:
                end = source.find(">", sign.end())
                at = end + 1 if end >= 0 else len(source)
            else:
                at = self._tag(sign)
        self._text(at, len(source))
        self._close_heading()
        return self._out.content("markdown", title=" ".join(self._title.split()))

    def _tag(self, sign: re.Match[str]) -> int:
        """Take one tag; where the next piece begins."""
        source, name = self._source, (sign[1] or "").lower()
        at = sign.end()
        self._place = self._line_of(sign.start())
        while mark := _ATTRIBUTE_END.search(source, at):
            at = mark.end()
            if mark[0] == ">":
                break
            closing = source.find(mark[0], at)
            at = closing + 1 if closing >= 0 else at
        if mark is None:
            return len(source)
        if sign[0][1] == "/":
            self._end(name)
            return at
        attributes = source[sign.end() : min(at, sign.end() + 2000)]
        if name in _RAW:
            end = re.compile(f"</{name}\\b", re.IGNORECASE).search(source, at)
            if name == "title" and not self._title and end:
                self._title = unescape(source[at : end.start()])
            return end.start() if end else len(source)
        self._start(name, attributes)
        return at

    def _start(self, name: str, attributes: str) -> None:
        if self._left_out:
            if name == self._left_out[-1]:
                self._left_out.append(name)
            return
        if name in _LEFT_OUT or (name in _MAY_HIDE and _HIDDEN.search(attributes)):
            self._left_out.append(name)
            return
        if name == "main":
            self._main += 1
        if name == "br":
            self._line()
        elif name == "li":
            self._line()
            number = self._lists[-1] if self._lists else None
            if number is not None:
                self._lists[-1] = number + 1
            depth = "  " * min(max(0, len(self._lists) - 1), 8)
            self._mark(f"{depth}{'-' if number is None else f'{number}.'} ")
            self._marked = True
        elif name == "tr":
            self._line()
            self._in_cells = False
        elif name in ("td", "th"):
            if self._in_cells:
                self._mark(" | ")
            self._in_cells = True
        elif name in _HEADINGS:
            self._close_heading()
            self._block()
            self._heading = (int(name[1]), self._out.length, [])
            self._mark("#" * int(name[1]) + " ")
            self._marked = True
        elif name in _BLOCKS:
            if name in ("ul", "ol"):
                self._lists.append(1 if name == "ol" else None)
            self._part()
            if name == "pre":
                self._pre += 1
                self._mark("```\n")

    def _end(self, name: str) -> None:
        if self._left_out:
            if name == self._left_out[-1]:
                self._left_out.pop()
            return
        if name in _HEADINGS:
            self._close_heading()
        elif name in ("tr", "li"):
            self._line()
            self._in_cells = self._in_cells and name == "li"
        elif name in _BLOCKS:
            if name == "pre" and self._pre:
                self._pre -= 1
                self._line()
                self._mark("```\n")
            if name in ("ul", "ol") and self._lists:
                self._lists.pop()
            if name == "table":
                self._in_cells = False
            self._part()
        if name == "main":
            self._main = max(0, self._main - 1)

    def _close_heading(self) -> None:
        if self._heading:
            level, offset, words = self._heading
            self._heading = None
            self._out.heading(level, "".join(words), offset)
            self._block()

    def _text(self, start: int, end: int) -> None:
        """Take the text between two tags, line by line, so that each knows its own."""
        if start == end or self._silent:
            return
        first = self._line_of(start)
        for number, raw in enumerate(_LINE_END.split(self._source[start:end])):
            line = None if first is None else first + number
            text = unescape(raw).replace("\xa0", " ")
            if self._pre:
                if number:
                    self._mark("\n")
                self._words(text, line)
                continue
            self._space = self._space or number > 0 or text[:1] in _WHITE
            if words := " ".join(_SPACE.split(text.strip(_WHITE))):
                if self._space and not self._fresh:
                    self._words(" ", None)
                self._words(words, line)
                self._space = text[-1] in _WHITE

    def _line_of(self, offset: int) -> int | None:
        return None if self._first is None else self._first - 1 + self._lines.line(offset)

    def _words(self, text: str, line: int | None) -> None:
        if text:
            self._out.add(text, line)
            self._fresh = self._marked = False
            if self._heading:
                self._heading[2].append(text)

    @property
    def _silent(self) -> bool:
        return bool(self._left_out) or (self._only_main and not self._main)

    def _mark(self, text: str) -> None:
        """Write what is not in the page: a bullet, a bar, a fence."""
        if not self._silent:
            self._out.add(text, self._place)
            self._fresh, self._space, self._marked = True, False, False

    def _line(self) -> None:
        if not self._silent:
            self._out.line()
            self._fresh, self._space, self._marked = True, False, False

    def _block(self) -> None:
        if not self._silent:
            self._out.block()
            self._fresh, self._space, self._marked = True, False, False

    def _part(self) -> None:
        """The end of a block: of a line in a list, of a word in a cell, of a paragraph elsewhere."""
        if self._marked:
            return
        if self._in_cells:
            self._space = True
        elif self._lists:
            self._line()
        else:
            self._block()
