"""The chat as a person has it: candidates, sources, sessions, feedback, first run, keys, narrow terminals, time."""

from __future__ import annotations

import os
import threading
import time
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import textual.app
import textual.message_pump
from textual.color import Color
from textual.pilot import Pilot
from textual.widgets import DirectoryTree, Input, OptionList, TextArea

import app.chat.app
import app.chat.box
import app.chat.cards
import app.chat.pane
import app.chat.screens
import app.chat.workers
from app.assistant import Answer, Candidate
from app.chat.app import MOST_CARDS, ChatApp
from app.chat.box import QuestionBox, folder_like
from app.chat.cards import Card, Cards, Welcome
from app.chat.engine import AssistantEngine, Engine, Indexed, Progress
from app.chat.pane import SourcePane
from app.chat.screens import Correction, FolderScreen, Help, SessionsScreen
from app.chat.settings import Settings, load_settings
from app.chat.words import age
from app.places import EMBEDDED_BUNDLE, Places
from app.reader import ignore, never
from app.sessions import turn_of
from store.errors import StoreError, UsageError
from store.scope import Scope
from store.sessions import RIGHT, WRONG_ANSWER, WRONG_SOURCE, SessionStore
from store.tokens import TokenStore
from tests.test_chat import (
    ABSTAINED,
    ANSWER,
    SOURCE,
    InstantEngine,
    QuietEngine,
    SlowEngine,
    answered,
    ask,
    cards,
    content,
    notices,
    text,
    until,
)

NOW = 1_800_000_000.0
OTHER = replace(SOURCE, path="/notes/log.md", line=7, quote="Done last spring.", marked=(5, 16), stale=True)
OLD = replace(SOURCE, modified=NOW - 86_400 * 400)
TWO = replace(ANSWER, sources=[OLD], places=[OLD, OTHER])


class SavingEngine(InstantEngine):
    """Keeps sessions."""

    def __init__(self, outcome: Answer | Exception, sessions: SessionStore) -> None:
        super().__init__(outcome)
        self.sessions = sessions


@pytest.fixture
def sessions(store: TokenStore) -> SessionStore:
    return SessionStore.open(store.path)


def chat(engine: QuietEngine, settings: Settings | None = None, resume: int | None = None) -> ChatApp:
    return ChatApp(lambda: engine, settings, resume=resume, clock=lambda: NOW)  # type: ignore[arg-type,return-value]


async def opened(pilot: Pilot[None]) -> None:
    await until(pilot, lambda: pilot.app._engine is not None)  # type: ignore[attr-defined]


async def saved(pilot: Pilot[None], question: str = "when?") -> Card:
    card = await answered(pilot, question)
    await until(pilot, lambda: card.saved is not None)
    return card


# candidates and sources


@pytest.mark.asyncio
async def test_other_candidates_are_one_key_away_with_their_own_source() -> None:
    async with chat(InstantEngine(TWO)).run_test() as pilot:
        card = await answered(pilot)
        await pilot.press("ctrl+n")
        assert text(card).splitlines()[1:] == [
            "last spring",
            "Done last spring.",
            "/notes/log.md:7  House > Boiler  changed since indexed",
            "unlikely ▰▰▱▱▱ · 122 ms · answer 2 of 2",
        ]
        await pilot.press("ctrl+y")
        assert pilot.app.clipboard == "last spring"
        await pilot.press("ctrl+b")
        assert pilot.app.clipboard == "Done last spring.\n/notes/log.md:7"
        await pilot.press("ctrl+n")
        assert "14 March" in text(card)


@pytest.mark.asyncio
async def test_of_an_abstention_the_key_goes_through_the_closest_passages_and_then_what_was_thought_of() -> None:
    answer = replace(ABSTAINED, candidates=[Candidate("last spring", 0.12, "/notes/log.md", 7)], places=[OTHER])
    async with chat(InstantEngine(answer)).run_test() as pilot:
        card = await answered(pilot)
        assert "› /notes/boiler.md:42" in text(card)
        await pilot.press("ctrl+n")
        assert "› /notes/b.md:3" in text(card)
        await pilot.press("ctrl+n")
        assert "Thought of, but too unlikely:\nlast spring" in text(card)
        await pilot.press("ctrl+n")
        assert "Thought of" not in text(card)


