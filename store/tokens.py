"""
TokenStore: documents, passages, token bits and passage codes in one SQLite file.

A deleted document stays as a tombstone, with its passages and bits, until it is purged: nothing that answers or counts
sees it, and a file that comes back is revived without being encoded.

Writing goes through one door, `_transaction`; a document with all its passages is one transaction, so a kill loses at
most the document in flight. Readers open the file on their own connection and, in WAL mode, never wait for a writer.
Reading uses the standard library's sqlite3 alone: sqlite-utils is imported when a store is made or migrated.
"""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from store.codec import Bits, Packed, read_packed, token_arrays
from store.codes import POINTERS, Blocks, Codes
from store.errors import StoreError
from store.fields import TAG, date_of, fields_of, folder_of
from store.quotes import moved, paths_in, strings, without
from store.records import (
    Counts,
    NewDocument,
    NewPassage,
    PackedPassage,
    Placement,
    Source,
    StoredDocument,
    StoredPassage,
)
from store.scope import EVERYTHING, Scope
from store.search import Chosen, Search, query_words
from store.sqlite import damaged, last_id, sound, sqlite_errors, typed

SCHEMA_VERSION = 6
APPLICATION_ID = 0x42545231
"""'BTR1'."""
REVISION = "revision"
"""The setting that counts what was written of notes: what a reader keeps in memory is valid until it changes."""
UNREAD = -1
"""Size of a document whose file is to be read again, though its passages and bits are right."""
ANYTHING = "SELECT 1 FROM sqlite_master WHERE tbl_name != '_sqlite_migrations' LIMIT 1"
"""A row where anything was ever written to a file but the list of migrations, which stands before the first."""
EMPTY_SESSIONS = "DELETE FROM sessions WHERE id NOT IN (SELECT session_id FROM turns)"
_INDEX_FIRST = "run btr-assistant index FOLDER first"


