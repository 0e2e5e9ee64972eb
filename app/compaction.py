"""
Offline compression of a store: every passage on its own, batch by batch, by what its bundle asks for and what it keeps.

The ratios of all compactions so far stand in the store's settings before the first batch is written, and each passage
goes through the bundle's own and all of these: one that went through some already is left as it is by those. So a run
that was interrupted goes on where it stopped, notes indexed later come out as if they had been there, and `verify` can
make every stored byte again. Which tokens keep no vector is decided once, by the token ids; the store remembers it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.bundle import Bundle
from store.bundle import Manifest, is_ratio
from store.codec import Packed
from store.errors import StoreError, UsageError
from store.records import Counts
from store.runs import common_ids, compress, runs_kept
from store.tokens import TokenStore

SETTING = "offline_ratios"
"""Key in the store's settings."""
ROOM_OWED = "compaction_room_owed"
"""The same, there from the first passage that changes until the room is given back."""
RATIO = 0.0
"""Common words alone: on 608 validation questions 42 % fewer bytes, at no F1 that can be told (+0.3 +- 0.9)."""
BATCH = 256
"""Passages of one transaction."""


@dataclass(frozen=True)
class Compaction:
    """What a compaction did, or would do."""

    before: Counts
    after: Counts
    changed: int
    """Passages that were compressed, or compressed further."""


def own_ratios(manifest: Manifest) -> list[float]:
    """What a bundle asks for by itself: what the passages of a new store are compressed by."""
    return [] if manifest.offline_ratio is None else [float(manifest.offline_ratio)]


def ratios_of(store: TokenStore, manifest: Manifest) -> list[float]:
    """
    What the passages of a store are compressed by, rising: what its bundle asks for, then every compaction.

    Raises:
        StoreError: If they are damaged.
    """
    own = own_ratios(manifest)
    kept = store.setting(SETTING)
    if kept is None:
        return own
    try:
        ratios = [float(ratio) for ratio in json.loads(kept)]
        if ratios != sorted(set(ratios)) or not all(map(is_ratio, ratios)):
            raise ValueError(kept)
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"the store's {SETTING} are damaged ({error}): run btr-assistant restore BACKUP, "
            f"or move {store.path} away and index again"
        ) from error
    return sorted({*own, *ratios})


class Compressor:
    """Compresses passages of one bundle by the ratios of one store."""

    def __init__(self, bundle: Bundle, ratios: Sequence[float]) -> None:
        self._bundle, self.ratios = bundle, ratios
        self._common = common_ids(bundle.tokenizer.get_vocab()) if ratios else np.zeros(0, dtype=np.bool_)

    def held(self, text: str) -> npt.NDArray[np.bool_]:
        """Which tokens of a text (n,) keep a vector."""
        return ~self._common[np.array(self._bundle.tokenize(text).ids, dtype=np.int64)]

    def __call__(self, text: str, passage: Packed) -> Packed:
        """A passage with this text, compressed; as it is if it is already, or if there are no ratios."""
        if not self.ratios:
            return passage
        held = self.held(text) if passage.starts is None else passage.held
        return compress(passage, held, self.ratios)


def compact(
    store: TokenStore,
    bundle: Bundle,
    ratio: float,
    progress: Callable[[int, int], None] = lambda *_: None,
    dry_run: bool = False,
) -> Compaction:
    """
    Compress every passage, deleted notes' too, a batch a transaction; then give the room back. Memory stays bounded.

    Raises:
        UsageError: If it is no ratio, or the store was compacted further already: what was merged cannot be parted.
    """
    if not is_ratio(ratio):
        raise UsageError(f"a ratio of {ratio:g} cannot be: give at least 0 and less than 1")
    ratios = ratios_of(store, bundle.manifest)
    if ratios and ratio < ratios[-1]:
        raise UsageError(
            f"the store was compacted with ratio {ratios[-1]:g}, what was merged cannot be parted again: give at least "
            "that, or move the store away and index again"
        )
    ratios = [*ratios, ratio] if ratio not in ratios else ratios
    compressor = Compressor(bundle, ratios)
    before = store.counts()
    if not dry_run:
        store.put_setting(SETTING, json.dumps(ratios))
    total, done, last, changed, saved = before.stored_passages, 0, 0, 0, np.zeros(3, dtype=np.int64)
    while batch := store.packed_after(last, BATCH):
        compressed = []
        for row in batch:
            if dry_run:
                found = row.passage.to_bytes()
                sizes = _sizes(row.passage, compressor, row.text)
                became = np.array(sizes) - [len(found[0]), len(found[1]), len(found[2] or b"")]
                changed += row.passage.starts is None or sizes[1] < len(row.passage.scale)
                saved += became * row.live
                continue
            passage = compressor(row.text, row.passage)
            if row.passage.starts is None or len(passage.scale) < len(row.passage.scale):
                compressed.append((row.passage_id, passage))
        if compressed:
            if not changed:
                store.put_setting(ROOM_OWED, "yes")
            store.put_packed(compressed)
        changed += len(compressed)
        done, last = done + len(batch), batch[-1].passage_id
        progress(done, total)
    if dry_run:
        return Compaction(before, before.with_sizes(*saved.tolist()), changed)
    if store.setting(ROOM_OWED):  # perhaps since a run that was stopped
        store.vacuum()
        store.put_setting(ROOM_OWED, None)
    return Compaction(before, store.counts(), changed)


def _sizes(passage: Packed, compressor: Compressor, text: str) -> tuple[int, int, int]:
    """Bytes of bits, scales and runs that a passage will have, without the work."""
    held = max(1, int((compressor.held(text) if passage.starts is None else passage.held).sum()))
    runs = min([runs_kept(held, ratio) for ratio in compressor.ratios])
    if passage.starts is not None:
        runs = min(runs, len(passage.scale))
    return runs * passage.bits.shape[1], runs, -(-(len(passage.held) + held) // 8)