@pytest.mark.parametrize(
    ("days", "words"),
    [(0, "written today"), (1, "1 day old"), (13, "13 days old"), (15, "2 weeks old"), (61, "2 months old"),
     (400, "13 months old"), (800, "2 years old"), (-3, "written today")],
)  # fmt: skip
def test_a_notes_age_is_said_in_words(days: int, words: str) -> None:
    assert age(NOW - 86_400 * days, NOW) == words
    assert age(None, NOW) == ""


@pytest.mark.asyncio
async def test_the_source_pane_shows_the_note_scrolled_to_the_marked_answer(notes: Path) -> None:
    lines = [f"Line {i} of the note.\r\n" for i in range(1, 301)]
    lines[199] = "The boiler was serviced on 14 March.\r\n"
    body = "".join(lines)
    (notes / "a.md").write_bytes(body.encode())
    start = body.index("14 March")
    source = replace(SOURCE, path=str(notes / "a.md"), line=200, quote=lines[199].strip(), marked=(27, 35),
                     start=start, end=start + 8)  # fmt: skip
    answer = replace(ANSWER, sources=[source], places=[source, OTHER])
    async with chat(InstantEngine(answer)).run_test(size=(120, 30)) as pilot:
        await answered(pilot)
        await pilot.press("ctrl+s")
        shown = pilot.app.query_one(SourcePane).query_one(TextArea)
        await until(pilot, lambda: shown.selected_text == "14 March")
        assert shown.line_number_start == 80
        row = shown.selection.start[0]
        assert shown.line_number_start + row == 200
        await until(pilot, lambda: shown.scroll_offset.y > 0)
        assert shown.scroll_offset.y <= row < shown.scroll_offset.y + shown.size.height
        assert pilot.app.query_one(Cards).region.width > 40
        await pilot.press("ctrl+n")
        title = pilot.app.query_one(SourcePane)
        await until(pilot, lambda: "/notes/log.md:7" in content(title, "#pane-title").plain)
        await pilot.press("escape")
        assert not title.display


@pytest.mark.asyncio
async def test_a_source_that_cannot_be_read_says_why() -> None:
    async with chat(InstantEngine(ANSWER)).run_test() as pilot:
        await pilot.press("ctrl+s")
        assert notices(pilot) == ["there is no source to show yet"]
        await answered(pilot)
        await pilot.press("ctrl+s")
        pane = pilot.app.query_one(SourcePane)
        await until(pilot, lambda: "is gone" in content(pane, "#pane-title").plain)


@pytest.mark.asyncio
async def test_the_mouse_chooses_a_card_and_opens_its_source() -> None:
    async with chat(InstantEngine(TWO)).run_test(size=(100, 40)) as pilot:
        first = await answered(pilot, "one")
        second = await answered(pilot, "two")
        await pilot.click(first)
        assert first.has_class("-chosen") and not second.has_class("-chosen")
        await pilot.press("ctrl+n")
        assert "last spring" in text(first) and "last spring" not in text(second)
        await pilot.click(first.query(".source").first())
        assert pilot.app.query_one(SourcePane).display
        assert pilot.app.focused is pilot.app.query_one(QuestionBox)


@pytest.mark.asyncio
async def test_keys_choose_a_card_too() -> None:
    async with chat(InstantEngine(TWO)).run_test(size=(100, 40)) as pilot:
        one, two = [await answered(pilot, question) for question in ("one", "two")]
        await pilot.press("ctrl+up")
        assert one.has_class("-chosen")
        await pilot.press("ctrl+down")
        assert two.has_class("-chosen")
        await pilot.press("escape")
        assert not two.has_class("-chosen")


# follow-ups


@pytest.mark.asyncio
async def test_a_follow_up_is_read_with_the_question_before_which_is_shown_and_can_be_switched_off() -> None:
    engine = InstantEngine(ANSWER)
    async with chat(engine).run_test() as pilot:
        await answered(pilot, "How much did it rain in 2022?")
        card = await answered(pilot, "and in 2023?")
        assert text(card).splitlines()[:2] == ["You  and in 2023?", "read as  How much did it rain in 2023?"]
        await answered(pilot, "and in 2024?")
        await pilot.press("ctrl+t")
        await answered(pilot, "and in 2025?")
        await ask(pilot, "/follow off")
        await answered(pilot, "and in 2021?")
        await ask(pilot, "/follow on")
        await pilot.press("ctrl+l")
        await answered(pilot, "and in 2020?")
        assert engine.asked == [
            "How much did it rain in 2022?",
            "How much did it rain in 2023?",
            "How much did it rain in 2024?",
            "and in 2025?",
            "and in 2021?",
            "and in 2020?",
        ]


