"""
Folders of notes -> the store, incrementally: one transaction per note, a kill loses at most the note in flight.

What is to be done is planned first (`app.sync`); then documents that only moved are placed and those that are gone
become tombstones, each in one transaction, and what is left is encoded on as many threads as there are cores and
written in order by the caller's thread.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from app.bundle import Bundle
from app.compaction import Compressor, ratios_of
from app.documents import Document, DocumentError, read_document, unreadable
from app.formats.base import encodable
from app.passages import Passage, PassageSplitter
from app.sync import Plan, Roots, Stored, make_plan
from store.bundle import Manifest
from store.codec import read_packed
from store.errors import BusyError, StoreError
from store.records import NewDocument, NewPassage, Placement
from store.tokens import TokenStore, is_inside
from store.upkeep import discard_part

SPEED = "tokens_per_second"
"""The setting that keeps how fast the last run encoded."""
_MEASURABLE = 2_000
"""Tokens from which on a run's speed says something."""
_UNLISTED = "cannot be listed: check its permissions, its notes stay as they were indexed"


@dataclass(frozen=True)
class Change:
    """One thing that an index run did."""

    what: str
    """indexed, moved, restored, removed or failed."""
    path: str
    detail: str = ""


@dataclass
class Report:
    """What an index run did."""

    notes: int = 0
    """Files looked at."""
    indexed: int = 0
    unchanged: int = 0
    moved: int = 0
    """Renamed or moved, and not encoded."""
    restored: int = 0
    """Back after a deletion, and not encoded."""
    removed: int = 0
    tokens: int = 0
    """Tokens encoded in this run."""
    seconds: float = 0.0
    failed: list[tuple[str, str]] = field(default_factory=list)
    """(path, reason)."""
    warnings: list[tuple[str, str]] = field(default_factory=list)
    """(path, what to know) of notes that were indexed all the same."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(path, why) of what was not read."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """(source, why) of what was left as it is because too much of it is gone."""

    @property
    def changes(self) -> int:
        """How many notes of the store this run changed."""
        return self.indexed + self.moved + self.restored + self.removed


@dataclass(frozen=True)
class Progress:
    """Where an index run stands."""

    done: int
    total: int
    tokens: int
    seconds: float
    path: str

    @property
    def notes_per_second(self) -> float:
        """Notes encoded per second so far."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float:
        """At the pace so far."""
        return (self.total - self.done) * self.seconds / self.done if self.done else 0.0