class TokenStore:
    """One open store; close it, or use it as a context manager. Not for two threads at once."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path
        self._index, self._version = Codes.none(), (-1, -1)
        self._rows_of: tuple[Scope, npt.NDArray[np.bool_] | None] | None = None
        """The last scope that was asked for, and its rows of the code index."""

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
            with sqlite_errors(path):
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
        if path.is_dir():
            raise StoreError(f"{path} is a folder: give the store's file with --store, or leave it out")
        if not path.is_file() or path.stat().st_size == 0:
            raise StoreError(f"no notes are indexed yet, {path} does not exist: {_INDEX_FIRST}")
        store = cls._connect(path)
        try:
            store._check(fingerprint)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def _connect(cls, path: Path) -> TokenStore:
        with sqlite_errors(path):
            connection = sqlite3.connect(path, timeout=10, check_same_thread=False)
            connection.execute("PRAGMA page_size = 16384")  # of a new file; a 4 KiB page holds one passage's bits
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA secure_delete = ON")
            return cls(connection, path)

    def _migrate(self, fingerprint: str, model: str) -> None:
        """Bring a new or older file to this schema; leave anything that is not ours untouched."""
        version, application = self._pragma("user_version"), self._pragma("application_id")
        if not self._empty() and application != APPLICATION_ID:
            raise StoreError(f"{self.path} is not a store of btr-assistant: give another place with --store")
        if version > SCHEMA_VERSION:
            return
        if version:
            self._check_bundle(fingerprint)  # what is refused is left as it is
        self._connection.execute("PRAGMA journal_mode = WAL")  # a copy, or a killed restore, may have left another one
        if version < SCHEMA_VERSION:
            from sqlite_utils import Database

            from store.schema import migrations

            with sound(self.path):
                migrations.apply(Database(self._connection, execute_plugins=False))
        with self._transaction():
            rows = [("fingerprint", fingerprint), ("model", model)]
            self._connection.executemany("INSERT OR IGNORE INTO settings VALUES (?, ?)", rows)

    def _empty(self) -> bool:
        """Nothing was ever written to this file."""
        return not self._rows(ANYTHING)

    def _check(self, fingerprint: str | None) -> None:
        with sqlite_errors(self.path):
            version, application = self._pragma("user_version"), self._pragma("application_id")
            if application != APPLICATION_ID:
                if self._empty():  # a first run was cut off before its schema
                    raise StoreError(f"no notes are indexed yet, {self.path} is empty: {_INDEX_FIRST}")
                raise StoreError(f"{self.path} is not a store of btr-assistant: give another place with --store")
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"{self.path} has schema {version}, this version knows {SCHEMA_VERSION}: upgrade btr-assistant"
                )
            if self.setting("fingerprint") is None:  # or before its last migration
                raise StoreError(f"no notes are indexed yet, {self.path} is empty: {_INDEX_FIRST}")
            if version < SCHEMA_VERSION:
                if fingerprint is not None:
                    self._check_bundle(fingerprint)  # which migrating would not help
                raise StoreError(
                    f"{self.path} has schema {version}, this version needs {SCHEMA_VERSION}: "
                    "run btr-assistant index once to migrate it"
                )
        if fingerprint is not None:
            self._check_bundle(fingerprint)

    def _check_bundle(self, fingerprint: str) -> None:
        """Refuse what another bundle made, whatever its schema; a store without settings is nobody's yet."""
        made_with = self.setting("fingerprint")
        if made_with not in (None, fingerprint):
            roots = " ".join(shlex.quote(str(root)) for (root,) in self._rows("SELECT root FROM sources ORDER BY root"))
            raise StoreError(
                f"{self.path} was made with bundle {made_with}, this is bundle {fingerprint}: go back to "
                f"{self.setting('model')} ({made_with} in btr-assistant model list) with btr-assistant model use, "
                f"or move it away and run btr-assistant index {roots or 'FOLDER'}"
            )

    def damaged(self, reason: str) -> StoreError:
        """The sentence for a store that holds what cannot be."""
        return damaged(self.path, reason)

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

    def remove_source(self, root: str) -> int:
        """
        Forget a source and what it alone holds, deleted notes included, in one transaction; `vacuum` wipes the file.

        What another source holds too goes over to that one. How many turns of sessions went with it.
        """
        with self._transaction():
            for source in sorted(
                self.sources(), key=lambda source: len(source.root)
            ):  # the outermost one has first call
                if source.root != root:
                    self._hand_over(root, source)
            sql = "SELECT d.path FROM documents d JOIN sources s ON s.id = d.source_id WHERE s.root = ?"
            turns = self._forget_turns({path for (path,) in self._rows(sql, (root,))})
            self._connection.execute("DELETE FROM sources WHERE root = ?", (root,))
        return turns

    def _hand_over(self, root: str, heir: Source) -> None:
        """What stands under both one source and another belongs to the other from now on."""
        for table in ("documents", "failures"):
            sql = f"SELECT t.path FROM {table} t JOIN sources s ON s.id = t.source_id WHERE s.root = ?"
            paths = [path for (path,) in self._rows(sql, (root,)) if is_inside(path, heir.root)]
            sql = f"UPDATE {table} SET source_id = ? WHERE path = ?"
            self._connection.executemany(sql, [(heir.id, path) for path in paths])
            if table == "documents":
                folders = [(folder_of(heir.root, path), path) for path in paths]
                self._connection.executemany("UPDATE documents SET folder = ? WHERE path = ?", folders)

    def only_in(self, root: str) -> list[StoredDocument]:
        """The notes that a source holds and no other one, deleted ones included, by path."""
        others = [source.root for source in self.sources() if source.root != root]
        ids = {source.id for source in self.sources() if source.root == root}
        held = [document for document in self.documents() if document.source_id in ids]
        return [document for document in held if not any(is_inside(document.path, other) for other in others)]

    def put_document(self, source_id: int, document: NewDocument, passages: Sequence[NewPassage]) -> int:
        """Add a document with its passages, replacing what stood under its path, in one transaction; its id."""
        with self._transaction():
            self._connection.execute("DELETE FROM documents WHERE path = ?", (document.path,))
            self._connection.execute("DELETE FROM failures WHERE path = ?", (document.path,))
            cursor = self._connection.execute(
                "INSERT INTO documents (source_id, path, content_hash, size, mtime_ns, title, metadata, folder, date) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    source_id,
                    document.path,
                    document.content_hash,
                    document.size,
                    document.mtime_ns,
                    document.title,
                    json.dumps(document.metadata, ensure_ascii=False, default=str, sort_keys=True),
                    folder_of(self._root(source_id), document.path),
                    date_of(document.metadata),
                ),
            )
            document_id = last_id(cursor)
            self._put_fields(document_id, document.metadata, document.tags)
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
                    "INSERT INTO token_bits (passage_id, bits, scale, runs) VALUES (?, ?, ?, ?)",
                    (last_id(cursor), passage.bits, passage.scale, passage.runs),
                )
        return document_id

    def _put_fields(self, document_id: int, metadata: Mapping[str, Any], tags: Sequence[str]) -> None:
        rows = [(name, value, document_id) for name, value in fields_of(metadata, tags)]
        self._connection.execute("DELETE FROM fields WHERE document_id = ?", (document_id,))
        self._connection.executemany("INSERT INTO fields VALUES (?, ?, ?)", rows)

    def place_documents(self, placements: Sequence[Placement]) -> None:
        """
        Documents whose files were moved, written again with the same content, or are back; in one transaction.

        Files may have changed places with each other. What stood under a path that is taken now is removed.
        """
        with self._transaction():
            self._move_outcomes({placement.document_id: placement.path for placement in placements})
            for placement in placements:  # a path that no file can have, so that none is in the way of another
                away = (f"\0{placement.document_id}", placement.document_id)
                old = "(SELECT path FROM documents WHERE id = ?)"
                self._connection.execute(f"UPDATE OR REPLACE quotes SET path = ? WHERE path = {old}", away)
                self._connection.execute("UPDATE documents SET path = ? WHERE id = ?", away)
            for placement in placements:
                moved = (placement.path, f"\0{placement.document_id}")
                self._connection.execute("UPDATE OR REPLACE quotes SET path = ? WHERE path = ?", moved)
                self._connection.execute("DELETE FROM documents WHERE path = ?", (placement.path,))
                self._connection.execute("DELETE FROM failures WHERE path = ?", (placement.path,))
                self._connection.execute(
                    "UPDATE documents SET source_id = ?, path = ?, folder = ?, size = ?, mtime_ns = ?, "
                    "deleted_at = NULL WHERE id = ?",
                    (
                        placement.source_id,
                        placement.path,
                        folder_of(self._root(placement.source_id), placement.path),
                        placement.size,
                        placement.mtime_ns,
                        placement.document_id,
                    ),
                )
                if placement.tags is not None:
                    sql = "SELECT metadata FROM documents WHERE id = ?"
                    with sound(self.path):
                        metadata = dict(
                            json.loads(self._connection.execute(sql, (placement.document_id,)).fetchone()[0])
                        )
                    self._put_fields(placement.document_id, metadata, placement.tags)

    def delete_documents(self, document_ids: Iterable[int], now: float) -> None:
        """Make tombstones of documents whose files are gone since `now`, seconds since 1970, in one transaction."""
        with self._transaction():
            self._connection.executemany(
                "UPDATE documents SET deleted_at = ? WHERE id = ?", [(int(now), i) for i in document_ids]
            )

    def put_packed(self, passages: Iterable[tuple[int, Packed]]) -> None:
        """Replace the tokens of passages by id, in one transaction."""
        rows = [(*passage.to_bytes(), passage_id) for passage_id, passage in passages]
        with self._transaction():
            self._connection.executemany(
                "UPDATE token_bits SET bits = ?, scale = ?, runs = ? WHERE passage_id = ?", rows
            )

    def purge(self) -> int:
        """
        Remove all tombstones with their passages, bits and search entries, and what turns of sessions quote of them.

        `vacuum` wipes the file. How many turns went with them.
        """
        with self._transaction():
            sql = "SELECT path FROM documents WHERE deleted_at IS NOT NULL"
            turns = self._forget_turns({path for (path,) in self._rows(sql)})
            self._connection.execute("DELETE FROM documents WHERE deleted_at IS NOT NULL")
        return turns

    def forget(
        self,
        document_ids: Iterable[int],
        failed: Iterable[str],
        turns: Iterable[int] = (),
        names: Iterable[int] = (),
    ) -> int:
        """
        Remove documents with all that is theirs, failures, turns, and the names of sessions, in one transaction.

        What turns are known to quote of the documents goes with them. `vacuum` wipes the file. How many turns went.
        """
        ids = [(document_id,) for document_id in document_ids]
        with self._transaction():
            sql = "SELECT path FROM documents WHERE id = ?"
            forgotten = self._forget_turns({path for i in ids for (path,) in self._rows(sql, i)})
            self._connection.executemany("DELETE FROM documents WHERE id = ?", ids)
            self._connection.executemany("DELETE FROM failures WHERE path = ?", [(path,) for path in failed])
            for turn in turns:
                forgotten += self._connection.execute("DELETE FROM turns WHERE id = ?", (turn,)).rowcount
            self._connection.executemany("UPDATE sessions SET name = NULL WHERE id = ?", [(i,) for i in names])
            self._connection.execute(EMPTY_SESSIONS)
        return forgotten

    def _forget_turns(self, gone: Collection[str]) -> int:
        """
        Take from the turns what they hold of the documents under some paths, and sessions that have none left; how many
        turns went. One whose answer is of such a document goes, any other keeps the rest.
        """
        turns = 0
        for turn_id, quoted, left in self._quoting(gone):
            if left is None:
                self._connection.execute("DELETE FROM turns WHERE id = ?", (turn_id,))
                turns += 1
                continue
            row = (json.dumps(left[0], ensure_ascii=False), left[1], turn_id)
            self._connection.execute("UPDATE turns SET outcome = ?, correction = ? WHERE id = ?", row)
            rows = [(turn_id, path) for path in quoted.intersection(gone)]
            self._connection.executemany("DELETE FROM quotes WHERE turn_id = ? AND path = ?", rows)
        self._connection.execute(EMPTY_SESSIONS)
        return turns

    def _quoting(
        self, paths: Collection[str]
    ) -> Iterator[tuple[int, set[str], tuple[dict[str, Any], str | None] | None]]:
        """
        The turns that quote documents under some paths: their ids, all paths that they quote, and what is left of
        outcome and correction without these documents; None: nothing, as where a document moved and the outcome does
        not say so, which was saved by an earlier version.
        """
        for turn_id, quoted in self._quotes().items():
            if quoted.isdisjoint(paths):
                continue
            for text, correction in self._rows("SELECT outcome, correction FROM turns WHERE id = ?", (turn_id,)):
                with sound(self.path):
                    outcome = json.loads(text)
                    left = without(outcome, correction, paths) if paths_in(outcome) == quoted else None
                yield turn_id, quoted, left

    def _quotes(self) -> dict[int, set[str]]:
        """Turn id -> the paths that it quotes."""
        found: dict[int, set[str]] = {}
        for turn_id, path in self._rows("SELECT turn_id, path FROM quotes ORDER BY turn_id"):
            found.setdefault(turn_id, set()).add(path)
        return found

    def _move_outcomes(self, places: Mapping[int, str]) -> None:
        """Have the turns name documents by the paths, by document id, that they are about to get."""
        paths = {}
        for document_id, new in places.items():
            for (old,) in self._rows("SELECT path FROM documents WHERE id = ?", (document_id,)):
                if old != new:
                    paths[old] = new
        for turn_id, quoted in self._quotes().items() if paths else ():
            if quoted.isdisjoint(paths):
                continue
            for (text,) in self._rows("SELECT outcome FROM turns WHERE id = ?", (turn_id,)):
                with sound(self.path):
                    outcome = json.loads(text)
                    known = paths_in(outcome) == quoted
                if known:
                    row = (json.dumps(moved(outcome, paths), ensure_ascii=False), turn_id)
                    self._connection.execute("UPDATE turns SET outcome = ? WHERE id = ?", row)

    def vacuum(self) -> None:
        """Leave nothing in the file of what was removed, and give its room back."""
        with self._transaction():
            self._connection.execute("INSERT INTO passages_fts (passages_fts) VALUES ('optimize')")
        with sqlite_errors(self.path):
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def rebuild_search(self) -> None:
        """Make the search index anew from the passages: their words and the blocks of their codes."""
        with self._transaction():
            self._connection.execute("DELETE FROM code_blocks")
            self._connection.execute("INSERT OR IGNORE INTO stale_codes SELECT id FROM passages")
            self._connection.execute("INSERT INTO passages_fts (passages_fts) VALUES ('rebuild')")

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
        """
        The one door for writing: all of it or nothing, with the code blocks of what changed.

        It takes the writer's lock at once: one that begins by reading is refused, and does not wait, where a session is
        being saved.
        """
        with sqlite_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                with sound(self.path):
                    Blocks(self._connection).pack()
                self._connection.execute(
                    "INSERT INTO settings VALUES (?, '1') "
                    "ON CONFLICT(key) DO UPDATE SET value = CAST(value AS INTEGER) + 1",
                    (REVISION,),
                )
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.rollback()
                raise

    # reading

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside belongs together, whatever an indexer commits meanwhile."""
        with sqlite_errors(self.path):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("COMMIT")

    def setting(self, key: str) -> str | None:
        """One value of the settings snapshot."""
        rows = self._rows("SELECT value FROM settings WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def _root(self, source_id: int) -> str:
        with sound(self.path):
            ((root,),) = self._rows("SELECT root FROM sources WHERE id = ?", (source_id,))
        return str(root)

    def sources(self) -> list[Source]:
        """Every folder or file that is kept in step, by path."""
        sql = (
            "SELECT s.id, s.root, COUNT(d.id) FROM sources s "
            "LEFT JOIN documents d ON d.source_id = s.id AND d.deleted_at IS NULL GROUP BY s.id ORDER BY s.root"
        )
        with sound(self.path):
            return [Source(*typed(row, (int, str, int))) for row in self._rows(sql)]

    def documents(self) -> list[StoredDocument]:
        """Every document, tombstones included, by path."""
        sql = "SELECT id, source_id, path, content_hash, size, mtime_ns, title, deleted_at FROM documents ORDER BY path"
        types = (int, int, str, str, int, int, str, int | None)
        with sound(self.path):
            return [StoredDocument(*typed(row, types)) for row in self._rows(sql)]

    def failures(self) -> list[tuple[str, str]]:
        """(path, reason) of every file that could not be indexed."""
        rows = self._rows("SELECT path, reason FROM failures ORDER BY path")
        with sound(self.path):
            return [(path, reason) for path, reason in (typed(row, (str, str)) for row in rows)]

    def texts_of(self, document_id: int) -> list[str]:
        """Everything that is kept of a document as text."""
        sql = (
            "SELECT path FROM documents WHERE id = :id UNION ALL SELECT title FROM documents WHERE id = :id "
            "UNION ALL SELECT metadata FROM documents WHERE id = :id "
            "UNION ALL SELECT value FROM fields WHERE document_id = :id "
            "UNION ALL SELECT heading FROM passages WHERE document_id = :id "
            "UNION ALL SELECT text FROM passages WHERE document_id = :id"
        )
        rows = self._rows(sql, {"id": document_id})
        with sound(self.path):
            return [text for (text,) in (typed(row, (str,)) for row in rows)]

    def lost_turns(self, paths: Iterable[str]) -> list[int]:
        """The ids of the turns that go when the documents under some paths do, for their answers are of these."""
        return [turn_id for turn_id, _, left in self._quoting(set(paths)) if left is None]

    def turn_texts(self, gone: Iterable[str] = ()) -> list[tuple[int, str]]:
        """(turn id, all that is kept of it as text, JSON undone) once the documents under some paths are gone."""
        left_of = {turn_id: left for turn_id, _, left in self._quoting(set(gone))}
        found = []
        for turn_id, question, read_as, scope, *kept in self._rows(
            "SELECT id, question, read_as, scope, outcome, correction FROM turns"
        ):
            with sound(self.path):
                left = left_of.get(turn_id, (json.loads(kept[0]), kept[1]))
            if left is not None:
                texts = filter(None, [question, read_as, scope, left[1]])
                found.append((turn_id, "\n".join([*texts, *strings(left[0])])))
        return found

    def session_names(self) -> list[tuple[int, str]]:
        """(session id, name) of the sessions that a person named."""
        return [(row[0], row[1]) for row in self._rows("SELECT id, name FROM sessions WHERE name IS NOT NULL")]

    def texts(self) -> Iterator[str]:
        """Everything that is kept as text, of whatever kind, the schema's own included."""
        for table in self._rows(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'passages_fts%'"
        ):
            with sqlite_errors(self.path):
                for row in self._connection.execute(f'SELECT * FROM "{table[0]}"'):
                    yield from (value for value in row if isinstance(value, str))
        yield from (sql for (sql,) in self._rows("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"))

    def match(self, text: str, limit: int, scope: Scope = EVERYTHING) -> list[tuple[int, float]]:
        """(passage id, score) of the best passages of a scope for any text by BM25; large is near."""
        words, index, rows = query_words(text), self.code_index(), self.rows(scope)
        ids = index.ids if rows is None else index.ids[rows]
        if not words or not len(ids):
            return []
        first, last, holds = int(ids[0]), int(ids[-1]), None
        if len(ids) < len(index):
            mask = np.zeros(last + 1, dtype=np.uint8)
            mask[ids] = 1
            holds = mask.tobytes().__getitem__
        with sqlite_errors(self.path):
            return Search(self._connection, len(index), Chosen(len(ids), first, last, holds)).best(words, limit)

    def code_index(self) -> Codes:
        """Every passage's code, deleted documents' included; kept in memory until the store changes."""
        with sqlite_errors(self.path), sound(self.path):
            version = (self.revision(), self._connection.total_changes)
            if version != self._version:
                self._index, self._rows_of = Codes.none(), None
                self._index = Blocks(self._connection).load()
                self._version = version
            return self._index

    def rows(self, scope: Scope) -> npt.NDArray[np.bool_] | None:
        """Which rows of the code index are of a scope (P,); None: all of them."""
        index = self.code_index()
        if self._rows_of is None or self._rows_of[0] != scope:
            self._rows_of = (scope, self._chosen(index, scope))
        return self._rows_of[1]

    def _chosen(self, index: Codes, scope: Scope) -> npt.NDArray[np.bool_] | None:
        if scope:
            condition, parameters = scope.sql()
            documents = self._ids(f"SELECT d.id FROM documents d WHERE {condition}", parameters)
            return np.isin(index.owners, documents)
        deleted = self._ids("SELECT id FROM documents WHERE deleted_at IS NOT NULL")
        return np.isin(index.owners, deleted, invert=True) if len(deleted) else None

    def codes(self) -> tuple[npt.NDArray[np.int64], Bits]:
        """Every passage's id (P,), ascending, and code (P, c / 8); deleted documents' left out."""
        index, rows = self.code_index(), self.rows(EVERYTHING)
        chosen = np.arange(len(index)) if rows is None else np.flatnonzero(rows)
        return index.ids[chosen].astype(np.int64), index.take(chosen)

    def count_notes(self, scope: Scope) -> int:
        """How many notes a scope holds."""
        condition, parameters = scope.sql()
        return int(self._rows(f"SELECT COUNT(*) FROM documents d WHERE {condition}", parameters)[0][0])

    def tags(self) -> list[str]:
        """Every tag of the notes, folded."""
        sql = (
            "SELECT DISTINCT f.value FROM fields f JOIN documents d ON d.id = f.document_id "
            "WHERE f.name = ? AND d.deleted_at IS NULL ORDER BY f.value"
        )
        return [value for (value,) in self._rows(sql, (TAG,))]

    def folders(self) -> list[str]:
        """The names of all folders that hold notes, folded, below and with those of the sources."""
        found = self._rows("SELECT DISTINCT folder FROM documents WHERE deleted_at IS NULL")
        return sorted({name for (path,) in found for name in path.split("/") if name})

    def note(self, path: str, scope: Scope = EVERYTHING) -> list[StoredPassage] | None:
        """All passages of one note in the order of its text; None where the scope has no note of exactly this path."""
        condition, parameters = scope.sql()
        found = self._rows(f"SELECT d.id FROM documents d WHERE d.path = ? AND {condition}", (path, *parameters))
        if not found:
            return None
        sql = 'SELECT id FROM passages WHERE document_id = ? ORDER BY "start", id'
        return self.passages([i for (i,) in self._rows(sql, found[0])])

    def revision(self) -> int:
        """A number that changes when notes were written to; what a session saves does not change it."""
        with sound(self.path):
            return int(self.setting(REVISION) or 0)

    def passages(self, ids: Sequence[int]) -> list[StoredPassage]:
        """Passages by id, in the order asked for; those removed meanwhile are left out."""
        sql = (
            'SELECT p.id, d.path, d.content_hash, d.size, d.mtime_ns, p."start", p."end", p.line, p.page, p.heading, '
            "p.text, p.tokens, p.anchors FROM passages p JOIN documents d ON d.id = p.document_id "
            "WHERE d.deleted_at IS NULL AND p.id IN (%s)"
        )
        rows = self._rows(sql % _marks(ids), tuple(ids))
        types = (int, str, str, int, int, int, int, int, int | None, str, str, int, str | None)
        with sound(self.path):
            found = {row[0]: StoredPassage(*(*typed(row, types)[:-1], _anchors(row[-1]))) for row in rows}
        return [found[i] for i in ids if i in found]

    def token_bits(self, ids: Sequence[int]) -> dict[int, tuple[Bits, npt.NDArray[np.float16]]]:
        """Passage id -> bits (n, m / 8) and scales (n,)."""
        sql = (
            "SELECT p.id, t.bits, t.scale, p.tokens, t.runs FROM passages p JOIN token_bits t ON t.passage_id = p.id "
            "WHERE p.id IN (%s)"
        )
        rows = self._rows(sql % _marks(ids), tuple(ids))
        with sound(self.path):
            return {row[0]: token_arrays(*typed(row, (int, bytes, bytes, int, bytes | None))[1:]) for row in rows}

    def packed_after(self, passage_id: int, limit: int) -> list[PackedPassage]:
        """The passages with the next higher ids, those of deleted notes included."""
        sql = (
            "SELECT p.id, p.text, d.deleted_at IS NULL, t.bits, t.scale, t.runs, p.tokens FROM passages p "
            "JOIN documents d ON d.id = p.document_id JOIN token_bits t ON t.passage_id = p.id "
            "WHERE p.id > ? ORDER BY p.id LIMIT ?"
        )
        types = (int, str, int, bytes, bytes, bytes | None, int)
        with sound(self.path):
            rows = [typed(row, types) for row in self._rows(sql, (passage_id, limit))]
            return [PackedPassage(i, text, bool(live), read_packed(*stored)) for i, text, live, *stored in rows]

    def stored_bytes(self, passage_id: int) -> tuple[bytes, bytes, bytes | None] | None:
        """Bits, scale and runs of a passage, byte by byte; None where it has none."""
        for row in self._rows("SELECT bits, scale, runs FROM token_bits WHERE passage_id = ?", (passage_id,)):
            with sound(self.path):
                bits, scale, runs = typed(row, (bytes, bytes, bytes | None))
            return bits, scale, runs
        return None

    def size(self) -> tuple[int, int]:
        """Notes and passages, without reading a passage."""
        notes = self._rows("SELECT COUNT(*) - COUNT(deleted_at) FROM documents")[0][0]
        rows = self.rows(EVERYTHING)
        return notes, len(self.code_index()) if rows is None else int(rows.sum())

    def counts(self) -> Counts:
        """Notes, passages, tokens, failures and bytes."""
        notes, deleted = self._rows("SELECT COUNT(*) - COUNT(deleted_at), COUNT(deleted_at) FROM documents")[0]
        failed = self._rows("SELECT COUNT(*) FROM failures")[0][0]
        stored, compressed = self._rows("SELECT COUNT(*), COUNT(runs) FROM token_bits")[0]
        sums = (
            "p.tokens",
            "LENGTH(t.bits)",
            "LENGTH(t.scale)",
            "LENGTH(t.runs)",
            f"2 * LENGTH(p.code) + {POINTERS}",
            "LENGTH(CAST(p.text AS BLOB))",
        )
        sql = (
            f"SELECT COUNT(*), {', '.join(f'COALESCE(SUM({of}), 0)' for of in sums)} "
            "FROM documents d JOIN passages p ON p.document_id = d.id JOIN token_bits t ON t.passage_id = p.id "
            "WHERE d.deleted_at IS NULL"
        )
        with sound(self.path):
            passages, tokens, bits, scale, runs, code, text = typed(self._rows(sql)[0], (int,) * 7)
        files = (self.path, self.path.with_name(self.path.name + "-wal"))
        return Counts(
            notes=notes,
            passages=passages,
            tokens=tokens,
            failed=failed,
            deleted=deleted,
            stored_passages=stored,
            compressed=compressed,
            bits_bytes=bits,
            scale_bytes=scale,
            runs_bytes=runs,
            code_bytes=code,
            text_bytes=text,
            word_index_bytes=self._rows(
                "SELECT (SELECT COALESCE(SUM(LENGTH(block)), 0) FROM passages_fts_data) "
                "+ (SELECT COALESCE(SUM(LENGTH(sz)), 0) FROM passages_fts_docsize)"
            )[0][0],
            store_bytes=sum(file.stat().st_size for file in files if file.exists()),
        )

    def _rows(self, sql: str, parameters: tuple[Any, ...] | Mapping[str, Any] = ()) -> list[Any]:
        with sqlite_errors(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    def _ids(self, sql: str, parameters: tuple[Any, ...] = ()) -> npt.NDArray[np.int64]:
        """The first column of a query, never as rows."""
        with sqlite_errors(self.path):
            found = self._connection.execute(sql, parameters)
            with sound(self.path):
                return np.fromiter((row[0] for row in found), dtype=np.int64)

    def _pragma(self, name: str) -> int:
        return int(self._rows(f"PRAGMA {name}")[0][0])


def is_inside(path: str, root: str) -> bool:
    """Whether a path is a folder or file, or below it."""
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _anchors(stored: str | None) -> tuple[tuple[int, int, int, int | None], ...]:
    return tuple((offset, start, line, page) for offset, start, line, page in json.loads(stored or "[]"))


def _marks(ids: Sequence[int]) -> str:
    return ",".join("?" * len(ids))
