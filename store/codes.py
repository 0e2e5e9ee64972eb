"""
Passage codes in blocks: what a ranking over all passages needs, in a thousandth of the rows.

A passage's code stands with the passage; here it stands once more, beside those of its neighbours, because a million
rows that also hold text take seconds to read and the codes alone take hundredths. One convention, defined here:

- a block holds the passages whose ids differ in the last ten bits only: these bits, `places` (n, little-endian uint16,
  ascending), the ids of their documents, `owners` (n, little-endian uint32), and their `codes` (n * c / 8 bytes);
- triggers write the id of every passage that is added, removed or changed into `stale_codes`. A writer packs those
  blocks anew before it commits, so that the table is empty; what another program left in it, a reader looks up with the
  passages. Both do it by `Blocks.fresh`.

In memory codes stand as 64-bit words, the first words of all passages, then the second ones, and so on: a scan by
Hamming distance then adds up columns, which is ten times as fast as adding up the bytes of one code.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from store.codec import Bits
from store.errors import FormatError, StoreError

BLOCK_BITS = 10
_PLACE = np.dtype("<u2")
_OWNER = np.dtype("<u4")
POINTERS = _PLACE.itemsize + _OWNER.itemsize
"""Bytes that a block holds for each passage besides its code."""
_WORD = 8
_SCANNED = 1 << 14
"""Passages of which distances are counted at a time: what that takes stays in the processor's cache."""

Rows = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Codes:
    """The codes of all passages of a store, deleted documents' included."""

    ids: npt.NDArray[np.uint32]
    """(P,), ascending."""
    owners: npt.NDArray[np.uint32]
    """(P,) ids of documents."""
    words: Words
    """(w, P): codes with zeros up to the next 64 bits."""
    width: int
    """Bytes of a code."""

    @classmethod
    def none(cls) -> Codes:
        """Of an empty store."""
        nothing = np.empty(0, dtype=np.uint32)
        return cls(nothing, nothing, np.empty((0, 0), dtype=np.uint64), 0)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Rows) -> Bits:
        """The codes (n, c / 8) of some rows (n,)."""
        chosen = np.ascontiguousarray(self.words[:, rows].T)
        return chosen.view(np.uint8).reshape(len(rows), len(self.words) * _WORD)[:, : self.width]

    def distances(self, code: Bits) -> npt.NDArray[np.uint16]:
        """
        The Hamming distance of every passage (P,) to a code (c / 8,).

        Raises:
            FormatError: If the code has another width.
        """
        if code.shape != (self.width,):
            raise FormatError(f"a code of {len(code)} bytes does not go with {self.width}: use the store's own bundle")
        padded = np.zeros(len(self.words) * _WORD, dtype=np.uint8)
        padded[: self.width] = code
        query = padded.view(np.uint64)[:, None]
        found = np.empty(len(self), dtype=np.uint16)
        for at in range(0, len(self), _SCANNED):
            part = slice(at, at + _SCANNED)
            np.bitwise_count(self.words[:, part] ^ query).sum(axis=0, dtype=np.uint16, out=found[part])
        return found


@dataclass(frozen=True)
class _Block:
    places: npt.NDArray[np.uint16]
    owners: npt.NDArray[np.uint32]
    codes: Bits
    """(n, c / 8)."""