@pytest.mark.asyncio
async def test_follow_ups_can_be_off_from_the_start() -> None:
    engine = InstantEngine(ANSWER)
    async with chat(engine, Settings(follow_ups=False)).run_test() as pilot:
        await answered(pilot, "How much did it rain in 2022?")
        await answered(pilot, "and in 2023?")
        assert engine.asked[1] == "and in 2023?"


# sessions


@pytest.mark.asyncio
async def test_what_is_asked_is_saved_and_resumed_with_its_answers_and_its_history(sessions: SessionStore) -> None:
    async with chat(SavingEngine(TWO, sessions)).run_test() as pilot:
        await opened(pilot)
        await ask(pilot, "/scope tag:idea")
        await saved(pilot, "How much did it rain in 2022?")
        await saved(pilot, "and in 2023?")
    (session,) = sessions.sessions()
    assert (session.name, session.turns) == ("How much did it rain in 2022?", 2)
    async with chat(SavingEngine(ANSWER, sessions), resume=session.id).run_test() as pilot:
        await until(pilot, lambda: len(cards(pilot)) == 2)
        first, second = cards(pilot)
        assert text(second).splitlines()[:3] == [
            "You  and in 2023?  in tag:idea",
            "read as  How much did it rain in 2023?",
            "14 March",
        ]
        assert "13 months old" in text(first)
        await pilot.press("up")
        assert pilot.app.query_one(QuestionBox).value == "and in 2023?"
        pilot.app.query_one(QuestionBox).value = ""
        await saved(pilot, "and in 2024?")
    assert [turn.read_as for turn in sessions.turns(session.id)][2] == "How much did it rain in 2024?"


@pytest.mark.asyncio
async def test_a_new_session_begins_when_the_cards_are_cleared(sessions: SessionStore) -> None:
    async with chat(SavingEngine(ANSWER, sessions)).run_test() as pilot:
        await opened(pilot)
        await saved(pilot, "one")
        await pilot.press("ctrl+l")
        assert not cards(pilot)
        await saved(pilot, "two")
    assert [session.name for session in sessions.sessions()] == ["two", "one"]


@pytest.mark.asyncio
async def test_sessions_are_found_renamed_exported_deleted_and_resumed(
    sessions: SessionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with chat(SavingEngine(ANSWER, sessions)).run_test(size=(100, 30)) as pilot:
        await opened(pilot)
        await saved(pilot, "of the boiler?")
        await pilot.press("ctrl+l")
        await saved(pilot, "of the roof?")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: isinstance(pilot.app.screen, SessionsScreen))
        options = pilot.app.screen.query_one(OptionList)
        await until(pilot, lambda: options.option_count == 2)
        await pilot.press(*"boiler")
        await until(pilot, lambda: options.option_count == 1)
        await pilot.press("f3")
        await until(pilot, lambda: (tmp_path / "session-1.md").exists())
        await pilot.press("f2")
        box = pilot.app.screen.query_one(Input)
        await until(pilot, lambda: box.value == "of the boiler?")
        box.value = "The cellar"
        await pilot.press("enter")
        await until(pilot, lambda: {session.name for session in sessions.sessions()} == {"The cellar", "of the roof?"})
        await until(pilot, lambda: options.option_count == 2)
        await pilot.press("f8")
        assert len(sessions.sessions()) == 2
        await pilot.press("f8")
        await until(pilot, lambda: [session.name for session in sessions.sessions()] == ["The cellar"])
        await until(pilot, lambda: options.option_count == 1)
        await pilot.press("enter")
        await until(pilot, lambda: [card.question for card in cards(pilot)] == ["of the boiler?"])
    exported = (tmp_path / "session-1.md").read_text()
    assert "## of the boiler?\n\n**14 March**\n\n> Serviced on 14 March by Ortega" in exported
    assert "`/notes/boiler.md:42` House > Boiler" in exported


@pytest.mark.asyncio
async def test_commands_name_export_and_delete_this_session(sessions: SessionStore, tmp_path: Path) -> None:
    async with chat(SavingEngine(ANSWER, sessions)).run_test() as pilot:
        await opened(pilot)
        await ask(pilot, "/rename x")
        assert notices(pilot)[-1] == "nothing was asked yet in this session"
        await saved(pilot)
        await ask(pilot, "/rename The cellar")
        await until(pilot, lambda: sessions.sessions()[0].name == "The cellar")
        await ask(pilot, f"/export {tmp_path / 'a.md'}")
        await until(pilot, lambda: (tmp_path / "a.md").exists() and "written to" in notices(pilot)[-1])
        await ask(pilot, f"/export {tmp_path / 'a.md'}")
        await until(pilot, lambda: "exists and is not overwritten" in notices(pilot)[-1])
        await ask(pilot, "/delete")
        assert len(sessions.sessions()) == 1
        await ask(pilot, "/delete")
        await until(pilot, lambda: not sessions.sessions() and not cards(pilot))


