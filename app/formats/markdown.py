"""
Markdown (CommonMark, with what Obsidian adds): noise is cut out, everything else stays as it stands in the file.

Noise is what a person who reads the note does not see: front matter (it becomes metadata), `%% comments %%` and HTML
comments, Dataview and query blocks, template commands, targets of links, embedded media, block ids, callout types. Code
is never touched. Tags stay in the text and are told as well. Nothing is put in, so every character has its place in
the file.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from app.formats.base import Content, Heading, HeadingPath, LineMap, Range, decode, encodable, without

if TYPE_CHECKING:
    from markdown_it.token import Token

MAX_FRONT_MATTER = 16_000
"""Characters; what is longer is prose between two rules, and no work for a YAML parser."""
QUERIES = {"dataview", "dataviewjs", "query", "tasks", "button", "tracker"}
"""Languages of fences that hold a query or a widget in place of a note's words."""

_BLANK_LINE = re.compile(r"(?:\r\n|\n|\r)[ \t]*(?=\r\n|\n|\r)")
_MARK = re.compile(r"`+|\\.|%%|<!--|<%|!?\[\[|!?\[|\]|\{\{|(?<!\S)\^[A-Za-z0-9-]+(?=[ \t]*(?:[\r\n]|\Z))")
_WIKI_LINK = re.compile(r"!?\[\[([^\[\]|\r\n]*+)(?:\|([^\[\]\r\n]*+))?\]\]")
_TARGET = re.compile(
    r"""\(\s*+(?:<[^<>\r\n]*+>|(?:[^\s()<>\\]|\\.|\((?:[^\s()\\]|\\.)*+\))*+)
    (?:\s++(?:"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+'|\((?:[^()\\]|\\.)*+\)))?+\s*+\)""",
    re.VERBOSE,
)
_LABEL = re.compile(r"\[([^\[\]\r\n]*+)\]")
_DEFINITION = re.compile(r"^ {0,3}(\[(?!\^)([^\[\]\r\n]++)\]:[ \t]*+\S[^\r\n]*+)", re.MULTILINE)
_CALLOUT = re.compile(r"^[ \t>]*>[ \t]*(\[![\w| -]++\][+-]?[ \t]?)", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\{\{(?:title|date|time)(?::[^{}\r\n]*+)?\}\}", re.IGNORECASE)
_MEDIA = re.compile(
    r"\.(?:png|jpe?g|gif|svg|webp|bmp|avif|mp[34]|m4a|wav|ogg|flac|webm|mov|mkv|pdf|canvas|base)\s*$", re.I
)
_TAG = re.compile(r"""(?<![^\s(\[,;*_~])#([^\s\0#,;:.!?()\[\]{}"'`<>@&*+=$%^|\\~]+)""")
"""A tag begins a line or follows a space or an opening bracket, and may have levels between slashes."""
_local = threading.local()
_NO_NUMBER = re.compile(r"[^\d/_-]")
_CODE_SPAN = re.compile(r"(?<!`)(`++)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)


def read(data: bytes) -> Content:
    """
    Clean a Markdown file, find its headings, tags and title.

    Raises:
        DocumentError: If it is no text.
    """
    text = decode(data)
    metadata, body_start, warning = split_front_matter(text)
    code = code_ranges(text, body_start)
    noise = list(noise_ranges(text, body_start, code))
    clean, anchors = without(text, noise) if noise else (text, [])
    words = _outside(text, body_start, [*noise, *((start, end) for start, end, _ in code)])
    return Content(
        clean,
        "markdown",
        body_start,
        title=str(metadata.get("title") or "") or top_heading(clean[body_start:]),
        metadata=metadata,
        tags=_tags(words),
        headings=headings(clean, body_start),
        anchors=anchors,
        warning=warning,
    )


def split_front_matter(text: str) -> tuple[dict[str, Any], int, str | None]:
    """
    YAML front matter, the offset of the body after it, and a warning; ({}, 0, None) where there is none.

    What stands between the rules but is no YAML mapping that JSON could hold is prose and stays in the body.
    """
    import yaml
    from frontmatter.default_handlers import YAMLHandler

    handler = YAMLHandler()
    if not handler.detect(text):
        return {}, 0, None
    try:
        front, body = handler.split(text)
    except ValueError:  # one rule alone
        return {}, 0, None
    try:
        metadata = _plain(handler.load(front), [len(front)]) if len(front) <= MAX_FRONT_MATTER else None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, yaml.YAMLError):
        # PyYAML lets through whatever its constructors raise
        return {}, 0, "has front matter that is no valid YAML: correct it, until then it is indexed as text"
    if not isinstance(metadata, dict):
        return {}, 0, None
    return metadata, len(text) - len(body), None


def _plain(value: Any, left: list[int]) -> Any:
    """
    YAML's values as JSON has them; `left` counts down how many there may be.

    Raises:
        ValueError: If there are more values than the text has characters, because its aliases multiply them, or an
            integer has more digits than Python writes: YAML's hexadecimal and octal ones have no limit.
    """
    left[0] -= 1
    if left[0] < 0:
        raise ValueError("aliases that multiply")
    if isinstance(value, dict):
        return {encodable(str(key)): _plain(item, left) for key, item in value.items()}
    if isinstance(value, list | set | tuple):
        return [_plain(item, left) for item in value]
    text = str(value)  # of an integer too: whoever stores or shows it will write its digits
    return value if value is None or isinstance(value, bool | int | float) else encodable(text)


def top_heading(body: str) -> str:
    """The level-1 heading that a Markdown body opens with, on one line; empty where it opens with anything else."""
    first = re.split(r"\n[ \t\r]*\n", body.lstrip("\r\n"), maxsplit=1)[0]
    opening = _blocks(first) if "#" in first or "=" in first else []
    return " ".join(opening[1].content.split()) if opening and opening[0].tag == "h1" else ""


def _blocks(text: str) -> list[Token]:
    """The block structure; what stands inside a line is not parsed, which some text makes very slow."""
    from markdown_it import MarkdownIt

    if not hasattr(_local, "parser"):  # one costs as much to make as a note to parse
        _local.parser = MarkdownIt("commonmark").disable("inline")
    blocks: list[Token] = _local.parser.parse(text)
    return blocks


def headings(text: str, body_start: int = 0) -> list[Heading]:
    """Every heading, from the start of its line on."""
    path = HeadingPath()
    return [Heading(offset, path.push(level, title)) for offset, level, title in titles(text, body_start)]


def titles(text: str, body_start: int = 0) -> Iterator[tuple[int, int, str]]:
    """(start of its line, level, text) of every heading; none in quotes, lists or code."""
    tokens = _blocks(text[body_start:])
    lines = LineMap(text)
    first = lines.line(body_start)
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open" and opening.map is not None and not opening.level:
            yield max(body_start, lines.start(first + opening.map[0])), int(opening.tag[1:]), inline.content


def code_ranges(text: str, body_start: int = 0) -> list[tuple[int, int, str]]:
    """(start, end, language) of every code block, fences included."""
    if "```" not in text and "~~~" not in text and "    " not in text and "\t" not in text:
        return []
    lines = LineMap(text)
    first = lines.line(body_start)
    found = []
    for token in _blocks(text[body_start:]):
        if token.type in ("fence", "code_block") and token.map is not None:
            start, end = (lines.start(first + line) for line in token.map)
            if lines.line(len(text)) < first + token.map[1]:
                end = len(text)
            language = token.info.split()[0].lower() if token.info.strip() else ""
            found.append((max(body_start, start), end, language))
    return found


def noise_ranges(text: str, body_start: int, code: Sequence[tuple[int, int, str]]) -> Iterator[Range]:
    """
    What is cut out of a note's text, in one pass over the marks that could open or close something.

    Every search for a closing mark that fails is not made again, so hostile text costs no more than any other.
    """
    breaks = [match.start() for match in _BLANK_LINE.finditer(text)]
    ticks: dict[int, list[int]] = {}
    for run in re.finditer("`+", text):
        ticks.setdefault(len(run[0]), []).append(run.start())
    definitions = list(_DEFINITION.finditer(text, body_start))
    labels = {_label(match[2]) for match in definitions}
    invisible = dict(match.span(1) for match in [*definitions, *_CALLOUT.finditer(text, body_start)])
    closers = {"%%": "%%", "<!--": "-->", "<%": "%>"}
    opened: list[tuple[int, int]] = []
    paragraph = 0
    at, blocks = body_start, iter([*code, (len(text), len(text), "")])
    block = next(blocks)
    while True:
        mark = _MARK.search(text, at)
        while block[1] <= at and block[0] < len(text):
            block = next(blocks)
        if block[0] <= (mark.start() if mark else len(text)):
            if block[0] >= len(text):
                break
            if block[2] in QUERIES:
                yield block[0], block[1]
            at, opened = max(at, block[1]), []
            block = next(blocks)
            continue
        assert mark is not None
        sign, start, at = mark[0], mark.start(), mark.end()
        if paragraph != (here := bisect_left(breaks, start)):
            paragraph, opened = here, []
        if sign[0] == "\\":
            continue
        if sign[0] == "`":
            runs = ticks.get(len(sign), [])  # a run of which the first tick is escaped is none of them
            closing = bisect_left(runs, at)
            limit = breaks[here] if here < len(breaks) else len(text)
            if closing < len(runs) and runs[closing] < limit:
                inside = text[at : runs[closing]].lstrip()
                at = runs[closing] + len(sign)
                if inside.startswith(("= ", "$= ")):
                    yield start, at
        elif sign in closers:
            end = text.find(closers[sign], at)
            if end < 0:
                del closers[sign]
            else:
                at = end + len(closers[sign])
                yield _with_space(text, start, at)
        elif sign in ("[[", "![[") and (link := _WIKI_LINK.match(text, start)):
            yield from _around(link, *_shown(link))
            at = link.end()
        elif sign[-1] == "[":
            at = start + len(sign.rstrip("[")) + 1
            if start in invisible:
                at = invisible[start]
                yield start, at
            else:
                opened.append((start, at))
        elif sign == "]" and opened:
            first, inner = opened.pop()
            target = _TARGET.match(text, at) if text.startswith("(", at) else None
            if target is None and labels and (label := _LABEL.match(text, at)):
                target = label if _label(label[1] or text[inner:start][:1000]) in labels else None
            if target:
                yield first, inner
                at = target.end()
                yield start, at
        elif sign == "{{" and (placeholder := _PLACEHOLDER.match(text, start)):
            at = placeholder.end()
            yield start, at
        elif sign[0] == "^":
            yield _with_space(text, start, at)


def _label(text: str) -> str:
    """Labels of links are compared so."""
    return " ".join(text.casefold().split())


def _shown(link: re.Match[str]) -> Range:
    """The part of a wiki link that a reader sees; nothing of embedded media."""
    target, label = link[1].rstrip("\\"), link[2]
    if link[0].startswith("!") and _MEDIA.search(target.partition("#")[0]):
        return link.end(), link.end()
    if label is not None and label.strip():
        return link.span(2)
    start, end = link.start(1), link.start(1) + len(target)
    note, _, place = target.partition("#")
    if place.startswith("^"):
        end = start + len(note)
    elif not note:
        start += 1
    return start, end


def _around(link: re.Match[str], start: int, end: int) -> Iterator[Range]:
    yield link.start(), start
    yield end, link.end()


def _with_space(text: str, start: int, end: int) -> Range:
    """A range with the spaces before it, where a space or the end of a line follows it."""
    if end == len(text) or text[end] in " \t\r\n":
        while start and text[start - 1] in " \t":
            start -= 1
    return start, end


def _outside(text: str, at: int, ranges: Sequence[Range]) -> str:
    """What of a text lies in none of the ranges and in no code."""
    pieces = []
    for start, end in sorted(ranges):
        pieces.append(text[at:start])
        at = max(at, end)
    return _CODE_SPAN.sub("\0", "\0".join([*pieces, text[at:]]))


def _tags(words: str) -> list[str]:
    """The tags in what a note says, each once, in the order in which they come, as they are written."""
    if "#" not in words:
        return []
    found = _TAG.findall(_CODE_SPAN.sub("\0", words))
    return list(dict.fromkeys(tag for tag in found if _NO_NUMBER.search(tag)))
