"""
The chat in the terminal's full screen: a question box, a card for each answer, and nothing that blocks while it reads.

One convention, decided here: the engine is opened and asked in threads (`app.chat.workers`), which compute and post;
handlers show. A question that was cancelled, superseded or cleared away is told so through `cancelled`, and whatever it
still posts is dropped, because its card is no longer waiting. What is typed always goes to the box: keys and the mouse
choose the card that the other keys are about, the last one if none was chosen.

Once the notes are open, those that changed are indexed in a thread of its own while questions are answered; whatever
comes of that is said in the header or in a notice, and never ends the chat. A line that begins with the name of a
command is no question.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult, SuspendNotSupported, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.events import Ready
from textual.notifications import SeverityLevel
from textual.screen import Screen
from textual.widgets import Footer, Input, Static

from app.assistant import Source
from app.chat.box import FOLDER, NO_QUESTION, PROMPT, QuestionBox
from app.chat.cards import LONGEST_ECHO, Card, Cards, Welcome
from app.chat.engine import Engine
from app.chat.keys import BINDINGS, COMMANDS, HIGH_CONTRAST
from app.chat.pane import SourcePane
from app.chat.screens import Correction, FolderScreen, Help, SessionsScreen
from app.chat.settings import Settings
from app.chat.words import editor_command, place
from app.chat.workers import (
    Answered,
    Counted,
    Indexing,
    NotOpened,
    Opened,
    Read,
    Refused,
    Rescanned,
    Resumed,
    Said,
    Saved,
    Told,
    Workers,
    export_session,
)
from app.dialogue import follow_up
from app.display import many, plain
from app.scope import parse_scope
from app.sessions import answer_of
from store.errors import BtrError, UsageError
from store.scope import EVERYTHING, Scope
from store.sessions import RIGHT, WRONG_ANSWER, WRONG_SOURCE, SessionStore, Turn

__all__ = ["NO_QUESTION", "PROMPT", "ChatApp"]

TITLE = "btr-assistant"
OPENING = "opening your notes…"
READING = "reading…"
MOST_CARDS = 50
"""Cards of a resumed session."""
CARDS_AT_ONCE = 5
"""Of these between two keys that are pressed meanwhile."""
_SCOPE_WIDTH = 80


class ChatApp(Workers, inherit_bindings=False):
    """The chat over any engine. Whoever gives `open_engine` closes what it opened, after the app has run."""

    TITLE = TITLE
    AUTO_FOCUS = "QuestionBox"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (80, "-wide"), (110, "-roomy")]  # noqa: RUF012, Textual's declaration
    CSS_PATH = "chat.tcss"
    BINDINGS: ClassVar[list[BindingType]] = BINDINGS

    def __init__(
        self,
        open_engine: Callable[[], Engine],
        settings: Settings | None = None,
        *,
        resume: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(open_engine, resume=resume, clock=clock)
        self.failure: BtrError | None = None
        """Why the engine could not be opened."""
        self._settings = settings or Settings()
        self._engine: Engine | None = None
        self._status = ""
        self._notes: int | None = None
        self._indexed: str = ""
        """How far indexing is, while it is on."""
        self._scope = EVERYTHING
        self._follows = self._settings.follow_ups
        self._chosen: Card | None = None
        self._doomed: int | None = None
        """The session that a second /delete removes, if nothing comes between."""
        self.register_theme(HIGH_CONTRAST)
        # kept, not looked up: what a thread posts may be handled when the screen has already gone
        self._cards, self._pane, self._box = Cards(id="cards"), SourcePane(), QuestionBox(list(COMMANDS))
        self._scope_line = Static("", id="scope", markup=False)
        self._status_line = Static(OPENING, id="status", markup=False)
        self._progress_line = Static("", id="progress", markup=False)

    def compose(self) -> ComposeResult:
        with Horizontal(id="header"):
            yield Static(TITLE, id="title")
            yield self._scope_line
            yield self._status_line
        yield self._progress_line
        with Horizontal(id="body"):
            with self._cards:
                yield Welcome()
            yield self._pane
        yield self._box
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Apply what a person set, and say what of it cannot be."""
        theme, keys = self._settings.theme, dict(self._settings.keys)
        if theme and theme not in self.available_themes:
            known = ", ".join(sorted(self.available_themes))
            self._say(f"there is no theme {theme}: known are {known}", "warning")
        elif theme:
            self.theme = theme
        ids = {binding.id for owner in (self, QuestionBox) for binding in _bindings(owner) if binding.id}
        for unknown in sorted(keys.keys() - ids):
            del keys[unknown]
            self._say(f"there is no key {unknown} to set: known are {', '.join(sorted(ids))}", "warning")
        self.set_keymap(keys)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Textual's commands and those of the chat, for the palette."""
        yield from super().get_system_commands(screen)
        for binding in _bindings(self):
            if binding.id and binding.action not in ("quit", "help") and binding.tooltip:
                yield SystemCommand(binding.description, binding.tooltip, self._runner(binding.action))
        yield SystemCommand("Scope", "Ask of a part of the notes", lambda: self._type("/scope "))
        yield SystemCommand("Everything", "Ask of all notes again", lambda: self._set_scope(""))
        yield SystemCommand("Rename", "Name this session", lambda: self._type("/rename "))
        yield SystemCommand("Export", "Write this session to a Markdown file", lambda: self._type("/export "))

    def _runner(self, action: str) -> Callable[[], object]:
        return lambda: self.call_later(self.run_action, action)

    def _type(self, text: str) -> None:
        """Begin a command in the box, for a person to finish."""
        box = self._box
        box.value = text
        box.action_end()

    @property
    def _main(self) -> Screen[object]:
        """The screen with the cards, whatever is above it."""
        return self.screen_stack[0]

    def _say(self, sentence: str, severity: SeverityLevel = "information") -> None:
        self.notify(plain(sentence), severity=severity, timeout=15 if severity != "information" else 5, markup=False)

    @on(Said)
    def _said(self, message: Said) -> None:
        self._say(message.sentence, message.severity)

    # opening

    @on(Ready)
    def _start(self) -> None:
        self._cards.anchor()
        self._open()

    @on(Opened)
    def _opened(self, message: Opened) -> None:
        engine = self._engine = message.engine
        for sentence in engine.warnings:
            self._say(sentence, "warning")
        self._box.remember(message.history)
        self._show_status(message.status, message.notes)
        self._show_scope()
        if message.notes:
            self._rescan(engine, "")
        for card in self._waiting():
            card.wait_for(READING)
            self._ask(engine, card)

    @on(NotOpened)
    def _not_opened(self, message: NotOpened) -> None:
        self.failure = message.error
        self.exit(return_code=message.error.exit_code)

    # indexing

    @on(Indexing)
    def _indexing(self, message: Indexing) -> None:
        self._indexed = message.words
        line = self._progress_line
        full = round(10 * message.share) if message.share is not None else 0
        line.update(plain(("▰" * full + "▱" * (10 - full) + "  " if message.share is not None else "") + message.words))
        line.display = True
        if message.share:
            self._box.prompt(PROMPT)  # the first notes can be asked already

    @on(Rescanned)
    def _rescanned(self, message: Rescanned) -> None:
        self._indexed = ""
        self._progress_line.display = False
        self._show_status(message.status, message.notes)
        self._show_scope()
        for sentence in message.sentences:
            self._say(sentence, message.severity)

    def _show_status(self, status: str, notes: int) -> None:
        self._status, self._notes = status, notes
        self._status_line.update(plain(status))
        self._box.prompt(PROMPT if notes else FOLDER)
        for welcome in self._cards.query(Welcome):
            welcome.say(notes)

    def _index_command(self, folder: str) -> None:
        if self._engine is None:
            self._say("the notes are not open yet: try again in a moment")
        elif self._indexed:
            self._say(f"{self._indexed}: wait until that is done")
        elif folder:
            self._rescan(self._engine, os.path.abspath(os.path.expanduser(folder)))
        else:
            self.action_folder()

    def action_folder(self) -> None:
        """Pick a folder of notes to index."""

        def picked(folder: str | None) -> None:
            if folder:
                self._index_command(folder)

        self.push_screen(FolderScreen(), picked)

    # scope

    def _set_scope(self, text: str) -> None:
        """Ask of a part of the notes from now on; of all of them, if no part is named."""
        try:
            self._scope = parse_scope(text) if text else EVERYTHING
        except UsageError as error:
            self._say(str(error), "warning")
        else:
            self._show_scope()

    def _show_scope(self, notes: int | None = None) -> None:
        words = f"in {self._scope.text}" if self._scope else ""
        if notes is not None:
            words += f" · {many(notes, 'note')}"
        elif self._scope and self._engine:
            self._count(self._engine, self._scope)
        self._scope_line.update(plain(words, _SCOPE_WIDTH))

    @on(Counted)
    def _counted(self, message: Counted) -> None:
        if message.scope == self._scope:
            self._show_scope(message.notes)

    # asking

    @on(Input.Submitted, "QuestionBox")
    async def _submitted(self) -> None:
        question = self._box.take()
        self.clear_notifications()  # what was said of the line before
        name, _, argument = question.partition(" ")
        if name != "/delete":
            self._doomed = None
        if not question:
            return
        if name in COMMANDS:
            getattr(self, COMMANDS[name].method)(argument.strip())
        elif self._notes == 0 and (question.startswith(("/", "~", ".")) or _is_folder(question)):
            self._index_command(question)
        elif name == question and name.startswith("/") and name[1:].isalpha():
            self._say(f"there is no command {name}: F1 lists them", "warning")
        else:
            await self._put(question)

    async def _put(self, question: str) -> None:
        """Ask a question on a card of its own."""
        read_as = follow_up(question, self._earlier()) if self._follows else None
        self._cancel()
        waiting_for = READING if self._engine else OPENING
        card = Card(question, waiting_for, self._scope, read_as=read_as, clock=self._clock)
        cards = self._cards
        await cards.query(Welcome).remove()
        await cards.mount(card)
        self._choose(None)
        cards.anchor()
        if self._engine:
            self._ask(self._engine, card)

    def _earlier(self) -> str | None:
        """The question that a follow-up would lean on, as it was read."""
        cards = [card for card in self._cards.query(Card) if card.answer or card.waiting]
        return (cards[-1].read_as or cards[-1].question) if cards else None

    @on(Told)
    def _told(self, message: Told) -> None:
        message.card.wait_for(plain(message.text, LONGEST_ECHO) + " …")

    @on(Answered)
    def _answered(self, message: Answered) -> None:
        remark = ""
        if message.answer.abstained and self._indexed:
            remark = f"{self._indexed}: what is still to come may hold it, ask again then"
        message.card.show_answer(message.answer, remark)
        if self._pane.display and self._pane.is_attached:
            self._show_source()

    @on(Refused)
    def _refused(self, message: Refused) -> None:
        message.card.show_note(str(message.error))

    @on(Saved)
    def _saved(self, message: Saved) -> None:
        message.card.saved = message.turn

    def _waiting(self) -> list[Card]:
        return [card for card in self._cards.query(Card) if card.waiting]

    def _cancel(self) -> bool:
        self.workers.cancel_group(self, "ask")
        waiting = self._waiting()
        for card in waiting:
            card.show_note("cancelled")
        return bool(waiting)

    # cards

    def _choose(self, card: Card | None) -> None:
        """Make a card the one that keys are about; None: whichever is last."""
        self._chosen = card
        for other in self._cards.query(Card):
            other.set_class(other is card, "-chosen")

    @property
    def _card(self) -> Card | None:
        """The card that keys are about: the chosen one, else the last with an answer."""
        if self._chosen is not None and self._chosen.is_attached:
            return self._chosen
        answered = [card for card in self._cards.query(Card) if card.answer]
        return answered[-1] if answered else None

    def _source(self) -> Source | None:
        card = self._card
        return card.option.source if card and card.option else None

    def action_choose(self, by: int) -> None:
        """Choose the card above or below."""
        cards = list(self._cards.query(Card))
        card = self._card
        if not cards:
            return
        at = cards.index(card) if card in cards else len(cards)
        chosen = cards[min(max(at + by, 0), len(cards) - 1)]
        self._choose(chosen)
        chosen.scroll_visible()
        if self._pane.display:
            self._show_source()

    @on(Card.Chosen)
    def _clicked(self, message: Card.Chosen) -> None:
        self._choose(message.card)
        if message.opens or self._pane.display:
            self._pane.display = True
            self._show_source()

    def action_next_option(self) -> None:
        """Show the next candidate of a card."""
        card = self._card
        if card is None or not card.show_next():
            self._say("there is no other candidate")
        elif self._pane.display:
            self._show_source()

    def action_details(self) -> None:
        """Show or hide timings and other candidates on all cards."""
        self._cards.toggle_class("-details")

    def action_scroll(self, pages: int) -> None:
        """Scroll the source, if it is shown, else the cards; the box keeps the focus."""
        pane = self._pane
        target = pane.text if pane.display else self._cards
        if pages < 0:
            target.scroll_page_up()
        else:
            target.scroll_page_down()

    def action_cancel(self) -> None:
        """Cancel the question that is running; without one close the source, or go back to the last card."""
        self.clear_selection()
        self.clear_notifications()
        if self._cancel():
            return
        if self._pane.display:
            self._hide_source()
        else:
            self._choose(None)

    # sources

    def action_toggle_source(self) -> None:
        """Show the passage in its note, or put it away."""
        if self._pane.display:
            self._hide_source()
        elif self._source() is None:
            self._say("there is no source to show yet")
        else:
            self._show_source()

    def _show_source(self) -> None:
        source = self._source()
        self._pane.display = True
        self._main.add_class("-source")
        self._pane.wait(source)
        if source is not None:
            self._read(source)

    def _hide_source(self) -> None:
        self._pane.display = False
        self._main.remove_class("-source")

    @on(Read)
    def _was_read(self, message: Read) -> None:
        if message.excerpt is None:
            self._pane.fail(message.source, message.sentence)
        else:
            self._pane.show(message.source, message.excerpt)

    def action_copy_answer(self) -> None:
        """Copy the answer that is shown."""
        card = self._card
        candidate = card.option.candidate if card and card.option else None
        if candidate is None:
            self._say("there is no answer to copy yet")
            return
        self.copy_to_clipboard(candidate.answer)
        self._say(f"copied: {plain(candidate.answer, 60)}")

    def action_copy_source(self) -> None:
        """Copy the quote and where it stands."""
        source = self._source()
        if source is None:
            self._say("there is no source to copy yet")
            return
        self.copy_to_clipboard(f"{source.quote}\n{place(source)}")
        self._say(f"copied: {place(source)}")

    def action_open_source(self) -> None:
        """Open the source that is shown in the editor, which has the terminal."""
        source = self._source()
        if source is None:
            self._say("there is no source to open yet")
            return
        command = editor_command(os.environ, source.path, source.line)
        if command is None:
            self._say("no editor is set that can be run: set EDITOR, for example export EDITOR=nano", "warning")
            return
        try:
            with self.suspend():
                subprocess.run(command, check=False)
        except SuspendNotSupported:
            self._say("this terminal cannot be lent to an editor", "warning")
        except OSError as error:
            self._say(
                f"cannot run {command[0]} ({error.strerror}): set EDITOR to an editor that is installed", "warning"
            )

    # what a person says to an answer

    def action_judge(self, verdict: str) -> None:
        """Keep that an answer is right, or its source wrong; another candidate that is right is the right answer."""
        card = self._card
        option = card.option if card else None
        if card is None or card.answer is None:
            self._say("there is no answer to say that of yet")
        elif verdict == RIGHT and option is not None and option.candidate is not None and not card.first:
            self._judge(card, WRONG_ANSWER, option.candidate.answer)
        elif verdict == WRONG_SOURCE and card.answer.answer is None:
            self._say("nothing was answered, so there is no wrong source: F6 says that there is an answer")
        else:
            self._judge(card, verdict, None)

    def action_wrong(self) -> None:
        """Keep that an answer is wrong, and the right one if it is known."""
        card = self._card
        if card is None or card.answer is None:
            self._say("there is no answer to say that of yet")
            return

        def corrected(answer: str | None) -> None:
            if answer is not None:
                self._wrong(card, answer)

        self.push_screen(Correction(card.question), corrected)

    def _wrong(self, card: Card, answer: str) -> None:
        self._judge(card, WRONG_ANSWER, None if not answer else "" if answer == "-" else answer)

    def _judge(self, card: Card, verdict: str, correction: str | None) -> None:
        sessions = self._engine.sessions if self._engine else None
        if sessions is None or card.saved is None:
            self._say("this chat is not saved, and what you say to an answer is kept with it", "warning")
            return
        card.show_verdict(verdict, correction)
        self._keep_verdict(sessions, card.saved, verdict, correction)

    def _right_command(self, _: str) -> None:
        self.action_judge(RIGHT)

    def _wrong_source_command(self, _: str) -> None:
        self.action_judge(WRONG_SOURCE)

    def _wrong_command(self, answer: str) -> None:
        card = self._card
        if not answer or card is None or card.answer is None:
            self.action_wrong()
        else:
            self._wrong(card, answer)

    # sessions

    @property
    def _sessions(self) -> SessionStore | None:
        """Where sessions are kept; says so where they are not."""
        found = self._engine.sessions if self._engine else None
        if found is None:
            self._say("no sessions are kept here" if self._engine else "the notes are not open yet", "warning")
        return found

    def action_sessions(self) -> None:
        """Saved sessions."""
        self._sessions_command("")

    def _sessions_command(self, text: str) -> None:
        sessions = self._sessions
        if sessions is None:
            return

        def picked(session_id: int | None) -> None:
            if session_id is not None:
                self._load(sessions, session_id)

        self.push_screen(SessionsScreen(sessions, lambda i: export_session(sessions, i, None), text), picked)

    @on(Resumed)
    async def _resumed(self, message: Resumed) -> None:
        if not self._cards.is_attached:
            return
        await self._clear()
        await self._cards.query(Welcome).remove()
        self._session = message.session.id
        turns = message.turns[-MOST_CARDS:]
        for first in range(0, len(turns), CARDS_AT_ONCE):
            cards = [self._card_of(turn) for turn in turns[first : first + CARDS_AT_ONCE]]
            await self._cards.mount_all(cards)
            await asyncio.sleep(0)
        self._cards.anchor()
        more = f", the last {MOST_CARDS} are shown" if len(message.turns) > MOST_CARDS else ""
        self._say(f"resumed {plain(message.session.name, 60)}: {many(message.session.turns, 'question')}{more}")

    def _card_of(self, turn: Turn) -> Card:
        try:
            scope = parse_scope(turn.scope) if turn.scope else EVERYTHING
        except UsageError:  # an earlier version knew other filters
            scope = Scope((), turn.scope)
        return Card.of(turn, answer_of(turn), scope, self._clock)

    async def _clear(self) -> None:
        """No cards, no session; a question that is running is cancelled."""
        self._cancel()
        self._session, self._chosen, self._doomed = None, None, None
        await self._cards.remove_children()
        await self._cards.mount(Welcome(self._notes))
        self._hide_source()

    async def action_new(self) -> None:
        """Begin a new session."""
        await self._clear()

    def _new_command(self, _: str) -> None:
        self.call_later(self._clear)

    def _rename_command(self, name: str) -> None:
        said = f"this session is called {name}" if name else "this session is called by its first question"
        self._change_session(lambda sessions, i: sessions.rename(i, name), said)

    def _export_command(self, file: str) -> None:
        sessions, session_id = self._sessions, self._session
        if sessions is None or session_id is None:
            self._say("nothing was asked yet that could be exported")
        else:
            self._write(sessions, session_id, Path(os.path.expanduser(file)) if file else None)

    def _delete_command(self, _: str) -> None:
        if self._session is None:
            self._say("nothing was asked yet that could be deleted")
        elif self._doomed != self._session:
            self._doomed = self._session
            self._say("/delete again deletes this session, and what you said to its answers", "warning")
        else:
            self._change_session(lambda sessions, i: sessions.delete(i), "this session is deleted")
            self.call_later(self._clear)

    def _change_session(self, change: Callable[[SessionStore, int], None], done: str) -> None:
        sessions = self._sessions
        if sessions is not None and self._session is None:
            self._say("nothing was asked yet in this session")
        elif sessions is not None and self._session is not None:
            self._apply(sessions, self._session, change, done)

    # the rest

    def action_follow(self) -> None:
        """Read follow-up questions with the one before, or as they are."""
        self._follow_command("off" if self._follows else "on")

    def _follow_command(self, how: str) -> None:
        if how not in ("on", "off"):
            self._say("write /follow on or /follow off", "warning")
            return
        self._follows = how == "on"
        with_ = "with what they take from the question before" if self._follows else "as they are"
        self._say(f"follow-up questions are read {with_}")

    def _theme_command(self, name: str) -> None:
        if not name:
            self.search_themes()
        elif name in self.available_themes:
            self.theme = name
        else:
            self._say(f"there is no theme {name}: known are {', '.join(sorted(self.available_themes))}", "warning")

    def _help_command(self, _: str) -> None:
        self.action_help()

    def _quit_command(self, _: str) -> None:
        self.exit()

    def action_help(self) -> None:
        """Show the keys as they are bound now, and the commands."""
        active = [binding for _, binding, _, _ in self._main.active_bindings.values()]
        order = [binding.id for owner in (QuestionBox, self) for binding in _bindings(owner) if binding.id]
        ours = sorted((binding for binding in active if binding.id in order), key=lambda b: order.index(b.id or ""))
        keys: dict[str, list[str]] = {}
        for binding in ours:
            keys.setdefault(binding.tooltip or binding.description, []).append(self.get_key_display(binding))
        rows = [(", ".join(shown), what) for what, shown in keys.items()]
        commands = [(f"{name} {command.argument}".strip(), command.what) for name, command in COMMANDS.items()]
        self.push_screen(Help(rows, commands))


def _is_folder(text: str) -> bool:
    try:
        return Path(text).is_dir()
    except (OSError, ValueError):  # too long for a name, or with a NUL
        return False


def _bindings(owner: type | object) -> Iterable[Binding]:
    found: list[BindingType] = getattr(owner, "BINDINGS", [])
    return [binding for binding in found if isinstance(binding, Binding)]
