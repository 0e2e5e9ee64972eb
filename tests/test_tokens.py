"""The store: one transaction a document, tombstones that nothing sees, migrations, honest counts, files it refuses."""

import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from store.errors import StoreError
from store.records import NewDocument, NewPassage, Placement
from store.scope import Folder, Scope
from store.search import fts_query
from store.tokens import SCHEMA_VERSION, UNREAD, TokenStore

FINGERPRINT = "0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TokenStore]:
    with TokenStore.create(tmp_path / "data" / "store.db", FINGERPRINT, "tiny") as store:
        yield store


def document(path: str = "/notes/a.md", content_hash: str = "h") -> NewDocument:
    return NewDocument(path, content_hash, 10, 20, "A", {"tags": ["x"]})


def passage(text: str, tokens: int = 3, code: int = 0) -> NewPassage:
    """A passage of 16 bits a token."""
    return NewPassage(
        start=5,
        end=5 + len(text),
        line=2,
        page=None,
        heading="A > B",
        text=text,
        tokens=tokens,
        code=bytes([code] * 4),
        bits=bytes(range(2 * tokens)),
        scale=np.arange(tokens, dtype="<f2").tobytes(),
    )


def table_sizes(store: TokenStore) -> dict[str, int]:
    with sqlite3.connect(store.path) as connection:
        names = ("documents", "passages", "token_bits", "failures")
        return {name: connection.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in names}


def test_a_document_reads_back_as_it_was_put(store: TokenStore) -> None:
    source = store.add_source("/notes")
    store.put_document(source, document(), [passage("the boiler"), passage("the garden")])
    ids, codes = store.codes()
    found = store.passages([int(i) for i in ids])
    assert [(p.text, p.path, p.line, p.heading, p.start) for p in found] == [
        ("the boiler", "/notes/a.md", 2, "A > B", 5),
        ("the garden", "/notes/a.md", 2, "A > B", 5),
    ]
    assert codes.shape == (2, 4)
    bits, scale = store.token_bits([int(ids[0])])[int(ids[0])]
    assert bits.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert scale.tolist() == [0, 1, 2]


def test_passages_come_in_the_order_asked_for_and_missing_ones_are_left_out(store: TokenStore) -> None:
    store.put_document(store.add_source("/notes"), document(), [passage("one"), passage("two")])
    first, second = (int(i) for i in store.codes()[0])
    assert [p.text for p in store.passages([second, 999, first])] == ["two", "one"]


def test_putting_a_path_again_replaces_everything_of_it(store: TokenStore) -> None:
    source = store.add_source("/notes")
    store.put_document(source, document(), [passage("ancient boiler"), passage("second")])
    store.put_document(source, document(content_hash="new"), [passage("modern stove")])
    assert table_sizes(store) == {"documents": 1, "passages": 1, "token_bits": 1, "failures": 0}
    assert store.match("ancient", 5) == []
    assert len(store.match("modern", 5)) == 1


def test_a_removed_document_leaves_nothing_behind(store: TokenStore) -> None:
    source = store.add_source("/notes")
    document_id = store.put_document(source, document(), [passage("zanzibar")])
    store.delete_documents([document_id], 1_700_000_000.9)
    store.purge()
    store.vacuum()
    assert b"zanzibar" not in store.path.read_bytes()
    assert table_sizes(store) == {"documents": 0, "passages": 0, "token_bits": 0, "failures": 0}
    assert store.match("zanzibar", 5) == []


def test_a_failed_add_leaves_nothing(store: TokenStore) -> None:
    source = store.add_source("/notes")
    store.put_document(source, document(), [passage("kept")])
    broken = replace(passage("lost"), code=None)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        store.put_document(source, document(), [passage("half"), broken])
    assert [p.text for p in store.passages([int(i) for i in store.codes()[0]])] == ["kept"]
    assert store.match("half", 5) == []


def test_counts_are_bytes_of_bits_scales_and_codes_with_their_blocks_over_tokens(store: TokenStore) -> None:
    store.put_document(store.add_source("/notes"), document(), [passage("one", tokens=3), passage("two", tokens=5)])
    counts = store.counts()
    assert (counts.notes, counts.passages, counts.tokens) == (1, 2, 8)
    assert counts.encoded_bytes == 8 * (2 + 2) + 2 * (4 + 4 + 6)
    assert (counts.bits_bytes, counts.scale_bytes, counts.runs_bytes, counts.code_bytes) == (16, 16, 0, 28)
    assert (counts.text_bytes, counts.stored_passages, counts.compressed) == (6, 2, 0)
    assert counts.bytes_per_token == 7.5
    assert counts.word_index_bytes > 0
    assert counts.store_bytes >= 4096


