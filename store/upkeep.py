"""
A store as a file: what it says it is, whether it is whole, its copies.

A copy is made by SQLite's backup API in one step, so it is one moment of a store that is being written, and becomes a
file of its own without a log beside it. A backup has another name, and is locked, until it is found whole: one under
such a name that nobody holds was killed, and the next backup into that folder removes it, for it holds the notes' text.
A copy takes a store's place by one rename, after the log of the store that stood there is gone: SQLite would replay it
into the new file.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from store.codec import SCALE_DTYPE, read_runs
from store.codes import Blocks
from store.errors import BusyError, FormatError, StoreError, UsageError
from store.sqlite import sqlite_errors
from store.tokens import ANYTHING, APPLICATION_ID, SCHEMA_VERSION, TokenStore

KEPT = ".before-restore"
"""Ending of the store that a restored one took the place of."""
_PART = ".restoring"
"""Ending of a copy that is about to become the store."""
UNFINISHED = ".unfinished-backup"
"""Ending of a copy that is about to become a backup."""
LOGS = ("-wal", "-shm", "-journal")
"""Endings of the files that SQLite keeps beside a store."""
_MOST_PROBLEMS = 5


@dataclass(frozen=True)
class Identity:
    """What a store says it is."""

    version: int
    """Of its schema; 0: it has none yet."""
    fingerprint: str | None
    """None: cut off before its settings were written."""
    model: str | None

    @property
    def empty(self) -> bool:
        """A first run was cut off before anything could be indexed; the next one makes the store."""
        return self.fingerprint is None


@dataclass(frozen=True)
class Finding:
    """One thing that was checked."""

    what: str
    problems: tuple[str, ...]
    """None: it is as it should be."""


def beside(path: Path, ending: str) -> Path:
    """The file of the same name with something after it."""
    return path.with_name(path.name + ending)


def identify(path: Path) -> Identity:
    """
    Read what a store of any schema says it is.

    Raises:
        StoreError: If there is none, or it is not one of ours.
    """
    if not path.is_file():
        raise StoreError(f"{path} does not exist: give another file")
    with _connection(path) as connection:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID and connection.execute(ANYTHING).fetchone() is None:
            return Identity(0, None, None)
        if application != APPLICATION_ID or version < 1:
            raise StoreError(f"{path} is not a store of btr-assistant: give another file")
        settings = dict(connection.execute("SELECT key, value FROM settings WHERE key IN ('fingerprint', 'model')"))
    return Identity(version, settings.get("fingerprint"), settings.get("model"))


def check_usable(path: Path, fingerprint: str) -> Identity:
    """
    What a store is, if this version and bundle can use it, after a migration perhaps.

    Raises:
        StoreError: If they cannot, or the file is damaged.
    """
    try:
        found = identify(path)
    except StoreError as error:
        if getattr(error.__cause__, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            raise StoreError(f"{path} is not a store of btr-assistant: give another file") from error
        raise
    if found.version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema {found.version}, this version knows {SCHEMA_VERSION}: upgrade btr-assistant"
        )
    if found.empty:
        raise StoreError(f"{path} holds no notes: give another file")
    if found.fingerprint != fingerprint:
        raise StoreError(
            f"{path} was made with bundle {found.fingerprint}, this is bundle {fingerprint}: "
            "use the old bundle with --bundle"
        )
    problems = pages(path).problems
    if problems:
        raise StoreError(f"{path} is damaged ({problems[0]}): give another file")
    return found


def pages(path: Path, quick: bool = False) -> Finding:
    """Whether SQLite can read every page and row; the quick way leaves indexes out."""
    with _connection(path) as connection:
        return Finding("pages", tuple(_problems(connection, quick)))


def _problems(connection: sqlite3.Connection, quick: bool) -> list[str]:
    rows = _tried(connection, f"PRAGMA {'quick' if quick else 'integrity'}_check({_MOST_PROBLEMS})")
    return [row for row in rows if row != "ok"]


def references(path: Path) -> Finding:
    """Whether every row's owner is there."""
    with _connection(path) as connection:
        rows = _tried(connection, "SELECT \"table\" || ' row ' || rowid FROM pragma_foreign_key_check")
    return Finding("references", tuple(f"{row} belongs to nothing" for row in rows[:_MOST_PROBLEMS]))


def search_index(path: Path) -> Finding:
    """Whether the search index holds exactly the words and codes of the passages; nothing is written."""
    with _connection(path) as connection:
        connection.execute("BEGIN IMMEDIATE")  # the check is spelled as an insertion, and takes a writer's lock
        try:
            rows = _tried(connection, "INSERT INTO passages_fts (passages_fts, rank) VALUES ('integrity-check', 1)")
        finally:
            connection.execute("ROLLBACK")
        try:
            rows += itertools.islice(Blocks(connection).problems(), _MOST_PROBLEMS)
        except sqlite3.DatabaseError as error:
            rows.append(str(error))
    return Finding("search index", tuple(rows))