@pytest.mark.asyncio
async def test_only_a_delete_right_after_the_first_removes_a_session(sessions: SessionStore) -> None:
    async with chat(SavingEngine(ANSWER, sessions)).run_test() as pilot:
        await opened(pilot)
        for between in ("who?", "/follow on", "/nonsense", ""):
            await saved(pilot, f"before {between}")
            await ask(pilot, "/delete")
            await ask(pilot, between)
            await ask(pilot, "/delete")
            assert notices(pilot)[-1].startswith("/delete again deletes this session"), between
            await ask(pilot, "/follow on")
        (session,) = sessions.sessions()
        await ask(pilot, "/delete")
        await pilot.press("ctrl+l")
        pilot.app._load(sessions, session.id)  # type: ignore[attr-defined]
        await until(pilot, lambda: bool(cards(pilot)))
        await ask(pilot, "/delete")
        assert notices(pilot)[-1].startswith("/delete again deletes this session")
        assert len(sessions.sessions()) == 1
        await ask(pilot, "/delete")
        await until(pilot, lambda: not sessions.sessions())


@pytest.mark.asyncio
async def test_a_verdict_on_a_card_whose_session_is_gone_marks_no_other_question(sessions: SessionStore) -> None:
    async with chat(SavingEngine(ANSWER, sessions)).run_test() as pilot:
        await opened(pilot)
        old = await saved(pilot, "one")
        sessions.delete(sessions.sessions()[0].id)  # as the list of sessions does it; the cards stay
        await saved(pilot, "two")
        await pilot.press("ctrl+up", "f5")
        assert pilot.app._card is old  # type: ignore[attr-defined]
        await until(pilot, lambda: "is not saved any more: ask it again" in notices(pilot)[-1])
        assert sessions.judged() == []
        await pilot.press("ctrl+down", "f5")
        await until(pilot, lambda: [turn.question for turn in sessions.judged()] == ["two"])


@pytest.mark.asyncio
async def test_a_session_that_is_not_there_is_said_and_nothing_opens(sessions: SessionStore) -> None:
    app = chat(SavingEngine(ANSWER, sessions), resume=7)
    async with app.run_test() as pilot:
        await until(pilot, lambda: not pilot.app.is_running)
    assert "there is no session 7" in str(app.failure)


# feedback


@pytest.mark.asyncio
async def test_three_keys_keep_what_a_person_says(sessions: SessionStore) -> None:
    async def kept(said: str) -> None:
        await until(pilot, lambda: any(notice.startswith(f"kept: {said}") for notice in notices(pilot)))

    async with chat(SavingEngine(TWO, sessions)).run_test() as pilot:
        await opened(pilot)
        await pilot.press("f5")
        assert "no answer" in notices(pilot)[-1]
        card = await saved(pilot, "one")
        await pilot.press("f5")
        await until(pilot, lambda: bool(sessions.judged()))
        await kept("right")
        assert text(card).endswith("· you: right")
        await saved(pilot, "two")
        await pilot.press("f7")
        card = await saved(pilot, "three")
        await pilot.press("f6")
        assert isinstance(pilot.app.screen, Correction)
        await pilot.press("1", "space", *"May", "enter")
        await until(pilot, lambda: len(sessions.judged()) == 3)
        await kept("the right answer is 1 May")
        assert "you: wrong answer, it is 1 May" in text(card)
        await saved(pilot, "four")
        await pilot.press("ctrl+n", "f5")
        await kept("the right answer is last spring")
        await saved(pilot, "five")
        await ask(pilot, "/wrong -")
        await kept("it is not in your notes")
        await saved(pilot, "six")
        await pilot.press("f6", "escape")
        await until(pilot, lambda: len(sessions.judged()) == 5)
    assert [(turn.question, turn.verdict, turn.correction) for turn in sessions.judged()] == [
        ("one", RIGHT, None),
        ("two", WRONG_SOURCE, None),
        ("three", WRONG_ANSWER, "1 May"),
        ("four", WRONG_ANSWER, "last spring"),
        ("five", WRONG_ANSWER, ""),
    ]


