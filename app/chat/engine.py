"""
Who answers the chat: the little that a front end needs to know, and the assistant as that.

Everything here may take long and is called from worker threads only. Where no notes are indexed yet the engine opens
all the same, so that the chat can ask for a folder; a store of an earlier version is migrated as it is opened.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.assistant import Answer, Assistant
from app.bundle import Bundle
from app.display import many
from app.places import Places
from app.reader import Cancelled
from store.errors import StoreError
from store.scope import Scope
from store.sessions import SessionStore
from store.tokens import SCHEMA_VERSION, TokenStore
from store.upkeep import identify


@dataclass(frozen=True)
class Indexed:
    """How far indexing is."""

    done: int
    total: int
    first: bool
    """Nothing was indexed before: the total is all notes, not those that changed."""
    seconds_left: float = 0.0

    @property
    def words(self) -> str:
        """For a person."""
        return f"{self.done:,} of {self.total:,} {'' if self.first else 'changed '}notes indexed"


Progress = Callable[[Indexed], None]


class Engine(Protocol):
    """All that a chat needs to know of whoever answers; called from worker threads only."""

    @property
    def sessions(self) -> SessionStore | None:
        """Where questions are kept; None: nowhere."""
        ...

    @property
    def warnings(self) -> list[str]:
        """What a person should know once it is open."""
        ...

    def ask(self, question: str, *, scope: Scope, cancelled: Callable[[], bool], told: Callable[[str], None]) -> Answer:
        """
        Answer a question from the notes of a scope; `told` gets the answer so far of a reader that writes.

        Raises:
            BtrError: If it cannot be answered, with a sentence for the card.
            Cancelled: If `cancelled` became true meanwhile.
        """
        ...

    def notes(self) -> int:
        """How many notes can be asked."""
        ...

    def status(self) -> str:
        """What is there to be asked, in a few words for the header."""
        ...

    def count_notes(self, scope: Scope) -> int:
        """How many notes a scope holds."""
        ...

    def rescan(self, progress: Progress, cancelled: Callable[[], bool]) -> list[str]:
        """
        Index what changed; the sentences that a person should see.

        Raises:
            BtrError: If it cannot be done, with a sentence.
            Cancelled: If `cancelled` became true meanwhile.
        """
        ...

    def index(self, folder: str, progress: Progress, cancelled: Callable[[], bool]) -> list[str]:
        """
        Index a folder or file and keep it in step from now on; the sentences that a person should see.

        Raises:
            BtrError: If it cannot be done, with a sentence.
            Cancelled: If `cancelled` became true meanwhile.
        """
        ...


class AssistantEngine:
    """The assistant over the store and bundle of some places; `open` it in a thread, `close` it at the end."""

    def __init__(self, places: Places, *, rescans: bool = True, saves: bool = True) -> None:
        self.places = places
        self.warnings: list[str] = []
        self.sessions: SessionStore | None = None
        self._rescans, self._saves = rescans, saves
        self._bundle: Bundle | None = None
        self._assistant: Assistant | None = None
        self._opening = threading.Lock()

    def __enter__(self) -> AssistantEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def open(self) -> AssistantEngine:
        """
        Open bundle and store, migrated if need be, and load what the first question needs.

        Raises:
            BtrError: If one of them cannot be used.
        """
        path = self.places.store
        self._bundle = Bundle.open(self.places.bundle, self.places.device)
        if path.is_file() and not (found := identify(path)).empty:
            if found.version < SCHEMA_VERSION:
                from app.indexer import writing

                with writing(path, self.places.lock, self._bundle.manifest):
                    pass
            self._open_store()
            assert self._assistant is not None
            self._assistant.warm()  # while the first question is being typed
        return self

    def _open_store(self) -> None:
        """Open the store for reading, once it is there."""
        with self._opening:
            if self._assistant is not None:
                return
            assert self._bundle is not None
            store = TokenStore.open(self.places.store, self._bundle.manifest.fingerprint)
            if self._saves:
                self._open_sessions()
            self._assistant = Assistant(store, self._bundle)

    def _open_sessions(self) -> None:
        sessions = None
        try:
            sessions = SessionStore.open(self.places.store)
            sessions.check_writable()
        except StoreError as error:
            if sessions is not None:
                sessions.close()
            self.warnings.append(f"this chat is not saved: {error}")
        else:
            self.sessions = sessions

    def close(self) -> None:
        """Close the store; no call may be running."""
        if self.sessions is not None:
            self.sessions.close()
        if self._assistant is not None:
            self._assistant.close()
        self.sessions = self._assistant = None

    def ask(self, question: str, *, scope: Scope, cancelled: Callable[[], bool], told: Callable[[str], None]) -> Answer:
        """Answer a question from the notes of a scope, or abstain."""
        if self._assistant is None:
            raise StoreError("no notes are indexed yet: give their folder with /index FOLDER")
        return self._assistant.ask(question, cancelled=cancelled, scope=scope, told=told)

    def notes(self) -> int:
        """How many notes can be asked."""
        return self._assistant.size()[0] if self._assistant else 0

    def count_notes(self, scope: Scope) -> int:
        """How many notes a scope holds."""
        return self._assistant.count_notes(scope) if self._assistant else 0

    def status(self) -> str:
        """How much is indexed."""
        if self._assistant is None:
            return "no notes yet"
        notes, passages = self._assistant.size()
        return f"{many(notes, 'note')} · {many(passages, 'passage')} · all local" if notes else "no notes yet"

    def rescan(self, progress: Progress, cancelled: Callable[[], bool]) -> list[str]:
        """Index what changed, on one thread: the others are for the questions."""
        if not self._rescans or self._assistant is None:
            return []
        return self._index([], progress, cancelled)

    def index(self, folder: str, progress: Progress, cancelled: Callable[[], bool]) -> list[str]:
        """Index a folder or file; the first one on all threads."""
        from app.tree import check_root

        return self._index([str(check_root(Path(folder)))], progress, cancelled)

    def _index(self, roots: list[str], progress: Progress, cancelled: Callable[[], bool]) -> list[str]:
        from app import indexer

        def check() -> None:
            if cancelled():
                raise Cancelled

        def show(done: indexer.Progress) -> None:
            progress(Indexed(done.done, done.total, first, done.seconds_left))

        assert self._bundle is not None
        with indexer.writing(self.places.store, self.places.lock, self._bundle.manifest) as store:
            first = not store.size()[0]
            self._open_store()  # what is indexed first can be asked while the rest is
            roots = roots or [source.root for source in store.sources()]
            threads = None if first else 1
            report = indexer.index(store, self._bundle, roots, show, check=check, threads=threads)
        sentences = [sentence for _, sentence in report.refused]
        if report.failed:
            sentences.append(
                f"{many(len(report.failed), 'note')} could not be indexed: see btr-assistant status --failed"
            )
        if not report.notes and not sentences:
            sentences.append("there are no notes: Markdown, text, PDF, Word, HTML and others are read")
        return sentences
