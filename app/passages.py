"""
A document becomes passages: the unit of retrieval and of encoding.

Cut by semantic-text-splitter at the largest boundary that fits (heading, block, sentence, word), counted in the
bundle's own tokens; every passage is an exact slice of the document's text and knows its place in the file and its
heading path. Text that is no Markdown is cut at its headings first.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from app.documents import Document
from app.formats.base import Anchor, SourceMap

_CONTENT = re.compile(r"\w")
_NO_SPACE = re.compile(r"[\x0b\x0c\x1c-\x1f\x85]")
"""What Python takes for a space and a tokenizer drops, so that words on both sides of it are one."""
_LONGEST_KEPT, _MOST_KEPT = 64, 200_000
"""Characters of a word, and words, whose token counts are kept."""


@dataclass(frozen=True)
class Passage:
    """A slice of a document, with its place in the file."""

    start: int
    """First character in the file's text; in the extracted text of a format that has no text of its own."""
    end: int
    line: int
    """1-based line of the first character."""
    heading: str
    """Title and headings above its start, ' > ' between levels; a title is not repeated as the first heading."""
    text: str
    page: int | None = None
    """1-based page of the first character."""
    anchors: Sequence[Anchor] = ()
    """Where its text leaves the file's run after the first character; offsets count from there."""


class TokenCounts(dict[str, int]):
    """How many tokens each word has, words being what stands between spaces; counted when first asked for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, word: str) -> int:
        count = self._count(word)
        if len(word) <= _LONGEST_KEPT:
            if len(self) >= _MOST_KEPT:
                self.clear()
            self[word] = count
        return count

    def of(self, text: str) -> int:
        """The tokens of a text: a token never goes over a space."""
        return self._count(text) if _NO_SPACE.search(text) else sum(map(self.__getitem__, text.split()))

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


class PassageSplitter:
    """Splits documents into passages of at most `capacity` tokens."""

    def __init__(self, tokenizer: Tokenizer, capacity: int) -> None:
        # The splitter counts each text about fifteen times: from words that are counted once, that is 5 to 20x faster.
        counts = TokenCounts(tokenizer)
        self._markdown = MarkdownSplitter.from_callback(counts.of, capacity)
        self._text = TextSplitter.from_callback(counts.of, capacity)

    def split(self, document: Document) -> list[Passage]:
        """The passages of a document in order; pieces without a letter or digit are left out."""
        places = SourceMap(document.text, document.anchors)
        starts = [heading.offset for heading in document.headings]
        passages = []
        for start, text in self._slices(document):
            if not _CONTENT.search(text):
                continue
            above = bisect_right(starts, start)
            path = document.headings[above - 1].path if above else []
            if not path or path[0].casefold() != document.title.casefold():
                path = [document.title, *path]
            end = start + len(text)
            first, last = places.at(start), places.at(end - 1)
            passages.append(
                Passage(
                    start=first.start,
                    end=last.start + 1,
                    line=first.line,
                    heading=" > ".join(path),
                    text=text,
                    page=first.page,
                    anchors=places.within(start, end),
                )
            )
        return passages

    def _slices(self, document: Document) -> Iterator[tuple[int, str]]:
        """(offset, text) of the pieces of a document's body."""
        if document.kind == "markdown":
            body = document.text[document.body_start :]
            yield from ((document.body_start + at, text) for at, text in self._markdown.chunk_indices(body))
            return
        cuts = list(_cuts(document))
        for start, end in zip(cuts, [*cuts[1:], len(document.text)], strict=True):
            yield from ((start + at, text) for at, text in self._text.chunk_indices(document.text[start:end]))


def _cuts(document: Document) -> Iterator[int]:
    """Where the sections of a text begin; a title with nothing below it begins the next one."""
    last = document.body_start
    yield last
    for before, heading in zip([None, *document.headings], document.headings, strict=False):
        section = document.text[last : heading.offset]
        below = section.lstrip().partition("\n")[2] if before and before.offset >= last else section
        if _CONTENT.search(below):
            last = heading.offset
            yield last