def test_a_heading_counts_more_than_a_mention(store: TokenStore) -> None:
    source = store.add_source("/notes")
    mention = replace(passage("a line that has the word thermostat in it"), heading="Other")
    titled = replace(passage("set it to nineteen degrees by day always"), heading="Thermostat")
    store.put_document(source, document(), [mention, titled])
    best, _ = store.match("thermostat", 2)[0]
    assert store.passages([best])[0].heading == "Thermostat"


def test_words_are_found_by_their_stem_and_without_accents(store: TokenStore) -> None:
    store.put_document(store.add_source("/notes"), document(), [passage("the radiators of the café")])
    assert store.match("radiator", 5)
    assert store.match("cafe", 5)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("What is the boiler?", '"boiler"'),
        ("who are you", '"who" OR "are" OR "you"'),
        ('"quoted" OR x:y*', '"quoted" OR "x" OR "y"'),
        ("?!", ""),
        ("", ""),
    ],
)
def test_a_question_becomes_its_quoted_content_words(text: str, query: str) -> None:
    assert fts_query(text) == query


def test_failures_are_kept_until_the_file_is_fine(store: TokenStore) -> None:
    source = store.add_source("/notes")
    store.put_failure(source, "/notes/a.md", "cannot be read")
    assert store.failures() == [("/notes/a.md", "cannot be read")]
    store.put_document(source, document(), [passage("fine now")])
    assert store.failures() == []


def test_store_is_private(store: TokenStore) -> None:
    store.put_document(store.add_source("/notes"), document(), [passage("secret")])
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    for file in store.path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_a_reader_sees_committed_documents_while_a_writer_is_at_work(store: TokenStore) -> None:
    source = store.add_source("/notes")
    store.put_document(source, document(), [passage("first")])
    with TokenStore.open(store.path, FINGERPRINT) as reader:
        before, index = reader.revision(), reader.code_index()
        with pytest.raises(RuntimeError), store._transaction():
            store._connection.execute("DELETE FROM documents")
            assert reader.counts().notes == 1  # neither blocked nor shown what is not committed
            raise RuntimeError
        assert reader.revision() == before
        assert reader.code_index() is index
        store.put_document(source, document("/notes/b.md"), [passage("second")])
        assert reader.counts().notes == 2
        assert reader.revision() != before
        assert len(reader.code_index()) == 2


def test_a_snapshot_shows_one_state_whatever_is_written_meanwhile(store: TokenStore) -> None:
    """Text of one version of a note must never meet the bits of another: ids are used again."""
    source = store.add_source("/notes")
    store.put_document(source, document(), [passage("first", tokens=3)])
    with TokenStore.open(store.path, FINGERPRINT) as reader:
        with reader.snapshot():
            ids = [i for i, _ in reader.match("first", 5)]
            store.put_document(source, document(content_hash="new"), [passage("second", tokens=7)])
            assert [p.text for p in reader.passages(ids)] == ["first"]
            assert reader.token_bits(ids)[ids[0]][0].shape == (3, 2)
        assert reader.match("first", 5) == []


def test_opening_nothing_says_to_index_first(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="run btr-assistant index FOLDER first"):
        TokenStore.open(tmp_path / "none.db")


def test_a_store_of_another_bundle_is_refused_and_kept(store: TokenStore) -> None:
    store.put_document(store.add_source("/notes"), document(), [passage("kept")])
    for attempt in (TokenStore.open, lambda path, other: TokenStore.create(path, other, "x")):
        with pytest.raises(StoreError, match="made with bundle 0123456789abcdef, this is bundle ffff"):
            attempt(store.path, "ffff")
    assert store.counts().notes == 1


def test_an_older_store_of_another_bundle_is_refused_before_it_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    old_store(path)
    before = path.read_bytes()
    for attempt in (TokenStore.open, lambda path, other: TokenStore.create(path, other, "x")):
        with pytest.raises(StoreError, match=r"made with bundle 0123456789abcdef, .* run btr-assistant index /notes$"):
            attempt(path, "ffff")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["old.db"]


def test_anchors_read_back_as_they_were_put(store: TokenStore) -> None:
    anchors = ((3, 12, 4, None), (7, 7, 1, 2))
    store.put_document(store.add_source("/"), document(), [replace(passage("text"), anchors=anchors), passage("text")])
    ids, _ = store.codes()
    assert [found.anchors for found in store.passages([int(i) for i in ids])] == [anchors, ()]


