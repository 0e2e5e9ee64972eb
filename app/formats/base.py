"""
What every format module shares: the shape of what it returns, and the way from its text back to the file.

A format module has one function, `read(data: bytes) -> Content`. Its text is what is cut, encoded and shown, so noise
is already out of it; anchors say where each stretch of it stands in the file. From an anchor on, text and file run
together, character by character and line by line, until the next anchor.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from store.errors import BtrError

MAX_CHARACTERS = 20_000_000
"""Of a document's text: what is longer is an archive, and costs an hour to encode on a laptop."""
_LINE_END = re.compile(r"\r\n|\r|\n")


class DocumentError(BtrError):
    """One file that cannot be indexed; reported, never fatal."""


class Anchor(NamedTuple):
    """Where a stretch of text comes from."""

    offset: int
    """First character of the stretch in the text."""
    start: int
    """The same character in the file's text; in a format whose text is extracted, equal to `offset`."""
    line: int
    """1-based."""
    page: int | None
    """1-based."""


class Heading(NamedTuple):
    """From which character on which headings hold."""

    offset: int
    path: list[str]


Range = tuple[int, int]
"""First character, and the one after the last."""


@dataclass(frozen=True)
class Content:
    """What a format module makes of a file's bytes."""

    text: str
    kind: str = "text"
    """How it is cut: markdown, or text (at its headings, then at line ends and sentences)."""
    body_start: int = 0
    """First character after the front matter."""
    title: str = ""
    """As the file gives it; empty where it does not."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """As JSON has it: text keys, dates as text."""
    tags: Sequence[str] = ()
    """Those in the text, without "#"; the front matter's are metadata."""
    headings: Sequence[Heading] = ()
    """In order of their offsets."""
    anchors: Sequence[Anchor] = ()
    """In order of their offsets; without one the text is the file's."""
    warning: str | None = None


class LineMap:
    """Character offset -> 1-based line, and back."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in _LINE_END.finditer(text))]

    def line(self, offset: int) -> int:
        """The line that holds a character."""
        return bisect_right(self._starts, offset)

    def start(self, line: int) -> int:
        """The first character of a line; that of the last line for those after it."""
        return self._starts[min(line, len(self._starts)) - 1]


class SourceMap:
    """Offset in a text -> its place in the file, by the text's anchors."""

    def __init__(self, text: str, anchors: Sequence[Anchor] = ()) -> None:
        self._lines = LineMap(text)
        self._anchors = anchors if anchors and not anchors[0].offset else [Anchor(0, 0, 1, None), *anchors]
        self._offsets = [anchor.offset for anchor in self._anchors]

    def at(self, offset: int) -> Anchor:
        """The place of a character."""
        anchor = self._anchors[bisect_right(self._offsets, offset) - 1]
        line = anchor.line + self._lines.line(offset) - self._lines.line(anchor.offset)
        return Anchor(offset, anchor.start + offset - anchor.offset, line, anchor.page)

    def within(self, start: int, end: int) -> list[Anchor]:
        """Anchors that a slice needs besides the place of its first character, offsets counted from there."""
        first, last = bisect_right(self._offsets, start), bisect_right(self._offsets, end - 1)
        found, place = [], self.at(start)
        for anchor in self._anchors[first:last]:
            line = place.line + self._lines.line(anchor.offset) - self._lines.line(place.offset)
            if anchor[1:] != (place.start + anchor.offset - place.offset, line, place.page):
                found.append(anchor._replace(offset=anchor.offset - start))
                place = anchor
        return found


class HeadingPath:
    """Headings as they come -> the path that holds from each on."""

    def __init__(self) -> None:
        self._path: list[tuple[int, str]] = []

    def push(self, level: int, text: str) -> list[str]:
        """A heading ends those of its level and below; one without text ends them too."""
        self._path = [(above, title) for above, title in self._path if above < level]
        self._path.append((level, " ".join(text.split())))
        return [title for _, title in self._path if title]


class Writer:
    """Extracted text as it grows, with its headings and anchors; its lines end in a line feed."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._anchors: list[Anchor] = []
        self._headings: list[Heading] = []
        self._path = HeadingPath()
        self._line = 1
        self.length = 0
        """Characters so far."""

    def add(self, text: str, line: int | None = None, page: int | None = None) -> None:
        """
        Append text that begins at a line or page of the file; without either it runs on.

        Raises:
            DocumentError: If the text is longer than a document may be.
        """
        if not text:
            return
        if line is not None or page is not None:
            self._anchors.append(Anchor(self.length, self.length, self._line if line is None else line, page))
        self._pieces.append(text)
        self._line += text.count("\n")
        self.length += len(text)
        if self.length > MAX_CHARACTERS:
            raise DocumentError(f"holds more than {MAX_CHARACTERS // 1_000_000} million characters of text: split it")

    def heading(self, level: int, text: str, offset: int | None = None) -> None:
        """From an offset on, else from here on, a heading holds."""
        self._headings.append(Heading(self.length if offset is None else offset, self._path.push(level, text)))

    def block(self) -> None:
        """Leave one empty line below what is there."""
        if self.length:
            tail = "".join(self._pieces[-2:])
            self.add("" if tail.endswith("\n\n") else "\n" if tail.endswith("\n") else "\n\n")

    def line(self) -> None:
        """Begin a line, unless one begins here."""
        if self.length and not self._pieces[-1].endswith("\n"):
            self.add("\n")

    def content(
        self, kind: str, title: str = "", metadata: Mapping[str, Any] | None = None, warning: str | None = None
    ) -> Content:
        """Everything written."""
        text, headings, anchors = "".join(self._pieces), self._headings, self._anchors
        return Content(
            text, kind, title=title, metadata=metadata or {}, headings=headings, anchors=anchors, warning=warning
        )


def without(text: str, ranges: Iterable[Range]) -> tuple[str, list[Anchor]]:
    """A file's text without some ranges, and the anchors that lead back; ranges may touch and overlap."""
    pieces, anchors, lines = [], [], LineMap(text)
    at = length = 0
    for start, end in [*sorted(ranges), (len(text), len(text))]:
        if start > at:
            anchors.append(Anchor(length, at, lines.line(at), None))
            pieces.append(text[at:start])
            length += start - at
        at = max(at, end)
    return "".join(pieces), anchors


def moved(anchors: Sequence[Anchor], start: int) -> int:
    """A character of the file -> its offset in the text that `without` left; of the next one, where it was cut out."""
    after = bisect_right(anchors, start, key=lambda anchor: anchor.start)
    if not after:
        return anchors[0].offset if anchors else start
    offset = anchors[after - 1].offset + start - anchors[after - 1].start
    return min(offset, anchors[after].offset) if after < len(anchors) else offset


def decode(data: bytes) -> str:
    """
    Bytes of a note -> its text: UTF-8, a marked UTF-16, or the likeliest other encoding.

    UTF-8 with a few bad bytes stays UTF-8: it says more against another encoding than they say for it.

    Raises:
        DocumentError: If the bytes are no text.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise DocumentError("has an encoding that cannot be told: save it as UTF-8") from error
    if b"\0" in data:
        raise DocumentError("is not text, it holds zero bytes: rename it if it is no note")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("utf-8-sig", errors="replace")
        if 4 * text.count("\ufffd") <= sum(not character.isascii() for character in text):
            return text
        from charset_normalizer import from_bytes

        best = from_bytes(data).best()
        if best is None:
            raise DocumentError("has an encoding that cannot be told: save it as UTF-8") from None
        return data.decode(best.encoding, errors="replace")


def encodable(text: str) -> str:
    """Text that can be stored and shown: a surrogate without its partner becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
