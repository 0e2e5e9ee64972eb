"""
TokenStore: documents, passages, token bits and passage codes in one SQLite file.

Writing goes through one door, `_transaction`; a document with all its passages is one transaction, so a kill loses at
most the document in flight. Readers open the file on their own connection and, in WAL mode, never wait for a writer.
Reading uses the standard library's sqlite3 alone: sqlite-utils is imported when a store is made or written to.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from store.codec import Bits, token_arrays
from store.errors import StoreError

SCHEMA_VERSION = 2
APPLICATION_ID = 0x42545231
"""'BTR1'."""

_WORD = re.compile(r"\w+")
_STOPWORDS = frozenset(
    "a an and are as at be been but by can could did do does for from had has have how i if in into is it its me my of "
    "on or our should so than that the their them then there these they this to us was we were what when where which "
    "who whom whose why will with would you your".split()
)


@dataclass(frozen=True)
class StoredDocument:
    """What the store knows of a file: enough to tell whether it changed."""

    id: int
    path: str
    content_hash: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class NewDocument:
    """A file to add."""

    path: str
    content_hash: str
    size: int
    mtime_ns: int
    title: str
    metadata: Mapping[str, Any]


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
class Counts:
    """How much a store holds."""

    notes: int
    passages: int
    tokens: int
    failed: int
    encoded_bytes: int
    """Token bits, scales and passage codes: all that is kept for reading and retrieval besides text."""
    store_bytes: int
    """Size of the file with its log."""

    @property
    def bytes_per_token(self) -> float:
        """Encoded bytes over tokens; 0 in an empty store."""
        return self.encoded_bytes / self.tokens if self.tokens else 0.0


class TokenStore:
    """One open store; close it, or use it as a context manager. Not for two threads at once."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path

    @classmethod
    def create(cls, path: Path, fingerprint: str, model: str) -> TokenStore:
        """
        Open a store for writing, making it (0600, in a 0700 folder) or migrating it first.

        Raises:
            StoreError: If the file is no store, newer, made with another bundle, or cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise StoreError(f"cannot write {path} ({error.strerror}): give another place with --store") from error
        store = cls._connect(path)
        try:
            with _sqlite_errors(path):
                store._migrate(fingerprint, model)
            store._check(fingerprint)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open(cls, path: Path, fingerprint: str | None = None) -> TokenStore:
        """
        Open an existing store for reading; with a fingerprint, only one made with that bundle.

        Raises:
            StoreError: If there is no store, or it is corrupt, older, newer, or made with another bundle.
        """
        if not path.is_file() or path.stat().st_size == 0:
            raise StoreError(f"no notes are indexed yet, {path} does not exist: run btr-assistant index FOLDER first")
        store = cls._connect(path)
        try:
            store._check(fingerprint)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def _connect(cls, path: Path) -> TokenStore:
        with _sqlite_errors(path):
            connection = sqlite3.connect(path, timeout=10, check_same_thread=False)
            connection.execute("PRAGMA page_size = 16384")  # of a new file; a 4 KiB page holds one passage's bits
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA secure_delete = ON")
            return cls(connection, path)

    def _migrate(self, fingerprint: str, model: str) -> None:
        """Bring a new or older file to this schema; leave anything that is not ours untouched."""
        version, application = self._pragma("user_version"), self._pragma("application_id")
        empty = self._connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0
        if not empty and application != APPLICATION_ID:
            raise StoreError(f"{self.path} is not a store of btr-assistant: give another place with --store")
        if version > SCHEMA_VERSION:
            return
        if version < SCHEMA_VERSION:
            from sqlite_utils import Database

            from store.schema import migrations

            self._connection.execute("PRAGMA journal_mode = WAL")
            migrations.apply(Database(self._connection, execute_plugins=False))
        with self._transaction():
            rows = [("fingerprint", fingerprint), ("model", model)]
            self._connection.executemany("INSERT OR IGNORE INTO settings VALUES (?, ?)", rows)

    def _check(self, fingerprint: str | None) -> None:
        with _sqlite_errors(self.path):
            version, application = self._pragma("user_version"), self._pragma("application_id")
            if application != APPLICATION_ID:
                raise StoreError(f"{self.path} is not a store of btr-assistant: give another place with --store")
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"{self.path} has schema {version}, this version knows {SCHEMA_VERSION}: upgrade btr-assistant"
                )
            if version < SCHEMA_VERSION:
                raise StoreError(
                    f"{self.path} has schema {version}, this version needs {SCHEMA_VERSION}: "
                    "run btr-assistant index once to migrate it"
                )
            made_with = self.setting("fingerprint")
        if fingerprint is not None and made_with != fingerprint:
            raise StoreError(
                f"{self.path} was made with bundle {made_with}, this is bundle {fingerprint}: "
                "move it away and run btr-assistant index again, or use the old bundle with --bundle"
            )

    def close(self) -> None:
        """Close the connection; the store can be opened again."""
        self._connection.close()

    def __enter__(self) -> TokenStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # writing

    def add_source(self, root: str) -> int:
        """Remember a folder or file that was indexed; its id."""
        with self._transaction():
            self._connection.execute("INSERT OR IGNORE INTO sources (root) VALUES (?)", (root,))
            row = self._connection.execute("SELECT id FROM sources WHERE root = ?", (root,)).fetchone()
        return int(row[0])

    def put_document(self, source_id: int, document: NewDocument, passages: Sequence[NewPassage]) -> int:
        """Add a document with its passages, replacing what stood under its path, in one transaction; its id."""
        with self._transaction():
            self._connection.execute("DELETE FROM documents WHERE path = ?", (document.path,))
            self._connection.execute("DELETE FROM failures WHERE path = ?", (document.path,))
            cursor = self._connection.execute(
                "INSERT INTO documents (source_id, path, content_hash, size, mtime_ns, title, metadata) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    source_id,
                    document.path,
                    document.content_hash,
                    document.size,
                    document.mtime_ns,
                    document.title,
                    json.dumps(document.metadata, ensure_ascii=False, default=str, sort_keys=True),
                ),
            )
            document_id = _last_id(cursor)
            for passage in passages:
                cursor = self._connection.execute(
                    'INSERT INTO passages (document_id, "start", "end", line, page, heading, text, tokens, code, '
                    "anchors) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        document_id,
                        passage.start,
                        passage.end,
                        passage.line,
                        passage.page,
                        passage.heading,
                        passage.text,
                        passage.tokens,
                        passage.code,
                        json.dumps(passage.anchors) if passage.anchors else None,
                    ),
                )
                self._connection.execute(
                    "INSERT INTO token_bits VALUES (?, ?, ?)", (_last_id(cursor), passage.bits, passage.scale)
                )
        return document_id

    def touch(self, document_id: int, size: int, mtime_ns: int) -> None:
        """A file was written again with the same content: remember its new time, keep everything else."""
        with self._transaction():
            self._connection.execute(
                "UPDATE documents SET size = ?, mtime_ns = ? WHERE id = ?", (size, mtime_ns, document_id)
            )

    def remove_documents(self, document_ids: Iterable[int]) -> None:
        """Remove documents with their passages, bits and search entries, in one transaction."""
        with self._transaction():
            self._connection.executemany("DELETE FROM documents WHERE id = ?", [(i,) for i in document_ids])

    def put_failure(self, source_id: int, path: str, reason: str) -> None:
        """Remember that a file could not be indexed; what was stored of it before stays."""
        with self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?)", (path, source_id, reason))

    def clear_failures(self, paths: Iterable[str]) -> None:
        """Forget failures of files that are gone or fine again."""
        with self._transaction():
            self._connection.executemany("DELETE FROM failures WHERE path = ?", [(path,) for path in paths])

    def put_setting(self, key: str, value: str | None) -> None:
        """Keep a value with the store; None removes it."""
        with self._transaction():
            if value is None:
                self._connection.execute("DELETE FROM settings WHERE key = ?", (key,))
            else:
                self._connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, value))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """The one door for writing: all of it or nothing."""
        with _sqlite_errors(self.path):
            from sqlite_utils import Database

            with Database(self._connection, execute_plugins=False).atomic():
                yield

    # reading

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside belongs together, whatever an indexer commits meanwhile."""
        with _sqlite_errors(self.path):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("COMMIT")

    def setting(self, key: str) -> str | None:
        """One value of the settings snapshot."""
        row = self._connection.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def sources(self) -> list[str]:
        """Every folder or file that was indexed."""
        return [row[0] for row in self._rows("SELECT root FROM sources ORDER BY root")]

    def documents(self) -> dict[str, StoredDocument]:
        """Every document, by path."""
        sql = "SELECT id, path, content_hash, size, mtime_ns FROM documents"
        return {row[1]: StoredDocument(*row) for row in self._rows(sql)}

    def failures(self) -> list[tuple[str, str]]:
        """(path, reason) of every file that could not be indexed."""
        return [(row[0], row[1]) for row in self._rows("SELECT path, reason FROM failures ORDER BY path")]

    def match(self, text: str, limit: int) -> list[tuple[int, float]]:
        """(passage id, score) of the best passages for any text by BM25, headings counted double; large is near."""
        query = fts_query(text)
        if not query:
            return []
        sql = (
            "SELECT rowid, -bm25(passages_fts, 2.0, 1.0) AS score FROM passages_fts "
            "WHERE passages_fts MATCH ? ORDER BY bm25(passages_fts, 2.0, 1.0), rowid LIMIT ?"
        )
        return [(int(row[0]), float(row[1])) for row in self._rows(sql, (query, limit))]

    def codes(self) -> tuple[npt.NDArray[np.int64], Bits]:
        """Every passage's id (P,) and code (P, c / 8)."""
        rows = self._rows("SELECT id, code FROM passages ORDER BY id")
        ids = np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))
        codes = np.frombuffer(b"".join(row[1] for row in rows), dtype=np.uint8)
        return ids, codes.reshape(len(rows), -1) if rows else codes.reshape(0, 0)

    def data_version(self) -> int:
        """A number that changes when another connection wrote to the store."""
        return self._pragma("data_version")

    def passages(self, ids: Sequence[int]) -> list[StoredPassage]:
        """Passages by id, in the order asked for; those removed meanwhile are left out."""
        sql = (
            'SELECT p.id, d.path, d.content_hash, d.size, d.mtime_ns, p."start", p."end", p.line, p.page, p.heading, '
            "p.text, p.tokens, p.anchors FROM passages p JOIN documents d ON d.id = p.document_id WHERE p.id IN (%s)"
        )
        rows = self._rows(sql % _marks(ids), tuple(ids))
        found = {row[0]: StoredPassage(*(*row[:-1], _anchors(row[-1]))) for row in rows}
        return [found[i] for i in ids if i in found]

    def token_bits(self, ids: Sequence[int]) -> dict[int, tuple[Bits, npt.NDArray[np.float16]]]:
        """Passage id -> bits (n, m / 8) and scales (n,)."""
        sql = (
            "SELECT p.id, t.bits, t.scale, p.tokens FROM passages p JOIN token_bits t ON t.passage_id = p.id "
            "WHERE p.id IN (%s)"
        )
        rows = self._rows(sql % _marks(ids), tuple(ids))
        return {row[0]: token_arrays(row[1], row[2], row[3]) for row in rows}

    def counts(self) -> Counts:
        """Notes, passages, tokens, failures and bytes."""
        notes = self._rows("SELECT COUNT(*) FROM documents")[0][0]
        failed = self._rows("SELECT COUNT(*) FROM failures")[0][0]
        sql = "SELECT COUNT(*), COALESCE(SUM(tokens), 0), COALESCE(SUM(LENGTH(code)), 0) FROM passages"
        passages, tokens, code_bytes = self._rows(sql)[0]
        token_bytes = self._rows("SELECT COALESCE(SUM(LENGTH(bits) + LENGTH(scale)), 0) FROM token_bits")[0][0]
        files = (self.path, self.path.with_name(self.path.name + "-wal"))
        store_bytes = sum(file.stat().st_size for file in files if file.exists())
        return Counts(notes, passages, tokens, failed, code_bytes + token_bytes, store_bytes)

    def _rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        with _sqlite_errors(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])


