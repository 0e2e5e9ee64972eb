"""
Org: the file as it stands, without drawers, keywords, comments and the addresses of links.

Headlines become headings, their keyword, priority and tags not counted; `#+KEYWORD:` lines at the top become metadata,
and tags of the file and of headlines become tags.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator

from app.formats.base import Content, Heading, HeadingPath, Range, decode, moved, without

_LINE = re.compile(r"[^\r\n]*+(?:\r\n|\r|\n|\Z)")
_HEADLINE = re.compile(r"(\*+)[ \t]+(\S.*)")
_TODO = re.compile(
    r"(?:(?:TODO|DONE|NEXT|WAITING|HOLD|CANCELLED|CANCELED|STARTED)[ \t]+)?(?:\[#\w\][ \t]*)?(?:COMMENT[ \t]+)?"
)
_TAGS = re.compile(r"(?<![ \t])[ \t]++:((?:[\w@#%]+:)+)\Z")
_KEYWORD = re.compile(r"[ \t]*#\+(\w+):[ \t]*(.*)")
_BLOCK = re.compile(r"[ \t]*#\+(begin|end)_(\w+)\b", re.IGNORECASE)
_DRAWER = re.compile(r"[ \t]*:([\w-]+):[ \t]*\Z")
_END = re.compile(r"[ \t]*:end:[ \t]*\Z", re.IGNORECASE)
_COMMENT = re.compile(r"[ \t]*#(?:[ \t]|\Z)")
_LINK = re.compile(r"\[\[([^\[\]\r\n]*+)\](?:\[([^\[\]\r\n]*+)\])?\]")


def read(data: bytes) -> Content:
    """
    Clean an Org file, find its headlines, keywords and tags.

    Raises:
        DocumentError: If it is no text.
    """
    text = decode(data)
    lines = [(match.start(), match[0]) for match in _LINE.finditer(text) if match[0]]
    metadata: dict[str, object] = {}
    tags: list[str] = []
    noise: list[Range] = []
    found: list[tuple[int, int, str]] = []
    stops = [number for number, (_, line) in enumerate(lines) if _HEADLINE.match(line) or _END.match(line.rstrip())]
    number, verbatim = 0, ""
    while number < len(lines):
        start, whole = lines[number]
        line = whole.rstrip()
        number += 1
        block = _BLOCK.match(line)
        if block:
            kind = block[2].lower()
            if block[1].lower() == "begin" and kind in ("src", "example", "comment", "export"):
                verbatim = kind
            elif kind == verbatim:
                verbatim = ""
            noise.append((start, start + len(line)))
        elif headline := _HEADLINE.match(line):
            verbatim = ""
            title = headline[2]
            if marked := _TAGS.search(title):
                tags += marked[1].strip(":").split(":")
                noise.append((start + headline.start(2) + marked.start(), start + len(line)))
                title = title[: marked.start()]
            title = title[_TODO.match(title).end() :]  # type: ignore[union-attr]  # it matches nothing as well
            found.append((start, len(headline[1]), _LINK.sub(lambda link: link[2] or link[1], title)))
            noise += _links(line, start)
        elif verbatim:
            if verbatim in ("comment", "export"):
                noise.append((start, start + len(line)))
        elif keyword := _KEYWORD.match(line):
            noise.append((start, start + len(line)))
            name, value = keyword[1].lower(), keyword[2]
            if name in ("filetags", "tags"):
                tags += value.replace(":", " ").split()
            elif name in ("title", "author", "date", "description", "category", "language"):
                metadata.setdefault(name, value)
        elif _COMMENT.match(line):
            noise.append((start, start + len(line)))
        elif _DRAWER.match(line):
            stop = bisect_left(stops, number)
            if stop < len(stops) and _END.match(lines[stops[stop]][1].rstrip()):
                number = stops[stop] + 1
                noise.append((start, lines[number - 1][0] + len(lines[number - 1][1].rstrip("\r\n"))))
        else:
            noise += _links(line, start)
    clean, anchors = without(text, noise) if noise else (text, [])
    path = HeadingPath()
    if tags:
        metadata["tags"] = list(dict.fromkeys(tags))
    return Content(
        clean,
        title=str(metadata.get("title", "")),
        metadata=metadata,
        headings=[Heading(moved(anchors, start), path.push(level, title)) for start, level, title in found],
        anchors=anchors,
    )


def _links(line: str, start: int) -> Iterator[Range]:
    """All of the links of a line but what a reader sees."""
    for link in _LINK.finditer(line):
        first, last = link.span(2 if link[2] else 1)
        yield start + link.start(), start + first
        yield start + last, start + link.end()
