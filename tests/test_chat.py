"""The chat over explicit fake engines: what becomes a card, what is cancelled, what stays silent."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from textual.content import Content
from textual.message import Message
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Static
from textual.worker import WorkerFailed

from app.assistant import Answer, Candidate, Source, Timings
from app.bundle import Bundle
from app.chat import run_chat
from app.chat.app import ChatApp
from app.chat.box import NO_QUESTION, QuestionBox
from app.chat.cards import Card, marked_quote
from app.chat.engine import AssistantEngine, Engine, Indexed, Progress
from app.chat.screens import Help
from app.chat.settings import Settings
from app.chat.words import editor_command, likelihood
from app.chat.workers import Answered, Counted, Indexing, Read, Refused, Rescanned, Resumed, Said, Told
from app.indexer import writer_lock
from app.note import Excerpt
from app.places import EMBEDDED_BUNDLE, Places
from app.reader import Cancelled
from store.errors import BusyError, StoreError, UsageError
from store.scope import EVERYTHING, Scope
from store.sessions import Session, SessionStore
from tests.conftest import new_store, run_index

QUOTE = "Serviced on 14 March\nby Ortega, who replaced the valve."
SOURCE = Source("/notes/boiler.md", 42, None, "House > Boiler", QUOTE, (12, 20), 112, 120, stale=False)
ANSWER = Answer(
    question="when?",
    answer="14 March",
    confidence=0.83,
    abstained=False,
    sources=[SOURCE],
    candidates=[Candidate("14 March", 0.83, SOURCE.path, 42), Candidate("last spring", 0.31, "/notes/log.md", 7)],
    timings_ms=Timings(12.0, 6.0, 104.0, 122.0),
)
ABSTAINED = replace(
    ANSWER, answer=None, confidence=0.12, abstained=True, sources=[SOURCE, replace(SOURCE, path="/notes/b.md", line=3)]
)


class QuietEngine:
    """Has no notes that changed, and keeps no sessions."""

    sessions: SessionStore | None = None

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def rescan(self, progress: Progress, cancelled: Callable[[], bool]) -> list[str]:
        return []

    def index(self, folder: str, progress: Progress, cancelled: Callable[[], bool]) -> list[str]:
        return []

    def notes(self) -> int:
        return 2

    def count_notes(self, scope: Scope) -> int:
        return 12


class InstantEngine(QuietEngine):
    """Gives the same answer to everything, or raises it."""

    def __init__(self, outcome: Answer | Exception) -> None:
        super().__init__()
        self.outcome = outcome
        self.asked: list[str] = []
        self.scopes: list[str] = []

    def ask(self, question: str, *, scope: Scope, cancelled: Callable[[], bool], told: Callable[[str], None]) -> Answer:
        self.asked.append(question)
        self.scopes.append(scope.text)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def status(self) -> str:
        return "2 notes · 3 passages · all local"


class SlowEngine(QuietEngine):
    """Reads until it is cancelled, or five seconds, so that a broken cancel fails and does not hang."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = threading.Event()
        self.gave_up = threading.Event()

    def ask(self, question: str, *, scope: Scope, cancelled: Callable[[], bool], told: Callable[[str], None]) -> Answer:
        self.reading.set()
        late = time.monotonic() + 5
        while not cancelled() and time.monotonic() < late:
            time.sleep(0.005)
        if cancelled():
            self.gave_up.set()
        raise Cancelled

    def status(self) -> str:
        return "slow"


