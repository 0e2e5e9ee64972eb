"""
The readers that ours is measured against, behind the same protocol: the full one and the split one with float states.

Both work from a passage's text, so what they compute per question is all that BTR computes ahead of time. They are in
bundles made with `btr-export bundle --with-baselines`; the embedded one has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from app.bundle import Bundle, EncodedQuestion
from app.generative import GenerativeReader
from app.reader import PassageBits, Reader, Span, best_first, each_passage, ignore, never, span_of
from store.bundle import FULL, FULL_CROSS, FULL_DECODER, SPLIT_CROSS, SPLIT_DECODER, SPLIT_LOWER, SPLIT_UPPER
from store.codec import Floats
from store.errors import ModelError


class TextReader:
    """Reads every passage to the end, from its text."""

    graphs: tuple[str, ...]

    def __init__(self, bundle: Bundle) -> None:
        _check_graphs(bundle, self.graphs)
        self.bundle = bundle

    def prepare(self, question: EncodedQuestion) -> EncodedQuestion:
        """What all passages of a question share, computed once."""
        return question

    def logits(self, question: EncodedQuestion, passage: PassageBits, ids: Sequence[int]) -> tuple[Floats, Floats]:
        """Start and end logits (n,) over a passage's tokens, relative to no answer."""
        raise NotImplementedError

    def read(
        self,
        question: EncodedQuestion,
        passages: Sequence[PassageBits],
        cancelled: Callable[[], bool] = never,
        told: Callable[[str], None] = ignore,
    ) -> list[Span]:
        """The best span of each passage, best first; raises `Cancelled`."""
        prepared = self.prepare(question)

        def one(index: int) -> Span:
            passage = passages[index]
            tokens = self.bundle.tokenize(passage.text)
            start, end = self.logits(prepared, passage, tokens.ids)
            return span_of(index, passage, tokens.offsets, start, end)

        return best_first(each_passage(self.bundle, passages, range(len(passages)), one, cancelled))


class FullReader(TextReader):
    """Question and passage together through every layer: the reader that nothing was taken from."""

    graphs = (FULL,)

    def logits(self, question: EncodedQuestion, passage: PassageBits, ids: Sequence[int]) -> tuple[Floats, Floats]:
        """Start and end logits (n,) over a passage's tokens."""
        asked = question.ids[0].tolist()
        before, after = self.bundle.surround(passage.heading)
        joint = np.array([[*asked, *before[1:], *ids, *after]], dtype=np.int64)
        segments = (np.arange(joint.shape[1])[None] >= len(asked)).astype(np.int64)
        start, end = self.bundle.run(FULL, ["start", "end"], {"ids": joint, "segments": segments})
        first = len(asked) + len(before) - 1
        body = slice(first, first + len(ids))
        return start[0, body], end[0, body]


class FloatSplitReader(TextReader):
    """The split reader before its states were binarized; a passage's states are computed anew."""

    graphs = (SPLIT_LOWER, SPLIT_UPPER)

    def prepare(self, question: EncodedQuestion) -> EncodedQuestion:
        """The question through this reader's own lower encoder."""
        return _float_question(self.bundle, question)

    def states(self, passage: PassageBits, ids: Sequence[int]) -> Floats:
        """Lower states (1, n, d) of a passage's tokens."""
        return self.bundle.states(passage.heading, ids, SPLIT_LOWER)

    def logits(self, question: EncodedQuestion, passage: PassageBits, ids: Sequence[int]) -> tuple[Floats, Floats]:
        """Start and end logits (n,) over a passage's tokens."""
        inputs: dict[str, npt.NDArray[Any]] = {
            "question_states": question.states,
            "question_ids": question.ids,
            "ids": np.array([ids], dtype=np.int64),
            "states": self.states(passage, ids),
        }
        start, end = self.bundle.run(SPLIT_UPPER, ["start", "end"], inputs)
        return start[0], end[0]


class FullGenerative(GenerativeReader):
    """Unsplit Fusion-in-Decoder: question and passage together through every encoder layer, nothing merged."""

    cross, decoder = FULL_CROSS, FULL_DECODER

    def __init__(self, bundle: Bundle, beams: int = 1) -> None:
        super().__init__(bundle, ratio=0.0, beams=beams)
        _check_graphs(bundle, (FULL, FULL_CROSS, FULL_DECODER))

    def encode(self, question: EncodedQuestion, passage: PassageBits) -> Floats:
        """Last encoder states (t, d)."""
        before, after = self.bundle.surround(passage.heading)
        joint = [*question.ids[0].tolist(), *before, *self.bundle.tokenize(passage.text).ids, *after]
        (states,) = self.bundle.run(FULL, ["encoded"], {"ids": np.array([joint], dtype=np.int64)})
        encoded: Floats = states[0]
        return encoded


class FloatSplitGenerative(GenerativeReader):
    """The split T5 before its states were binarized; a passage's states are computed anew, nothing is merged."""

    upper, cross, decoder = SPLIT_UPPER, SPLIT_CROSS, SPLIT_DECODER

    def __init__(self, bundle: Bundle, beams: int = 1) -> None:
        super().__init__(bundle, ratio=0.0, beams=beams)
        _check_graphs(bundle, (SPLIT_LOWER, SPLIT_UPPER, SPLIT_CROSS, SPLIT_DECODER))

    def prepare(self, question: EncodedQuestion) -> EncodedQuestion:
        """The question through this reader's own lower encoder."""
        return _float_question(self.bundle, question)

    def encode(self, question: EncodedQuestion, passage: PassageBits) -> Floats:
        """Last encoder states (t, d)."""
        ids = self.bundle.tokenize(passage.text).ids
        return self.encode_above(question, ids, {"states": self.bundle.states(passage.heading, ids, SPLIT_LOWER)})


def _float_question(bundle: Bundle, question: EncodedQuestion) -> EncodedQuestion:
    """A question through the lower encoder from before its states were binarized."""
    (states,) = bundle.run(SPLIT_LOWER, ["states"], {"ids": question.ids})
    return replace(question, states=states)


def _check_graphs(bundle: Bundle, names: Sequence[str]) -> None:
    for name in names:
        if name not in bundle.manifest.files:
            raise ModelError(
                f"bundle {bundle.folder} has no {name} to compare with: "
                "make one with btr-export bundle --with-baselines"
            )


_EXTRACTIVE: dict[str, Callable[[Bundle], Reader]] = {"split": FloatSplitReader, "full": FullReader}
_GENERATIVE: dict[str, Callable[[Bundle, int], Reader]] = {"split": FloatSplitGenerative, "full": FullGenerative}


def baseline(bundle: Bundle, name: str, beams: int = 1) -> Reader:
    """
    The reader "split" or "full" of a bundle; a generative one keeps so many `beams`.

    Raises:
        ModelError: If the bundle was made without it.
    """
    if bundle.manifest.reader == "generative":
        return _GENERATIVE[name](bundle, beams)
    return _EXTRACTIVE[name](bundle)
