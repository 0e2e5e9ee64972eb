"""
Offline compression of one passage: common words keep no vector, neighbours that say nearly the same share one.

The paper (BTR section 3.2) merges tokens of one id over the whole corpus and keeps a pointer for each token. What is
stored here is what the ids do *not* tell, and that is alike in neighbours rather than in tokens of one id: so stopwords
and punctuation keep no vector, and the rest of a passage is cut into runs of neighbours that share one. One bit a token
and one more a held token say so (`store.codec`); there are no pointers, and nothing beyond the passage itself: each is
compressed, replaced and forgotten on its own, in memory that does not grow with the store.

A run's sum is S = sum of scale * signs over its tokens. Its vector is sign(S) and its scale sum |S| / (m * tokens), the
least squares fit to all of them. Where S is 0, the bit of the run's first part stays: taking -1 would skew the signs.
The two neighbouring runs that lose least are merged first (Ward's criterion), the earlier pair of equal ones. Sums are
float64, in which sums of float16 scales are exact: the outcome is the same on every machine.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from store.codec import Packed, decoded_scales, encoded_scales, unpack
from store.search import STOPWORDS

Sums = npt.NDArray[np.float64]
_CLITICS = frozenset({"s", "t", "d", "ll", "re", "ve"})
"""What is left of 's, n't and their like when a tokenizer has split off the apostrophe."""


def common_ids(vocabulary: Mapping[str, int]) -> npt.NDArray[np.bool_]:
    """
    Token id -> whether it is a common word (V,): a stopword, or a token with neither letter nor digit.

    A word's first piece is "the" in a vocabulary of word pieces ("##s" goes on), "▁the" in T5's ("s" goes on).
    """
    common = np.zeros(max(vocabulary.values()) + 1, dtype=np.bool_)
    first = "▁" if "▁the" in vocabulary else ""
    for token, i in vocabulary.items():
        word = token.removeprefix(first).lower() if token.startswith(first) else ""
        shown = token.removeprefix("##").removeprefix(first)
        common[i] = word in STOPWORDS or word in _CLITICS or not any(c.isalnum() for c in shown)
    return common


def runs_kept(held: int, ratio: float) -> int:
    """How many runs are left of so many held tokens after a share of them, 0 <= ratio < 1, was merged away."""
    return math.ceil(round((1 - ratio) * held, 6))


def compress(passage: Packed, held: npt.NDArray[np.bool_], ratios: Sequence[float]) -> Packed:
    """
    A passage after one compression of each ratio: `held` (n,) says which tokens of an uncompressed one keep a vector.

    If that is none, the first does. A compressed one keeps what it holds, and what was done to it before does nothing.
    """
    if not ratios:
        return passage
    if passage.starts is None:
        if not held.any():
            held = np.arange(len(held)) == 0
        bits, scale = passage.bits[held], encoded_scales(passage.scale[held])
        starts = np.ones(len(scale), dtype=np.bool_)
        passage = Packed(bits, decoded_scales(scale), held, starts)
    for ratio in ratios:
        passage = _merged(passage, runs_kept(int(passage.held.sum()), ratio))
    return passage


def _merged(passage: Packed, keep: int) -> Packed:
    """A compressed passage of at most `keep` runs."""
    assert passage.starts is not None
    count = len(passage.scale)
    if count <= keep:
        return passage
    signs = unpack(passage.bits).astype(np.float64)
    m = signs.shape[1]
    first = np.flatnonzero(passage.starts)
    size = np.diff(np.append(first, len(passage.starts))).tolist()
    sums: Sums = signs * (passage.scale.astype(np.float64) * size)[:, None]

    def energies(total: Sums, tokens: npt.ArrayLike) -> Sums:
        explained: Sums = np.abs(total).sum(axis=-1) ** 2 / (m * np.asarray(tokens))
        return explained

    energy = energies(sums, size).tolist()
    joint = energies(sums[:-1] + sums[1:], np.add(size[:-1], size[1:])).tolist()
    after, before, version = [*range(1, count), -1], [-1, *range(count - 1)], [0] * count
    losses = [(energy[i] + energy[i + 1] - joint[i], i, 0, 0) for i in range(count - 1)]
    heapq.heapify(losses)
    for _ in range(count - keep):
        while True:  # until a pair that is as it was when its loss was reckoned
            _, i, mine, theirs = heapq.heappop(losses)
            j = after[i]
            if j >= 0 and version[i] == mine and version[j] == theirs:
                break
        sums[i] += sums[j]
        signs[i] = np.where(sums[i] == 0, signs[i], np.sign(sums[i]))
        size[i] += size[j]
        energy[i] = float(energies(sums[i], size[i]))
        version[i], version[j] = version[i] + 1, -1
        after[i] = after[j]
        if after[i] >= 0:
            before[after[i]] = i
        for a, b in ((before[i], i), (i, after[i])):
            if a >= 0 and b >= 0:
                loss = energy[a] + energy[b] - float(energies(sums[a] + sums[b], size[a] + size[b]))
                heapq.heappush(losses, (loss, a, version[a], version[b]))
    left = [i for i in range(count) if version[i] >= 0]
    scale = np.abs(sums[left]).sum(axis=1) / (m * np.array([size[i] for i in left]))
    starts = np.zeros_like(passage.starts)
    starts[first[left]] = True
    return Packed(np.packbits(signs[left] > 0, axis=-1), decoded_scales(encoded_scales(scale)), passage.held, starts)
