"""
What the chat does in threads: each calls the engine, computes, and posts what came of it; the app's handlers show it.

A thread cannot be stopped: one that was cancelled or superseded posts nothing more, and what it had posted is dropped
by who shows it. Whatever goes wrong while notes are indexed ends up in a sentence, never in the end of the chat.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from textual import work
from textual.app import App
from textual.message import Message
from textual.notifications import SeverityLevel
from textual.worker import get_current_worker

from app.assistant import Answer, Source
from app.chat.cards import Card
from app.chat.engine import Engine, Indexed
from app.chat.words import judgement
from app.display import many
from app.note import Excerpt, excerpt
from app.reader import Cancelled
from app.sessions import to_markdown, turn_of
from store.errors import BtrError, BusyError, UsageError
from store.scope import Scope
from store.sessions import Session, SessionStore, Turn, TurnKey

RESCANNING = "looking for changed notes…"


@dataclass
class Opened(Message):
    """The engine is there."""

    engine: Engine
    status: str
    notes: int
    history: list[str]
    """Questions of earlier sessions."""


@dataclass
class NotOpened(Message):
    """The engine cannot be opened."""

    error: BtrError


@dataclass
class Told(Message):
    """An answer is being written."""

    card: Card
    text: str


@dataclass
class Answered(Message):
    """A question has its answer."""

    card: Card
    answer: Answer


@dataclass
class Refused(Message):
    """A question cannot be answered."""

    card: Card
    error: BtrError


@dataclass
class Saved(Message):
    """A turn is in the store."""

    card: Card
    session_id: int
    turn: TurnKey


@dataclass
class Said(Message):
    """A sentence for a notice."""

    sentence: str
    severity: SeverityLevel = "information"


@dataclass
class Indexing(Message):
    """How far indexing is."""

    words: str
    share: float | None = None
    """0..1; None: not known yet."""


@dataclass
class Rescanned(Message):
    """Indexing is over."""

    status: str
    notes: int
    sentences: list[str]
    """What a person should see."""
    severity: SeverityLevel = "warning"


@dataclass
class Counted(Message):
    """How many notes a scope holds."""

    scope: Scope
    notes: int


@dataclass
class Read(Message):
    """The note of a source was read."""

    source: Source
    excerpt: Excerpt | None
    sentence: str = ""


@dataclass
class Resumed(Message):
    """A session to go on with."""

    session: Session
    turns: list[Turn]


class Workers(App[None], inherit_bindings=False):
    """The threads of a chat over any engine; whoever gives `open_engine` closes what it opened."""

    def __init__(
        self, open_engine: Callable[[], Engine], *, resume: int | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self._open_engine, self._resume, self._clock = open_engine, resume, clock
        self._session: int | None = None
        """The session that turns are added to; None: the next one begins it."""

    @work(thread=True, group="open")
    def _open(self) -> None:
        try:
            engine = self._open_engine()
            history = engine.sessions.questions() if engine.sessions else []
            self.post_message(Opened(engine, engine.status(), engine.notes(), history))
            if self._resume is not None:
                self._load_session(engine.sessions, self._resume)
        except BtrError as error:
            self.post_message(NotOpened(error))

    @work(thread=True, group="rescan")
    def _rescan(self, engine: Engine, folder: str) -> None:
        """Index what changed or, with a folder, that."""
        worker = get_current_worker()
        severity: SeverityLevel = "warning"
        what = "indexing" if folder else "looking for changed notes"

        def post(done: Indexed) -> None:
            left = round(done.seconds_left)
            until = f" · {left // 60}:{left % 60:02d} left" if left else ""
            self.post_message(Indexing(done.words + until, done.done / done.total if done.total else None))

        status, notes = engine.status(), engine.notes()
        try:
            self.post_message(Indexing(f"looking at {folder}…" if folder else RESCANNING))
            if folder:
                sentences = engine.index(folder, post, lambda: worker.is_cancelled)
            else:
                sentences = engine.rescan(post, lambda: worker.is_cancelled)
            status, notes = engine.status(), engine.notes()
            if folder and not sentences:
                sentences, severity = [f"{many(notes, 'note')} indexed: ask away"], "information"
        except Cancelled:
            return
        except BusyError as error:
            sentences, severity = [str(error)], "information"
        except BtrError as error:
            sentences = [str(error)]
        except Exception as error:  # the edge of the program: what is stored can still be asked
            sentences = [f"{what} failed ({error!r}): run btr-assistant index to see why"]
        if not worker.is_cancelled:
            self.post_message(Rescanned(status, notes, sentences, severity))

    @work(thread=True, group="count", exclusive=True)
    def _count(self, engine: Engine, scope: Scope) -> None:
        try:
            notes = engine.count_notes(scope)
        except BtrError:  # the question will say it
            return
        self.post_message(Counted(scope, notes))

    @work(thread=True, group="ask", exclusive=True)
    def _ask(self, engine: Engine, card: Card) -> None:
        worker = get_current_worker()
        question = card.read_as or card.question

        def told(text: str) -> None:
            if not worker.is_cancelled:
                self.post_message(Told(card, text))

        try:
            answer = engine.ask(question, scope=card.scope, cancelled=lambda: worker.is_cancelled, told=told)
        except Cancelled:
            return
        except BtrError as error:
            if not worker.is_cancelled:
                self.post_message(Refused(card, error))
            return
        if worker.is_cancelled:
            return
        self.post_message(Answered(card, answer))
        self._save(engine, card, answer)

    def _save(self, engine: Engine, card: Card, answer: Answer) -> None:
        """Keep a turn; what cannot be kept is said, and asked all the same."""
        if engine.sessions is None:
            return
        turn = turn_of(card.question, card.read_as, card.scope.text, answer, self._clock())
        try:
            session_id, saved = engine.sessions.add_turn(self._session, turn)
        except BtrError as error:
            self.post_message(Said(f"this answer is not saved: {error}", "warning"))
        else:
            self._session = session_id  # at once: the next question may be asked before the message is handled
            self.post_message(Saved(card, session_id, saved))

    @work(thread=True, group="read", exclusive=True)
    def _read(self, source: Source) -> None:
        try:
            self.post_message(Read(source, excerpt(source)))
        except BtrError as error:
            self.post_message(Read(source, None, str(error)))

    @work(thread=True, group="judge")
    def _keep_verdict(self, sessions: SessionStore, turn: TurnKey, verdict: str, correction: str | None) -> None:
        try:
            sessions.judge(turn, verdict, correction)
        except BtrError as error:
            self.post_message(Said(str(error), "warning"))
        else:
            self.post_message(Said(f"kept: {judgement(verdict, correction)}. btr-assistant eval --mine asks it again"))

    @work(thread=True, group="load", exclusive=True)
    def _load(self, sessions: SessionStore, session_id: int) -> None:
        try:
            self._load_session(sessions, session_id)
        except BtrError as error:
            self.post_message(Said(str(error), "warning"))

    def _load_session(self, sessions: SessionStore | None, session_id: int) -> None:
        """Called in a thread."""
        if sessions is None:
            raise UsageError(f"session {session_id} cannot be resumed, none are kept here: leave --no-save out")
        self.post_message(Resumed(sessions.session(session_id), sessions.turns(session_id)))

    @work(thread=True, group="export")
    def _write(self, sessions: SessionStore, session_id: int, file: Path | None) -> None:
        try:
            self.post_message(Said(export_session(sessions, session_id, file)))
        except BtrError as error:
            self.post_message(Said(str(error), "warning"))

    @work(thread=True, group="change")
    def _apply(
        self, sessions: SessionStore, session_id: int, change: Callable[[SessionStore, int], None], done: str
    ) -> None:
        try:
            change(sessions, session_id)
        except BtrError as error:
            self.post_message(Said(str(error), "warning"))
        else:
            self.post_message(Said(done))


def export_session(sessions: SessionStore, session_id: int, file: Path | None) -> str:
    """
    Write a session to a new Markdown file; a sentence that says which.

    Raises:
        BtrError: If it cannot be read or written.
    """
    session = sessions.session(session_id)
    target = file or Path(f"session-{session_id}.md")
    try:
        with target.open("x", encoding="utf-8") as opened:
            opened.write(to_markdown(session, sessions.turns(session_id)))
    except FileExistsError:
        raise UsageError(f"{target} exists and is not overwritten: give another name, /export FILE") from None
    except OSError as error:
        raise UsageError(f"cannot write {target} ({error.strerror}): give another file, /export FILE") from error
    return f"written to {target.absolute()}"