@pytest.mark.asyncio
async def test_without_sessions_nothing_is_kept_and_that_is_said() -> None:
    async with chat(InstantEngine(ANSWER)).run_test() as pilot:
        await answered(pilot)
        await pilot.press("f5")
        assert "this chat is not saved" in notices(pilot)[-1]
        await pilot.press("ctrl+r")
        assert "no sessions are kept here" in notices(pilot)[-1]


# first run and indexing


def engine_in(tmp_path: Path, *, saves: bool = True) -> AssistantEngine:
    return AssistantEngine(Places(tmp_path / "new" / "store.db", EMBEDDED_BUNDLE, "cpu", tmp_path / "new"), saves=saves)


@pytest.mark.asyncio
async def test_a_first_run_asks_for_a_folder_indexes_it_and_answers(notes: Path, tmp_path: Path) -> None:
    (notes / "a.md").write_text("# Boiler\n\nThe boiler was serviced on 14 March 2024 by Hansen & Son.\n")
    with engine_in(tmp_path) as engine:
        async with ChatApp(engine.open).run_test(size=(100, 30)) as pilot:
            await until(pilot, lambda: "There are no notes yet" in str(pilot.app.query_one(Welcome).visual))
            assert "folder of your notes" in pilot.app.query_one(QuestionBox).placeholder
            await ask(pilot, "/no/such/folder")
            await until(pilot, lambda: "does not exist" in " ".join(notices(pilot)))
            await pilot.press("ctrl+f")
            assert isinstance(pilot.app.screen, FolderScreen)
            pilot.app.screen.query_one(Input).value = str(notes)
            await pilot.press("enter")
            await until(pilot, lambda: "1 note indexed: ask away" in notices(pilot))
            card = await saved(pilot, "When was the boiler serviced?")
            assert "14 March 2024" in text(card)
        assert engine.sessions is not None and len(engine.sessions.sessions()) == 1