def fts_query(text: str) -> str:
    """
    Any text -> an FTS5 query that cannot be a syntax error: its words, quoted, joined by OR.

    Words that carry nothing are left out, unless there is nothing else.
    """
    words = list(dict.fromkeys(word.lower() for word in _WORD.findall(text)))
    content = [word for word in words if word not in _STOPWORDS] or words
    return " OR ".join(f'"{word}"' for word in content[:64])


def _anchors(stored: str | None) -> tuple[tuple[int, int, int, int | None], ...]:
    return tuple((offset, start, line, page) for offset, start, line, page in json.loads(stored or "[]"))


def _marks(ids: Sequence[int]) -> str:
    return ",".join("?" * len(ids))


def _last_id(cursor: sqlite3.Cursor) -> int:
    assert cursor.lastrowid is not None
    return cursor.lastrowid


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    """SQLite's errors that a person can act on, as sentences; anything else is a bug and passes through."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            raise StoreError(f"{path} is locked by another program: wait for it to finish, then try again") from error
        if "disk is full" in text:
            raise StoreError(f"the disk of {path} is full: make room, then index again, nothing was lost") from error
        if "readonly" in text or "unable to open" in text or "disk I/O" in text:
            raise StoreError(f"{path} cannot be used ({text}): check its permissions and its disk") from error
        raise
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorname in ("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_CORRUPT_VTAB"):
            raise StoreError(
                f"{path} is not a readable store ({error}): move it away and run btr-assistant index again"
            ) from error
        raise
