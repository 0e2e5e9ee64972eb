"""
What goes into a store and what comes out of it: documents, their passages, and how much there is of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from store.codec import Packed


@dataclass(frozen=True)
class StoredDocument:
    """What the store knows of a file: enough to tell whether it changed."""

    id: int
    source_id: int
    path: str
    content_hash: str
    size: int
    mtime_ns: int
    title: str
    deleted_at: int | None
    """Seconds since 1970; None: its file is there."""

    @property
    def deleted(self) -> bool:
        """It is a tombstone."""
        return self.deleted_at is not None


@dataclass(frozen=True)
class Source:
    """A folder or file that is kept in step with the store."""

    id: int
    root: str
    notes: int


@dataclass(frozen=True)
class Placement:
    """Where a stored document is now: the same bytes under another path or time, or back after a deletion."""

    document_id: int
    source_id: int
    path: str
    size: int
    mtime_ns: int
    tags: Sequence[str] | None = None
    """Those in its text, where they were read again; None leaves them as they are."""


@dataclass(frozen=True)
class NewDocument:
    """A file to add."""

    path: str
    content_hash: str
    size: int
    mtime_ns: int
    title: str
    metadata: Mapping[str, Any]
    tags: Sequence[str] = ()
    """Those in its text; those in its metadata are found there."""


@dataclass(frozen=True)
class NewPassage:
    """A passage to add, encoded."""

    start: int
    """First character in the file's text."""
    end: int
    line: int
    """1-based line of the first character."""
    page: int | None
    heading: str
    """Heading path, ' > ' between levels."""
    text: str
    tokens: int
    """n."""
    code: bytes
    """c / 8 bytes."""
    bits: bytes
    """n * m / 8 bytes."""
    scale: bytes
    """n float16."""
    anchors: Sequence[tuple[int, int, int, int | None]] = ()
    """(offset in the text, start, line, page) wherever the text leaves the file's run; none where it does not."""
    runs: bytes | None = None
    """Which tokens share a vector; then `bits` and `scale` are those of the runs. None: each has its own."""


@dataclass(frozen=True)
class StoredPassage:
    """A passage with the file it came from."""

    id: int
    path: str
    content_hash: str
    size: int
    mtime_ns: int
    start: int
    end: int
    line: int
    page: int | None
    heading: str
    text: str
    tokens: int
    anchors: tuple[tuple[int, int, int, int | None], ...] = ()


@dataclass(frozen=True)
class PackedPassage:
    """A passage's tokens as they are stored."""

    passage_id: int
    text: str
    live: bool
    """Its note was not deleted."""
    passage: Packed


@dataclass(frozen=True)
class Counts:
    """How much a store holds."""

    notes: int
    passages: int
    tokens: int
    failed: int
    deleted: int
    """Tombstones; counted nowhere else but in `store_bytes`."""
    stored_passages: int
    """Those of tombstones included."""
    compressed: int
    """Of them."""
    bits_bytes: int
    scale_bytes: int
    runs_bytes: int
    """Masks that say which tokens of a compressed passage share a vector."""
    code_bytes: int
    """Passage codes, in their blocks too."""
    text_bytes: int
    """Text of the passages, UTF-8."""
    word_index_bytes: int
    """The full-text index, tombstones' part included until `cleanup`."""
    store_bytes: int
    """Size of the file with its log."""

    @property
    def encoded_bytes(self) -> int:
        """Bits, scales, runs and passage codes: all that is kept for reading and ranking but text."""
        return self.bits_bytes + self.scale_bytes + self.runs_bytes + self.code_bytes

    def with_sizes(self, bits: int, scale: int, runs: int) -> Counts:
        """The same with so many bytes more of bits, scales and runs."""
        return replace(
            self,
            bits_bytes=self.bits_bytes + bits,
            scale_bytes=self.scale_bytes + scale,
            runs_bytes=self.runs_bytes + runs,
        )

    @property
    def bytes_per_token(self) -> float:
        """Encoded bytes over tokens; 0 in an empty store."""
        return self.encoded_bytes / self.tokens if self.tokens else 0.0
