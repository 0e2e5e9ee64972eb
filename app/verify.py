"""
Whether store and bundle are whole: pages, references, search index, lengths, hashes, and bits that come out the same.

A sample of passages whose files are as they were indexed is encoded again, and compressed as the stored one was; bits,
scales, runs and codes must be equal, byte by byte. Nothing is changed. The search index is checked first: SQLite keeps
every writer out meanwhile, a minute in a large store, so it is not begun while one is at work.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from app.bundle import Bundle
from app.compaction import ratios_of
from app.documents import hash_of
from app.indexer import writer_lock
from store.bundle import Manifest
from store.bundle import verify as verify_bundle
from store.codec import read_packed, read_runs
from store.errors import FormatError, ModelError
from store.records import StoredPassage
from store.runs import compress
from store.scope import EVERYTHING
from store.tokens import TokenStore
from store.upkeep import Finding, encoded, pages, references, search_index


def findings(path: Path, folder: Path, manifest: Manifest, lock: Path) -> Iterator[Finding]:
    """
    Check a store and its bundle, one thing after the other; damage in one does not stop the next.

    Raises:
        BusyError: If another run holds the writer's lock.
    """
    with writer_lock(lock):
        searched = search_index(path)
    yield pages(path)
    yield references(path)
    yield searched
    yield encoded(path, manifest.bits, manifest.code_bits)
    yield bundle_files(folder, manifest)


def bundle_files(folder: Path, manifest: Manifest) -> Finding:
    """Whether every file of a bundle has its hash."""
    try:
        verify_bundle(folder, manifest)
    except ModelError as error:
        return Finding("bundle", (str(error),))
    return Finding("bundle", ())


def reencode(store: TokenStore, bundle: Bundle, count: int, seed: int = 0) -> tuple[int, Finding]:
    """Encode some passages of unchanged notes again: how many, and those whose bits differ."""
    ids, codes = store.codes()
    live = store.rows(EVERYTHING)
    owners = store.code_index().owners[slice(None) if live is None else live]
    ratios = ratios_of(store, bundle.manifest)
    order = list(range(len(ids)))
    random.Random(seed).shuffle(order)
    documents = {document.id: document for document in store.documents()}
    unchanged: dict[int, bool] = {}
    checked, problems = 0, []
    for row in order:
        if checked == count:
            break
        owner = int(owners[row])
        if owner not in unchanged:  # before any of its passages is read: on a disk that is away none need be
            document = documents.get(owner)
            unchanged[owner] = document is not None and hash_of(Path(document.path)) == document.content_hash
        for passage in store.passages([int(ids[row])]) if unchanged[owner] else ():
            checked += 1
            if not _same(store, bundle, passage, codes[row].tobytes(), ratios):
                problems.append(f"passage {passage.id} of {passage.path}:{passage.line} is encoded to other bits")
    return checked, Finding("same bits", tuple(problems))


def _same(store: TokenStore, bundle: Bundle, passage: StoredPassage, code: bytes, ratios: Sequence[float]) -> bool:
    again = bundle.encode_passage(passage.heading, passage.text)
    stored = store.stored_bytes(passage.id)
    if (again.tokens, again.code) != (passage.tokens, code) or stored is None:
        return False
    if stored[2] is None:
        return (again.bits, again.scale, None) == stored
    try:
        held, _ = read_runs(stored[2], passage.tokens)
    except FormatError:
        return False
    whole = read_packed(again.bits, again.scale, None, again.tokens)
    steps = range(1, len(ratios) + 1)  # a compaction that was interrupted has not reached every passage
    return any(compress(whole, held, ratios[:step]).to_bytes() == stored for step in steps)
