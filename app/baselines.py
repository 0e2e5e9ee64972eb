"""
The readers that ours is measured against, behind the same protocol: the full one and the split one with float states.

Both work from a passage's text, so what they compute per question is all that BTR computes ahead of time. They are in
bundles made with `btr-export bundle --with-baselines`; the embedded one has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from app.bundle import Bundle, EncodedQuestion
from app.reader import ExtractiveReader, PassageBits
from store.bundle import FULL, SPLIT_LOWER, SPLIT_UPPER
from store.codec import Floats
from store.errors import ModelError


class FullReader(ExtractiveReader):
    """Question and passage together through every layer: the reader that nothing was taken from."""

    def __init__(self, bundle: Bundle) -> None:
        _require(bundle, FULL)
        super().__init__(bundle)

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


class FloatSplitReader(ExtractiveReader):
    """The split reader before its states were binarized; a passage's states are computed anew."""

    def __init__(self, bundle: Bundle) -> None:
        _require(bundle, SPLIT_LOWER)
        _require(bundle, SPLIT_UPPER)
        super().__init__(bundle)

    def logits(self, question: EncodedQuestion, passage: PassageBits, ids: Sequence[int]) -> tuple[Floats, Floats]:
        """Start and end logits (n,) over a passage's tokens."""
        before, after = self.bundle.surround(passage.heading)
        whole = np.array([[*before, *ids, *after]], dtype=np.int64)
        (asked,) = self.bundle.run(SPLIT_LOWER, ["states"], {"ids": question.ids})
        (states,) = self.bundle.run(SPLIT_LOWER, ["states"], {"ids": whole})
        inputs = {
            "question_states": asked,
            "question_ids": question.ids,
            "ids": np.array([ids], dtype=np.int64),
            "states": states[:, len(before) : len(before) + len(ids)],
        }
        start, end = self.bundle.run(SPLIT_UPPER, ["start", "end"], inputs)
        return start[0], end[0]


READERS: dict[str, Callable[[Bundle], ExtractiveReader]] = {
    "binarized": ExtractiveReader,
    "split": FloatSplitReader,
    "full": FullReader,
}


def _require(bundle: Bundle, name: str) -> None:
    if name not in bundle.manifest.files:
        raise ModelError(
            f"bundle {bundle.folder} has no {name} to compare with: make one with btr-export bundle --with-baselines"
        )
