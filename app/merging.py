"""
Bipartite merging of token states in numpy: the reference of `export.merging`, and what merges over passages.

Both follow one definition. Tokens at even places propose their nearest neighbour by cosine among those at odd places
within reach; the closest floor(ratio n) of them merge with it, in single precision; a merged token is the mean of what
it stands for. Cosines are compared in steps of 1 / 4096, and of equal ones the earlier is the closer.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from store.codec import Floats

Groups = npt.NDArray[np.int64]


def groups(x: Floats, ratio: float, reach: int | None = None) -> Groups:
    """
    States (n, d) -> the merged token (n,) that each belongs to, numbered 0.. in the order of the kept tokens.

    With a `reach` none merge that stand farther apart.
    """
    n = len(x)
    count = min(int(np.floor(np.float32(ratio) * np.float32(n))), n // 2)
    target = np.arange(n)
    if count:
        unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        similarity = unit[0::2] @ unit[1::2].T
        np.rint(np.multiply(similarity, 4096, out=similarity), out=similarity)  # in place: it is large
        if reach is not None:
            similarity[np.abs(target[0::2, None] - target[None, 1::2]) > reach] = -9999
        closest = np.argsort(-similarity.max(axis=1), kind="stable")[:count]
        target[2 * closest] = 2 * similarity.argmax(axis=1)[closest] + 1
    kept = target == np.arange(n)
    numbered: Groups = (np.cumsum(kept) - 1)[target]
    return numbered


def merge(x: Floats, group: Groups) -> tuple[Floats, Floats]:
    """States (n, d) and their groups (n,) -> means (n', d), and how many tokens each stands for (n',)."""
    sizes = np.bincount(group)
    shared = np.flatnonzero(sizes[group] > 1)
    shared = shared[np.argsort(group[shared], kind="stable")]
    means = np.empty((len(sizes), x.shape[1]), np.float32)
    means[group] = x
    if len(shared):
        starts = np.flatnonzero(np.diff(group[shared], prepend=-1))
        means[sizes > 1] = np.add.reduceat(x[shared], starts) / sizes[sizes > 1, None]
    return means, sizes.astype(np.float32)
