"""
Readers: stored passages and a question in, ranked answers out.

`Reader` is all that the rest of the program knows; `open_reader` gives the one that a bundle holds. `ExtractiveReader`
(BTR-BERT) runs the upper graphs on each passage's bits and, before it answers, on the states of the best one; its
logits are relative to the passage's null logit, so spans compare across passages and 0 means "not in this passage".
The generative reader is in `app.generative`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeVar
from unicodedata import combining

import numpy as np
import numpy.typing as npt

from app.bundle import Bundle, EncodedQuestion, Survey, TokenizedPassage
from app.calibration import Calibration, in_force
from store.codec import Bits, Floats
from store.errors import FormatError, UsageError

MAX_ANSWER_TOKENS = 30
FINISHED = 6
"""Passages that are read to the end at most: on 408 validation questions eight answered no better."""
MARGIN = 5.0
"""By how much the early span head may find less in one of them than in the best: on 269 validation questions over 40
passages 3.9 are left of the six, at 0.4 points of EM and F1: one question."""
ALTERNATIVES = 2
"""Passages that are read to the end whatever is found in them, so that there is another answer to look at."""
SURVEYED = 6
"""Passages that are read at all whatever is found in them: those that retrieval puts first."""
LOOKS = 2
"""Passages that are read once more, from their own states instead of their bits, at most: on 794 open validation
questions two answer as well as three."""
HOPE = 6.0
"""What the early span head finds in one passage of fourteen. One that would fall short with it is not read: on 489
validation questions over 1,590 contexts 9.0 passages are, for 20, at the price of no answer."""
SHORT = 1.5
"""By how much the early span head may find less than it takes to be given as an answer, for a passage to count as the
best while others are given up: where nothing answers, 13.5 passages of 20 are read for 16.4, at the price of no answer
(587 validation questions, with their article and without)."""
FAR = 4.0
"""By how much a span may fall short of what it takes to be given as an answer, for its passage to be looked at next: in
544 validation searches the second look added 3.1 to such a span at most."""
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
    prior: float = 0.0
    """What retrieval says of it against the best passage, in the logits of a span: 0 or less."""


@dataclass(frozen=True)
class Span:
    """A possible answer."""

    passage: int
    """Index into the passages that were read."""
    start: int
    """First character in the passage's text."""
    end: int
    score: float
    """Against no answer: above 0 is likelier than none. Start plus end logit, or a log probability."""
    text: str | None = None
    """The answer where it was written, not copied; start and end then say where the passage has it, else 0 and 0."""

    def answer(self, passage: str) -> str:
        """The answer, given the text of its passage."""
        return passage[self.start : self.end] if self.text is None else self.text


def never() -> bool:
    """Not cancelled."""
    return False


def ignore(text: str) -> None:
    """Nobody listens."""


class Reader(Protocol):
    """Answers a question from stored passages."""

    def read(
        self,
        question: EncodedQuestion,
        passages: Sequence[PassageBits],
        cancelled: Callable[[], bool] = never,
        told: Callable[[str], None] = ignore,
    ) -> list[Span]:
        """
        The best answers, best first: spans of different passages, or texts with the passage that each comes from.

        A reader that writes tells the text so far after each word, in the caller's thread.

        Raises:
            Cancelled: If `cancelled` became true before all passages were read.
        """
        ...


def tokens_of(bundle: Bundle, passage: PassageBits) -> TokenizedPassage:
    """
    The tokens of a stored passage's text.

    Raises:
        FormatError: If they are not as many as have bits: one or the other is damaged.
    """
    tokens = bundle.tokenize(passage.text)
    if len(tokens.ids) != len(passage.scale):
        raise FormatError(f"a passage of {len(tokens.ids)} tokens has bits for {len(passage.scale)}")
    return tokens


