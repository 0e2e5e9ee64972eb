"""
The chat: a question box, a card for each answer, and nothing that blocks while it reads.

One convention, decided here: the engine is opened and asked in worker threads, which compute and post; handlers show.
A thread cannot be stopped, so a question that was cancelled, superseded or cleared away is told so through `cancelled`,
and whatever it still posts is dropped, because its card is no longer waiting. What comes out of notes is shown as
text, never as markup, and its control characters never reach the terminal. No colour says what words do not.

Once the notes are open, those that changed are indexed in a thread of its own while questions are answered; whatever
comes of that is said in the header or in a notice, and never ends the chat. A line that begins with `/scope` is no
question: it says which notes the questions after it are asked of.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from textual import on, work
from textual.app import App, ComposeResult, SuspendNotSupported, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.events import Ready
from textual.message import Message
from textual.notifications import SeverityLevel
from textual.screen import ModalScreen, Screen
from textual.widgets import Footer, Input, LoadingIndicator, Static
from textual.worker import get_current_worker

from app.assistant import Answer, Assistant, Candidate, Source
from app.display import plain, short
from app.reader import Cancelled
from app.scope import parse_scope
from store.errors import BtrError, BusyError, UsageError
from store.scope import EVERYTHING, Scope

TITLE = "btr-assistant"
PROMPT = "Ask your notes"
NO_QUESTION = "Type a question first, then press Enter"
OPENING = "opening your notes…"
READING = "reading…"
DETAILS = "Show or hide timings and other candidates"
OPEN = "Open the last source in your editor"
COPY = "Copy the last answer"
RESCANNING = "looking for changed notes…"
SCOPE = "/scope"
CLEAR = "Remove all cards"
_LONGEST_ECHO = 300
"""Characters of a question or of a closest passage that a card repeats."""
_LEVELS = ((0.9, "very likely"), (0.75, "likely"), (0.5, "possible"), (0.25, "unlikely"), (0.0, "very unlikely"))
"""(Lowest confidence, its words), best first; the bar has as many marks as there are levels."""
_GOTO_EDITORS = {"code", "code-insiders", "codium", "cursor", "windsurf"}
"""Editors that take `--goto path:line`; all others are given the `+line path` of vi, nano and emacs."""


class Engine(Protocol):
    """All that the chat needs to know of whoever answers; called from worker threads only."""

    def ask(self, question: str, *, scope: Scope, cancelled: Callable[[], bool], told: Callable[[str], None]) -> Answer:
        """
        Answer a question from the notes of a scope; `told` gets the answer so far of a reader that writes.

        Raises:
            BtrError: If it cannot be answered, with a sentence for the card.
            Cancelled: If `cancelled` became true meanwhile.
        """
        ...

    def status(self) -> str:
        """What is there to be asked, in a few words for the header."""
        ...

    def count_notes(self, scope: Scope) -> int:
        """How many notes a scope holds."""
        ...

    def rescan(self, progress: Callable[[str], None], cancelled: Callable[[], bool]) -> list[str]:
        """
        Index what changed, with progress in a few words for the header; the sentences that a person should see.

        Raises:
            BtrError: If it cannot be done, with a sentence.
            Cancelled: If `cancelled` became true meanwhile.
        """
        ...


@dataclass(frozen=True)
class AssistantEngine:
    """An open `Assistant`, as the chat sees it."""

    assistant: Assistant
    lock: Path | None
    """The lock of the store's writer; None: notes that changed are not looked for."""

    def ask(self, question: str, *, scope: Scope, cancelled: Callable[[], bool], told: Callable[[str], None]) -> Answer:
        """Answer a question from the notes of a scope, or abstain."""
        return self.assistant.ask(question, cancelled=cancelled, scope=scope, told=told)

    def count_notes(self, scope: Scope) -> int:
        """How many notes a scope holds."""
        return self.assistant.count_notes(scope)

    def rescan(self, progress: Callable[[str], None], cancelled: Callable[[], bool]) -> list[str]:
        """Index what changed, on one thread: the others are for the questions."""
        if self.lock is None:
            return []
        from app.indexer import Progress, index, writing

        def check() -> None:
            if cancelled():
                raise Cancelled

        def show(done: Progress) -> None:
            progress(f"{done.done:,} of {done.total:,} changed notes indexed")

        bundle = self.assistant.bundle
        with writing(self.assistant.store.path, self.lock, bundle.manifest) as store:
            roots = [source.root for source in store.sources()]
            report = index(store, bundle, roots, show, check=check, threads=1)
        sentences = [sentence for _, sentence in report.refused]
        if report.failed:
            sentences.append(f"{len(report.failed):,} notes could not be indexed: see btr-assistant status --failed")
        return sentences

    def status(self) -> str:
        """How much is indexed."""
        counts = self.assistant.counts()
        if not counts.notes:
            return "no notes yet: run btr-assistant index FOLDER"
        return f"{counts.notes:,} notes · {counts.passages:,} passages · all local"


