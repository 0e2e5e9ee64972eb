"""
reStructuredText: the file as it stands, without its markup that a reader of the page does not see.

Section titles become headings, their level the order in which adornments first appear, as docutils has it.
Adornments, comments, targets, directives that only place things, and the addresses in links and roles are cut out.
Light on purpose: no directive is run and no file is included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from app.formats.base import Content, Heading, HeadingPath, Range, decode, moved, without

PLACING = {"contents", "figure", "highlight", "image", "include", "index", "meta", "raw", "sectnum", "toctree"}
"""Directives that are left out with all that is in them."""

_LINE = re.compile(r"[^\r\n]*+(?:\r\n|\r|\n|\Z)")
_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1+\s*\Z")
_EXPLICIT = re.compile(r"\.\.(?:[ \t]+|\s*\Z)")
_DIRECTIVE = re.compile(r"\.\.[ \t]+(?:\|[^|\r\n]+\|[ \t]+)?([A-Za-z][\w.:+-]*?)::(?:[ \t]+|\s*\Z)")
_OPTION = re.compile(r"\s+:[\w-]+:(?:\s|\Z)")
_FIELD = re.compile(r":([A-Za-z][\w -]{0,40}):[ \t]+(\S.*)")
_LINK = re.compile(
    r"``[^\r\n]{0,500}?``|(?::[\w:+.-]{1,60}:)?`([^`<\r\n]{0,500}[^`<\s])(\s{0,9}<[^<>`\r\n]{1,2000}>)?`(?:__?)?"
)


def read(data: bytes) -> Content:
    """
    Clean a reStructuredText file, find its titles and its field list.

    Raises:
        DocumentError: If it is no text.
    """
    text = decode(data)
    lines = [(match.start(), match[0]) for match in _LINE.finditer(text) if match[0]]
    titles = list(_titles(lines))
    adornments = [adornment for _, _, _, found in titles for adornment in found]
    noise = [_span(lines, number) for number in adornments]
    noise += _markup(text, lines)
    clean, anchors = without(text, noise) if noise else (text, [])
    levels: dict[tuple[str, bool], int] = {}
    path = HeadingPath()
    headings = [
        Heading(moved(anchors, lines[number][0]), path.push(levels.setdefault(style, len(levels)), title))
        for number, style, title, _ in titles
    ]
    opens = bool(headings) and not clean[: headings[0].offset].strip()
    return Content(
        clean,
        title=titles[0][2] if opens else "",
        metadata=_fields(lines),
        headings=headings,
        anchors=anchors,
    )


def _span(lines: list[tuple[int, str]], number: int) -> Range:
    """A line without its end."""
    start, line = lines[number]
    return start, start + len(line.rstrip("\r\n"))


def _titles(lines: list[tuple[int, str]]) -> Iterator[tuple[int, tuple[str, bool], str, list[int]]]:
    """(line, (sign, whether overlined), title, lines of its adornments) of every section; lines count from 0."""
    for number in range(1, len(lines)):
        under, title = lines[number][1].rstrip(), lines[number - 1][1].rstrip()
        if not (title and _ADORNMENT.match(under)) or len(under) < min(len(title.strip()), 4):
            continue
        above = lines[number - 2][1].rstrip() if number > 1 else ""
        if _ADORNMENT.match(title):
            continue
        if _ADORNMENT.match(above) and above[0] == under[0] and (number < 3 or not lines[number - 3][1].strip()):
            yield number - 1, (under[0], True), title.strip(), [number - 2, number]
        elif not above and not title[0].isspace():
            yield number - 1, (under[0], False), title, [number]


def _markup(text: str, lines: list[tuple[int, str]]) -> Iterator[Range]:
    """Comments, targets, directives' marks and options, addresses in links and roles' names."""
    number = 0
    while number < len(lines):
        start, line = lines[number]
        number += 1
        if not _EXPLICIT.match(line):
            if not line[0].isspace():
                yield from _links(line, start)
            continue
        directive = _DIRECTIVE.match(line)
        body = line[2:].lstrip()
        if directive and directive[1].lower() not in PLACING:
            yield start, start + directive.end() - (len(directive[0]) - len(directive[0].rstrip("\r\n")))
            while number < len(lines) and _OPTION.match(lines[number][1]):
                yield _span(lines, number)
                number += 1
        elif not directive and body.startswith(("[", "|")):  # a footnote, a citation
            continue
        else:
            end = number
            while end < len(lines) and (lines[end][1][0].isspace()):
                end += 1
            while end > number and not lines[end - 1][1].strip():
                end -= 1
            yield start, _span(lines, end - 1)[1]
            number = end


def _links(line: str, start: int) -> Iterator[Range]:
    for link in _LINK.finditer(line):
        if link[0].startswith("`") and not link[0].endswith("_"):
            continue  # ``literal``, or a default role
        yield start + link.start(), start + link.start(1)
        yield start + link.end(1), start + link.end()


def _fields(lines: list[tuple[int, str]]) -> dict[str, str]:
    """The field list at the top: author, date, version."""
    fields: dict[str, str] = {}
    for _, line in lines[:40]:
        if field := _FIELD.match(line.rstrip()):
            fields[field[1].lower()] = field[2]
        elif fields:
            break
    return fields
