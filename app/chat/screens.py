"""Screens over the chat: its keys, saved sessions, a folder to index, the right answer to a wrong one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import DirectoryTree, Input, Label, OptionList, Static
from textual.widgets.option_list import Option
from textual.worker import get_current_worker

from app.chat.box import Completer
from app.display import many, plain
from store.errors import BtrError
from store.sessions import Session, SessionStore

_UNNAMED = 80


class Help(ModalScreen[None]):
    """The keys and commands, over the chat, until a key puts them away."""

    AUTO_FOCUS = "#keys"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,f1,q", "dismiss", "Close", id="chat.help.close")]

    def __init__(self, keys: Sequence[tuple[str, str]], commands: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._rows = [("Keys", keys), ("Commands, typed where questions are", commands)]

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="keys"):
            for title, rows in self._rows:
                width = max(len(key) for key, _ in rows)
                lines = [Content.assemble((f"{key:<{width}}", "bold"), f"  {what}") for key, what in rows]
                yield Static(Content("\n").join([Content(title).stylize("underline"), *lines, Content("")]))


class Correction(ModalScreen[str | None]):
    """The right answer: a text, empty if it is not known; None if it was cancelled."""

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel", id="chat.correction.close")]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Label(plain(self._question, 300), markup=False)
            yield Label("What is the right answer? Enter alone: not known. A minus: it is not in the notes.")
            yield Input(placeholder="The right answer, as short as it can be")

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip())


class FolderScreen(ModalScreen[str | None]):
    """A folder to index, typed or picked."""

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel", id="chat.folder.close")]

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog", classes="tall"):
            yield Label("Which folder holds your notes? Type it, or pick one below and press Enter.")
            yield Input(placeholder="~/notes", suggester=Completer(()))
            yield Folders(Path.home())

    @on(Input.Submitted)
    def _typed(self, event: Input.Submitted) -> None:
        if event.value.strip():
            self.dismiss(event.value.strip())

    @on(DirectoryTree.DirectorySelected)
    def _picked(self, event: DirectoryTree.DirectorySelected) -> None:
        self.query_one(Input).value = str(event.path)
        self.query_one(Input).focus()


class Folders(DirectoryTree):
    """Folders alone, hidden ones left out."""

    def filter_paths(self, paths: Iterable[Path]) -> Iterable[Path]:
        """Those that are shown; called in a thread."""
        return [path for path in paths if not path.name.startswith(".") and path.is_dir()]


class SessionsScreen(ModalScreen[int | None]):
    """Saved sessions: found by their words, resumed, renamed, exported, deleted. What is picked is resumed."""

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Close", id="chat.sessions.close"),
        Binding("down", "move(1)", "Next", show=False, id="chat.sessions.next", priority=True),
        Binding("up", "move(-1)", "Previous", show=False, id="chat.sessions.previous", priority=True),
        Binding("f2", "rename", "Rename", id="chat.sessions.rename"),
        Binding("f3", "export", "Export", id="chat.sessions.export"),
        Binding("f8", "delete", "Delete", id="chat.sessions.delete"),
    ]

    def __init__(self, store: SessionStore, export: Callable[[int], str], text: str = "") -> None:
        """`export` writes a session to a file and returns a sentence; it is called in a thread."""
        super().__init__()
        self._store, self._export, self._text = store, export, text
        self._found: list[Session] = []
        self._renaming: Session | None = None
        self._doomed: int | None = None
        """The session that a second press deletes."""

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog", classes="tall"):
            yield Input(self._text, placeholder="Search your sessions")
            yield OptionList(id="sessions")
            yield Label("Enter resume · F2 rename · F3 export · F8 delete · Esc close", id="hint")

    def on_mount(self) -> None:
        """List them."""
        self.query_one(OptionList).can_focus = False
        self._load(self._text)

    @work(thread=True, exclusive=True, group="sessions")
    def _load(self, text: str) -> None:
        worker = get_current_worker()
        try:
            found = self._store.sessions(text)
        except BtrError as error:
            self.app.call_from_thread(self._hint, str(error))
        else:
            if not worker.is_cancelled:  # else more was typed meanwhile
                self.app.call_from_thread(self._list, found)

    def _list(self, found: list[Session]) -> None:
        self._found = found
        options = self.query_one(OptionList)
        at = options.highlighted or 0
        options.clear_options()
        for session in found:
            day = datetime.fromtimestamp(session.last_at).strftime("%Y-%m-%d")
            words = f"{day}  {session.turns:>4,} questions  {plain(session.name, _UNNAMED)}"
            options.add_option(Option(Content(words), id=str(session.id)))
        if found:
            options.highlighted = min(at, len(found) - 1)
        else:
            self._hint("no session has these words" if self.query_one(Input).value else "no session is saved yet")

    def _hint(self, words: str) -> None:
        self.query_one("#hint", Label).update(Content(plain(words)))

    @property
    def _chosen(self) -> Session | None:
        at = self.query_one(OptionList).highlighted
        return self._found[at] if at is not None and at < len(self._found) else None

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        if self._renaming is None:
            self._load(event.value)

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        if self._renaming is not None:
            self._change(lambda store, i=self._renaming.id: store.rename(i, event.value), "renamed")
            self._renaming = None
            event.input.value = ""
        elif self._chosen is not None:
            self.dismiss(self._chosen.id)

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._found[event.option_index].id)

    def action_move(self, by: int) -> None:
        """Choose the session above or below."""
        options = self.query_one(OptionList)
        if self._found:
            options.highlighted = ((options.highlighted or 0) + by) % len(self._found)
        self._doomed = None

    def action_rename(self) -> None:
        """Type a new name where the search was."""
        if self._chosen is not None:
            self._renaming = self._chosen
            box = self.query_one(Input)
            box.value = self._chosen.name
            self._hint("Enter gives it this name")

    def action_export(self) -> None:
        """Write it to a Markdown file in the current folder."""
        if self._chosen is not None:
            self._write(self._chosen.id)

    @work(thread=True, group="export")
    def _write(self, session_id: int) -> None:
        try:
            sentence = self._export(session_id)
        except BtrError as error:
            sentence = str(error)
        self.app.call_from_thread(self._hint, sentence)

    def action_delete(self) -> None:
        """Delete it, once asked twice."""
        chosen = self._chosen
        if chosen is None:
            return
        if self._doomed != chosen.id:
            self._doomed = chosen.id
            self._hint(f"F8 again deletes its {many(chosen.turns, 'question')}, and what you said to them")
            return
        self._doomed = None
        self._change(lambda store: store.delete(chosen.id), "deleted")

    @work(thread=True, group="change")
    def _change(self, change: Callable[[SessionStore], None], done: str) -> None:
        try:
            change(self._store)
        except BtrError as error:
            self.app.call_from_thread(self._hint, str(error))
        else:
            self.app.call_from_thread(self._hint, done)
            self.app.call_from_thread(self._load, "")