class DeafEngine(QuietEngine):
    """Does not look at `cancelled`: answers "slow" when released and anything else at once."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = threading.Event()
        self.released = threading.Event()
        self.returned = threading.Event()

    def ask(self, question: str, *, scope: Scope, cancelled: Callable[[], bool], told: Callable[[str], None]) -> Answer:
        if question == "slow":
            self.reading.set()
            self.released.wait(10)
            self.returned.set()
        return replace(ANSWER, answer=None, sources=[], question=question)

    def status(self) -> str:
        return "deaf"


class WritingEngine(InstantEngine):
    """Tells half of an answer and the rest when released."""

    def __init__(self) -> None:
        super().__init__(ANSWER)
        self.released = threading.Event()

    def ask(self, question: str, *, scope: Scope, cancelled: Callable[[], bool], told: Callable[[str], None]) -> Answer:
        told("half of [red]it")
        self.released.wait(10)
        return super().ask(question, scope=scope, cancelled=cancelled, told=told)


async def until(pilot: Pilot[None], holds: Callable[[], bool]) -> None:
    """Let the app run until something holds; fail after ten seconds."""
    for _ in range(1000):
        if holds():
            await pilot.pause()
            return
        await pilot.pause(0.01)
    raise AssertionError("it never became so")


async def ask(pilot: Pilot[None], question: str) -> None:
    """Type a question and send it."""
    pilot.app.query_one(QuestionBox).value = question
    await pilot.press("enter")


async def answered(pilot: Pilot[None], question: str = "when?") -> Card:
    """Send a question, wait for its outcome."""
    before = len(cards(pilot))
    await ask(pilot, question)
    await until(pilot, lambda: len(cards(pilot)) > before)
    card = cards(pilot)[-1]
    await until(pilot, lambda: not card.waiting and not card.query(".waiting"))
    return card


def cards(pilot: Pilot[None]) -> list[Card]:
    """The cards, oldest first."""
    return list(pilot.app.query(Card))


def content(parent: Widget, part: str) -> Content:
    """What the first part of a card, or of the header, shows."""
    shown = parent.query(part).first(Static).visual
    assert isinstance(shown, Content)
    return shown


def text(card: Card) -> str:
    """All that a card shows, hidden details left out."""
    parts = [part.visual for part in card.query(Static) if part.display]
    return "\n".join(part.plain for part in parts if isinstance(part, Content))


@pytest.mark.asyncio
async def test_an_answer_becomes_a_card_with_its_source_and_the_span_marked() -> None:
    async with ChatApp(lambda: InstantEngine(ANSWER)).run_test() as pilot:
        card = await answered(pilot)
        assert text(card).splitlines() == [
            "You  when?",
            "14 March",
            "Serviced on 14 March by Ortega, who replaced the valve.",
            "/notes/boiler.md:42  House > Boiler",
            "likely ▰▰▰▰▱ · 122 ms",
        ]
        quote = content(card, ".quote")
        assert [(quote.plain[span.start : span.end], span.style) for span in quote.spans] == [
            ("14 March", "bold underline")
        ]
        assert content(pilot.app.query_one("#header"), "#status").plain == "2 notes · 3 passages · all local"


@pytest.mark.asyncio
async def test_what_a_thread_posts_while_the_chat_is_left_changes_nothing(notes: Path) -> None:
    source = replace(SOURCE, path=str(notes / "a.md"))
    late: list[Message] = [
        Answered(Card("x", ""), ANSWER),
        Refused(Card("x", ""), StoreError("no")),
        Told(Card("x", ""), "14"),
        Indexing("1 of 2", 0.5),
        Rescanned("2 notes", 2, ["done"]),
        Counted(EVERYTHING, 2),
        Read(source, Excerpt("Serviced on 14 March.", 1, (12, 20))),
        Read(source, None, "is gone"),
        Resumed(Session(1, "x", 0, 0, 0), []),
        Said("kept"),
    ]
    app = ChatApp(lambda: InstantEngine(ANSWER))
    async with app.run_test() as pilot:
        await answered(pilot)
        await pilot.press("ctrl+s")
    assert not app.screen_stack
    for message in late:
        for handler, _ in ChatApp._decorated_handlers[type(message)]:
            done = handler(app, message)
            if inspect.isawaitable(done):
                await done


@pytest.mark.asyncio
async def test_a_changed_file_is_said_in_words() -> None:
    stale = replace(ANSWER, sources=[replace(SOURCE, stale=True)])
    async with ChatApp(lambda: InstantEngine(stale)).run_test() as pilot:
        assert "changed since indexed" in content(await answered(pilot), ".source").plain


@pytest.mark.asyncio
async def test_an_abstention_shows_the_closest_passages() -> None:
    async with ChatApp(lambda: InstantEngine(ABSTAINED)).run_test() as pilot:
        shown = text(await answered(pilot))
        assert "Not in your notes." in shown
        assert "/notes/boiler.md:42" in shown
        assert "/notes/b.md:3" in shown
        assert "likely" not in shown


@pytest.mark.asyncio
async def test_escape_cancels_a_slow_reader_and_nothing_blocks_meanwhile() -> None:
    engine = SlowEngine()
    async with ChatApp(lambda: engine).run_test() as pilot:
        await ask(pilot, "slow")
        await until(pilot, engine.reading.is_set)
        await pilot.press("h", "i")
        assert pilot.app.query_one(QuestionBox).value == "hi"
        assert "reading…" in text(cards(pilot)[0])
        await pilot.press("escape")
        await until(pilot, engine.gave_up.is_set)
        assert text(cards(pilot)[0]) == "You  slow\ncancelled"


@pytest.mark.asyncio
async def test_an_answer_is_shown_as_it_is_written() -> None:
    engine = WritingEngine()
    async with ChatApp(lambda: engine).run_test() as pilot:
        await ask(pilot, "when?")
        await until(pilot, lambda: bool(cards(pilot)) and "half of [red]it …" in text(cards(pilot)[0]))
        engine.released.set()
        await until(pilot, lambda: not cards(pilot)[0].waiting)
        assert "half of" not in text(cards(pilot)[0])


@pytest.mark.asyncio
async def test_a_superseded_question_stays_silent_though_its_thread_goes_on() -> None:
    engine = DeafEngine()
    async with ChatApp(lambda: engine).run_test() as pilot:
        await ask(pilot, "slow")
        await until(pilot, engine.reading.is_set)
        second = await answered(pilot, "quick")
        engine.released.set()
        await until(pilot, engine.returned.is_set)
        await pilot.pause(0.05)
        first = cards(pilot)[0]
        assert text(first) == "You  slow\ncancelled"
        assert first.answer is None
        assert second.answer is not None and second.answer.question == "quick"


@pytest.mark.asyncio
async def test_an_answer_that_comes_after_the_cancel_is_dropped() -> None:
    """The thread looked at `is_cancelled`, posted, and only then the key was pressed."""
    engine = SlowEngine()
    async with ChatApp(lambda: engine).run_test() as pilot:
        await ask(pilot, "slow")
        await pilot.press("escape")
        pilot.app.post_message(Answered(cards(pilot)[0], ANSWER))
        await pilot.pause()
        assert text(cards(pilot)[0]) == "You  slow\ncancelled"


@pytest.mark.asyncio
async def test_an_answer_under_an_open_palette_is_shown() -> None:
    engine = DeafEngine()
    async with ChatApp(lambda: engine).run_test() as pilot:
        await ask(pilot, "slow")
        await until(pilot, engine.reading.is_set)
        await pilot.press("ctrl+p")
        engine.released.set()
        await until(pilot, lambda: not cards(pilot)[0].waiting)


@pytest.mark.asyncio
async def test_markup_and_control_characters_of_notes_are_shown_and_not_obeyed() -> None:
    quote = "see [bold]x[/bold] and [/] and \x1b[2Jgone"
    source = replace(SOURCE, path="/notes/[red]a.md", heading="[/] A", quote=quote)
    answer = replace(
        ANSWER, answer="[bold]x[/bold]", sources=[source], candidates=[Candidate("[bold]x[/bold]", 0.8, "a", 1)]
    )
    engine = InstantEngine(answer)
    async with ChatApp(lambda: engine).run_test() as pilot:
        card = await answered(pilot, "[/] what?")
        assert text(card).splitlines()[:4] == [
            "You  [/] what?",
            "[bold]x[/bold]",
            "see [bold]x[/bold] and [/] and  [2Jgone",
            "/notes/[red]a.md:42  [/] A",
        ]
        engine.outcome = UsageError("cannot use [/] this")
        assert "cannot use [/] this" in text(await answered(pilot))


@pytest.mark.asyncio
async def test_a_refused_question_shows_its_sentence() -> None:
    async with ChatApp(lambda: InstantEngine(UsageError("the question has 10,001 characters"))).run_test() as pilot:
        assert "the question has 10,001 characters" in text(await answered(pilot))


@pytest.mark.asyncio
async def test_an_error_that_nobody_expected_is_not_swallowed() -> None:
    with pytest.raises(WorkerFailed, match="a bug"):
        async with ChatApp(lambda: InstantEngine(ZeroDivisionError("a bug"))).run_test() as pilot:
            await ask(pilot, "when?")
            await until(pilot, lambda: not pilot.app.is_running)


@pytest.mark.asyncio
async def test_a_question_typed_while_the_notes_open_is_answered_when_they_have() -> None:
    may_open = threading.Event()

    def open_slowly() -> Engine:
        may_open.wait(10)
        return InstantEngine(ANSWER)

    async with ChatApp(open_slowly).run_test() as pilot:
        await ask(pilot, "when?")
        assert "opening your notes…" in text(cards(pilot)[0])
        may_open.set()
        await until(pilot, lambda: cards(pilot)[0].answer is not None)


def test_an_error_in_opening_ends_the_chat_with_its_sentence(own_sample: Places) -> None:
    own_sample.store.write_bytes(b"x" * 4096)
    with pytest.raises(StoreError, match="is not a readable store"):
        run_chat(own_sample, Settings(), headless=True)


@pytest.mark.asyncio
async def test_details_are_hidden_until_asked_for() -> None:
    async with ChatApp(lambda: InstantEngine(ANSWER)).run_test() as pilot:
        card = await answered(pilot)
        assert "retrieve" not in text(card)
        await pilot.press("ctrl+d")
        assert "retrieve 12 ms · load 6 ms · read 104 ms" in text(card)
        assert " 31%  last spring  /notes/log.md:7" in text(card)
        await pilot.press("ctrl+d")
        assert "retrieve" not in text(card)


@pytest.mark.asyncio
async def test_an_empty_question_only_gets_a_hint() -> None:
    engine = InstantEngine(ANSWER)
    async with ChatApp(lambda: engine).run_test() as pilot:
        await ask(pilot, "  ")
        assert pilot.app.query_one(QuestionBox).placeholder == NO_QUESTION
        assert not cards(pilot)
        assert not engine.asked


@pytest.mark.asyncio
async def test_up_and_down_walk_through_the_questions_and_back_to_the_draft() -> None:
    async with ChatApp(lambda: InstantEngine(ANSWER)).run_test() as pilot:
        for question in ("one", "two", "two"):
            await ask(pilot, question)
        box = pilot.app.query_one(QuestionBox)
        await pilot.press("d")
        seen = []
        for key in ("up", "up", "up", "down", "down", "down"):
            await pilot.press(key)
            seen.append(box.value)
        assert seen == ["two", "one", "one", "two", "d", "d"]


@pytest.mark.asyncio
async def test_help_scrolls_as_soon_as_it_is_open() -> None:
    async with ChatApp(lambda: InstantEngine(ANSWER)).run_test(size=(60, 20)) as pilot:
        await pilot.press("f1", "end")
        keys = pilot.app.screen.query_one("#keys")
        await until(pilot, lambda: keys.max_scroll_y > 0 and keys.scroll_offset.y == keys.max_scroll_y)


@pytest.mark.asyncio
@pytest.mark.parametrize("keys", [["escape"], ["x", "enter"]])
async def test_what_was_said_goes_with_the_next_line_or_esc(keys: list[str]) -> None:
    async with ChatApp(lambda: InstantEngine(ANSWER)).run_test() as pilot:
        await pilot.press(*"/foo", "enter")
        await until(pilot, lambda: any("there is no command /foo" in notice for notice in notices(pilot)))
        await pilot.press(*keys)
        await until(pilot, lambda: not any("/foo" in notice for notice in notices(pilot)))


@pytest.mark.asyncio
async def test_clear_copy_and_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    async with ChatApp(lambda: InstantEngine(ANSWER)).run_test() as pilot:
        await answered(pilot)
        await pilot.press("ctrl+y", "ctrl+o")
        assert pilot.app.clipboard == "14 March"
        await pilot.press("f1")
        assert isinstance(pilot.app.screen, Help)
        await pilot.press("escape", "ctrl+l")
        assert not cards(pilot)
        assert not isinstance(pilot.app.screen, Help)


def test_the_editor_is_started_at_the_line() -> None:
    assert editor_command({}, "/a b.md", 7) is None
    assert editor_command({"EDITOR": "vi", "VISUAL": "nano -w"}, "/a b.md", 7) == ["nano", "-w", "+7", "/a b.md"]
    assert editor_command({"EDITOR": "code --wait"}, "/a.md", 7) == ["code", "--wait", "--goto", "/a.md:7"]
    assert editor_command({"EDITOR": "vim '"}, "/a.md", 7) is None


@pytest.mark.asyncio
@pytest.mark.parametrize("editor", ["", "vim '", '""'])
async def test_an_editor_that_cannot_be_run_is_said_and_the_chat_goes_on(
    monkeypatch: pytest.MonkeyPatch, editor: str
) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", editor)
    async with ChatApp(lambda: InstantEngine(ANSWER)).run_test() as pilot:
        await answered(pilot)
        await pilot.press("ctrl+o")
        assert notices(pilot)[-1] == "no editor is set that can be run: set EDITOR, for example export EDITOR=nano"
        await answered(pilot, "and now?")


def test_of_several_occurrences_the_answers_own_is_marked() -> None:
    quote = "In May we left, in May we came back."
    marked = marked_quote(replace(SOURCE, quote=quote, marked=(19, 22)))
    assert [(span.start, span.end) for span in marked.spans] == [(quote.rindex("May"), quote.rindex("May") + 3)]


def test_confidence_is_said_in_words_that_match_the_bar() -> None:
    assert [likelihood(c) for c in (1.0, 0.83, 0.5, 0.3, 0.0)] == [
        "very likely ▰▰▰▰▰",
        "likely ▰▰▰▰▱",
        "possible ▰▰▰▱▱",
        "unlikely ▰▰▱▱▱",
        "very unlikely ▰▱▱▱▱",
    ]


# scope


@pytest.mark.asyncio
async def test_a_scope_holds_for_the_questions_after_it_and_is_shown() -> None:
    engine = InstantEngine(ANSWER)
    async with ChatApp(lambda: engine).run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: "local" in content(pilot.app.query_one("#header"), "#status").plain)
        await ask(pilot, '/scope folder:work tag:"idea"')
        header = pilot.app.query_one("#header")
        await until(pilot, lambda: content(header, "#scope").plain == 'in folder:work tag:"idea" · 12 notes')
        assert not cards(pilot)
        card = await answered(pilot)
        assert text(card).splitlines()[0] == 'You  when?  in folder:work tag:"idea"'
        await ask(pilot, "/scope")
        assert content(header, "#scope").plain == ""
        assert text(await answered(pilot)).splitlines()[0] == "You  when?"
        assert engine.scopes == ['folder:work tag:"idea"', ""]


@pytest.mark.asyncio
async def test_what_is_no_filter_is_said_and_changes_nothing() -> None:
    engine = InstantEngine(ANSWER)
    async with ChatApp(lambda: engine).run_test() as pilot:
        await ask(pilot, "/scope tag:idea")
        await ask(pilot, "/scope [red]work")
        await until(pilot, lambda: bool(notices(pilot)))
        assert notices(pilot)[0].startswith("[red]work is no filter: write folder:work")
        await answered(pilot, "/scopes of what?")
        assert (engine.asked, engine.scopes) == (["/scopes of what?"], ["tag:idea"])


@pytest.mark.asyncio
async def test_a_question_waits_with_the_scope_that_it_was_asked_in() -> None:
    may_open = threading.Event()
    engine = InstantEngine(ANSWER)

    def open_slowly() -> Engine:
        may_open.wait(10)
        return engine

    async with ChatApp(open_slowly).run_test() as pilot:
        await ask(pilot, "/scope tag:idea")
        await ask(pilot, "when?")
        await ask(pilot, "/scope tag:other")
        may_open.set()
        await until(pilot, lambda: bool(engine.scopes))
        assert engine.scopes == ["tag:idea"]


# changed notes


def notices(pilot: Pilot[None]) -> list[str]:
    """The notices that are shown."""
    return [notice.message for notice in pilot.app._notifications]


class RescanningEngine(InstantEngine):
    """Looks for changed notes until it is told what came of it, or cancelled."""

    def __init__(self, outcome: list[str] | Exception) -> None:
        super().__init__(ANSWER)
        self.found = outcome
        self.over, self.gave_up = threading.Event(), threading.Event()
        self.found_notes = 2

    def rescan(self, progress: Progress, cancelled: Callable[[], bool]) -> list[str]:
        progress(Indexed(1, 2, first=False, seconds_left=61))
        late = time.monotonic() + 5
        while not self.over.is_set() and time.monotonic() < late:
            if cancelled():
                self.gave_up.set()
                raise Cancelled
            time.sleep(0.005)
        self.found_notes = 3
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def status(self) -> str:
        return f"{self.found_notes} notes"


@pytest.mark.asyncio
async def test_changed_notes_are_looked_for_while_questions_are_answered() -> None:
    engine = RescanningEngine([])
    async with ChatApp(lambda: engine).run_test() as pilot:
        await until(pilot, lambda: content(pilot.app.screen, "#progress").plain.startswith("▰▰▰▰▰▱▱▱▱▱"))
        assert content(pilot.app.screen, "#progress").plain.endswith("1 of 2 changed notes indexed · 1:01 left")
        assert (await answered(pilot)).answer is not None
        engine.over.set()
        await until(pilot, lambda: content(pilot.app.screen, "#status").plain == "3 notes")
        assert not pilot.app.query_one("#progress").display
        assert notices(pilot) == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("outcome", "says", "severity"),
    [
        (["5 of 8 notes of /[x] are gone"], "5 of 8 notes of /[x] are gone", "warning"),
        (StoreError("the disk is full"), "the disk is full", "warning"),
        (BusyError("another index run is writing"), "another index run is writing", "information"),
        (ZeroDivisionError("a bug"), "looking for changed notes failed (ZeroDivisionError('a bug'))", "warning"),
    ],
)
async def test_whatever_comes_of_looking_for_changed_notes_is_a_notice(
    outcome: list[str] | Exception, says: str, severity: str
) -> None:
    engine = RescanningEngine(outcome)
    engine.over.set()
    async with ChatApp(lambda: engine).run_test() as pilot:
        await until(pilot, lambda: bool(notices(pilot)))
        (notice,) = pilot.app._notifications
        assert notice.message.startswith(says)
        assert notice.severity == severity
        assert (await answered(pilot)).answer is not None


@pytest.mark.asyncio
async def test_leaving_the_chat_does_not_wait_for_the_search_for_changed_notes() -> None:
    engine = RescanningEngine([])
    async with ChatApp(lambda: engine).run_test() as pilot:
        await until(pilot, lambda: "changed notes" in content(pilot.app.screen, "#progress").plain)
        await pilot.press("ctrl+q")
    assert engine.gave_up.wait(5)


def test_the_assistant_indexes_what_changed_unless_told_otherwise(notes: Path, tmp_path: Path, bundle: Bundle) -> None:
    (notes / "a.md").write_text("Alpha.")
    with new_store(tmp_path / "store.db", bundle) as store:
        run_index(store, bundle, notes)
    (notes / "b.md").write_text("Beta.")
    (notes / "bad.md").write_bytes(b"\0")
    places = Places(tmp_path / "store.db", EMBEDDED_BUNDLE, "cpu", tmp_path)
    progress: list[str] = []

    def show(done: Indexed) -> None:
        progress.append(done.words)

    with AssistantEngine(places, rescans=False) as engine:
        assert engine.open().rescan(show, lambda: False) == []
        assert engine.notes() == 1
    with AssistantEngine(places) as engine:
        engine.open()
        assert engine.rescan(show, lambda: False) == ["1 note could not be indexed: see btr-assistant status --failed"]
        assert progress[-1] == "2 of 2 changed notes indexed"
        assert (engine.notes(), engine.count_notes(Scope())) == (2, 2)
        (notes / "a.md").unlink()
        (notes / "b.md").unlink()
        (notes / "bad.md").unlink()
        (sentence,) = engine.rescan(show, lambda: False)
        assert "2 of 2 notes" in sentence
        with pytest.raises(BusyError), writer_lock(places.lock):
            engine.rescan(show, lambda: False)
        (notes / "c.md").write_text("Gamma.")
        with pytest.raises(Cancelled):
            engine.rescan(show, lambda: True)
