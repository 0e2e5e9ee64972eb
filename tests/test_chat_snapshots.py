"""
What the chat looks like, as SVG: fixed answers and a fixed clock through the real widgets.

After a change that is meant: pytest tests/test_chat_snapshots.py --snapshot-update, and look at the files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("pytest_textual_snapshot")

from dataclasses import replace

from textual.pilot import Pilot
from textual.widgets import OptionList, TextArea

from app.assistant import Answer, Candidate, Source, Timings
from app.chat.app import ChatApp
from app.chat.cards import Welcome
from app.chat.pane import SourcePane
from app.chat.screens import Help
from app.chat.settings import Settings
from app.note import Excerpt
from app.sessions import turn_of
from store.sessions import SessionStore
from store.tokens import TokenStore
from tests.test_chat import InstantEngine, answered, until

NOW = 1_800_000_000.0
QUOTE = "The boiler in the cellar was serviced on 14 March 2024 by Hansen & Son."
SOURCE = Source(
    "/notes/house/heating.md", 8, None, "Heating > Boiler", QUOTE, (41, 54), 100, 113, False, NOW - 86_400 * 500
)
SPRING = Source(
    "/notes/house/log.md", 31, None, "Log", "It will be due in the spring of 2026.", (18, 36), 5, 23, True, NOW
)
ANSWER = Answer(
    question="When was the boiler serviced?",
    answer="14 March 2024",
    confidence=0.95,
    abstained=False,
    sources=[SOURCE],
    candidates=[
        Candidate("14 March 2024", 0.95, SOURCE.path, 8),
        Candidate("the spring of 2026", 0.03, SPRING.path, 31),
    ],
    timings_ms=Timings(12.0, 1.0, 67.0, 80.0),
    places=[SOURCE, SPRING],
)
ABSTAINED = replace(ANSWER, answer=None, confidence=0.1, abstained=True, sources=[SOURCE, SPRING])
NOTE = Excerpt(
    "# Boiler\n\n" + QUOTE + " They replaced the pressure valve and\ncleaned the heat exchanger.\n\n## Radiators\n\n"
    "Bleed them every October, starting on the ground floor.\n",
    6,
    (10 + 41, 10 + 54),
)

Compare = Callable[..., bool]
Steps = Callable[[Pilot[None]], object]


def chat(engine: InstantEngine, settings: Settings | None = None) -> ChatApp:
    return ChatApp(lambda: engine, settings, clock=lambda: NOW)  # type: ignore[arg-type,return-value]


async def settled(pilot: Pilot[None]) -> None:
    """Wait until the notes are open and counted and nothing runs any more: what is drawn then is always the same."""
    app = pilot.app
    assert isinstance(app, ChatApp)
    await until(pilot, lambda: app._notes is not None)
    await app.workers.wait_for_complete()
    await pilot.pause()


async def asked(pilot: Pilot[None]) -> None:
    await settled(pilot)
    await answered(pilot, "When was the boiler serviced?")


def test_an_answer(snap_compare: Compare) -> None:
    assert snap_compare(chat(InstantEngine(ANSWER)), run_before=asked)


def test_an_answer_in_high_contrast_with_details(snap_compare: Compare) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await asked(pilot)
        await pilot.press("ctrl+up", "ctrl+n", "ctrl+d")

    assert snap_compare(chat(InstantEngine(ANSWER), Settings(theme="high-contrast")), run_before=steps)


def test_nothing_in_the_notes(snap_compare: Compare) -> None:
    assert snap_compare(chat(InstantEngine(ABSTAINED)), run_before=asked)


async def with_source(pilot: Pilot[None]) -> None:
    await asked(pilot)
    await pilot.press("ctrl+s")
    shown = pilot.app.query_one(SourcePane).query_one(TextArea)
    await until(pilot, lambda: shown.selected_text == "14 March 2024")


@pytest.mark.parametrize("size", [(120, 30), (40, 24)], ids=["wide", "narrow"])
def test_a_source(snap_compare: Compare, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    monkeypatch.setattr("app.chat.workers.excerpt", lambda source: NOTE)
    assert snap_compare(chat(InstantEngine(ANSWER)), terminal_size=size, run_before=with_source)


def test_a_narrow_terminal(snap_compare: Compare) -> None:
    assert snap_compare(chat(InstantEngine(ANSWER)), terminal_size=(40, 24), run_before=asked)


class EmptyEngine(InstantEngine):
    """Has no notes yet."""

    def notes(self) -> int:
        return 0

    def status(self) -> str:
        return "no notes yet"


def test_a_first_run(snap_compare: Compare) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await settled(pilot)
        await until(pilot, lambda: "no notes yet" in str(pilot.app.query_one(Welcome).visual))

    assert snap_compare(chat(EmptyEngine(ANSWER)), run_before=steps)


def test_help(snap_compare: Compare) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await settled(pilot)
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(pilot.app.screen, Help))

    assert snap_compare(chat(InstantEngine(ANSWER)), terminal_size=(100, 60), run_before=steps)


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_sessions(snap_compare: Compare, store: TokenStore, utc: None) -> None:
    engine = InstantEngine(ANSWER)
    engine.sessions = SessionStore.open(store.path)
    for day, question in enumerate(("Who repaired the fence?", "When was the boiler serviced?")):
        engine.sessions.add_turn(None, turn_of(question, None, "", ANSWER, 1_790_000_000 + 86_400 * day))

    async def steps(pilot: Pilot[None]) -> None:
        await settled(pilot)
        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(pilot.app.screen.query(OptionList)) == 1)
        await until(pilot, lambda: pilot.app.screen.query_one(OptionList).option_count == 2)
        await settled(pilot)

    assert snap_compare(chat(engine), run_before=steps)
