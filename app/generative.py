"""
The generative reader (BTR-Atlas): Fusion-in-Decoder over stored passages, a decode loop in numpy.

Each passage goes through the upper graph with the question, whose layers read it with a share of its tokens merged. The
decoder reads the states of all passages side by side; those of the question, of which each passage has its own, are
merged then too. The empty answer is "not in the passages": it is never written, and log p(answer) - log p(empty) is an
answer's score, so that above 0 it is likelier than none.

The source of an answer is the passage that the decoder's cross-attention paid most while writing it, among those that
hold the answer word by word where there are any; the answer then reads as it stands there, for what is written may lack
case, accents and the spacing of word pieces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unicodedata import combining, normalize

import numpy as np
import numpy.typing as npt

from app.bundle import Bundle, EncodedQuestion
from app.reader import Cancelled, PassageBits, Span, each_passage, ignore, never, tokens_of, whole_words
from store.bundle import CROSS, DECODER, UPPER
from store.codec import Floats

MAX_ANSWER_TOKENS = 32
START = 0
"""The token that every T5 decoder starts from: padding."""
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Fused:
    """What the decoder reads."""

    keys: Arrays
    """Cross-attention keys and values of T states, by the decoder graph's names."""
    shares: Floats
    """(T, p) how much of each state came from each passage, 1 in sum."""


@dataclass(frozen=True)
class Hypothesis:
    """An answer, or its beginning."""

    score: float = 0.0
    """Log probability."""
    ids: list[int] = field(default_factory=list)
    mass: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    """(p,) cross-attention paid to each passage, all tokens together."""