def test_a_newer_store_is_refused_and_kept(store: TokenStore) -> None:
    store.put_document(store.add_source("/notes"), document(), [passage("kept")])
    with sqlite3.connect(store.path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 2}")
    for attempt in (TokenStore.open, lambda path, same: TokenStore.create(path, same, "x")):
        with pytest.raises(StoreError, match=f"has schema {SCHEMA_VERSION + 2}, this version knows {SCHEMA_VERSION}"):
            attempt(store.path, FINGERPRINT)
    assert store.counts().notes == 1


def test_a_file_that_is_no_store_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "diary.txt"
    path.write_text("dear diary, " * 500)
    for attempt in (TokenStore.open, lambda path, same: TokenStore.create(path, same, "x")):
        with pytest.raises(StoreError, match="not a readable store"):
            attempt(path, FINGERPRINT)
    assert path.read_text() == "dear diary, " * 500


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    for attempt in (TokenStore.open, lambda path, same: TokenStore.create(path, same, "x")):
        with pytest.raises(StoreError, match="is not a store of btr-assistant"):
            attempt(path, FINGERPRINT)
    assert path.read_bytes() == before


def test_a_store_cut_off_before_its_settings_is_completed(tmp_path: Path) -> None:
    """A kill between the migration and the settings: the next run goes on."""
    path = tmp_path / "store.db"
    TokenStore.create(path, FINGERPRINT, "tiny").close()
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM settings")
    with TokenStore.create(path, FINGERPRINT, "tiny") as store:
        assert store.setting("fingerprint") == FINGERPRINT


def test_a_locked_store_is_one_sentence(store: TokenStore) -> None:
    with sqlite3.connect(store.path) as other:
        other.execute("BEGIN IMMEDIATE")
        store._connection.execute("PRAGMA busy_timeout = 50")
        with pytest.raises(StoreError, match="locked by another program"):
            store.add_source("/elsewhere")
        other.rollback()


def test_a_full_disk_is_one_sentence_and_loses_nothing(store: TokenStore) -> None:
    source = store.add_source("/notes")
    store.put_document(source, document(), [passage("kept")])
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="make room"):
        store.put_document(source, document("/notes/b.md"), [passage("x" * 200_000)])
    assert store.counts().notes == 1
    assert store._connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_the_schema_is_what_its_version_says(store: TokenStore) -> None:
    """Released migrations never change: this list changes only together with SCHEMA_VERSION."""
    assert SCHEMA_VERSION == 6
    rows = store._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    names = [name for (name,) in rows if not name.startswith(("passages_fts_", "sqlite_"))]
    assert names == [
        "_sqlite_migrations", "code_blocks", "documents", "failures", "fields", "passages", "passages_fts", "quotes",
        "sessions", "settings", "sources", "stale_codes", "token_bits", "turns",
    ]  # fmt: skip
    for column in ("code", "start", "line", "heading", "anchors"):
        assert column in [row[1] for row in store._connection.execute("PRAGMA table_info(passages)")]
    columns = [row[1] for row in store._connection.execute("PRAGMA table_info(token_bits)")]
    assert columns == ["passage_id", "bits", "scale", "runs"]


# tombstones


def live(store: TokenStore) -> list[str]:
    return [found.path for found in store.documents() if not found.deleted]


def test_nothing_sees_a_deleted_document_until_it_is_back(store: TokenStore) -> None:
    source = store.add_source("/notes")
    kept = store.put_document(source, document(), [passage("the boiler", tokens=3)])
    gone = store.put_document(source, document("/notes/b.md"), [passage("the other boiler", tokens=5)])
    ids = [int(i) for i in store.codes()[0]]
    before = store.counts()
    store.delete_documents([gone], now=1_700_000_000.5)
    counts = store.counts()
    assert (counts.notes, counts.passages, counts.tokens, counts.deleted) == (1, 1, 3, 1)
    assert counts.bytes_per_token == pytest.approx((3 * 4 + 4 + 4 + 6) / 3)
    assert [i for i, _ in store.match("boiler", 5)] == ids[:1]
    assert store.codes()[0].tolist() == ids[:1]
    assert [found.text for found in store.passages(ids)] == ["the boiler"]
    assert store.count_notes(Scope((Folder("notes"),))) == 1
    assert [source.notes for source in store.sources()] == [1]
    assert [(d.id, d.deleted_at) for d in store.documents()] == [(kept, None), (gone, 1_700_000_000)]
    store.place_documents([Placement(gone, source, "/notes/b.md", 10, 20)])
    assert replace(store.counts(), store_bytes=before.store_bytes) == before
    assert len(store.match("boiler", 5)) == 2


