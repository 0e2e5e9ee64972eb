"""
The SQLite schema: ordered migrations, each applied once and in one transaction (sqlite-utils `Migrations`).

`PRAGMA user_version` is the number of migrations that a store has had, so any sqlite3 can tell its version;
`PRAGMA application_id` marks the file as ours. Never edit a migration that was released: add one.
"""

from __future__ import annotations

import json

from sqlite_utils import Database, Migrations

from store.fields import date_of, fields_of, folder_of
from store.tokens import APPLICATION_ID, UNREAD

migrations = Migrations("btr_assistant")


@migrations()
def m001_documents_passages_tokens(db: Database) -> None:
    """Sources, documents, passages with their text, token bits, failures, settings, full-text search."""
    for statement in (
        "CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE sources (id INTEGER PRIMARY KEY, root TEXT NOT NULL UNIQUE)",
        """
        CREATE TABLE documents (
            id INTEGER PRIMARY KEY,
            source_id INTEGER NOT NULL REFERENCES sources(id) ON DELETE CASCADE,
            path TEXT NOT NULL UNIQUE,
            content_hash TEXT NOT NULL,
            size INTEGER NOT NULL,
            mtime_ns INTEGER NOT NULL,
            title TEXT NOT NULL,
            metadata TEXT NOT NULL
        )
        """,
        "CREATE INDEX documents_source ON documents(source_id)",
        """
        CREATE TABLE passages (
            id INTEGER PRIMARY KEY,
            document_id INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
            "start" INTEGER NOT NULL,
            "end" INTEGER NOT NULL,
            line INTEGER NOT NULL,
            page INTEGER,
            heading TEXT NOT NULL,
            text TEXT NOT NULL,
            tokens INTEGER NOT NULL,
            code BLOB NOT NULL
        )
        """,
        "CREATE INDEX passages_document ON passages(document_id)",
        """
        CREATE TABLE token_bits (
            passage_id INTEGER PRIMARY KEY REFERENCES passages(id) ON DELETE CASCADE,
            bits BLOB NOT NULL,
            scale BLOB NOT NULL
        )
        """,
        """
        CREATE TABLE failures (
            path TEXT PRIMARY KEY,
            source_id INTEGER NOT NULL REFERENCES sources(id) ON DELETE CASCADE,
            reason TEXT NOT NULL
        ) WITHOUT ROWID
        """,
    ):
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")  # in the transaction: a kill leaves an empty file
    db.execute("PRAGMA user_version = 1")
    db["passages"].enable_fts(  # type: ignore[union-attr]
        ["heading", "text"], create_triggers=True, tokenize="porter unicode61 remove_diacritics 2"
    )


@migrations()
def m002_tombstones_fields(db: Database) -> None:
    """
    Deleted documents are kept until they are cleaned up; folder, date, tags and fields can be filtered by.

    What front matter says is filled in here. Tags in a note's text are not in the store: so that the next index run
    reads every file once more, encoding nothing, no size is taken for known.
    """
    for statement in (
        "ALTER TABLE documents ADD COLUMN deleted_at INTEGER",
        "ALTER TABLE documents ADD COLUMN folder TEXT NOT NULL DEFAULT '/'",
        "ALTER TABLE documents ADD COLUMN date TEXT",
        "CREATE INDEX documents_deleted ON documents(deleted_at) WHERE deleted_at IS NOT NULL",
        """
        CREATE TABLE fields (
            name TEXT NOT NULL,
            value TEXT NOT NULL,
            document_id INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
            PRIMARY KEY (name, value, document_id)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX fields_document ON fields(document_id)",
    ):
        db.execute(statement)
    sql = "SELECT d.id, d.path, d.metadata, s.root FROM documents d JOIN sources s ON s.id = d.source_id"
    for document_id, path, text, root in db.execute(sql).fetchall():
        metadata = json.loads(text)
        update = "UPDATE documents SET size = ?, folder = ?, date = ? WHERE id = ?"
        db.execute(update, (UNREAD, folder_of(root, path), date_of(metadata), document_id))
        for name, value in fields_of(metadata):
            db.execute("INSERT INTO fields VALUES (?, ?, ?)", (name, value, document_id))
    db.execute("PRAGMA user_version = 2")


@migrations()
def m003_anchors(db: Database) -> None:
    """Where a passage's text leaves the file's run. What is stored is the file's run: nothing is encoded again."""
    db.execute("ALTER TABLE passages ADD COLUMN anchors TEXT")
    db.execute("PRAGMA user_version = 3")


@migrations()
def m004_sessions(db: Database) -> None:
    """What was asked in the chat, what came of it, which notes that quotes, and what a person said to it."""
    for statement in (
        """
        CREATE TABLE sessions (
            id INTEGER PRIMARY KEY,
            name TEXT,
            created_at INTEGER NOT NULL
        )
        """,
        """
        CREATE TABLE turns (
            id INTEGER PRIMARY KEY,
            session_id INTEGER NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,
            asked_at INTEGER NOT NULL,
            question TEXT NOT NULL,
            read_as TEXT,
            scope TEXT NOT NULL,
            outcome TEXT NOT NULL,
            verdict TEXT,
            correction TEXT
        )
        """,
        "CREATE INDEX turns_session ON turns(session_id)",
        """
        CREATE TABLE quotes (
            turn_id INTEGER NOT NULL REFERENCES turns(id) ON DELETE CASCADE,
            path TEXT NOT NULL,
            PRIMARY KEY (turn_id, path)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX quotes_path ON quotes(path)",
    ):
        db.execute(statement)
    db.execute("PRAGMA user_version = 4")


@migrations()
def m005_code_blocks(db: Database) -> None:
    """Passage codes in blocks (`store.codes`). All are stale here: the writer that migrates packs them next."""
    for statement in (
        """
        CREATE TABLE code_blocks (
            block INTEGER PRIMARY KEY,
            places BLOB NOT NULL,
            owners BLOB NOT NULL,
            codes BLOB NOT NULL
        )
        """,
        "CREATE TABLE stale_codes (passage_id INTEGER PRIMARY KEY)",
        """
        CREATE TRIGGER passages_codes_ai AFTER INSERT ON passages BEGIN
            INSERT OR IGNORE INTO stale_codes VALUES (new.id);
        END
        """,
        """
        CREATE TRIGGER passages_codes_ad AFTER DELETE ON passages BEGIN
            INSERT OR IGNORE INTO stale_codes VALUES (old.id);
        END
        """,
        """
        CREATE TRIGGER passages_codes_au AFTER UPDATE OF id, document_id, code ON passages BEGIN
            INSERT OR IGNORE INTO stale_codes VALUES (old.id), (new.id);
        END
        """,
        "INSERT INTO stale_codes SELECT id FROM passages",
    ):
        db.execute(statement)
    db.execute("PRAGMA user_version = 5")


@migrations()
def m006_runs(db: Database) -> None:
    """Which tokens of a compressed passage share a vector; what is stored has no such, and is not encoded again."""
    db.execute("ALTER TABLE token_bits ADD COLUMN runs BLOB")
    db.execute("PRAGMA user_version = 6")
