"""
Cards: a question and what became of it, one of its options shown at a time.

An option is a place in the notes with what stands there: the answer and the other candidates or, where nothing was
answered, the closest passages and then what was thought of. A card waits until its first outcome; later ones are
dropped. What comes out of notes is shown as text, never as markup, and its control characters never reach the terminal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.widgets import LoadingIndicator, Static

from app.assistant import Answer, Candidate, Source
from app.chat.words import age, likelihood, place, stages
from app.display import plain, short
from store.scope import EVERYTHING, Scope
from store.sessions import Turn, TurnKey

LONGEST_ECHO = 300
"""Characters of a question or of a closest passage that a card repeats."""
LONGEST_ANSWER = 1_000


@dataclass(frozen=True)
class Option:
    """A place that can be shown, opened and copied from."""

    source: Source | None
    candidate: Candidate | None
    """None: a closest passage."""


class Card(Vertical):
    """A question and what became of it."""

    @dataclass
    class Chosen(Message):
        """A card, or a place on it, was clicked."""

        card: Card
        opens: bool
        """The place itself was clicked."""

    def __init__(
        self,
        question: str,
        waiting_for: str,
        scope: Scope = EVERYTHING,
        *,
        read_as: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.question, self.scope, self.read_as = question, scope, read_as
        self.answer: Answer | None = None
        self.waiting = True
        self.saved: TurnKey | None = None
        """The turn that keeps it."""
        self.verdict: str | None = None
        self.remark = ""
        """A sentence below an answer."""
        self._options: list[Option] = []
        self._shown = 0
        self._waiting_for = waiting_for
        self._note = ""
        self._clock = clock

    @classmethod
    def of(cls, turn: Turn, answer: Answer, scope: Scope, clock: Callable[[], float]) -> Card:
        """The card of a saved turn."""
        card = cls(turn.question, "", scope, read_as=turn.read_as, clock=clock)
        card.show_answer(answer)
        card.saved, card.verdict = turn.key, _said(turn.verdict, turn.correction)
        return card

    def wait_for(self, what: str) -> None:
        """Say what the question waits for now, or the answer so far."""
        if self.waiting and what != self._waiting_for:
            self._waiting_for = what
            self.refresh(recompose=True)

    def show_answer(self, answer: Answer, remark: str = "") -> None:
        """Show an answer, or that there is none."""
        if self.waiting:
            self.answer, self.remark = answer, remark
            self._options = _options(answer)
            self._finish()

    def show_note(self, note: str) -> None:
        """Show one sentence in place of an answer."""
        if self.waiting:
            self._note = note
            self._finish()

    def show_verdict(self, verdict: str, correction: str | None) -> None:
        """Show what a person said to it."""
        self.verdict = _said(verdict, correction)
        self.refresh(recompose=True)

    def show_next(self) -> bool:
        """Show the next option, after the last the first; false if there is no other."""
        if len(self._options) < 2:
            return False
        self._shown = (self._shown + 1) % len(self._options)
        self.refresh(recompose=True)
        return True

    @property
    def option(self) -> Option | None:
        """What is shown; None before there is an answer, and where nothing came near."""
        return self._options[self._shown] if self._options else None

    @property
    def first(self) -> bool:
        """The outcome itself is shown, and none of the others."""
        return self._shown == 0

    def _finish(self) -> None:
        self.waiting = False
        if self.is_attached:
            self.refresh(recompose=True)

    def on_click(self, event: Click) -> None:
        """Make it the card that the keys are about; a click on a place opens it."""
        opens = isinstance(event.widget, Static) and event.widget.has_class("source")
        self.post_message(self.Chosen(self, opens))

    def compose(self) -> ComposeResult:
        scope = ("  in " + plain(self.scope.text, LONGEST_ECHO), "italic") if self.scope else ""
        question = Content.assemble(("You  ", "bold"), plain(self.question, LONGEST_ECHO), scope)
        yield Static(question, classes="question")
        if self.read_as:
            yield Static(f"read as  {plain(self.read_as, LONGEST_ECHO)}", markup=False, classes="read-as dim")
        if self.waiting:
            with Horizontal(classes="waiting"):
                yield Static(self._waiting_for, markup=False)
                yield LoadingIndicator()
        elif self.answer is None:
            yield Static(plain(self._note), markup=False, classes="note")
        else:
            yield from self._answered(self.answer)
            if self.remark:
                yield Static(plain(self.remark), markup=False, classes="remark")

    def _answered(self, answer: Answer) -> Iterator[Static]:
        """The parts of a card that has its answer."""
        facts = [f"{answer.timings_ms.total:,.0f} ms"]
        option = self.option
        if answer.answer is None:
            yield Static("Not in your notes.", classes="answer")
            if answer.sources:
                yield Static("Places to look:", classes="places dim")
            for at, source in enumerate(answer.sources):
                marker = "› " if at == self._shown else "  "
                yield Static(Content.assemble(marker, self._source_line(source)), classes="source")
                yield Static(plain(source.quote, LONGEST_ECHO), markup=False, classes="quote dim")
            if option is not None and option.candidate is not None:
                yield Static("Thought of, but too unlikely:", classes="places dim")
                yield from self._candidate(option.candidate, option.source, "thought")
                facts.insert(0, likelihood(option.candidate.confidence))
        elif option is not None and option.candidate is not None:
            yield from self._candidate(option.candidate, option.source, "answer")
            facts.insert(0, likelihood(option.candidate.confidence))
            if not self.first:
                facts.append(f"answer {self._shown + 1} of {len(self._options)}")
        if self.verdict:
            facts.append(self.verdict)
        yield Static(plain(" · ".join(facts)), markup=False, classes="facts dim")
        yield Static(_details(answer, option.candidate if option else None), classes="details dim")

    def _candidate(self, candidate: Candidate, source: Source | None, kind: str) -> Iterator[Static]:
        yield Static(plain(candidate.answer, LONGEST_ANSWER), markup=False, classes=kind)
        if source is not None:
            yield Static(marked_quote(source), classes="quote")
            yield Static(self._source_line(source), classes="source")
        else:
            yield Static(f"{plain(short(candidate.path))}:{candidate.line}", markup=False, classes="source")

    def _source_line(self, source: Source) -> Content:
        """Where a source stands: `path:line`, the headings above it, how old it is, a word if it changed."""
        heading = (("  " + plain(source.heading), "$text-muted"),) if source.heading else ()
        old = age(source.modified, self._clock())
        aged = ((f"  {old}", "italic $text-muted"),) if old else ()
        stale = (("  changed since indexed", "bold $text-warning"),) if source.stale else ()
        return Content.assemble((place(source), "$text-primary underline"), *heading, *aged, *stale)


def _options(answer: Answer) -> list[Option]:
    places: list[Source | None] = [*answer.places]
    places += [None] * (len(answer.candidates) - len(places))
    thought = [Option(source, candidate) for candidate, source in zip(answer.candidates, places, strict=True)]
    if answer.answer is None:
        return [*(Option(source, None) for source in answer.sources), *thought]
    return [Option(answer.sources[0], answer.candidates[0]), *thought[1:]]


def _details(answer: Answer, shown: Candidate | None) -> Content:
    """Milliseconds per stage, and what was considered besides what is shown."""
    lines = [Content(stages(answer))]
    others = [candidate for candidate in answer.candidates if candidate is not shown]
    if others:
        lines.append(Content("Thought of, but too unlikely:" if answer.abstained else "Also considered:"))
    for candidate in others:
        where = f"{plain(short(candidate.path))}:{candidate.line}"
        words = (plain(candidate.answer, LONGEST_ECHO), "bold")
        lines.append(Content.assemble(f"{candidate.confidence:4.0%}  ", words, f"  {where}"))
    return Content("\n").join(lines)


def marked_quote(source: Source) -> Content:
    """The quote of an answer with the answer marked."""
    return Content(plain(source.quote)).stylize("bold underline", *source.marked)


def _said(verdict: str | None, correction: str | None) -> str | None:
    if verdict is None:
        return None
    return f"you: {verdict}" + (
        f", it is {correction}" if correction else ", it is not in the notes" * (correction == "")
    )


class Cards(VerticalScroll, can_focus=False):
    """The cards, oldest first; never focused, so that what is typed always goes to the box."""


class Welcome(Static):
    """What stands where there are no cards yet."""

    def __init__(self, notes: int | None = None) -> None:
        super().__init__(_welcome(notes), markup=False)

    def say(self, notes: int) -> None:
        """What to do with so many notes."""
        self.update(_welcome(notes))


def _welcome(notes: int | None) -> str:
    if notes == 0:
        return (
            "There are no notes yet. Type the folder of your notes below and press Enter, for example ~/notes, "
            "or press Ctrl+F to pick one from a list. Nothing is sent anywhere; ask as soon as the first are read."
        )
    return (
        "Ask a question. The answer is in your notes' own words, with its source; nothing leaves this machine.\n\n"
        "/scope folder:work tag:idea date:2025  asks of a part of them; /scope alone, of all again.\n"
        "F1  all keys and commands"
    )
