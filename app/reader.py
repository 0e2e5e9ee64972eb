"""
Readers: stored passages and a question in, ranked answers out.

`Reader` is all that the rest of the program knows. `ExtractiveReader` (BTR-BERT) runs the upper graph on each
passage's bits; its logits are relative to the passage's null logit, so spans compare across passages and 0 means
"not in this passage".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol
from unicodedata import combining

import numpy as np
import numpy.typing as npt

from app.bundle import Bundle, EncodedQuestion
from store.codec import Bits, Floats

MAX_ANSWER_TOKENS = 30
_BLOCK_END = re.compile(r"\n[ \t\r]*\n|\n(?=[ \t]*(?:[-*+>|]|#{1,6}|\d+[.)])[ \t])")


class Cancelled(Exception):
    """The reading was given up because nobody waits for it any more."""


@dataclass(frozen=True)
class PassageBits:
    """A passage as the store keeps it."""

    text: str
    bits: Bits
    """(n, m / 8)."""
    scale: npt.NDArray[np.float16]
    """(n,)."""
    heading: str = ""
    """What the lower encoder saw before the text; read again only by the baselines."""


@dataclass(frozen=True)
class Span:
    """A possible answer."""

    passage: int
    """Index into the passages that were read."""
    start: int
    """First character in the passage's text."""
    end: int
    score: float
    """Start plus end logit against no answer: above 0 is likelier than none."""


class Reader(Protocol):
    """Answers a question from stored passages."""

    def read(
        self, question: EncodedQuestion, passages: Sequence[PassageBits], cancelled: Callable[[], bool]
    ) -> list[Span]:
        """
        The best span of each passage, best first.

        Raises:
            Cancelled: If `cancelled` became true before all passages were read.
        """
        ...


class ExtractiveReader:
    """Span reader over the upper graph, one passage a thread."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def logits(self, question: EncodedQuestion, passage: PassageBits, ids: Sequence[int]) -> tuple[Floats, Floats]:
        """Start and end logits (n,) of a passage with token ids (n,), relative to no answer."""
        return self.bundle.span_logits(question, ids, passage.bits, passage.scale)

    def read(
        self,
        question: EncodedQuestion,
        passages: Sequence[PassageBits],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> list[Span]:
        """The best span of each passage, best first; raises `Cancelled`."""

        def one(index: int) -> Span:
            if cancelled():
                raise Cancelled
            passage = passages[index]
            tokens = self.bundle.tokenize(passage.text)
            start, end = self.logits(question, passage, tokens.ids)
            first, last, score = best_span(start, end, blocks(passage.text, tokens.offsets))
            a, b = whole_words(passage.text, tokens.offsets[first][0], tokens.offsets[last][1])
            return Span(index, a, b, score)

        with ThreadPoolExecutor(self.bundle.threads) as pool:
            longest_first = sorted(range(len(passages)), key=lambda index: -len(passages[index].scale))
            spans = list(pool.map(one, longest_first))  # so that no thread is left with a long one at the end
        return sorted(spans, key=lambda span: (-span.score, span.passage))


def best_span(
    start: Floats, end: Floats, block: npt.NDArray[np.int64] | None = None, longest: int = MAX_ANSWER_TOKENS
) -> tuple[int, int, float]:
    """
    Start and end logits (n,) -> first and last token of the best span, and its score.

    A span has at most `longest` tokens and, where `block` (n,) is given, does not leave its block.
    """
    scores = start[:, None] + end[None, :]
    allowed = _spans(len(start), longest)
    if block is not None:
        allowed = allowed & (block[:, None] == block[None, :])
    scores = np.where(allowed, scores, -np.inf)
    first, last = divmod(int(scores.argmax()), len(start))
    return first, last, float(scores[first, last])


@lru_cache(maxsize=256)
def _spans(tokens: int, longest: int) -> npt.NDArray[np.bool_]:
    """(first, last) pairs that make a span of 1 to `longest` tokens."""
    length = np.arange(tokens)[None, :] - np.arange(tokens)[:, None] + 1
    return (length >= 1) & (length <= longest)


def blocks(text: str, offsets: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """Which paragraph, list item, table row or heading of the text each token (n,) belongs to: no answer spans two."""
    cuts = [match.start() for match in _BLOCK_END.finditer(text)]
    return np.searchsorted(cuts, [start for start, _ in offsets], side="right")


def whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """Widen a character range so that it does not cut a word: tokens may be pieces of one."""
    while start > 0 and _inside_word(text, start):
        start -= 1
    while end < len(text) and _inside_word(text, end):
        end += 1
    return start, end


def _inside_word(text: str, at: int) -> bool:
    """Whether a cut before character `at` would cut a word, or a letter from its accent."""
    return all(character.isalnum() or combining(character) for character in text[at - 1 : at + 1])