@contextmanager
def writer_lock(path: Path, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """
    Only one index run writes to a store; the lock goes with its process, however that ends.

    With `wait`, which is told so, it is waited for.

    Raises:
        BusyError: If another run holds it, and it is not waited for.
        StoreError: If it cannot be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            lock.acquire()
        except Timeout:
            if wait is None:
                raise BusyError("another index run is writing to this store: wait for it to finish") from None
            wait("another index run is writing to this store: waiting for it to finish, Ctrl-C gives up")
            lock.acquire(timeout=-1)
    except OSError as error:
        raise StoreError(f"cannot write {path.parent} ({error.strerror}): set BTR_ASSISTANT_HOME") from error
    try:
        yield
    finally:
        lock.release()


def is_written(lock: Path) -> bool:
    """
    Whether a run writes to the store of this lock at the moment.

    Raises:
        StoreError: If the lock cannot be tried.
    """
    if not lock.exists():
        return False
    try:
        with writer_lock(lock):
            return False
    except BusyError:
        return True


@contextmanager
def writing(store: Path, lock: Path, manifest: Manifest) -> Iterator[TokenStore]:
    """
    A store to write to, made or migrated if need be, with its lock.

    Raises:
        BusyError: If another run writes to it.
        StoreError: If it cannot be used.
    """
    with writer_lock(lock):
        discard_part(store)
        with TokenStore.create(store, manifest.fingerprint, manifest.name) as opened:
            yield opened


def index(
    store: TokenStore,
    bundle: Bundle,
    roots: Sequence[Path | str],
    progress: Callable[[Progress], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    *,
    allow_deletions: bool = False,
    tell: Callable[[Change], None] = lambda _: None,
    check: Callable[[], None] = lambda: None,
    threads: int | None = None,
) -> Report:
    """
    Bring the store up to date with folders or files, by absolute path.

    A file that cannot be read is reported, and what was stored of it stays; one that is gone by then is left to the
    next run. `check` is called several times a second and may raise to stop; `tell` is called with everything that
    changes.
    """
    began = clock()
    plan = make_plan(Stored.of(store), [str(root) for root in roots], allow_deletions, check)
    report = Report(notes=len(plan.owners), unchanged=plan.unchanged, refused=plan.refused)
    report.skipped = [(encodable(path), why) for path, why in plan.skipped]
    sources = {source.root: source.id for source in store.sources()}
    sources |= {root: store.add_source(root) for root in plan.roots if root not in sources}
    _apply(store, plan, sources, report, tell)
    _forget_failures(store, plan)
    for folder in plan.unlisted:
        root = min((root for root in sources if is_inside(folder, root)), key=len)
        _fail(store, sources[root], encodable(folder), _UNLISTED, report, tell)
    report.notes += len(plan.unlisted)
    encoding = clock()
    paths = [Path(file.path) for file in plan.encode]
    compressor = Compressor(bundle, ratios_of(store, bundle.manifest))
    with closing(_outcomes(bundle, compressor, paths, check, threads or bundle.threads)) as outcomes:
        for done, (path, outcome) in enumerate(outcomes, start=1):
            name = encodable(str(path))
            source_id = sources[plan.owners[str(path)]]
            if isinstance(outcome, DocumentError) and not os.path.lexists(path):
                report.notes -= 1  # gone since it was found: what that means, the next run finds out
            elif isinstance(outcome, DocumentError):
                _fail(store, source_id, name, str(outcome), report, tell)
            else:
                store.put_document(source_id, outcome.document, outcome.passages)
                tokens = sum(passage.tokens for passage in outcome.passages)
                report.indexed += 1
                report.tokens += tokens
                if outcome.warning:
                    report.warnings.append((name, outcome.warning))
                tell(Change("indexed", name, f"{tokens:,} tokens"))
            progress(Progress(done, len(paths), report.tokens, clock() - encoding, name))
    report.seconds = clock() - began
    if report.tokens >= _MEASURABLE and threads is None:
        store.put_setting(SPEED, f"{report.tokens / max(clock() - encoding, 1e-3):.0f}")
    return report


def _apply(
    store: TokenStore, plan: Plan, sources: dict[str, int], report: Report, tell: Callable[[Change], None]
) -> None:
    """Place what moved and is back, and make tombstones of what is gone."""
    store.place_documents(
        [
            Placement(
                document_id=move.document.id,
                source_id=sources[plan.owners[move.file.path]],
                path=move.file.path,
                size=move.file.size,
                mtime_ns=move.file.mtime_ns,
                tags=move.tags,
            )
            for move in plan.moves
        ]
    )
    for move in plan.moves:
        if move.document.deleted:
            report.restored += 1
            tell(Change("restored", move.file.path))
        elif move.renamed:
            report.moved += 1
            tell(Change("moved", move.file.path, f"from {move.document.path}"))
        else:
            report.unchanged += 1
    store.delete_documents([document.id for document in plan.gone], time.time())
    report.removed = len(plan.gone)
    for document in plan.gone:
        tell(Change("removed", document.path))


def _forget_failures(store: TokenStore, plan: Plan) -> None:
    """Forget the failures of files that are gone or fine again; those of files still to be read are kept till then."""
    waiting = {encodable(file.path) for file in plan.encode}
    earlier = [path for path, _ in store.failures() if path not in waiting]
    looked_at = Roots(plan.roots)
    store.clear_failures(path for path in earlier if looked_at.over(path))


def _fail(
    store: TokenStore, source_id: int, name: str, reason: str, report: Report, tell: Callable[[Change], None]
) -> None:
    report.failed.append((name, reason))
    store.put_failure(source_id, name, reason)
    tell(Change("failed", name, reason))


@dataclass(frozen=True)
class _Encoded:
    document: NewDocument
    passages: list[NewPassage]
    warning: str | None


_Outcome = _Encoded | DocumentError


def _outcomes(
    bundle: Bundle, compressor: Compressor, files: Iterable[Path], check: Callable[[], None], threads: int
) -> Generator[tuple[Path, _Outcome], None, None]:
    """What becomes of each file, in order, a bounded number of them ahead of the writer; closed, it stops early."""
    splitter = PassageSplitter(bundle.tokenizer, bundle.manifest.passage_tokens)
    waiting: deque[tuple[Path, Future[_Outcome]]] = deque()
    stopped = Event()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for path in files:
                waiting.append((path, pool.submit(_process, bundle, compressor, splitter, path, stopped)))
                if len(waiting) >= 8 * threads:
                    first, future = waiting.popleft()
                    yield first, _result(future, check)
            while waiting:
                first, future = waiting.popleft()
                yield first, _result(future, check)
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _result(future: Future[_Outcome], check: Callable[[], None]) -> _Outcome:
    """The outcome, however long it takes, unless `check` raises."""
    while True:
        check()
        if future in wait([future], timeout=0.2).done:
            return future.result()


def _process(bundle: Bundle, compressor: Compressor, splitter: PassageSplitter, path: Path, stopped: Event) -> _Outcome:
    try:
        stat = path.stat()
        document = read_document(path)
    except OSError as error:
        return unreadable(error)
    except DocumentError as error:
        return error
    passages = [encode(bundle, passage, compressor) for passage in splitter.split(document) if not stopped.is_set()]
    return _Encoded(_record(document, stat), [passage for passage in passages if passage.tokens], document.warning)


def encode(bundle: Bundle, passage: Passage, compressor: Compressor | None = None) -> NewPassage:
    """One passage, ready for the store; compressed as a compacted store has it."""
    encoded = bundle.encode_passage(passage.heading, passage.text)
    bits, scale, runs = encoded.bits, encoded.scale, None
    if compressor and compressor.ratios and encoded.tokens:
        whole = read_packed(bits, scale, None, encoded.tokens)
        bits, scale, runs = compressor(passage.text, whole).to_bytes()
    return NewPassage(
        start=passage.start,
        end=passage.end,
        line=passage.line,
        page=passage.page,
        heading=passage.heading,
        text=passage.text,
        tokens=encoded.tokens,
        code=encoded.code,
        bits=bits,
        scale=scale,
        anchors=passage.anchors,
        runs=runs,
    )


def _record(document: Document, stat: os.stat_result) -> NewDocument:
    return NewDocument(
        path=str(document.path),
        content_hash=document.content_hash,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        title=document.title,
        metadata=document.metadata,
        tags=document.tags,
    )
