"""
What is left of a text in a file's bytes: the proof behind `forget`.

A text is looked for as its pieces: slices of 24 UTF-8 bytes, one after the other, because SQLite cuts a long row across
pages and a whole passage would not be found though all of it is there. A piece that what is kept has too, as it is or
as the search index folds it, proves nothing and is not counted. A file is read in blocks, so memory stays bounded.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

PIECE = 24
SHORTEST = 12
"""Bytes of a whole text that are still looked for: fewer could be in any file by chance."""
_KEY = 8
_BLOCK = 1 << 23
_HASH_BITS = 20
_DULL = 3
"""Different bytes in a piece from which on it says something; a ruler or blanks do not."""


def pieces(texts: Iterable[str]) -> set[bytes]:
    """Every piece of some texts; the last one of a text overlaps the one before."""
    found: set[bytes] = set()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        starts = [*range(0, max(len(data) - PIECE, 0), PIECE), max(len(data) - PIECE, 0)]
        found.update(data[start : start + PIECE] for start in starts)
    return {piece for piece in found if len(piece) >= SHORTEST and len(set(piece[:_KEY])) > _DULL}


def found_in(wanted: Iterable[bytes], blocks: Iterable[bytes]) -> set[bytes]:
    """Those of some pieces that stand in the blocks of one file, across the ends of blocks too."""
    by_key: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for piece in wanted:
        by_key[piece[:_KEY]].append(piece)
    found: set[bytes] = set()
    if not by_key:
        return found
    keys = np.sort(np.frombuffer(b"".join(by_key), dtype="<u8"))
    likely = np.zeros(1 << _HASH_BITS, dtype=bool)
    likely[_hashes(keys)] = True
    tail = b""
    for block in blocks:
        data = tail + block
        for shift in range(_KEY):
            count = (len(data) - shift) // _KEY
            if count <= 0:
                continue
            words = np.frombuffer(data, dtype="<u8", count=count, offset=shift)
            maybe = np.flatnonzero(likely[_hashes(words)])
            near = np.minimum(np.searchsorted(keys, words[maybe]), len(keys) - 1)
            for hit in maybe[keys[near] == words[maybe]]:
                at = shift + _KEY * int(hit)
                found.update(piece for piece in by_key[data[at : at + _KEY]] if data.startswith(piece, at))
        tail = data[-(PIECE - 1) :]
    return found


def _hashes(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The top bits of words multiplied by an odd number: a table of these says where a search is worth its time."""
    return (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - _HASH_BITS)


def file_blocks(path: Path) -> Iterator[bytes]:
    """A file's bytes; none where there is no file."""
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except FileNotFoundError:
        return


def text_blocks(texts: Iterable[str]) -> Iterator[bytes]:
    """Texts as they are kept and as a search index folds them, as blocks of one file."""
    waiting: list[bytes] = []
    size = 0
    for text in texts:
        for form in (text, _folded(text)):
            waiting.append(form.encode("utf-8", "surrogatepass"))
            size += len(waiting[-1])
        if size >= _BLOCK:
            yield b"\0".join([*waiting, b""])
            waiting, size = [], 0
    yield b"\0".join(waiting)


def _folded(text: str) -> str:
    """Lower case, without diacritics."""
    if text.isascii():
        return text.lower()
    return "".join(c for c in unicodedata.normalize("NFKD", text).lower() if not unicodedata.combining(c))