def test_documents_may_change_places(store: TokenStore) -> None:
    source = store.add_source("/notes")
    a = store.put_document(source, document("/notes/a.md"), [passage("first")])
    b = store.put_document(source, document("/notes/b.md"), [passage("second")])
    c = store.put_document(source, document("/notes/c.md"), [passage("third")])
    store.place_documents([Placement(a, source, "/notes/b.md", 1, 1), Placement(b, source, "/notes/a.md", 2, 2)])
    assert [(d.id, d.path, d.size) for d in store.documents()] == [
        (b, "/notes/a.md", 2),
        (a, "/notes/b.md", 1),
        (c, "/notes/c.md", 10),
    ]
    store.place_documents([Placement(a, source, "/notes/c.md", 1, 1)])
    assert live(store) == ["/notes/a.md", "/notes/c.md"]
    assert store.match("third", 5) == []


def test_a_failed_placement_leaves_everything_where_it_was(store: TokenStore) -> None:
    source = store.add_source("/notes")
    a = store.put_document(source, document("/notes/a.md"), [passage("first")])
    b = store.put_document(source, document("/notes/b.md"), [passage("second")])
    broken = Placement(b, source, "/notes/a.md", None, 0)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        store.place_documents([Placement(a, source, "/notes/b.md", 1, 1), broken])
    assert live(store) == ["/notes/a.md", "/notes/b.md"]


def test_a_removed_source_takes_what_it_alone_holds(store: TokenStore) -> None:
    outer, inner, other = (store.add_source(root) for root in ("/notes", "/notes/work", "/notes2"))
    store.put_document(outer, document("/notes/a.md"), [passage("alpha")])
    store.put_document(outer, document("/notes/work/b.md"), [passage("beta")])
    store.put_document(other, document("/notes2/c.md"), [passage("gamma")])
    deleted = store.put_document(outer, document("/notes/d.md"), [passage("delta")])
    store.delete_documents([deleted], 0)
    store.put_failure(outer, "/notes/e.md", "cannot be read")
    assert [document.path for document in store.only_in("/notes")] == ["/notes/a.md", "/notes/d.md"]
    assert store.only_in("/notes/work") == []
    store.remove_source("/notes")
    store.vacuum()
    assert [source.root for source in store.sources()] == ["/notes/work", "/notes2"]
    assert live(store) == ["/notes/work/b.md", "/notes2/c.md"]
    assert table_sizes(store) == {"documents": 2, "passages": 2, "token_bits": 2, "failures": 0}
    assert store.count_notes(Scope((Folder("notes"),))) == 0  # it is below its own source now
    data = store.path.read_bytes()
    assert (b"alpha" in data, b"delta" in data, b"beta" in data) == (False, False, True)
    store.remove_source("/notes/work")
    assert live(store) == ["/notes2/c.md"]
    assert inner != other


# migrations

SCHEMA_1 = """
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE sources (id INTEGER PRIMARY KEY, root TEXT NOT NULL UNIQUE);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY, source_id INTEGER NOT NULL REFERENCES sources(id) ON DELETE CASCADE,
    path TEXT NOT NULL UNIQUE, content_hash TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    title TEXT NOT NULL, metadata TEXT NOT NULL
);
CREATE INDEX documents_source ON documents(source_id);
CREATE TABLE passages (
    id INTEGER PRIMARY KEY, document_id INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
    "start" INTEGER NOT NULL, "end" INTEGER NOT NULL, line INTEGER NOT NULL, page INTEGER, heading TEXT NOT NULL,
    text TEXT NOT NULL, tokens INTEGER NOT NULL, code BLOB NOT NULL
);
CREATE INDEX passages_document ON passages(document_id);
CREATE TABLE token_bits (
    passage_id INTEGER PRIMARY KEY REFERENCES passages(id) ON DELETE CASCADE, bits BLOB NOT NULL, scale BLOB NOT NULL
);
CREATE TABLE failures (
    path TEXT PRIMARY KEY, source_id INTEGER NOT NULL REFERENCES sources(id) ON DELETE CASCADE, reason TEXT NOT NULL
) WITHOUT ROWID;
CREATE VIRTUAL TABLE passages_fts USING fts5 (
    heading, text, tokenize='porter unicode61 remove_diacritics 2', content=passages
);
CREATE TRIGGER passages_ai AFTER INSERT ON passages BEGIN
  INSERT INTO passages_fts (rowid, heading, text) VALUES (new.rowid, new.heading, new.text);
END;
CREATE TRIGGER passages_ad AFTER DELETE ON passages BEGIN
  INSERT INTO passages_fts (passages_fts, rowid, heading, text) VALUES('delete', old.rowid, old.heading, old.text);
END;
CREATE TRIGGER passages_au AFTER UPDATE ON passages BEGIN
  INSERT INTO passages_fts (passages_fts, rowid, heading, text) VALUES('delete', old.rowid, old.heading, old.text);
  INSERT INTO passages_fts (rowid, heading, text) VALUES (new.rowid, new.heading, new.text);
END;
CREATE TABLE _sqlite_migrations (
    id INTEGER PRIMARY KEY, migration_set TEXT, name TEXT, applied_at TEXT
);
CREATE UNIQUE INDEX idx__sqlite_migrations_migration_set_name ON _sqlite_migrations (migration_set, name);
PRAGMA application_id = 0x42545231;
PRAGMA user_version = 1;
"""
"""The store of version 0.1.0, written down."""