class Blocks:
    """The blocks of one connection to a store."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def pack(self) -> None:
        """Write the blocks of stale codes anew, inside the caller's transaction."""
        stale = self._stale()
        for block in stale:
            fresh = self.fresh(block, is_stale=True)
            if len(fresh.places):
                row = (block, fresh.places.tobytes(), fresh.owners.tobytes(), fresh.codes.tobytes())
                self._connection.execute("INSERT OR REPLACE INTO code_blocks VALUES (?, ?, ?, ?)", row)
            else:
                self._connection.execute("DELETE FROM code_blocks WHERE block = ?", (block,))
        if stale:
            self._connection.execute("DELETE FROM stale_codes")

    def load(self) -> Codes:
        """
        All codes, in the memory that they need and one block's.

        Raises:
            ValueError: If they are not all of one width.
            StoreError: If a block is not whole.
        """
        stale = set(self._stale())
        blocks = sorted(stale | {block for (block,) in self._connection.execute("SELECT block FROM code_blocks")})
        room = len(blocks) << BLOCK_BITS  # what is not written to takes no memory
        ids, owners = np.empty(room, dtype=np.uint32), np.empty(room, dtype=np.uint32)
        words: Words | None = None
        width = end = 0
        for block in blocks:
            fresh = self.fresh(block, block in stale)
            if not len(fresh.places):
                continue
            if words is None:
                width = fresh.codes.shape[1]
                words = np.empty((-(-width // _WORD), room), dtype=np.uint64)
            _check_widths(width, fresh.codes.shape[1])
            start, end = end, end + len(fresh.places)
            ids[start:end] = (block << BLOCK_BITS) + fresh.places.astype(np.uint32)
            owners[start:end] = fresh.owners
            padded = np.zeros((end - start, len(words) * _WORD), dtype=np.uint8)
            padded[:, :width] = fresh.codes
            words[:, start:end] = padded.view(np.uint64).T
        if words is None:
            return Codes.none()
        return Codes(ids[:end], owners[:end], words[:, :end], width)

    def fresh(self, block: int, is_stale: bool) -> _Block:
        """A block as it is stored or, if it is stale, with what the passages say now."""
        sql = "SELECT places, owners, codes FROM code_blocks WHERE block = ?"
        row = self._connection.execute(sql, (block,)).fetchone()
        stored = _decode(block, *row) if row else None
        if not is_stale:
            return stored or _decode(block, b"", b"", b"")
        first, last = block << BLOCK_BITS, ((block + 1) << BLOCK_BITS) - 1
        sql = "SELECT passage_id FROM stale_codes WHERE passage_id BETWEEN ? AND ?"
        stale = np.array([i - first for (i,) in self._connection.execute(sql, (first, last))], dtype=_PLACE)
        sql = (
            "SELECT p.id, p.document_id, p.code FROM stale_codes s JOIN passages p ON p.id = s.passage_id "
            "WHERE s.passage_id BETWEEN ? AND ? ORDER BY p.id"
        )
        rows = self._connection.execute(sql, (first, last)).fetchall()
        added = _decode(
            block,
            np.array([row[0] - first for row in rows], dtype=_PLACE).tobytes(),
            np.array([row[1] for row in rows], dtype=_OWNER).tobytes(),
            b"".join(row[2] for row in rows),
        )
        if stored is None:
            return added
        kept = ~np.isin(stored.places, stale)
        if not rows:
            return _Block(stored.places[kept], stored.owners[kept], stored.codes[kept])
        if not kept.any():
            return added
        places = np.concatenate([stored.places[kept], added.places])
        order = np.argsort(places)
        owners = np.concatenate([stored.owners[kept], added.owners])
        _check_widths(stored.codes.shape[1], added.codes.shape[1])
        codes = np.concatenate([stored.codes[kept], added.codes])
        return _Block(places[order], owners[order], codes[order])

    def problems(self) -> Iterator[str]:
        """Where blocks, with what is stale looked up, are not what the passages say: one sentence each."""
        said = "SELECT id, document_id, code FROM passages WHERE id BETWEEN ? AND ? ORDER BY id"
        sql = f"SELECT id >> {BLOCK_BITS} FROM passages UNION SELECT block FROM code_blocks ORDER BY 1"
        stale = self._stale()
        for (block,) in self._connection.execute(sql).fetchall():
            first = block << BLOCK_BITS
            rows = self._connection.execute(said, (first, first + (1 << BLOCK_BITS) - 1)).fetchall()
            try:
                found = self.fresh(block, block in stale)
            except (StoreError, ValueError) as error:
                yield str(error)
                continue
            except (TypeError, OverflowError):  # a passage's row that holds what cannot be
                yield f"code block {block} cannot be made from its passages"
                continue
            stored = zip((found.places + first).tolist(), found.owners.tolist(), found.codes, strict=True)
            if [(i, owner, code.tobytes()) for i, owner, code in stored] != rows:
                yield f"code block {block} is not what its passages say"

    def _stale(self) -> list[int]:
        sql = f"SELECT DISTINCT passage_id >> {BLOCK_BITS} FROM stale_codes"
        return [block for (block,) in self._connection.execute(sql)]


def _check_widths(one: int, other: int) -> None:
    if one != other:
        raise ValueError(f"passage codes of {one} and of {other} bytes in one store")


def _decode(block: int, places: bytes, owners: bytes, codes: bytes) -> _Block:
    count = len(places) // _PLACE.itemsize
    if len(places) % _PLACE.itemsize or len(owners) != count * _OWNER.itemsize or (count and len(codes) % count):
        raise StoreError(f"code block {block} is not whole: run btr-assistant verify --rebuild-search")
    packed = np.frombuffer(codes, dtype=np.uint8).reshape(count, -1) if count else np.empty((0, 0), dtype=np.uint8)
    return _Block(np.frombuffer(places, dtype=_PLACE), np.frombuffer(owners, dtype=_OWNER), packed)
