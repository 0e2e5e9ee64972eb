"""
Folders of notes -> the store, incrementally: one transaction per note, a kill loses at most the note in flight.

A file whose size and time are as stored is not even opened; one whose bytes are the same is only touched. Notes are
encoded on as many threads as there are cores and written in order by the caller's thread.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from app.bundle import Bundle
from app.documents import Document, DocumentError, find_files, read_document, unreadable
from app.formats.base import encodable
from app.passages import Passage, PassageSplitter
from store.errors import StoreError
from store.tokens import NewDocument, NewPassage, StoredDocument, TokenStore


@dataclass
class Report:
    """What an index run did."""

    notes: int = 0
    """Files looked at."""
    indexed: int = 0
    unchanged: int = 0
    removed: int = 0
    tokens: int = 0
    """Tokens encoded in this run."""
    seconds: float = 0.0
    failed: list[tuple[str, str]] = field(default_factory=list)
    """(path, reason)."""
    warnings: list[tuple[str, str]] = field(default_factory=list)
    """(path, what to know) of notes that were indexed all the same."""


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
        """Notes looked at per second so far."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float:
        """At the pace so far."""
        return (self.total - self.done) * self.seconds / self.done if self.done else 0.0


@contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """
    Only one index run writes to a store; the lock goes with its process, however that ends.

    Raises:
        StoreError: If another run holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock.acquire()
    except Timeout:
        raise StoreError("another index run is writing to this store: wait for it to finish") from None
    except OSError as error:
        raise StoreError(f"cannot write {path.parent} ({error.strerror}): set BTR_ASSISTANT_HOME") from error
    try:
        yield
    finally:
        lock.release()


def index(
    store: TokenStore,
    bundle: Bundle,
    roots: Sequence[Path],
    progress: Callable[[Progress], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """
    Bring the store up to date with folders or files; absolute paths from `check_root`.

    A file that cannot be read is reported, and what was stored of it stays.
    """
    report = Report()
    began = clock()
    plans = [(root, list(find_files(root))) for root in roots]
    total = sum(len(files) for _, files in plans)
    for root, files in plans:
        source_id = store.add_source(str(root))
        known = _known(store, root)
        earlier = {path for path, _ in store.failures()}
        failed: set[Path] = set()
        with closing(_outcomes(bundle, files, known)) as outcomes:
            for path, outcome in outcomes:
                report.notes += 1
                name = encodable(str(path))
                if isinstance(outcome, DocumentError):
                    failed.add(path)
                    report.failed.append((name, str(outcome)))
                    store.put_failure(source_id, name, str(outcome))
                elif outcome is None:
                    report.unchanged += 1
                elif isinstance(outcome, _Touched):
                    store.touch(outcome.document_id, outcome.size, outcome.mtime_ns)
                    report.unchanged += 1
                else:
                    store.put_document(source_id, outcome.document, outcome.passages)
                    report.indexed += 1
                    report.tokens += sum(passage.tokens for passage in outcome.passages)
                    if outcome.warning:
                        report.warnings.append((name, outcome.warning))
                if name in earlier and not isinstance(outcome, DocumentError):
                    store.clear_failures([name])
                progress(Progress(report.notes, total, report.tokens, clock() - began, name))
        present = {encodable(str(path)) for path in files}
        gone = [
            document.id
            for path, document in known.items()
            if path not in present and failed.isdisjoint(Path(path).parents)  # a folder that could not be listed
        ]
        store.remove_documents(gone)
        report.removed += len(gone)
        store.clear_failures(path for path in earlier if Path(path).is_relative_to(root) and path not in present)
    report.seconds = clock() - began
    return report


@dataclass(frozen=True)
class _Encoded:
    document: NewDocument
    passages: list[NewPassage]
    warning: str | None


@dataclass(frozen=True)
class _Touched:
    document_id: int
    size: int
    mtime_ns: int


_Outcome = _Encoded | _Touched | DocumentError | None


def _known(store: TokenStore, root: Path) -> dict[str, StoredDocument]:
    """Every document stored from a folder or file, by path, whichever source it was added for: folders may overlap."""
    inside = str(root).rstrip(os.sep) + os.sep
    return {
        path: document for path, document in store.documents().items() if path == str(root) or path.startswith(inside)
    }


def _outcomes(
    bundle: Bundle, files: Iterable[Path], known: dict[str, StoredDocument]
) -> Generator[tuple[Path, _Outcome], None, None]:
    """What becomes of each file, in order, a bounded number of them ahead of the writer; closed, it stops early."""
    splitter = PassageSplitter(bundle.tokenizer, bundle.manifest.passage_tokens)
    waiting: deque[tuple[Path, Future[_Outcome]]] = deque()
    stopped = Event()
    with ThreadPoolExecutor(bundle.threads) as pool:
        try:
            for path in files:
                stored = known.get(str(path))
                waiting.append((path, pool.submit(_process, bundle, splitter, path, stored, stopped)))
                if len(waiting) >= 8 * bundle.threads:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _process(
    bundle: Bundle, splitter: PassageSplitter, path: Path, stored: StoredDocument | None, stopped: Event
) -> _Outcome:
    try:
        stat = path.stat()
        if stored and (stored.size, stored.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            return None
        document = read_document(path)
    except OSError as error:
        return unreadable(error)
    except DocumentError as error:
        return error
    if stored and stored.content_hash == document.content_hash:
        return _Touched(stored.id, stat.st_size, stat.st_mtime_ns)
    passages = [encode(bundle, passage) for passage in splitter.split(document) if not stopped.is_set()]
    return _Encoded(_record(document, stat), [passage for passage in passages if passage.tokens], document.warning)


def encode(bundle: Bundle, passage: Passage) -> NewPassage:
    """One passage, ready for the store."""
    encoded = bundle.encode_passage(passage.heading, passage.text)
    return NewPassage(
        start=passage.start,
        end=passage.end,
        line=passage.line,
        page=passage.page,
        heading=passage.heading,
        text=passage.text,
        tokens=encoded.tokens,
        code=encoded.code,
        bits=encoded.bits,
        scale=encoded.scale,
        anchors=passage.anchors,
    )


def _record(document: Document, stat: os.stat_result) -> NewDocument:
    return NewDocument(
        path=str(document.path),
        content_hash=document.content_hash,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        title=document.title,
        metadata=document.metadata,
    )