SCHEMA_2 = """
ALTER TABLE documents ADD COLUMN deleted_at INTEGER;
ALTER TABLE documents ADD COLUMN folder TEXT NOT NULL DEFAULT '/';
ALTER TABLE documents ADD COLUMN date TEXT;
CREATE INDEX documents_deleted ON documents(deleted_at) WHERE deleted_at IS NOT NULL;
CREATE TABLE fields (
    name TEXT NOT NULL, value TEXT NOT NULL, document_id INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
    PRIMARY KEY (name, value, document_id)
) WITHOUT ROWID;
CREATE INDEX fields_document ON fields(document_id);
PRAGMA user_version = 2;
"""
"""What schema 2 added to it: deletions, folders, dates, tags and fields."""

SCHEMA_3 = """
ALTER TABLE passages ADD COLUMN anchors TEXT;
PRAGMA user_version = 3;
"""
"""What schema 3 added to that: where a passage's text leaves the file's run."""

SCHEMA_4 = """
CREATE TABLE sessions (id INTEGER PRIMARY KEY, name TEXT, created_at INTEGER NOT NULL);
CREATE TABLE turns (
    id INTEGER PRIMARY KEY, session_id INTEGER NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,
    asked_at INTEGER NOT NULL, question TEXT NOT NULL, read_as TEXT, scope TEXT NOT NULL, outcome TEXT NOT NULL,
    verdict TEXT, correction TEXT
);
CREATE INDEX turns_session ON turns(session_id);
CREATE TABLE quotes (
    turn_id INTEGER NOT NULL REFERENCES turns(id) ON DELETE CASCADE, path TEXT NOT NULL, PRIMARY KEY (turn_id, path)
) WITHOUT ROWID;
CREATE INDEX quotes_path ON quotes(path);
PRAGMA user_version = 4;
"""
"""What schema 4 added to that: the chat's sessions."""

SCHEMA_5 = """
CREATE TABLE code_blocks (block INTEGER PRIMARY KEY, places BLOB NOT NULL, owners BLOB NOT NULL, codes BLOB NOT NULL);
CREATE TABLE stale_codes (passage_id INTEGER PRIMARY KEY);
CREATE TRIGGER passages_codes_ai AFTER INSERT ON passages BEGIN
    INSERT OR IGNORE INTO stale_codes VALUES (new.id);
END;
CREATE TRIGGER passages_codes_ad AFTER DELETE ON passages BEGIN
    INSERT OR IGNORE INTO stale_codes VALUES (old.id);
END;
CREATE TRIGGER passages_codes_au AFTER UPDATE OF id, document_id, code ON passages BEGIN
    INSERT OR IGNORE INTO stale_codes VALUES (old.id), (new.id);
END;
PRAGMA user_version = 5;
"""
"""What schema 5 added to that: passage codes in blocks."""

MIGRATIONS = (
    "m001_documents_passages_tokens",
    "m002_tombstones_fields",
    "m003_anchors",
    "m004_sessions",
    "m005_code_blocks",
)
"""Their names, as a store keeps them."""


