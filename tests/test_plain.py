"""The chat line by line: what is printed where, and that nothing steers a terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from app.chat.engine import AssistantEngine
from app.chat.plain import PlainChat
from app.chat.settings import Settings
from app.places import Places
from store.errors import StoreError, UsageError
from store.sessions import SessionStore
from store.tokens import TokenStore
from tests.conftest import Run, piped
from tests.test_chat import ABSTAINED, ANSWER, SOURCE, InstantEngine

NOW = 1_800_000_000.0


def talked(engine: object, lines: str, settings: Settings | None = None, resume: int | None = None) -> tuple[str, str]:
    """What stdout and stderr get for some lines."""
    out, talk = io.StringIO(), io.StringIO()
    chat = PlainChat(engine, settings or Settings(), io.StringIO(lines), out, talk, resume=resume, clock=lambda: NOW)  # type: ignore[arg-type]
    chat.run()
    return out.getvalue(), talk.getvalue()


def test_question_answer_and_source_are_lines() -> None:
    source = replace(SOURCE, stale=True, modified=NOW - 86_400 * 3)
    out, talk = talked(InstantEngine(replace(ANSWER, sources=[source])), "when?\n\n/more\n")
    assert out.splitlines() == [
        "Question: when?",
        "Answer: 14 March",
        "Sentence: Serviced on 14 March by Ortega, who replaced the valve.",
        "Source: /notes/boiler.md:42, House > Boiler, 3 days old, changed since indexed",
        "Confidence: likely, 83%",
        "",
        "Candidate: last spring, 31%, /notes/log.md:7",
        "Time: retrieve 12 ms · load 6 ms · read 104 ms",
    ]
    assert talk.splitlines() == ["2 notes · 3 passages · all local. Type a question; /help lists commands."]


def test_an_abstention_and_an_error_are_lines_too() -> None:
    out, _ = talked(InstantEngine(ABSTAINED), "when?\n")
    assert "Answer: not in your notes\nClosest: Serviced on 14 March" in out
    out, talk = talked(InstantEngine(UsageError("the question has 10,001 characters")), "when?\nwho?\n")
    assert talk.count("the question has 10,001 characters") == 2
    assert "Answer" not in out


def test_nothing_that_could_steer_a_terminal_is_printed() -> None:
    quote = "see \x1b[2J\r\x07gone"
    engine = InstantEngine(replace(ANSWER, answer="\x1b[31mred", sources=[replace(SOURCE, quote=quote)]))
    out, talk = talked(engine, "\x1b[2Jwhen?\n/scope tag:idea\n/nonsense\n")
    assert not set(out + talk) & {"\x1b", "\r", "\x07"}
    assert "there is no command /nonsense" in talk
    assert "asking 12 notes in tag:idea" in talk


def test_a_follow_up_is_said_and_can_be_switched_off() -> None:
    engine = InstantEngine(ANSWER)
    lines = "How much did it rain in 2022?\nand in 2023?\n/follow off\nand in 2024?\n/quit\nnever?\n"
    out, _ = talked(engine, lines)
    assert "Question: and in 2023?\nRead as: How much did it rain in 2023?\nAnswer" in out
    assert engine.asked[1:] == ["How much did it rain in 2023?", "and in 2024?"]


def test_it_is_saved_judged_and_resumed(store: TokenStore) -> None:
    engine = InstantEngine(ANSWER)
    engine.sessions = SessionStore.open(store.path)
    talked(engine, "/right\nwhen?\n/right\nwho?\n/wrong Ortega\n")
    (session,) = engine.sessions.sessions()
    assert [(t.verdict, t.correction) for t in engine.sessions.judged()] == [
        ("right", None),
        ("wrong answer", "Ortega"),
    ]
    out, talk = talked(engine, "why?\n", resume=session.id)
    assert out.startswith("Question: when?\nAnswer: 14 March")
    assert "resumed when?" in talk
    assert engine.sessions.sessions()[0].turns == 3
    with pytest.raises(UsageError, match="there is no session 9"):
        talked(engine, "", resume=9)


def test_the_command_reads_a_pipe_and_answers(run: Run, own_sample: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", piped("When was the boiler serviced?\nby whom?\n"))
    outcome = run("chat", "--plain", "--no-rescan")
    assert outcome.code == 0
    assert "Answer: 14 March 2024\n" in outcome.out
    assert "Read as: by whom? boiler serviced\nAnswer: Hansen & Son\n" in outcome.out
    with SessionStore.open(own_sample.store) as sessions:
        assert [session.turns for session in sessions.sessions()] == [2]
    monkeypatch.setattr("sys.stdin", piped("When was the boiler serviced?\n"))
    run("chat", "--plain", "--no-rescan", "--no-save")
    with SessionStore.open(own_sample.store) as sessions:
        assert len(sessions.sessions()) == 1


@pytest.mark.parametrize("arguments", [["chat", "--plain"], ["chat", "--json"]])
def test_input_that_is_not_utf_8_is_one_sentence(
    run: Run, own_sample: Places, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr("sys.stdin", piped(b"caf\xe9?\n"))
    outcome = run(*arguments, "--no-rescan")
    assert (outcome.code, outcome.out) == (2, "")
    said = outcome.err.splitlines()[-1]
    assert said == "btr-assistant: standard input is not UTF-8 (invalid continuation byte): convert it"


def test_utf_8_is_read_whatever_the_locale_and_with_its_mark(
    run: Run, own_sample: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", piped("\ufeff/scope tag:idea\nWo ist der Schlüssel?\n"))
    outcome = run("chat", "--plain", "--no-rescan", "--no-save")
    assert (outcome.code, outcome.out.splitlines()[0]) == (0, "Question: Wo ist der Schlüssel?")
    assert "in tag:idea" in outcome.err


def test_a_dumb_terminal_gets_lines(run: Run, own_sample: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("app.cli_sessions.on_terminal", lambda: True)
    monkeypatch.setattr("sys.stdin", piped("When was the boiler serviced?\n"))
    assert "Answer: 14 March 2024\n" in run("--no-rescan").out


def test_without_notes_a_folder_can_be_given(places_of_home: Places, notes: object) -> None:
    (notes / "a.md").write_text("The boiler was serviced on 14 March 2024 by Hansen & Son.\n")  # type: ignore[operator]
    with AssistantEngine(places_of_home) as engine:
        out, talk = talked(engine.open(), f"when?\n/index {notes}\nWhen was the boiler serviced?\n")
    assert "no notes are indexed yet: give their folder with /index FOLDER" in talk
    assert "Answer: 14 March 2024" in out


@pytest.fixture
def places_of_home() -> Places:
    from app.places import resolve

    return resolve()


def test_an_older_store_is_migrated_as_the_chat_opens(own_uncompressed: Places) -> None:
    import sqlite3

    connection = sqlite3.connect(own_uncompressed.store)
    connection.executescript(
        "DROP TABLE quotes; DROP TABLE turns; DROP TABLE sessions; DROP TABLE code_blocks; DROP TABLE stale_codes;"
        "DROP TRIGGER passages_codes_ai; DROP TRIGGER passages_codes_ad; DROP TRIGGER passages_codes_au;"
        "ALTER TABLE token_bits DROP COLUMN runs; PRAGMA user_version = 3;"
        "DELETE FROM _sqlite_migrations WHERE name >= 'm004'"
    )
    connection.close()
    with pytest.raises(StoreError, match="has schema 3"):
        SessionStore.open(own_uncompressed.store)
    with AssistantEngine(own_uncompressed) as engine:
        assert engine.open().notes() == 6
        assert engine.sessions is not None
