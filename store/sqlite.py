"""
What every part of the store asks of SQLite: its errors, and values that a sound store cannot hold, as sentences.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from store.errors import StoreError


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """SQLite's errors as sentences; what only wrong SQL can cause is a bug and passes through."""
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
        if "syntax error" in text or "too many" in text or "too large" in text:
            raise
        raise damaged(path, error) from error  # tables, columns or text that are not what the schema says
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.NotSupportedError):
        raise
    except sqlite3.IntegrityError as error:
        if "NOT NULL" in str(error):  # a value that the caller gave
            raise
        raise damaged(path, error) from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the second is SQLite's message, torn like the page
        raise damaged(path, error) from error


@contextmanager
def sound(path: Path) -> Iterator[None]:
    """Values that a sound store cannot hold, as a sentence."""
    try:
        yield
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception | str) -> StoreError:
    """The sentence for a store that holds what cannot be."""
    reason = " ".join(str(error).split())[:200]
    return StoreError(
        f"{path} is not a readable store ({reason}): run btr-assistant restore BACKUP, or move it away and run "
        "btr-assistant index again"
    )


def typed(row: Sequence[Any], types: Sequence[Any]) -> Sequence[Any]:
    """
    A row whose values have the types of its columns; SQLite itself holds anything anywhere.

    Raises:
        TypeError: If one has not.
    """
    for value, expected in zip(row, types, strict=True):
        if not isinstance(value, expected):
            raise TypeError(f"a {type(value).__name__} where there is none")
    return row


def last_id(cursor: sqlite3.Cursor) -> int:
    """The id of the row that was just inserted."""
    assert cursor.lastrowid is not None
    return cursor.lastrowid