def encoded(path: Path, bits: int, code_bits: int) -> Finding:
    """Whether every passage has bits, scales, runs and a code of the right length."""
    sql = (
        "SELECT 'passage ' || p.id || ' of ' || d.path || CASE WHEN t.passage_id IS NULL THEN ' has no bits' "
        "ELSE ' has ' || LENGTH(t.bits) || ' bytes of bits, ' || LENGTH(t.scale) || ' of scales, ' || "
        "IFNULL(LENGTH(t.runs), 'none') || ' of runs and ' || LENGTH(p.code) || ' of code for ' || p.tokens || "
        "' tokens' END "
        "FROM passages p JOIN documents d ON d.id = p.document_id LEFT JOIN token_bits t ON t.passage_id = p.id "
        "WHERE t.passage_id IS NULL OR p.tokens < 1 "
        f"OR LENGTH(t.bits) != IIF(t.runs IS NULL, p.tokens, runs_in(t.runs, p.tokens)) * {bits // 8} "
        f"OR LENGTH(t.scale) != IIF(t.runs IS NULL, p.tokens * {SCALE_DTYPE.itemsize}, runs_in(t.runs, p.tokens)) "
        f"OR LENGTH(p.code) != {code_bits // 8} LIMIT {_MOST_PROBLEMS}"
    )
    with _connection(path) as connection:
        connection.create_function("runs_in", 2, _runs_in, deterministic=True)
        return Finding("bits", tuple(_tried(connection, sql)))


def _runs_in(runs: bytes, tokens: int) -> int:
    """How many runs a compressed passage has; -1 where its bytes do not say."""
    try:
        return int(read_runs(runs, tokens)[1].sum())
    except (FormatError, TypeError, ValueError):  # SQLite holds anything anywhere
        return -1


def is_locked(path: Path) -> bool:
    """Whether another program keeps this store from being written to."""
    with _connection(path, timeout=1) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                return True
            raise
        connection.execute("ROLLBACK")
    return False


def back_up(store: Path, target: Path) -> int:
    """
    Copy a store, in use or not, into a new file (0600) and check the copy; its size.

    Raises:
        UsageError: If there is something under that name.
        BusyError: If another backup is being written there.
        StoreError: If there is no store, or it cannot be copied.
    """
    if identify(store).empty:
        raise StoreError(
            f"there is nothing to back up, no notes are indexed in {store} yet: run btr-assistant index FOLDER first"
        )
    if os.path.lexists(target):
        raise UsageError(f"{target} exists and is not overwritten: give another name, or remove it")
    part = beside(target, UNFINISHED)
    _discard_unfinished(target.parent)
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        raise BusyError(f"another backup is writing {part}: wait for it to finish, or give another name") from None
    except OSError as error:
        raise UsageError(f"cannot write to {target.parent} ({error.strerror}): give another folder") from error
    try:
        _copy(store, part, "DELETE", check=True)
        part.rename(target)
    finally:
        _remove(part)
    return target.stat().st_size


def restore(backup: Path, store: Path, fingerprint: str, model: str) -> Path | None:
    """
    Put a checked copy of a backup, migrated if need be, in a store's place; where the store that stood there is now.

    The caller holds the writer's lock. Until the last rename nothing has changed.

    Raises:
        BusyError: If the store is open elsewhere.
        StoreError: If the backup is none that can be used, or cannot be copied.
    """
    check_usable(backup, fingerprint)
    part, kept = beside(store, _PART), beside(store, KEPT)
    try:
        store.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove(part)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreError(f"cannot write {part} ({error.strerror}): give another place with --store") from error
    try:
        _copy(backup, part, "WAL")
        TokenStore.create(part, fingerprint, model).close()
        replaced = os.path.lexists(store)
        if replaced:
            _release(store)
            _remove(kept)
            try:
                os.link(store, kept)  # so that there is a store at every moment
            except OSError:
                shutil.copy2(store, kept)
        for ending in LOGS:
            if beside(store, ending).exists():
                beside(store, ending).rename(beside(kept, ending))
        part.replace(store)
    finally:
        _remove(part)
    return kept if replaced else None


def discard_part(store: Path) -> None:
    """Remove what a restore that was killed has left: it holds the notes' text. The caller holds the writer's lock."""
    with suppress(OSError):
        _remove(beside(store, _PART))


def _discard_unfinished(folder: Path) -> None:
    """Remove what backups that were killed have left in a folder; what cannot be opened, or is in use, stays."""
    for part in folder.glob(f"*{UNFINISHED}"):
        with suppress(OSError, StoreError):
            if not is_locked(part):
                _remove(part)


def _copy(source: Path, target: Path, journal: str, check: bool = False) -> None:
    """One moment of a store into an empty file, which is whole without a log; locked until it is checked, if it is."""
    with _connection(source) as reading, _connection(target) as writing:
        if check:
            writing.execute("PRAGMA locking_mode = EXCLUSIVE")
            writing.execute("BEGIN EXCLUSIVE")
            writing.execute("COMMIT")  # the lock stays
        reading.backup(writing)  # one step: a writer goes on meanwhile, and the copy never starts again
        writing.execute(f"PRAGMA journal_mode = {journal}")
        problems = _problems(writing, quick=True) if check else []
    if problems:
        raise StoreError(f"{source} is damaged ({problems[0]}), so is a copy: run btr-assistant verify")


def _release(store: Path) -> None:
    """Take the log into the store and away; a store that is too damaged for that is left as it is."""
    try:
        with _connection(store, timeout=2) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")  # only while nobody else has it open
    except StoreError as error:
        if "locked" in str(error):
            raise BusyError(f"{store} is in use: close the chat and wait for other commands, then restore") from error


def _remove(path: Path) -> None:
    for file in (path, *(beside(path, ending) for ending in LOGS)):
        file.unlink(missing_ok=True)


@contextmanager
def _connection(path: Path, timeout: float = 10) -> Iterator[sqlite3.Connection]:
    """An existing SQLite file, closed afterwards; it is never made."""
    with sqlite_errors(path):
        uri = f"{Path(os.path.abspath(path)).as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            yield connection
        finally:
            connection.close()


def _tried(connection: sqlite3.Connection, sql: str) -> list[str]:
    """The first column of a check, or the damage that stopped it as its one row."""
    try:
        return [str(row[0]) for row in connection.execute(sql)]
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise
        return [str(error)]
