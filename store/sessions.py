"""
Sessions: what was asked, what came of it, and what a person said to it, in the same file as the notes.

They are written through a connection of their own, in transactions of a few rows, so that saving waits for an indexer
no longer than for one note, and without the writer's lock, which is for those who write notes. A session begins with
its first turn and ends with its last. Its name is what a person gave it, else its first question. Every turn knows the
paths of the notes that it quotes: a note that is removed takes along what the turn holds of it, and the turn itself
where that is the answer (`store.quotes`).
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from store.errors import StoreError, UsageError
from store.sqlite import last_id, sqlite_errors
from store.tokens import SCHEMA_VERSION, TokenStore

RIGHT, WRONG_ANSWER, WRONG_SOURCE = "right", "wrong answer", "wrong source"
VERDICTS = (RIGHT, WRONG_ANSWER, WRONG_SOURCE)
_WAIT_SECONDS = 10


@dataclass(frozen=True)
class Session:
    """A conversation."""

    id: int
    name: str
    """As a person named it, else its first question."""
    turns: int
    created_at: int
    """Seconds since 1970."""
    last_at: int
    """Of the last question."""


class TurnKey(NamedTuple):
    """Which turn: SQLite gives the number of the last one again when that is gone, so a number alone may be another."""

    id: int
    asked_at: int
    """Seconds since 1970."""
    question: str


@dataclass(frozen=True)
class Turn:
    """A question and what came of it."""

    id: int
    session_id: int
    asked_at: int
    """Seconds since 1970."""
    question: str
    """As it was typed."""
    read_as: str | None
    """What was read in its place: a follow-up with what it takes from the question before; None: itself."""
    scope: str
    """Filters; empty: all notes."""
    outcome: Mapping[str, Any]
    """The answer, as JSON has it."""
    verdict: str | None
    """One of `VERDICTS`."""
    correction: str | None
    """The right answer to a wrong one, empty: there is none in the notes; None: not said."""

    @property
    def key(self) -> TurnKey:
        """What it is judged by."""
        return TurnKey(self.id, self.asked_at, self.question)


@dataclass(frozen=True)
class NewTurn:
    """A turn to save."""

    asked_at: float
    question: str
    read_as: str | None
    scope: str
    outcome: Mapping[str, Any]
    paths: Iterable[str]
    """Of the notes that the outcome quotes or names."""


class SessionStore:
    """The sessions of a store. May be used from several threads: calls wait for each other."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self.path = connection, path
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> SessionStore:
        """
        The sessions of an existing store of this schema.

        Raises:
            StoreError: If there is no such store.
        """
        TokenStore.open(path).close()  # says what is wrong with it
        with sqlite_errors(path):
            connection = sqlite3.connect(path, timeout=_WAIT_SECONDS, check_same_thread=False, isolation_level=None)
            for pragma in ("foreign_keys = ON", "secure_delete = ON"):
                connection.execute(f"PRAGMA {pragma}")
        return cls(connection, path)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> SessionStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # writing

    def check_writable(self) -> None:
        """
        Find out whether anything can be saved, without saving anything.

        Raises:
            StoreError: If not.
        """
        with self._lock, sqlite_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                # a lock alone can be had of a file that cannot be written
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def add_turn(self, session_id: int | None, turn: NewTurn) -> tuple[int, TurnKey]:
        """
        Save a turn; its session's id and its own key. Without a session, or with one that is gone, a new one begins.

        Raises:
            StoreError: If it cannot be saved.
        """
        with self._transaction():
            known = self._connection.execute("SELECT 1 FROM sessions WHERE id = ?", (session_id,)).fetchone()
            if session_id is None or known is None:
                sql = "INSERT INTO sessions (created_at) VALUES (?)"
                session_id = last_id(self._connection.execute(sql, (int(turn.asked_at),)))
            sql = (
                "INSERT INTO turns (session_id, asked_at, question, read_as, scope, outcome) VALUES (?, ?, ?, ?, ?, ?)"
            )
            outcome = json.dumps(turn.outcome, ensure_ascii=False)
            row = (session_id, int(turn.asked_at), turn.question, turn.read_as, turn.scope, outcome)
            turn_id = last_id(self._connection.execute(sql, row))
            quotes = [(turn_id, path) for path in turn.paths]
            self._connection.executemany("INSERT OR IGNORE INTO quotes VALUES (?, ?)", quotes)
        return session_id, TurnKey(turn_id, int(turn.asked_at), turn.question)

    def judge(self, turn: TurnKey, verdict: str | None, correction: str | None = None) -> None:
        """
        Keep what a person said to a turn; None takes it back.

        Raises:
            StoreError: If it cannot be saved, or the turn is gone.
        """
        with self._transaction():
            sql = "UPDATE turns SET verdict = ?, correction = ? WHERE id = ? AND asked_at = ? AND question = ?"
            if not self._connection.execute(sql, (verdict, correction, *turn)).rowcount:
                raise StoreError("this question is not saved any more: ask it again")

    def rename(self, session_id: int, name: str) -> None:
        """
        Give a session a name; an empty one takes it back.

        Raises:
            UsageError: If there is no such session.
        """
        with self._transaction():
            sql = "UPDATE sessions SET name = ? WHERE id = ?"
            if not self._connection.execute(sql, (" ".join(name.split()) or None, session_id)).rowcount:
                raise _unknown(session_id)

    def delete(self, session_id: int) -> None:
        """
        Remove a session with its turns and verdicts; deleted bytes are overwritten.

        Raises:
            UsageError: If there is no such session.
        """
        with self._transaction():
            if not self._connection.execute("DELETE FROM sessions WHERE id = ?", (session_id,)).rowcount:
                raise _unknown(session_id)
        with self._lock, sqlite_errors(self.path):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the log still has its pages

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, sqlite_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    # reading

    def sessions(self, text: str = "") -> list[Session]:
        """Sessions, the latest first; with a text, those with it in their name, questions or answers."""
        sql = (
            "SELECT s.id, COALESCE(s.name, (SELECT t.question FROM turns t WHERE t.session_id = s.id ORDER BY t.id)), "
            "COUNT(t.id), s.created_at, MAX(t.asked_at) FROM sessions s JOIN turns t ON t.session_id = s.id "
            "GROUP BY s.id ORDER BY MAX(t.id) DESC"
        )
        found = [Session(*row) for row in self._rows(sql)]
        wanted = text.casefold().split()
        if not wanted:
            return found
        return [session for session in found if _holds(self._words(session), wanted)]

    def _words(self, session: Session) -> str:
        turns = self.turns(session.id)
        said = [part for turn in turns for part in (turn.question, turn.outcome.get("answer") or "")]
        return " ".join([session.name, *said])

    def session(self, session_id: int) -> Session:
        """
        One session.

        Raises:
            UsageError: If there is none of this number.
        """
        for session in self.sessions():
            if session.id == session_id:
                return session
        raise _unknown(session_id)

    def turns(self, session_id: int) -> list[Turn]:
        """The turns of a session, oldest first."""
        return self._turns("session_id = ?", (session_id,))

    def judged(self) -> list[Turn]:
        """Every turn that a person said something to, oldest first."""
        return self._turns("verdict IS NOT NULL", ())

    def questions(self, limit: int = 500) -> list[str]:
        """The last questions of all sessions, oldest first, none twice in a row."""
        rows = self._rows("SELECT question FROM turns ORDER BY id DESC LIMIT ?", (limit,))
        asked = [str(question) for (question,) in reversed(rows)]
        return [now for before, now in zip([None, *asked], asked, strict=False) if now != before]

    def _turns(self, condition: str, parameters: tuple[Any, ...]) -> list[Turn]:
        columns = "id, session_id, asked_at, question, read_as, scope, outcome, verdict, correction"
        rows = self._rows(f"SELECT {columns} FROM turns WHERE {condition} ORDER BY id", parameters)
        return [
            Turn(i, session_id, asked_at, question, read_as, scope, json.loads(outcome), verdict, correction)
            for i, session_id, asked_at, question, read_as, scope, outcome, verdict, correction in rows
        ]

    def _rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        with self._lock, sqlite_errors(self.path):
            return self._connection.execute(sql, parameters).fetchall()


def _holds(text: str, words: Iterable[str]) -> bool:
    folded = text.casefold()
    return all(word in folded for word in words)


def _unknown(session_id: int) -> UsageError:
    return UsageError(f"there is no session {session_id}: btr-assistant sessions list shows them")