class GenerativeReader:
    """
    Writes answers; with several `beams` it keeps that many and gives them all, else the greedy one.

    `ratio` is the share of a passage's tokens merged in every upper layer, the bundle's own where none is given; at 0
    the question's are not merged either.
    """

    upper, cross, decoder = UPPER, CROSS, DECODER

    def __init__(self, bundle: Bundle, ratio: float | None = None, beams: int = 1) -> None:
        self.bundle, self.beams = bundle, beams
        self.ratio = bundle.manifest.runtime_ratio if ratio is None else ratio

    def prepare(self, question: EncodedQuestion) -> EncodedQuestion:
        """What all passages of a question share, computed once."""
        return question

    def encode(self, question: EncodedQuestion, passage: PassageBits) -> Floats:
        """Last encoder states (t, d) of question and passage."""
        ids = tokens_of(self.bundle, passage).ids
        stored: Arrays = {"bits": passage.bits[None], "scale": passage.scale[None]}
        return self.encode_above(question, ids, stored)

    def encode_above(self, question: EncodedQuestion, ids: Sequence[int], passage: Arrays) -> Floats:
        """The same from a passage's ids and what else of it the upper graph takes."""
        inputs: Arrays = {
            "question_states": question.states,
            "question_ids": question.ids,
            "ids": np.array([ids], dtype=np.int64),
            "ratio": np.array(self.ratio, np.float32),
            **passage,
        }
        (states,) = self.bundle.run(self.upper, ["encoded"], inputs)
        encoded: Floats = states[0]
        return encoded

    def read(
        self,
        question: EncodedQuestion,
        passages: Sequence[PassageBits],
        cancelled: Callable[[], bool] = never,
        told: Callable[[str], None] = ignore,
    ) -> list[Span]:
        """The answers, best first; raises `Cancelled`."""
        if not passages:
            return []
        fused = self.fuse(question, self.encode_all(question, passages, cancelled))
        spans = [self.span(hypothesis, passages) for hypothesis in self.decode(fused, cancelled, told)]
        return [span for span in spans if span.text]

    def encode_all(
        self, question: EncodedQuestion, passages: Sequence[PassageBits], cancelled: Callable[[], bool] = never
    ) -> list[Floats]:
        """`encode` of every passage, in their order; raises `Cancelled`."""
        prepared = self.prepare(question)
        encoded: dict[int, Floats] = {}

        def one(index: int) -> None:
            encoded[index] = self.encode(prepared, passages[index])

        each_passage(self.bundle, passages, range(len(passages)), one, cancelled)
        return [encoded[index] for index in range(len(passages))]

    def fuse(self, question: EncodedQuestion, encoded: Sequence[Floats]) -> Fused:
        """States (t, d) of each passage, the question's first -> what the decoder reads."""
        asked, passages = question.ids.shape[1] if self.ratio else 0, len(encoded)
        merged = np.mean([states[:asked] for states in encoded], axis=0)
        own = np.repeat(np.eye(passages), [len(states) - asked for states in encoded], axis=0)
        shares = np.concatenate([np.full((asked, passages), 1 / passages), own]).astype(np.float32)
        states = np.concatenate([merged, *(states[asked:] for states in encoded)])
        names = self.bundle.outputs(self.cross)
        keys = self.bundle.run(self.cross, names, {"encoded": states[None]})
        return Fused(dict(zip(names, keys, strict=True)), shares)

    def decode(
        self, fused: Fused, cancelled: Callable[[], bool] = never, told: Callable[[str], None] = ignore
    ) -> list[Hypothesis]:
        """
        The likeliest answers by beam search, best first, scored against the empty one; `told` gets the text so far.

        Raises:
            Cancelled: If `cancelled` became true before the end.
        """
        past = nothing_written(fused.keys)
        mask = np.ones((1, len(fused.shares)), np.int64)
        present = [name.replace("past_key_values", "present") for name in past]
        running, finished = [Hypothesis(mass=np.zeros(fused.shares.shape[1], np.float32))], []
        empty = 0.0
        for step in range(MAX_ANSWER_TOKENS + 1):
            if cancelled():
                raise Cancelled
            last = np.array([[one.ids[-1] if one.ids else START] for one in running], dtype=np.int64)
            inputs: Arrays = {"input_ids": last, "encoder_attention_mask": mask, **fused.keys, **past}
            logits, attention, *kept = self.bundle.run(self.decoder, ["logits", "attention", *present], inputs)
            chances = _log_softmax(logits[:, -1])
            if step == 0:
                empty = float(chances[0, self.bundle.end])
                chances[0, self.bundle.end] = -np.inf
            chances[:, START] = -np.inf  # padding is no word
            if step == MAX_ANSWER_TOKENS:
                finished += [
                    replace(one, score=one.score + float(chances[row, self.bundle.end]))
                    for row, one in enumerate(running)
                ]
                break
            paid = attention @ fused.shares
            totals = chances + np.array([[one.score] for one in running])
            order = np.argsort(-totals, axis=None, kind="stable")[: 2 * self.beams]
            parents, tokens = np.unravel_index(order, totals.shape)
            going: list[tuple[int, Hypothesis]] = []
            for row, token in zip(parents.tolist(), tokens.tolist(), strict=True):
                one = running[row]
                if token == self.bundle.end:
                    finished.append(replace(one, score=float(totals[row, token])))
                elif len(going) < self.beams:
                    grown = Hypothesis(float(totals[row, token]), [*one.ids, token], one.mass + paid[row])
                    going.append((row, grown))
                if self.beams == 1:
                    break  # greedy: the likeliest token, whatever it is
            finished = sorted(finished, key=lambda one: -one.score)[: self.beams]
            running = [one for _, one in going]
            if not running or (len(finished) == self.beams and finished[-1].score >= running[0].score):
                break
            rows = [row for row, _ in going]
            past = {name: values[rows] for name, values in zip(past, kept, strict=True)}
            told(self.text(running[0].ids))
        best = sorted(finished, key=lambda one: -one.score)[: self.beams]
        return [replace(one, score=one.score - empty) for one in best]

    def text(self, ids: Sequence[int]) -> str:
        """Tokens as text."""
        return str(self.bundle.tokenizer.decode(list(ids))).strip()

    def span(self, hypothesis: Hypothesis, passages: Sequence[PassageBits]) -> Span:
        """An answer with its source, as it stands there if it does."""
        answer = self.text(hypothesis.ids)
        places = [locate(passage.text, answer) for passage in passages]
        chosen = [index for index, place in enumerate(places) if place] or range(len(passages))
        source = max(chosen, key=lambda index: (float(hypothesis.mass[index]), -index))
        start, end = places[source] or (0, 0)
        return Span(source, start, end, hypothesis.score, passages[source].text[start:end] or answer)


def nothing_written(keys: Arrays) -> Arrays:
    """The decoder's own keys and values before its first token, beside these of cross-attention."""
    return {
        name.replace("encoder", "decoder"): np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
        for name, value in keys.items()
    }


def locate(text: str, answer: str) -> tuple[int, int] | None:
    """Where an answer stands in a text as whole words, whatever case, accents and spacing; None if it does not."""
    plain, places = _without_accents(text)
    words = r"\s*".join(re.escape(word) for word in _without_accents(answer)[0].split())
    for match in re.finditer(words, plain, re.IGNORECASE) if words else ():
        start, end = places[match.start()], places[match.end() - 1] + 1
        if places[match.start() - 1 : match.start()] == [start] or places[match.end() : match.end() + 1] == [end - 1]:
            continue  # a part of a character, as of a Korean syllable
        while end < len(text) and combining(text[end]):
            end += 1
        if (start, end) == whole_words(text, start, end):
            return start, end
    return None


def _without_accents(text: str) -> tuple[str, list[int]]:
    """A text without its accents, and which of its characters each one left comes from."""
    if text.isascii():
        return text, list(range(len(text)))
    parts = [(part, at) for at, character in enumerate(text) for part in normalize("NFD", character)]
    kept = [(part, at) for part, at in parts if not combining(part)]
    return "".join(part for part, _ in kept), [at for _, at in kept]


def _log_softmax(logits: Floats) -> Floats:
    """Logits (b, V) -> log probabilities (b, V)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    chances: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return chances