def old_store(path: Path) -> None:
    """A store of schema 1 with one note."""
    connection = sqlite3.connect(path)
    connection.executescript(SCHEMA_1)
    now = "2026-11-01T00:00:00+00:00"
    with connection:
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES (?, ?, ?)",
            ("btr_assistant", "m001_documents_passages_tokens", now),
        )
        connection.execute("INSERT INTO settings VALUES ('fingerprint', ?), ('model', 'tiny')", (FINGERPRINT,))
        connection.execute("INSERT INTO sources VALUES (1, '/notes')")
        metadata = '{"author": "Jane", "created": "2024-03-14", "tags": ["Idea", "work/travel"]}'
        connection.execute("INSERT INTO documents VALUES (1, 1, '/notes/Sub/a.md', 'h', 10, 20, 'A', ?)", (metadata,))
        connection.execute(
            "INSERT INTO passages VALUES (1, 1, 5, 15, 2, NULL, 'A', 'the boiler', 3, ?)", (bytes([0] * 4),)
        )
        connection.execute("INSERT INTO token_bits VALUES (1, ?, ?)", (bytes(range(6)), bytes(6)))
    connection.close()


def test_a_store_of_schema_1_migrates_and_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    old_store(path)
    with pytest.raises(StoreError, match="has schema 1, this version needs 6: run btr-assistant index once"):
        TokenStore.open(path, FINGERPRINT)
    with TokenStore.create(path, FINGERPRINT, "tiny") as store:
        (found,) = store.documents()
        assert (found.path, found.content_hash, found.size, found.deleted) == ("/notes/Sub/a.md", "h", UNREAD, False)
        assert [p.text for p in store.passages([i for i, _ in store.match("boiler", 5)])] == ["the boiler"]
        assert store.token_bits([1])[1][0].tolist() == [[0, 1], [2, 3], [4, 5]]
        assert store.counts().tokens == 3
        rows = store._connection.execute("SELECT folder, date FROM documents").fetchall()
        assert rows == [("/notes/sub/", "2024-03-14")]
        fields = store._connection.execute("SELECT name, value FROM fields ORDER BY name, value").fetchall()
        assert fields == [("author", "jane"), ("created", "2024-03-14"), ("tag", "idea"), ("tag", "work/travel")]
    with TokenStore.open(path, FINGERPRINT) as store:
        assert store.counts().notes == 1


def test_a_store_of_schema_2_migrates_and_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    old_store(path)
    connection = sqlite3.connect(path)
    connection.executescript(SCHEMA_2)
    with connection:
        sql = "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('btr_assistant', ?, '')"
        connection.execute(sql, (MIGRATIONS[1],))
        connection.execute("UPDATE documents SET deleted_at = 7, folder = '/notes/sub/', date = '2024-03-14'")
        connection.execute("INSERT INTO fields VALUES ('tag', 'idea', 1)")
    connection.close()
    with pytest.raises(StoreError, match="has schema 2, this version needs 6: run btr-assistant index once"):
        TokenStore.open(path, FINGERPRINT)
    with TokenStore.create(path, FINGERPRINT, "tiny") as store:
        (found,) = store.documents()
        assert (found.path, found.content_hash, found.size, found.deleted_at) == ("/notes/Sub/a.md", "h", 10, 7)
        assert store.token_bits([1])[1][0].tolist() == [[0, 1], [2, 3], [4, 5]]
        assert store._connection.execute("SELECT name, value, document_id FROM fields").fetchall() == [
            ("tag", "idea", 1)
        ]
        assert store._connection.execute("SELECT folder, date, anchors FROM documents, passages").fetchall() == [
            ("/notes/sub/", "2024-03-14", None)
        ]


def test_a_migrated_store_has_the_schema_of_a_new_one(tmp_path: Path, store: TokenStore) -> None:
    path = tmp_path / "old.db"
    old_store(path)
    with TokenStore.create(path, FINGERPRINT, "tiny") as migrated:
        for table in "documents passages fields token_bits failures sources sessions turns quotes code_blocks".split():
            columns = [s._connection.execute(f"PRAGMA table_info({table})").fetchall() for s in (migrated, store)]
            assert columns[0] == columns[1], table
        sql = "SELECT name FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
        names = [s._connection.execute(sql).fetchall() for s in (migrated, store)]
        assert names[0] == names[1]


def test_a_migration_that_fails_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    old_store(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE documents SET metadata = '{'")
    with pytest.raises(StoreError, match=r"is not a readable store .*: run btr-assistant restore BACKUP"):
        TokenStore.create(path, FINGERPRINT, "tiny")
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert "folder" not in [row[1] for row in connection.execute("PRAGMA table_info(documents)")]