class ExtractiveReader:
    """
    Span reader over the upper graphs, one passage a thread.

    The first upper layer surveys the passages that retrieval puts first, then those of the others that could still come
    within `margin` of the best or, where even that would hardly be given as an answer, of what would be. Only the
    `finished` ones in which the early span head finds most, its prior included, and of these the first two and those
    within `margin` of the best, go through the other layers and can hold the answer.

    A second look decides: meanwhile the passage that promises most is encoded again and read from its own states, no
    bit between. Where the best span is another's, and not far from an answer, that one's passage is looked at next, up
    to `looks` of them.

    The calibration, the bundle's own where none is given, says what it takes to be given as an answer.
    """

    def __init__(
        self,
        bundle: Bundle,
        finished: int = FINISHED,
        margin: float = MARGIN,
        looks: int = LOOKS,
        calibration: Calibration | None = None,
    ) -> None:
        self._bundle, self._finished, self._margin, self._looks = bundle, finished, margin, looks
        bar = (calibration or in_force(None, bundle.manifest)).bar()
        self._bar = min(bar, sys.float_info.max)  # a margin may be infinite

    def read(
        self,
        question: EncodedQuestion,
        passages: Sequence[PassageBits],
        cancelled: Callable[[], bool] = never,
        told: Callable[[str], None] = ignore,
    ) -> list[Span]:
        """The best span of each finished passage, best first; raises `Cancelled`."""
        surveyed: dict[int, Survey] = {}
        promise: dict[int, float] = {}
        offsets: dict[int, Sequence[tuple[int, int]]] = {}

        def survey(index: int) -> None:
            passage = passages[index]
            tokens = tokens_of(self._bundle, passage)
            offsets[index] = tokens.offsets
            surveyed[index] = self._bundle.survey(question, tokens.ids, passage.bits, passage.scale)
            promise[index] = surveyed[index].relevance + passage.prior

        def finish(index: int) -> Span:
            seen = surveyed[index]
            if index in looked:
                seen = self._bundle.look(question, seen.ids[0].tolist(), passages[index].heading)
            start, end = self._bundle.span_logits(question, seen)
            return span_of(index, passages[index], offsets[index], start, end)

        order = sorted(range(len(passages)), key=lambda index: (-passages[index].prior, index))
        each_passage(self._bundle, passages, order[:SURVEYED], survey, cancelled)
        least = max([self._bar - SHORT, *promise.values()]) - self._margin
        hopeful = [index for index in order[SURVEYED:] if passages[index].prior + HOPE >= least]
        each_passage(self._bundle, passages, hopeful, survey, cancelled)
        best = sorted(promise, key=lambda index: (-promise[index], index))[: self._finished]
        least = promise[best[0]] - self._margin if best else 0.0
        chosen = best[:ALTERNATIVES] + [index for index in best[ALTERNATIVES:] if promise[index] >= least]
        looked = set(chosen[: min(1, self._looks)])
        spans = best_first(each_passage(self._bundle, passages, chosen, finish, cancelled, looked))
        while (
            spans and spans[0].passage not in looked and len(looked) < self._looks and spans[0].score + FAR >= self._bar
        ):
            looked.add(spans[0].passage)
            again = each_passage(self._bundle, passages, [spans[0].passage], finish, cancelled)
            spans = best_first([*again, *spans[1:]])
        return spans


def open_reader(
    bundle: Bundle,
    finished: int | None = None,
    looks: int | None = None,
    ratio: float | None = None,
    beams: int | None = None,
    calibration: Calibration | None = None,
) -> Reader:
    """
    The reader that a bundle holds, with its defaults where nothing is given; `finished` passages are read to the end
    whatever is found in them.

    Raises:
        UsageError: If something is given that this kind of reader does not have.
    """
    if bundle.manifest.reader == "extractive":
        if ratio is not None or beams is not None:
            raise UsageError(f"{bundle.folder} holds an extractive reader: --ratio and --beams are for generative ones")
        looks = LOOKS if looks is None else looks
        return ExtractiveReader(bundle, finished or FINISHED, math.inf if finished else MARGIN, looks, calibration)
    if finished is not None or looks is not None:
        raise UsageError(f"{bundle.folder} holds a generative reader: --finish and --looks are for extractive ones")
    from app.generative import GenerativeReader

    return GenerativeReader(bundle, ratio, beams or 1)


T = TypeVar("T")


def each_passage(
    bundle: Bundle,
    passages: Sequence[PassageBits],
    chosen: Iterable[int],
    work: Callable[[int], T],
    cancelled: Callable[[], bool],
    first: Collection[int] = (),
) -> list[T]:
    """
    What `work` makes of each chosen passage, longest first so that no thread is left with a long one at the end; before
    all others those of `first`, which take longer than they look.

    Raises:
        Cancelled: If `cancelled` became true before all of it was done.
    """

    def unless_cancelled(index: int) -> T:
        if cancelled():
            raise Cancelled
        return work(index)

    with ThreadPoolExecutor(bundle.threads) as pool:
        return list(
            pool.map(
                unless_cancelled, sorted(chosen, key=lambda index: (index not in first, -len(passages[index].scale)))
            )
        )


def span_of(index: int, passage: PassageBits, offsets: Sequence[tuple[int, int]], start: Floats, end: Floats) -> Span:
    """The best span of a passage, with the character ranges of its tokens (n,), by its logits (n,) and its prior."""
    first, last, score = best_span(start, end, blocks(passage.text, offsets))
    a, b = whole_words(passage.text, offsets[first][0], offsets[last][1])
    return Span(index, a, b, score + passage.prior)


def best_first(spans: Iterable[Span]) -> list[Span]:
    """Spans by score; of equal ones the earlier passage's first."""
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
