"""
A source in its note: the lines around it, as the file is now, and where in them it stands.

Where the text is the file's, it is the file that is shown, with its line numbers; elsewhere the text that was
extracted, by pages. A file that changed is searched for the quote, then for the answer; what is not found is not
marked. A window is cut out of a long note, so that showing it costs the same whatever its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from app.assistant import Source
from app.documents import read_bytes, read_document
from app.formats import FORMATS
from app.formats.base import LineMap, decode

_OWN_TEXT = {"markdown", "text", "rst", "org"}
"""Formats whose offsets are the file's."""
_LINES = 120
"""Shown above and below."""
_CHARACTERS = 20_000
"""Shown above and below at most."""


@dataclass(frozen=True)
class Excerpt:
    """Lines of a note."""

    text: str
    first_line: int | None
    """1-based line of the file with which it begins; None: the format has no lines of its own."""
    span: tuple[int, int] | None
    """Characters of the text that are the answer; None: not there any more."""


def excerpt(source: Source) -> Excerpt:
    """
    The lines around a source.

    Raises:
        DocumentError: If the file cannot be read.
    """
    path = Path(source.path)
    own = FORMATS.get(path.suffix.lower()) in _OWN_TEXT
    text = decode(read_bytes(path)) if own else read_document(path).text
    span = _find(text, source)
    middle = span[0] if span else LineMap(text).start(source.line) if own else min(source.start, len(text))
    end = span[1] if span else middle
    first = _line_start(text, middle, _LINES)
    first = max(first, middle - _CHARACTERS)
    last = end
    for _ in range(_LINES):
        last = text.find("\n", last) + 1
        if not last:
            last = len(text)
            break
    last = min(last, end + _CHARACTERS)
    return Excerpt(
        text=text[first:last],
        first_line=LineMap(text).line(first) if own else None,
        span=(span[0] - first, span[1] - first) if span else None,
    )


def _find(text: str, source: Source) -> tuple[int, int] | None:
    """Where a source stands in a text now."""
    answer = source.quote[slice(*source.marked)]
    whole = text[source.start : source.end]
    if answer and (whole == answer or (not source.stale and 0 < source.start < source.end <= len(text))):
        return source.start, source.end
    at = text.find(source.quote)
    if source.quote and at >= 0:
        return at + source.marked[0], at + source.marked[1]
    at = text.find(answer)
    return (at, at + len(answer)) if answer and at >= 0 else None


def _line_start(text: str, offset: int, lines: int) -> int:
    """The first character of the line so many lines above a character's own."""
    at = offset
    for _ in range(lines + 1):
        found = text.rfind("\n", 0, at)
        if found < 0:
            return 0
        at = found
    return at + 1
