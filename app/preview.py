"""
What an index run would do, before it does it: notes, tokens, minutes and bytes, and the text of one note as encoded.

Tokens are counted by cutting and tokenizing every note as the run would. Minutes are at the speed of the last run that
encoded enough to tell; bytes are exact for bits, scales and codes, and reckoned for the text and its search index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from app.bundle import Bundle
from app.documents import DocumentError, read_document
from app.formats.base import encodable
from app.indexer import SPEED
from app.passages import PassageSplitter
from app.sync import Plan, Stored, make_plan
from store.codes import POINTERS
from store.errors import UsageError
from store.tokens import TokenStore

ASSUMED_SPEED = 2_000.0
"""Tokens a second on each core, where nothing was measured yet."""
TEXT_BYTES = 4.0
"""Bytes of the store for a byte of text: the text, its search index, and pages that are not full."""


@dataclass(frozen=True)
class Forecast:
    """What a run would do."""

    plan: Plan
    tokens: int
    """To be encoded."""
    failed: list[tuple[str, str]]
    """(path, why) of notes that cannot be read."""
    speed: float
    """Tokens per second."""
    measured: bool
    """The speed is that of an earlier run, and not assumed."""
    store_bytes: float
    """That the store would grow by."""

    @property
    def minutes(self) -> float:
        """To encode it all."""
        return self.tokens / self.speed / 60


def forecast(store: TokenStore | None, bundle: Bundle, roots: Sequence[str], allow_deletions: bool = False) -> Forecast:
    """What an index run over some roots would do; nothing is written. Without a store, for a new one."""
    plan = make_plan(Stored.of(store) if store else Stored(), roots, allow_deletions)
    measured = store.setting(SPEED) if store else None
    tokens, passages, text_bytes, failed = 0, 0, 0, []
    splitter = PassageSplitter(bundle.tokenizer, bundle.manifest.passage_tokens)

    def count(path: str) -> tuple[list[int], int] | DocumentError:
        try:
            cut = splitter.split(read_document(Path(path)))
        except DocumentError as error:
            return error
        return [len(bundle.tokenize(passage.text).ids) for passage in cut], sum(len(p.text.encode()) for p in cut)

    with ThreadPoolExecutor(bundle.threads) as pool:
        paths = [file.path for file in plan.encode]
        for path, counted in zip(paths, pool.map(count, paths), strict=True):
            if isinstance(counted, DocumentError):
                failed.append((encodable(path), str(counted)))
            else:
                tokens += sum(counted[0])
                passages += len(counted[0])
                text_bytes += counted[1]
    manifest = bundle.manifest
    encoded = tokens * (manifest.bits / 8 + 2) + passages * (2 * manifest.code_bits / 8 + POINTERS)
    return Forecast(
        plan=plan,
        tokens=tokens,
        failed=failed,
        speed=float(measured) if measured else ASSUMED_SPEED * bundle.threads,
        measured=measured is not None,
        store_bytes=encoded + TEXT_BYTES * text_bytes,
    )


def encoded_text(bundle: Bundle, path: Path) -> Iterator[tuple[int, str, str]]:
    """
    (line, heading, text) of every passage of a note, exactly what is encoded of it.

    Raises:
        UsageError: If it cannot be read.
    """
    try:
        document = read_document(path)
    except DocumentError as error:
        raise UsageError(f"{path} {error}") from error
    splitter = PassageSplitter(bundle.tokenizer, bundle.manifest.passage_tokens)
    for passage in splitter.split(document):
        tokenized = bundle.tokenize(passage.text)
        if tokenized.ids:
            yield passage.line, bundle.heading_text(passage.heading), passage.text[: tokenized.offsets[-1][1]]