def run_chat(open_assistant: Callable[[], Assistant], *, lock: Path | None = None, headless: bool = False) -> None:
    """
    Run the chat until it is left; `open_assistant` is called in a thread, after the first frame.

    With the lock of the store's writer, what changed in the notes is indexed as soon as they are open.

    Raises:
        BtrError: If the assistant cannot be opened.
        SystemExit: If the chat crashed; Textual has printed the traceback.
    """
    with ExitStack() as opened:

        def open_engine() -> Engine:
            assistant = opened.enter_context(open_assistant())
            assistant.warm()  # while the first question is being typed
            return AssistantEngine(assistant, lock)

        app = ChatApp(open_engine)
        app.run(headless=headless)  # returns when every worker thread has ended: the assistant can be closed
    if app.failure is not None:
        raise app.failure
    if app.return_code:
        sys.exit(app.return_code)


class QuestionBox(Input):
    """Where questions are typed, and the only thing that is ever focused; it remembers the earlier ones."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "older", "Earlier question", show=False, id="chat.history.older"),
        Binding("down", "newer", "Later question", show=False, id="chat.history.newer"),
        Binding("pageup", "app.scroll(-1)", "Scroll up", show=False, id="chat.scroll.up"),
        Binding("pagedown", "app.scroll(1)", "Scroll down", show=False, id="chat.scroll.down"),
    ]

    def __init__(self) -> None:
        super().__init__(placeholder=PROMPT)
        self._asked: list[str] = []
        self._at = 0
        """Index of the question shown; `len(self._asked)` is the draft."""
        self._draft = ""

    def take(self) -> str:
        """The question typed, remembered; the box is empty afterwards. Empty if there was none."""
        question = self.value.strip()
        if question and self._asked[-1:] != [question]:
            self._asked.append(question)
        self._at, self._draft = len(self._asked), ""
        self.placeholder = PROMPT if question else NO_QUESTION
        self.clear()
        return question

    def action_older(self) -> None:
        """Show the question before."""
        self._show(self._at - 1)

    def action_newer(self) -> None:
        """Show the question after, at last what was being typed."""
        self._show(self._at + 1)

    def _show(self, at: int) -> None:
        if not 0 <= at <= len(self._asked):
            return
        if self._at == len(self._asked):
            self._draft = self.value
        self._at = at
        self.value = [*self._asked, self._draft][at]
        self.action_end()


class Card(Vertical):
    """A question and what became of it. It waits until the first outcome; later ones are dropped."""

    def __init__(self, question: str, waiting_for: str, scope: Scope = EVERYTHING) -> None:
        super().__init__()
        self.question, self.scope = question, scope
        self.answer: Answer | None = None
        self.waiting = True
        self._waiting_for = waiting_for
        self._note = ""

    def wait_for(self, what: str) -> None:
        """Say what the question waits for now, or the answer so far."""
        if self.waiting and what != self._waiting_for:
            self._waiting_for = what
            self.refresh(recompose=True)

    def show_answer(self, answer: Answer) -> None:
        """Show an answer, or that there is none."""
        if self.waiting:
            self.answer = answer
            self._finish()

    def show_note(self, note: str) -> None:
        """Show one sentence in place of an answer."""
        if self.waiting:
            self._note = note
            self._finish()

    def _finish(self) -> None:
        self.waiting = False
        self.refresh(recompose=True)

    def compose(self) -> ComposeResult:
        scope = ("  in " + plain(self.scope.text, _LONGEST_ECHO), "italic") if self.scope else ""
        question = Content.assemble(("You  ", "bold"), plain(self.question, _LONGEST_ECHO), scope)
        yield Static(question, classes="question")
        if self.waiting:
            with Horizontal(classes="waiting"):
                yield Static(self._waiting_for, markup=False)
                yield LoadingIndicator()
        elif self.answer is None:
            yield Static(plain(self._note), markup=False, classes="note")
        else:
            yield from _answered(self.answer)


def _answered(answer: Answer) -> Iterator[Static]:
    """The parts of a card that has its answer."""
    if answer.answer is None:
        yield Static("Not in your notes.", classes="answer")
        if answer.sources:
            yield Static("Places to look:", classes="places dim")
        for source in answer.sources:
            yield Static(source_line(source), classes="source")
            yield Static(plain(source.quote, _LONGEST_ECHO), markup=False, classes="quote dim")
        yield Static(f"{answer.timings_ms.total:,.0f} ms", classes="facts dim")
    else:
        source = answer.sources[0]
        yield Static(plain(answer.answer), markup=False, classes="answer")
        yield Static(marked_quote(source), classes="quote")
        yield Static(source_line(source), classes="source")
        yield Static(f"{likelihood(answer.confidence)} · {answer.timings_ms.total:,.0f} ms", classes="facts dim")
    yield Static(_details(answer), classes="details dim")


def _details(answer: Answer) -> Content:
    """Milliseconds per stage, and what else was considered."""
    ms = answer.timings_ms
    lines = [Content(f"retrieve {ms.retrieve:,.0f} ms · load {ms.load:,.0f} ms · read {ms.read:,.0f} ms")]
    others = answer.candidates if answer.abstained else answer.candidates[1:]
    if others:
        lines.append(Content("Thought of, but too unlikely:" if answer.abstained else "Also considered:"))
    lines.extend(_candidate_line(candidate) for candidate in others)
    return Content("\n").join(lines)


def _candidate_line(candidate: Candidate) -> Content:
    place = f"{plain(short(candidate.path))}:{candidate.line}"
    return Content.assemble(f"{candidate.confidence:4.0%}  ", (plain(candidate.answer), "bold"), f"  {place}")


def likelihood(confidence: float) -> str:
    """A confidence 0..1 as words and a bar."""
    rank = next((rank for rank, (lowest, _) in enumerate(_LEVELS) if confidence >= lowest), len(_LEVELS) - 1)
    return f"{_LEVELS[rank][1]} {'▰' * (len(_LEVELS) - rank)}{'▱' * rank}"


def marked_quote(source: Source) -> Content:
    """The quote of an answer with the answer marked."""
    return Content(plain(source.quote)).stylize("bold underline", *source.marked)


def source_line(source: Source) -> Content:
    """Where a source stands: `path:line`, a word if it changed, and the headings above it."""
    place = f", page {source.page}" if source.page is not None else f":{source.line}"
    stale = (" · ", ("changed since indexed", "bold $text-warning")) if source.stale else ()
    heading = (("  " + plain(source.heading), "dim"),) if source.heading else ()
    return Content.assemble((plain(short(source.path)) + place, "$text-primary"), *stale, *heading)


def editor_command(environment: Mapping[str, str], path: str, line: int) -> list[str] | None:
    """The command that opens a file at a line in `$VISUAL` or `$EDITOR`; None if neither is set."""
    editor = environment.get("VISUAL") or environment.get("EDITOR") or ""
    command = [word.strip("\"'") for word in shlex.split(editor, posix=os.name != "nt")]
    if not command:
        return None
    if Path(command[0]).stem.lower() in _GOTO_EDITORS:
        return [*command, "--goto", f"{path}:{line}"]
    return [*command, f"+{line}", path]


class ChatApp(App[None], inherit_bindings=False):
    """The chat over any engine. Whoever gives `open_engine` closes what it opened, after the app has run."""

    TITLE = TITLE
    AUTO_FOCUS = "QuestionBox"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (80, "-wide")]  # noqa: RUF012, Textual declares it as an instance's
    CSS = """
    #header { height: 1; padding: 0 1; background: $panel; }
    #title { width: auto; text-style: bold; margin-right: 2; }
    #scope { width: auto; max-width: 50%; margin-right: 2; text-style: bold; color: $text-accent; }
    #status { width: 1fr; text-align: right; text-wrap: nowrap; text-overflow: ellipsis; color: $text-muted; }
    #cards { height: 1fr; padding: 1 1 0 1; scrollbar-size-vertical: 1; }
    Welcome { color: $text-muted; padding: 1 2; }
    Card { height: auto; margin-bottom: 1; padding: 1 2; background: $surface; }
    .question, .dim { color: $text-muted; }
    .waiting { height: 1; margin-top: 1; }
    .waiting Static { width: auto; margin-right: 1; }
    .waiting LoadingIndicator { width: 10; }
    .note, .answer { margin-top: 1; }
    .answer { text-style: bold; }
    .quote { margin: 1 0; padding-left: 1; border-left: solid $primary; }
    .quote.dim { margin: 0 0 1 0; }
    .places { margin-bottom: 1; }
    .details { display: none; margin-top: 1; }
    .-details .details { display: block; }
    Help { align: center middle; }
    #keys { width: auto; max-width: 90%; padding: 1 2; background: $surface; border: round $primary; }
    .-wide FooterKey { margin-right: 2; }
    .-narrow FooterKey.-command-palette { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", id="chat.cancel", tooltip="Give up the question that is running"),
        # priority, because the box would delete a character
        Binding("ctrl+d", "details", "Details", id="chat.details", priority=True, tooltip=DETAILS),
        Binding("ctrl+o", "open_source", "Open", id="chat.open", tooltip=OPEN),
        Binding("ctrl+y", "copy_answer", "Copy", id="chat.copy", tooltip=COPY),
        Binding("ctrl+l", "clear", "Clear", id="chat.clear", show=False, tooltip=CLEAR),
        Binding("f1", "help", "Help", id="chat.help", tooltip="Show these keys"),
        Binding("ctrl+q", "quit", "Quit", id="chat.quit", priority=True, tooltip="Leave the chat"),
        Binding("ctrl+c", "help_quit", show=False, system=True),  # Textual's own, not inherited for the order's sake
    ]

    @dataclass
    class Opened(Message):
        """The engine is there."""

        engine: Engine
        status: str

    @dataclass
    class NotOpened(Message):
        """The engine cannot be opened."""

        error: BtrError

    @dataclass
    class Answered(Message):
        """A question has its answer."""

        card: Card
        answer: Answer

    @dataclass
    class Told(Message):
        """An answer is being written."""

        card: Card
        text: str

    @dataclass
    class Refused(Message):
        """A question cannot be answered."""

        card: Card
        error: BtrError

    @dataclass
    class Rescanning(Message):
        """How far the search for changed notes is."""

        words: str

    @dataclass
    class Rescanned(Message):
        """The search for changed notes is over."""

        status: str
        sentences: list[str]
        """What a person should see."""
        severity: SeverityLevel = "warning"

    @dataclass
    class Counted(Message):
        """How many notes a scope holds."""

        scope: Scope
        notes: int

    def __init__(self, open_engine: Callable[[], Engine]) -> None:
        super().__init__()
        self.failure: BtrError | None = None
        """Why the engine could not be opened."""
        self._open_engine = open_engine
        self._engine: Engine | None = None
        self._status = ""
        self._scope = EVERYTHING

    def compose(self) -> ComposeResult:
        with Horizontal(id="header"):
            yield Static(TITLE, id="title")
            yield Static("", id="scope", markup=False)
            yield Static(OPENING, id="status", markup=False)
        with Cards(id="cards"):
            yield Welcome()
        yield QuestionBox()
        yield Footer(compact=True)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Textual's commands and those of the chat, for the palette."""
        yield from super().get_system_commands(screen)
        yield SystemCommand("Details", DETAILS, self.action_details)
        yield SystemCommand("Open source", OPEN, self.action_open_source)
        yield SystemCommand("Copy answer", COPY, self.action_copy_answer)
        yield SystemCommand("Clear", CLEAR, self.action_clear)

    # opening

    @on(Ready)
    def _start(self) -> None:
        self.query_one(Cards).anchor()
        self._open()

    @work(thread=True, group="open")
    def _open(self) -> None:
        try:
            engine = self._open_engine()
            status = engine.status()
        except BtrError as error:
            self.post_message(self.NotOpened(error))
        else:
            self.post_message(self.Opened(engine, status))

    @on(Opened)
    def _opened(self, message: Opened) -> None:
        self._engine = message.engine
        self._show_status(message.status)
        self._rescan(message.engine, message.status)
        self._show_scope()
        for card in self._waiting():
            card.wait_for(READING)
            self._ask(message.engine, card)

    @on(NotOpened)
    def _not_opened(self, message: NotOpened) -> None:
        self.failure = message.error
        self.exit(return_code=message.error.exit_code)

    # changed notes

    @work(thread=True, group="rescan")
    def _rescan(self, engine: Engine, status: str) -> None:
        worker = get_current_worker()
        severity: SeverityLevel = "warning"

        def post(words: str) -> None:
            self.post_message(self.Rescanning(words))

        try:
            post(RESCANNING)
            sentences = engine.rescan(post, lambda: worker.is_cancelled)
            status = engine.status()
        except Cancelled:
            return
        except BusyError as error:
            sentences, severity = [str(error)], "information"
        except BtrError as error:
            sentences = [str(error)]
        except Exception as error:  # the edge of the program: what is stored can still be asked
            sentences = [f"looking for changed notes failed ({error!r}): run btr-assistant index to see why"]
        if not worker.is_cancelled:
            self.post_message(self.Rescanned(status, sentences, severity))

    @on(Rescanning)
    def _rescanning(self, message: Rescanning) -> None:
        self.query_one("#status", Static).update(plain(f"{self._status} · {message.words}"))

    @on(Rescanned)
    def _rescanned(self, message: Rescanned) -> None:
        self._show_status(message.status)
        self._show_scope()
        for sentence in message.sentences:
            self.notify(plain(sentence), severity=message.severity, timeout=15, markup=False)

    def _show_status(self, status: str) -> None:
        self._status = status
        self.query_one("#status", Static).update(plain(status))

    # scope

    def _set_scope(self, text: str) -> None:
        """Ask of a part of the notes from now on; of all of them, if no part is named."""
        try:
            self._scope = parse_scope(text) if text else EVERYTHING
        except UsageError as error:
            self.notify(plain(str(error)), severity="warning", markup=False)
        else:
            self._show_scope()

    def _show_scope(self, notes: int | None = None) -> None:
        words = f"in {self._scope.text}" if self._scope else ""
        if notes is not None:
            words += f" · {notes:,} notes"
        elif self._scope and self._engine:
            self._count(self._engine, self._scope)
        self.query_one("#scope", Static).update(plain(words, 80))

    @work(thread=True, group="count", exclusive=True)
    def _count(self, engine: Engine, scope: Scope) -> None:
        try:
            notes = engine.count_notes(scope)
        except BtrError:  # the question will say it
            return
        self.post_message(self.Counted(scope, notes))

    @on(Counted)
    def _counted(self, message: Counted) -> None:
        if message.scope == self._scope:
            self._show_scope(message.notes)

    # asking

    @on(Input.Submitted, "QuestionBox")
    async def _submitted(self) -> None:
        question = self.query_one(QuestionBox).take()
        if not question:
            return
        if question.split(maxsplit=1)[0] == SCOPE:
            self._set_scope(question.removeprefix(SCOPE).strip())
            return
        self._cancel()
        card = Card(question, READING if self._engine else OPENING, self._scope)
        cards = self.query_one(Cards)
        await cards.query(Welcome).remove()
        await cards.mount(card)
        cards.anchor()
        if self._engine:
            self._ask(self._engine, card)

    @work(thread=True, group="ask", exclusive=True)
    def _ask(self, engine: Engine, card: Card) -> None:
        worker = get_current_worker()

        def told(text: str) -> None:
            if not worker.is_cancelled:
                self.post_message(self.Told(card, text))

        try:
            answer = engine.ask(card.question, scope=card.scope, cancelled=lambda: worker.is_cancelled, told=told)
        except Cancelled:
            return
        except BtrError as error:
            outcome: Message = self.Refused(card, error)
        else:
            outcome = self.Answered(card, answer)
        if not worker.is_cancelled:
            self.post_message(outcome)

    @on(Told)
    def _told(self, message: Told) -> None:
        message.card.wait_for(plain(message.text, _LONGEST_ECHO) + " …")

    @on(Answered)
    def _answered(self, message: Answered) -> None:
        message.card.show_answer(message.answer)

    @on(Refused)
    def _refused(self, message: Refused) -> None:
        message.card.show_note(str(message.error))

    def _waiting(self) -> list[Card]:
        return [card for card in self.query(Card) if card.waiting]

    def _cancel(self) -> None:
        self.workers.cancel_group(self, "ask")
        for card in self._waiting():
            card.show_note("cancelled")

    def _last_source(self) -> Source | None:
        sources = [source for card in self.query(Card) if card.answer for source in card.answer.sources[:1]]
        return sources[-1] if sources else None

    # keys

    def action_cancel(self) -> None:
        """Cancel the question that is running, and let go of selected text."""
        self.clear_selection()
        self._cancel()

    async def action_clear(self) -> None:
        """Remove all cards; a question that is running is cancelled."""
        self._cancel()
        cards = self.query_one(Cards)
        await cards.remove_children()
        await cards.mount(Welcome())

    def action_details(self) -> None:
        """Show or hide timings and other candidates on all cards."""
        self.query_one(Cards).toggle_class("-details")

    def action_scroll(self, pages: int) -> None:
        """Scroll the cards while the box keeps the focus."""
        cards = self.query_one(Cards)
        if pages < 0:
            cards.scroll_page_up()
        else:
            cards.scroll_page_down()

    def action_help(self) -> None:
        """Show the keys as they are bound now."""
        active = [binding for _, binding, _, _ in self.screen.active_bindings.values()]
        ours = [binding for binding in active if binding.id and binding.id.startswith("chat.")]
        rows = [(self.get_key_display(binding), binding.tooltip or binding.description) for binding in ours]
        scope = (SCOPE, "Ask of a part of the notes: /scope folder:work tag:idea; alone: of all")
        self.push_screen(Help([("enter", "Ask the question"), *rows, scope]))

    def action_copy_answer(self) -> None:
        """Copy the last answer."""
        answers = [card.answer.answer for card in self.query(Card) if card.answer and card.answer.answer]
        if not answers:
            self.notify("there is no answer to copy yet")
            return
        self.copy_to_clipboard(answers[-1])
        self.notify(f"copied: {plain(answers[-1], 60)}", markup=False)

    def action_open_source(self) -> None:
        """Open the source of the last answer, or the closest passage, in the editor, which has the terminal."""
        source = self._last_source()
        if source is None:
            self.notify("there is no source to open yet")
            return
        command = editor_command(os.environ, source.path, source.line)
        if command is None:
            self.notify("no editor is set: set EDITOR, for example export EDITOR=nano", severity="warning")
            return
        try:
            with self.suspend():
                subprocess.run(command, check=False)
        except SuspendNotSupported:
            self.notify("this terminal cannot be lent to an editor", severity="warning")
        except OSError as error:
            sentence = f"cannot run {command[0]} ({error.strerror}): set EDITOR to an editor that is installed"
            self.notify(sentence, severity="warning", markup=False)


class Cards(VerticalScroll, can_focus=False):
    """The cards, oldest first; never focused, so that what is typed always goes to the box."""


class Help(ModalScreen[None]):
    """The keys, over the chat, until a key puts them away."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,f1,q", "dismiss", "Close", id="chat.help.close")]

    def __init__(self, rows: list[tuple[str, str]]) -> None:
        super().__init__()
        self._rows = rows

    def compose(self) -> ComposeResult:
        width = max(len(key) for key, _ in self._rows)
        lines = [Content.assemble((f"{key:>{width}}", "bold"), f"  {what}") for key, what in self._rows]
        yield Static(Content("\n").join(lines), id="keys")


class Welcome(Static):
    """What stands where there are no cards yet."""

    def __init__(self) -> None:
        super().__init__(
            "Ask a question. The answer is copied from your notes, with its source; nothing leaves this machine.\n"
            "/scope folder:work tag:idea date:2025 asks of a part of them, /scope alone of all again.",
            markup=False,
        )
