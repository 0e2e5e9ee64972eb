"""
A document becomes passages: the unit of retrieval and of encoding.

Cut by semantic-text-splitter at the largest boundary that fits (heading, block, sentence, word), counted with the
bundle's own tokenizer; every passage is an exact slice of the document's text and knows its line and heading path.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

from markdown_it import MarkdownIt
from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from app.documents import Document, LineMap

_CONTENT = re.compile(r"\w")


@dataclass(frozen=True)
class Passage:
    """A slice of a document: `document.text[start:end] == text`."""

    start: int
    end: int
    line: int
    """1-based line of the first character."""
    heading: str
    """Title and headings above its start, ' > ' between levels; a title is not repeated as the first heading."""
    text: str


class PassageSplitter:
    """Splits documents into passages of at most `capacity` tokens."""

    def __init__(self, tokenizer: Tokenizer, capacity: int) -> None:
        self._markdown = MarkdownSplitter.from_huggingface_tokenizer(tokenizer, capacity)
        self._text = TextSplitter.from_huggingface_tokenizer(tokenizer, capacity)

    def split(self, document: Document) -> list[Passage]:
        """The passages of a document in order; pieces without a letter or digit are left out."""
        body = document.text[document.body_start :]
        splitter = self._markdown if document.kind == "markdown" else self._text
        lines = LineMap(document.text)
        headings = heading_paths(document) if document.kind == "markdown" else []
        starts = [line for line, _ in headings]
        passages = []
        for offset, text in splitter.chunk_indices(body):
            if not _CONTENT.search(text):
                continue
            start = document.body_start + offset
            line = lines.line(start)
            above = bisect_right(starts, line)
            path = headings[above - 1][1] if above else []
            if not path or path[0].casefold() != document.title.casefold():
                path = [document.title, *path]
            passages.append(Passage(start, start + len(text), line, " > ".join(path), text))
        return passages


def heading_paths(document: Document) -> list[tuple[int, list[str]]]:
    """(line, heading path from there on) of every heading of a Markdown document, in order."""
    first = LineMap(document.text).line(document.body_start)
    tokens = MarkdownIt("commonmark").parse(document.text[document.body_start :])
    path: list[tuple[int, str]] = []
    found = []
    for opening, inline in pairwise(tokens):
        if opening.type != "heading_open" or opening.map is None or opening.level:
            continue
        level = int(opening.tag[1:])
        path = [(above, text) for above, text in path if above < level]
        path.append((level, " ".join(inline.content.split())))
        found.append((first + opening.map[0], [text for _, text in path if text]))
    return found
