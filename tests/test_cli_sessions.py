"""Sessions on the command line, and what was marked asked again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.assistant import Assistant
from app.places import Places
from app.sessions import answer_of, turn_of
from store.sessions import RIGHT, WRONG_ANSWER, WRONG_SOURCE, SessionStore
from tests.conftest import Run

BOILER = "When was the boiler serviced?"
PORT = "What port does the staging database listen on?"
NOT_THERE = "Who won the football world cup in 1998?"


@pytest.fixture
def kept(own_sample: Places) -> Places:
    """A store with two sessions of real answers."""
    with Assistant.open(own_sample) as assistant, SessionStore.open(own_sample.store) as sessions:
        first, _ = sessions.add_turn(None, turn_of(BOILER, None, "", assistant.ask(BOILER), 1_700_000_000))
        sessions.add_turn(first, turn_of(PORT, None, "", assistant.ask(PORT), 1_700_000_100))
        sessions.add_turn(None, turn_of(NOT_THERE, None, "", assistant.ask(NOT_THERE), 1_700_000_200))
    return own_sample


def test_a_saved_answer_comes_back_whole(kept: Places, assistant: Assistant) -> None:
    with SessionStore.open(kept.store) as sessions:
        answer = answer_of(sessions.turns(1)[0])
    fresh = assistant.ask(BOILER)
    assert (answer.answer, answer.sources, answer.candidates, answer.places) == (
        fresh.answer, fresh.sources, fresh.candidates, fresh.places,
    )  # fmt: skip
    assert answer.to_json().keys() == fresh.to_json().keys()


def test_list_search_show_rename_and_delete(run: Run, kept: Places) -> None:
    lines = run("sessions", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == ["2", "1"]
    assert lines[1].endswith(f"2 questions  {BOILER}")
    found = json.loads(run("sessions", "search", "5433", "--json").out)
    assert (found["schema_version"], [s["id"] for s in found["sessions"]]) == (1, [1])
    outcome = run("sessions", "search", "zebra")
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "No session has these words.\n")
    assert run("sessions", "rename", "1", "The cellar").code == 0
    shown = run("sessions", "show", "1").out
    assert shown.startswith("# The cellar\n\n")
    assert f"## {BOILER}\n\n**14 March 2024**\n\n> The boiler in the cellar was serviced on 14 March 2024" in shown
    assert "Not in your notes." in run("sessions", "show", "2").out
    outcome = run("sessions", "delete", "1", "--dry-run")
    assert "The cellar" in outcome.out and "Nothing was changed" in outcome.err
    assert run("sessions", "delete", "1").code == 2
    assert run("sessions", "delete", "1", "2", "--yes").code == 0
    assert run("sessions", "list").out == ""
    outcome = run("sessions", "show", "1")
    assert (outcome.code, "there is no session 1: btr-assistant sessions list" in outcome.err) == (2, True)
    assert b"world cup" not in kept.store.read_bytes()


def test_export_writes_markdown_or_json_and_overwrites_nothing(run: Run, kept: Places, tmp_path: Path) -> None:
    for name in ("a.md", "a.json"):
        assert run("sessions", "export", "1", tmp_path / name).code == 0
    assert (tmp_path / "a.md").read_text() == run("sessions", "show", "1").out
    exported = json.loads((tmp_path / "a.json").read_text())
    assert (exported["schema_version"], exported["questions"], len(exported["turns"])) == (1, 2, 2)
    assert exported["turns"][0]["outcome"]["answer"] == "14 March 2024"
    assert "marked" not in json.dumps(exported) and "places" not in exported["turns"][0]["outcome"]
    outcome = run("sessions", "export", "1", tmp_path / "a.md")
    assert (outcome.code, "is not overwritten" in outcome.err) == (2, True)
    assert run("sessions", "export", "1", tmp_path / "no" / "a.md").code == 2


def test_sessions_without_a_store_say_what_to_do(run: Run) -> None:
    outcome = run("sessions", "list")
    assert (outcome.code, "run btr-assistant index FOLDER first" in outcome.err) == (3, True)


def judge(sessions: SessionStore, number: int, verdict: str, correction: str | None = None) -> None:
    """Keep what a person said to a turn of this number."""
    (key,) = [turn.key for s in sessions.sessions() for turn in sessions.turns(s.id) if turn.id == number]
    sessions.judge(key, verdict, correction)


def test_what_was_marked_is_asked_again(run: Run, kept: Places, tmp_path: Path) -> None:
    outcome = run("eval", "--mine")
    assert (outcome.code, "nothing is marked yet: press F5" in outcome.err) == (2, True)
    with SessionStore.open(kept.store) as sessions:
        judge(sessions, 1, RIGHT)
        judge(sessions, 2, WRONG_ANSWER, "5432")
        judge(sessions, 3, RIGHT)
    figures = json.loads(run("eval", "--mine", "--json").out)
    assert {name: figures[name] for name in ("questions", "right", "wrong", "changed", "mended", "lost")} == {
        "questions": 3, "right": 2, "wrong": 1, "changed": 0, "mended": 0, "lost": 0,
    }  # fmt: skip
    assert figures["em"] == 50.0
    assert [row["right"] for row in figures["rows"]] == [True, False, True]
    shown = run("eval", "--mine").out
    assert shown.splitlines()[-1].startswith("3 questions: 2 right, 1 wrong")
    assert "(expected: 5432)" in shown
    rows = run("eval", "--mine", "--rows").out
    assert [json.loads(line) for line in rows.splitlines()] == [
        {"question": BOILER, "answers": ["14 March 2024"]},
        {"question": PORT, "answers": ["5432"]},
        {"question": NOT_THERE, "answers": []},
    ]
    (tmp_path / "mine.jsonl").write_text(rows)
    assert run("eval", tmp_path / "mine.jsonl", "--open").code == 0


def test_of_a_wrong_answer_or_source_only_another_one_counts(run: Run, kept: Places) -> None:
    with SessionStore.open(kept.store) as sessions:
        judge(sessions, 1, WRONG_SOURCE)
        judge(sessions, 2, WRONG_ANSWER)
        judge(sessions, 3, WRONG_ANSWER, "")
    figures = json.loads(run("eval", "--mine", "--json").out)
    assert [row["right"] for row in figures["rows"]] == [False, False, True]
    assert "(expected: 14 March 2024, from another source)" in run("eval", "--mine").out
    with SessionStore.open(kept.store) as sessions:
        sql = "UPDATE turns SET outcome = json_set(outcome, '$.answer', '9', '$.sources[0].start', 0)"
        sessions._connection.execute(sql)
        judge(sessions, 1, WRONG_SOURCE)
    figures = json.loads(run("eval", "--mine", "--json").out)
    assert [row["right"] for row in figures["rows"]][1] is None
    assert figures["changed"] == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["x.jsonl", "--mine"], "leave the FILE out"), (["--rows"], "--rows needs --mine"), ([], "give a FILE")],
)
def test_what_cannot_be_meant_is_refused(run: Run, arguments: list[str], says: str) -> None:
    outcome = run("eval", *arguments)
    assert (outcome.code, says in outcome.err) == (2, True)