@pytest.mark.asyncio
async def test_the_name_of_a_folder_that_is_there_will_do(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (notes / "a.md").write_text("The boiler was serviced on 14 March 2024 by Hansen & Son.\n")
    monkeypatch.chdir(notes.parent)
    with engine_in(tmp_path) as engine:
        async with ChatApp(engine.open).run_test(size=(100, 30)) as pilot:
            await until(pilot, lambda: "There are no notes yet" in str(pilot.app.query_one(Welcome).visual))
            await ask(pilot, notes.name)
            await until(pilot, lambda: "1 note indexed: ask away" in notices(pilot))


class IndexingEngine(InstantEngine):
    """Indexes until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(ABSTAINED)
        self.over = threading.Event()

    def rescan(self, progress: Progress, cancelled: Callable[[], bool]) -> list[str]:
        progress(Indexed(342, 1204, first=True))
        self.over.wait(10)
        return []


@pytest.mark.asyncio
async def test_what_is_not_found_while_indexing_runs_may_still_come_and_the_card_says_so() -> None:
    engine = IndexingEngine()
    async with chat(engine).run_test() as pilot:
        await until(pilot, lambda: "342 of 1,204 notes indexed" in content(pilot.app.screen, "#progress").plain)
        card = await answered(pilot)
        assert "342 of 1,204 notes indexed: what is still to come may hold it, ask again then" in text(card)
        await ask(pilot, "/index /tmp")
        assert "wait until that is done" in notices(pilot)[-1]
        engine.over.set()
        await until(pilot, lambda: not pilot.app.query_one("#progress").display)
        assert "may hold it" not in text(await answered(pilot))


def test_a_store_that_cannot_be_written_is_chatted_with_and_that_is_said_once(
    own_sample: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: SessionStore) -> None:
        import sqlite3

        from store.sqlite import sqlite_errors

        with sqlite_errors(self.path):
            raise sqlite3.OperationalError("attempt to write a readonly database")

    monkeypatch.setattr(SessionStore, "check_writable", refuse)
    with AssistantEngine(own_sample) as engine:
        engine.open()
        assert engine.sessions is None
        (warning,) = engine.warnings
        assert warning.startswith("this chat is not saved: ") and "check its permissions" in warning
        assert not engine.ask("When was the boiler serviced?", scope=Scope(), cancelled=never, told=ignore).abstained
    with AssistantEngine(own_sample, saves=False) as engine:
        assert (engine.open().sessions, engine.warnings) == (None, [])


def test_a_folder_is_completed_as_it_was_begun(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "no.txt").write_text("")
    assert folder_like(f"{tmp_path}{os.sep}no") == str(tmp_path / "notes")
    assert folder_like(f"{tmp_path}{os.sep}") == str(tmp_path / "notes")
    assert folder_like(f"{tmp_path}{os.sep}x") is None
    assert folder_like("/no/such/folder/x") is None


@pytest.mark.asyncio
async def test_commands_are_completed() -> None:
    async with chat(InstantEngine(ANSWER)).run_test() as pilot:
        await pilot.press(*"/sco")
        await until(pilot, lambda: pilot.app.query_one(QuestionBox)._suggestion == "/scope")
        await pilot.press("tab")
        assert pilot.app.query_one(QuestionBox).value == "/scope"
        pilot.app.query_one(QuestionBox).value = ""
        await ask(pilot, "/scop")
        assert notices(pilot)[-1] == "there is no command /scop: F1 lists them"


# keys, themes, terminals


@pytest.mark.asyncio
async def test_keys_are_set_by_the_id_of_their_binding_and_shown_in_help() -> None:
    settings = Settings(keys={"chat.copy": "f9", "chat.nothing": "f10"}, theme="high-contrast")
    async with chat(InstantEngine(ANSWER), settings).run_test(size=(110, 50)) as pilot:
        assert pilot.app.theme == "high-contrast"
        assert any("there is no key chat.nothing to set" in notice for notice in notices(pilot))
        await answered(pilot)
        await pilot.press("ctrl+y")
        assert pilot.app.clipboard == ""
        await pilot.press("f9")
        assert pilot.app.clipboard == "14 March"
        await pilot.press("f1")
        assert isinstance(pilot.app.screen, Help)
        shown = "\n".join(str(part.visual) for part in pilot.app.screen.query("#keys Static"))
        assert any(line.split(maxsplit=1) == ["f9", "Copy the answer"] for line in shown.splitlines())
        assert "/scope FILTER" in shown
        assert "cursor" not in shown  # Textual's own keys of a text field
        assert shown.index("Ask the question") < shown.index("Keys and commands") < shown.index("Leave the chat")


@pytest.mark.asyncio
async def test_every_theme_can_be_used_and_an_unknown_one_is_said() -> None:
    async with chat(InstantEngine(ANSWER), Settings(theme="none")).run_test() as pilot:
        assert "there is no theme none: known are" in notices(pilot)[0]
        await answered(pilot)
        for name in pilot.app.available_themes:
            await ask(pilot, f"/theme {name}")
            assert pilot.app.theme == name
        assert len(pilot.app.available_themes) > 10


def test_the_high_contrast_theme_has_contrast() -> None:
    """WCAG's AAA: seven to one for everything that is read."""

    def luminance(color: Color) -> float:
        parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in color.normalized]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    app = chat(InstantEngine(ANSWER), Settings(theme="high-contrast"))
    app.theme = "high-contrast"
    shown = app.get_css_variables()
    for name in ("foreground", "primary", "accent", "warning", "error", "text-muted", "text-disabled"):
        assert (luminance(Color.parse(shown[name])) + 0.05) / (luminance(Color.parse(shown["surface"])) + 0.05) > 7, (
            name
        )


@pytest.mark.asyncio
async def test_the_palette_has_the_chats_own_commands(sessions: SessionStore) -> None:
    async with chat(SavingEngine(ANSWER, sessions)).run_test() as pilot:
        commands = {command.title: command for command in pilot.app.get_system_commands(pilot.app.screen)}
        assert {"Theme", "Source", "Sessions", "Copy", "Wrong source", "Scope", "Everything"} <= commands.keys()
        await saved(pilot)
        commands["Right"].callback()
        await until(pilot, lambda: bool(sessions.judged()))
        commands["Scope"].callback()
        assert pilot.app.query_one(QuestionBox).value == "/scope "


@pytest.mark.asyncio
async def test_forty_columns_are_enough(notes: Path) -> None:
    (notes / "a.md").write_text("Serviced on 14 March.")
    source = replace(SOURCE, path=str(notes / "a.md"))
    async with chat(InstantEngine(replace(ANSWER, sources=[source]))).run_test(size=(40, 20)) as pilot:
        card = await answered(pilot)
        for part in card.query("Static"):
            if part.display:
                assert part.region.right <= 40
        await pilot.press("ctrl+s")
        pane = pilot.app.query_one(SourcePane)
        await until(pilot, lambda: pane.query_one(TextArea).selected_text == "14 March")
        assert (pane.region.width, pilot.app.query_one(Cards).display) == (40, False)
        await pilot.press("escape")
        assert pilot.app.query_one(Cards).display


@pytest.mark.asyncio
async def test_without_colour_a_chosen_card_and_the_answer_are_still_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = chat(InstantEngine(ANSWER))
    assert app.no_color
    async with app.run_test(size=(80, 24)) as pilot:
        card = await answered(pilot)
        before = card.styles.border_left
        await pilot.press("ctrl+up")
        assert card.styles.border_left[0] != before[0]
        assert [span.style for span in content(card, ".quote").spans] == ["bold underline"]


# time


class Stopwatch:
    """
    Each step of a handler or action of ours, between two awaits.

    A busy machine may stretch any step, so each is measured by the processor time of its thread, and by the clock for
    the half second that everything slow here sleeps: waiting takes no processor time.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[float, float, str]] = []
        """(seconds of the processor, seconds of waiting, name)."""
        for module in (textual.app, textual.message_pump):
            monkeypatch.setattr(module, "invoke", self._measured(module.invoke))

    def _measured(self, invoke: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Awaitable[Any]]:
        @types.coroutine
        def drive(callback: Callable[..., Any], *arguments: Any) -> Generator[Any, Any, Any]:
            running = invoke(callback, *arguments)
            sent = None
            while True:
                began, used = time.perf_counter(), time.thread_time()
                try:
                    awaited = running.send(sent)
                except StopIteration as done:
                    return done.value
                finally:
                    if (getattr(callback, "__module__", None) or "").startswith(("app.chat", __name__)):
                        spent = time.thread_time() - used
                        self.steps.append((spent, time.perf_counter() - began - spent, callback.__qualname__))
                sent = yield awaited

        return drive

    @property
    def names(self) -> set[str]:
        """What was measured."""
        return {name for _, _, name in self.steps}

    def check(self) -> None:
        """No step took 50 ms."""
        assert max(self.steps)[0] < 0.05, max(self.steps)
        slept = max(self.steps, key=lambda step: step[1])
        assert slept[1] < 0.4, slept


def handlers() -> set[str]:
    """Every method of the chat that Textual calls: of messages, events, keys."""
    classes = [
        found
        for module in (app.chat.app, app.chat.box, app.chat.cards, app.chat.pane, app.chat.screens, app.chat.workers)
        for found in vars(module).values()
        if isinstance(found, type) and found.__module__ == module.__name__
    ]
    found = set()
    for each in classes:
        for decorated in each.__dict__.get("_decorated_handlers", {}).values():
            found |= {handler.__qualname__ for handler, _ in decorated}
        found |= {method.__qualname__ for name, method in vars(each).items() if name.startswith(("action_", "on_"))}
    return found


@pytest.mark.asyncio
async def test_every_handler_takes_under_fifty_milliseconds_while_a_slow_reader_reads(
    monkeypatch: pytest.MonkeyPatch, sessions: SessionStore, notes: Path
) -> None:
    """All of them, whatever the engine does, over a note of 5,000 lines and a session of many questions."""
    monkeypatch.chdir(notes)
    monkeypatch.setenv("HOME", str(notes))
    (notes / "a.md").write_text("Serviced on 14 March.\n" * 5_000)
    (notes / "folder").mkdir()
    quote = "Serviced on 14 March."
    source = replace(SOURCE, path=str(notes / "a.md"), line=6, quote=quote, marked=(12, 20), start=122, end=130)
    found = replace(TWO, sources=[source], places=[source, OTHER])
    for _ in range(60):
        sessions.add_turn(1 if sessions.sessions() else None, turn_of("long?", None, "", found, NOW))
    watch = Stopwatch(monkeypatch)

    class Slow(SlowEngine):
        """Every call takes long, and one question is written word by word."""

        def __init__(self) -> None:
            super().__init__()
            self.sessions = sessions

        def status(self) -> str:
            time.sleep(0.5)
            return "slow"

        def count_notes(self, scope: Scope) -> int:
            time.sleep(0.5)
            return 1

        def notes(self) -> int:
            time.sleep(0.5)
            return 1

        def rescan(self, progress: Progress, cancelled: Callable[[], bool]) -> list[str]:
            progress(Indexed(1, 2, first=True))
            time.sleep(0.5)
            return ["a notice"]

        def ask(
            self, question: str, *, scope: Scope, cancelled: Callable[[], bool], told: Callable[[str], None]
        ) -> Answer:
            if question == "slow":
                return super().ask(question, scope=scope, cancelled=cancelled, told=told)
            told("14")
            time.sleep(0.5)
            if question == "refused":
                raise StoreError("no")
            return found

    engine = Slow()
    async with chat(engine).run_test(size=(110, 30)) as pilot:
        await opened(pilot)
        await until(pilot, lambda: not pilot.app._indexed)  # type: ignore[attr-defined]
        await ask(pilot, "/scope tag:idea")
        await until(pilot, lambda: "1 note" in content(pilot.app.screen, "#scope").plain)
        await ask(pilot, "slow")
        await until(pilot, engine.reading.is_set)
        await pilot.press("h", "i", "escape", "tab")
        await answered(pilot, "refused")
        card = await answered(pilot, "when?")
        await until(pilot, lambda: card.saved is not None)
        await pilot.press("ctrl+s")
        await until(pilot, lambda: pilot.app.query_one(SourcePane).query_one(TextArea).selected_text == "14 March")
        await pilot.press(
            "pagedown", "pageup", "ctrl+n", "ctrl+d", "escape", "ctrl+t", "ctrl+up", "escape", "ctrl+y", "ctrl+b"
        )
        monkeypatch.setenv("EDITOR", "")
        monkeypatch.setenv("VISUAL", "")
        await pilot.press("ctrl+o", "f5", "up", "down", "f6", "x", "enter")
        await pilot.click(card)
        await until(pilot, lambda: any("kept" in notice for notice in notices(pilot)))
        await pilot.press("f1", "escape", "ctrl+r")
        options = pilot.app.screen.query_one(OptionList)
        await until(pilot, lambda: options.option_count == 2)
        await pilot.press("down", "up", "f3", "f8")
        await until(pilot, lambda: any(notes.glob("session-*.md")))
        await pilot.press("f2", "x", "enter")
        await until(pilot, lambda: options.option_count == 2)
        await pilot.press("l", "o", "n", "g")
        await until(pilot, lambda: options.option_count == 1)
        await pilot.press("enter")
        await until(pilot, lambda: len(cards(pilot)) == MOST_CARDS)
        await pilot.press("ctrl+r")
        options = pilot.app.screen.query_one(OptionList)
        await until(pilot, lambda: options.option_count == 2)
        await pilot.click(options, offset=(3, 0))
        await until(pilot, lambda: not isinstance(pilot.app.screen, SessionsScreen))
        await pilot.press("ctrl+l", "ctrl+f")
        tree = pilot.app.screen.query_one(DirectoryTree)
        await until(pilot, lambda: len(tree.root.children) == 1)
        tree.focus()
        await pilot.press("down", "enter")
        box = pilot.app.screen.query_one(Input)
        await until(pilot, lambda: box.value == str(notes / "folder"))
        await pilot.press("enter")
        await until(pilot, lambda: any("indexed: ask away" in notice for notice in notices(pilot)))

    def fail() -> Engine:
        raise StoreError("no")

    async with ChatApp(fail).run_test() as pilot:
        await until(pilot, lambda: not pilot.app.is_running)
    assert handlers() - watch.names == set()
    watch.check()


@pytest.mark.parametrize("slow", [lambda: time.sleep(0.5), lambda: sum(range(10_000_000))], ids=["sleeps", "computes"])
@pytest.mark.asyncio
async def test_a_handler_that_is_slow_would_be_seen(monkeypatch: pytest.MonkeyPatch, slow: Callable[[], Any]) -> None:
    def action_details(self: ChatApp) -> None:
        slow()

    monkeypatch.setattr(ChatApp, "action_details", action_details)
    watch = Stopwatch(monkeypatch)
    async with chat(InstantEngine(ANSWER)).run_test() as pilot:
        await pilot.press("ctrl+d")
    with pytest.raises(AssertionError):
        watch.check()


# settings


def test_the_settings_of_the_chat_are_read_from_their_table(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    assert load_settings(file) == Settings()
    file.write_text('device = "cpu"\n[chat]\ntheme = "nord"\nfollow_ups = false\n[chat.keys]\n"chat.open" = "ctrl+e"\n')
    assert load_settings(file) == Settings(theme="nord", follow_ups=False, keys={"chat.open": "ctrl+e"})
    for wrong in ("chat = 1", "[chat]\nsave = 1", "[chat]\nthem = 'x'", "[chat.keys]\n'chat.open' = 1"):
        file.write_text(wrong)
        with pytest.raises(UsageError, match=r"config.toml has the entry chat.*: known are theme"):
            load_settings(file)
    file.write_text("[chat")
    with pytest.raises(UsageError, match="cannot be read"):
        load_settings(file)
