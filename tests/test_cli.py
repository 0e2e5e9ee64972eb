"""
The command line: data on stdout, talk on stderr, one sentence and one exit code for everything that can go wrong.

Exit codes: 0 done or answered, 1 nothing found or not in your notes, 2 usage, 3 store, 4 bundle, 5 some files failed,
130 interrupted.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
import pytest

from app import __version__, cli
from app.chat.settings import Settings
from app.cli_index import _ProgressLine
from app.formats.base import decode
from app.indexer import Progress, writer_lock
from app.places import EMBEDDED_BUNDLE, Places, resolve
from store.bundle import MANIFEST, UPPER
from tests.conftest import Outcome, Run, contents, rows
from tests.pdfs import pdf

QUESTION = "When was the boiler serviced?"
NOT_IN_NOTES = "Who won the football world cup in 1998?"
BOILER = "The boiler in the cellar was serviced on 14 March 2024 by Hansen & Son.\n"


def execute(sql: str, path: Path) -> None:
    """Change a store behind the program's back."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(sql)
    connection.close()


def refused(outcome: Outcome, code: int, *says: str) -> None:
    """Nothing on stdout, one sentence on stderr, and the exit code."""
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.startswith("btr-assistant: ")
    assert outcome.err.count("\n") == 1
    for words in says:
        assert words in outcome.err


def typed(value: Any) -> Any:
    """The shape of a JSON value: keys in order, with the type of each; of a list, the shape of its first item."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(value[0])] if value else []
    return type(value).__name__


# what it is for


def test_index_then_ask_then_status(run: Run, notes: Path, home: Path) -> None:
    (notes / "a.md").write_text(f"# Boiler\n\n{BOILER}")
    outcome = run("index", notes)
    assert (outcome.code, outcome.out) == (0, "")
    assert "1 note: 1 indexed, 0 unchanged, 0 removed, 0 failed" in outcome.err
    outcome = run("ask", QUESTION)
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert "14 March 2024" in lines[0]
    assert f"[{lines[0]}]" in lines[2]
    assert lines[3].endswith("a.md:3  Boiler")
    assert lines[4].startswith("  confidence ")
    assert outcome.err == ""
    outcome = run("status")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"source     {notes}" in outcome.out
    assert oct((home / "store.db").stat().st_mode & 0o777) == "0o600"
    assert oct(home.stat().st_mode & 0o777) == "0o700"


def test_a_second_index_changes_nothing_and_says_so(run: Run, notes: Path, home: Path) -> None:
    (notes / "a.md").write_text(BOILER)
    run("index", notes)
    before = contents(home / "store.db")
    outcome = run("index", notes)
    assert "0 indexed, 1 unchanged" in outcome.err
    assert contents(home / "store.db") == before
    assert run("index", "-q", notes).err == ""


def test_a_relative_folder_is_indexed_by_its_full_path(run: Run, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (notes / "a.md").write_text(BOILER)
    monkeypatch.chdir(notes.parent)
    run("index", notes.name)
    assert rows(resolve().store, "SELECT root FROM sources") == [(str(notes),)]


def test_what_is_not_in_the_notes_is_said_with_the_closest_passages(run: Run, own_sample: Places) -> None:
    outcome = run("ask", NOT_IN_NOTES)
    assert outcome.code == 1
    assert outcome.out.startswith("Not in your notes.\nClosest passages:\n  ")
    assert len(outcome.out.splitlines()) == 6


def test_what_is_not_found_while_notes_are_indexed_may_still_come(run: Run, own_sample: Places) -> None:
    with writer_lock(resolve().lock):
        outcome = run("ask", NOT_IN_NOTES)
        assert (outcome.code, outcome.err.startswith("Notes are being indexed at the moment")) == (1, True)
        assert "being indexed" in run("search", "xyzzy", "--in", "folder:nowhere").err
        assert run("ask", QUESTION).err == ""
    assert run("ask", NOT_IN_NOTES).err == ""


def test_an_answer_from_a_file_that_changed_says_so(run: Run, notes: Path) -> None:
    (notes / "a.md").write_text(BOILER)
    run("index", notes)
    (notes / "a.md").write_text("Changed.\n" + BOILER)
    outcome = run("ask", QUESTION)
    assert outcome.code == 0
    assert "a.md:1  a  (changed since it was indexed)\n" in outcome.out


def test_a_store_without_passages_finds_nothing(run: Run, notes: Path) -> None:
    (notes / "a.md").write_text("")
    assert run("index", notes).code == 0
    assert run("search", "boiler") == Outcome(1, "", "Nothing found.\n")
    assert run("ask", QUESTION).out.startswith("Not in your notes.\n  confidence 0%")
    outcome = run("search", "--json", "boiler")
    assert (outcome.code, json.loads(outcome.out)["results"]) == (1, [])


def test_without_a_command_the_chat_opens_over_the_places_of_the_flags(
    run: Run, own_sample: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[Path, dict[str, object]]] = []

    def run_chat(places: Places, settings: Settings, **options: object) -> None:
        opened.append((places.store, options))

    monkeypatch.setattr("app.chat.run_chat", run_chat)
    refused(run("--store", own_sample.store), 2, "the chat needs a terminal: use btr-assistant ask", "chat --plain")
    refused(run("chat"), 2, "the chat needs a terminal")
    monkeypatch.setattr("app.cli_sessions.on_terminal", lambda: True)
    for arguments in ([], ["--no-rescan"], ["chat"], ["chat", "--no-save", "--resume", 3, "--no-rescan"]):
        assert run("--store", own_sample.store, *arguments) == Outcome(0, "", "")
    usual = {"rescan": True, "save": True, "resume": None}
    assert [options for _, options in opened] == [
        usual,
        {**usual, "rescan": False},
        usual,
        {"rescan": False, "save": False, "resume": 3},
    ]
    assert {store for store, _ in opened} == {own_sample.store}


def test_a_bug_is_told_from_an_abstention(
    own_sample: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("app.assistant.Assistant.ask", broken)
    monkeypatch.setattr(sys, "argv", ["btr-assistant", "--store", str(own_sample.store), "ask", QUESTION])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 70
    error = capsys.readouterr().err
    assert "ZeroDivisionError" in error
    assert error.endswith("this is a bug, please report it with the lines above\n")


HELP = [["sources", "-h"], ["sources", "remove", "-h"], ["cleanup", "-h"], ["watch", "-h"]]


def test_help_and_version_need_nothing(run: Run) -> None:
    assert run("--version") == Outcome(0, f"btr-assistant, version {__version__}\n", "")
    for arguments in (["-h"], ["index", "-h"], ["ask", "--help"], ["search", "-h"], ["status", "-h"], *HELP):
        outcome = run(*arguments)
        assert (outcome.code, outcome.err) == (0, "")
        assert "Usage: " in outcome.out


# machine-readable output

SOURCE = {
    "path": "str",
    "line": "int",
    "page": "NoneType",
    "heading": "str",
    "quote": "str",
    "start": "int",
    "end": "int",
    "stale": "bool",
}
ANSWER = {
    "schema_version": "int",
    "question": "str",
    "answer": "str",
    "confidence": "float",
    "abstained": "bool",
    "sources": [SOURCE],
    "candidates": [{"answer": "str", "confidence": "float", "path": "str", "line": "int"}],
    "timings_ms": {"retrieve": "float", "load": "float", "read": "float", "total": "float"},
}


def test_ask_json_has_its_shape_and_points_into_the_file(run: Run, own_sample: Places) -> None:
    outcome = run("ask", "--json", QUESTION)
    assert (outcome.code, outcome.err) == (0, "")
    answer = json.loads(outcome.out)
    assert typed(answer) == ANSWER
    assert (answer["schema_version"], answer["abstained"]) == (1, False)
    (source,) = answer["sources"]
    text = decode(Path(source["path"]).read_bytes())
    assert text[source["start"] : source["end"]] == answer["answer"]
    assert source["quote"] in text


def test_ask_json_has_the_same_shape_when_it_abstains(run: Run, own_sample: Places) -> None:
    outcome = run("ask", "--json", NOT_IN_NOTES)
    assert outcome.code == 1
    answer = json.loads(outcome.out)
    assert typed(answer) == ANSWER | {"answer": "NoneType"}
    assert (answer["answer"], answer["abstained"]) == (None, True)


def test_search_json_has_its_shape(run: Run, own_sample: Places) -> None:
    outcome = run("search", "--json", "-n", "2", " boiler ")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    result = {"path": "str", "line": "int", "page": "NoneType", "heading": "str", "text": "str", "score": "float"}
    assert typed(found) == {"schema_version": "int", "query": "str", "results": [result]}
    assert (found["schema_version"], found["query"], len(found["results"])) == (1, "boiler", 2)


def test_search_prints_a_place_and_a_line_for_each_passage(run: Run, own_sample: Places) -> None:
    outcome = run("search", "-n", "3", "boiler")
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) == 6
    assert "heating.md:6  Heating > Boiler" in outcome.out


def test_status_json_has_its_shape_and_counts_bits_and_codes_only(run: Run, own_uncompressed: Places) -> None:
    outcome = run("status", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    assert typed(found) == {
        "schema_version": "int",
        "notes": "int",
        "passages": "int",
        "tokens": "int",
        "failed": "int",
        "deleted": "int",
        "store_bytes": "int",
        "bytes_per_token": "float",
        "bytes_per_token_parts": dict.fromkeys(("bits", "scales", "masks", "passage_codes"), "float"),
        "bytes_per_token_instead": dict.fromkeys(("uncompressed", "float32", "float16", "int8", "from_text"), "float"),
        "word_index_bytes_per_token": "float",
        "offline_ratio": "NoneType",
        "model": "str",
        "sources": ["str"],
    }
    sizes = "SELECT SUM(LENGTH(bits) + LENGTH(scale) + LENGTH(code)) FROM passages JOIN token_bits ON passage_id = id"
    ((encoded,),) = rows(own_uncompressed.store, sizes)
    ((blocks,),) = rows(
        own_uncompressed.store, "SELECT SUM(LENGTH(places) + LENGTH(owners) + LENGTH(codes)) FROM code_blocks"
    )
    assert (found["notes"], found["failed"], found["schema_version"]) == (6, 0, 1)
    assert found["bytes_per_token"] == round((encoded + blocks) / found["tokens"], 2)
    assert sum(found["bytes_per_token_parts"].values()) == pytest.approx(found["bytes_per_token"], abs=0.02)
    assert found["bytes_per_token_instead"] == {
        "uncompressed": found["bytes_per_token"],
        "float32": 4 * 384,
        "float16": 2 * 384,
        "int8": 384 + 2,
        "from_text": 0,
    }
    ((words,),) = rows(own_uncompressed.store, "SELECT SUM(LENGTH(block)) FROM passages_fts_data")
    assert found["word_index_bytes_per_token"] == pytest.approx(words / found["tokens"], rel=0.05)
    assert found["store_bytes"] >= own_uncompressed.store.stat().st_size


# keeping in step


def note_files(folder: Path, **texts: str) -> None:
    """Small notes; with double underscores for folders."""
    for name, text in texts.items():
        path = folder / (name.replace("__", "/") + ".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_without_a_folder_all_sources_are_indexed_again(run: Run, notes: Path, tmp_path: Path) -> None:
    for arguments in (["index"], ["index", "--dry-run"]):
        refused(run(*arguments), 2, "no folder is known yet: give one, btr-assistant index ~/notes")
    other = tmp_path / "other"
    note_files(notes, a=BOILER)
    note_files(other, b="Beta.")
    run("index", notes, other)
    note_files(other, c="Gamma.")
    outcome = run("index")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.startswith("3 notes: 1 indexed, 2 unchanged, 0 removed, 0 failed")


def test_a_renamed_folder_is_moved_and_answers_from_its_new_place(run: Run, notes: Path) -> None:
    note_files(notes, old__heating=f"# Heating\n\n{BOILER}", old__b="Beta.")
    run("index", notes)
    (notes / "old").rename(notes / "new")
    assert run("index").err.startswith("2 notes: 0 indexed, 0 unchanged, 2 moved, 0 removed, 0 failed; 0 tokens")
    assert "new/heating.md:3" in run("ask", QUESTION).out


def test_a_deleted_note_is_kept_until_cleanup_and_not_answered_from(run: Run, notes: Path, home: Path) -> None:
    note_files(notes, a=BOILER, b="Beta.")
    run("index", notes)
    (notes / "a.md").unlink()
    assert "1 unchanged, 1 removed" in run("index").err
    assert run("ask", QUESTION).code == 1
    assert "deleted    1, kept until btr-assistant cleanup" in run("status").out
    assert json.loads(run("status", "--json").out)["deleted"] == 1
    assert run("status", "--deleted") == Outcome(0, f"{notes}/a.md\n", "")
    outcome = run("cleanup", "--dry-run")
    assert outcome == Outcome(0, f"{notes}/a.md\n", "1 deleted note would be removed. Nothing was changed.\n")
    assert b"Hansen" in (home / "store.db").read_bytes()
    outcome = run("cleanup")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.startswith("1 deleted note removed, ")
    assert b"Hansen" not in (home / "store.db").read_bytes()
    assert not (home / "store.db-wal").exists() or not (home / "store.db-wal").stat().st_size
    assert "deleted    " not in run("status").out
    assert run("cleanup").err.startswith("0 deleted notes removed")


def test_a_source_that_lost_too_much_is_left_until_it_is_allowed(run: Run, notes: Path, home: Path) -> None:
    note_files(notes, **{f"n{i}": f"Note {i}." for i in range(8)})
    run("index", notes)
    before = contents(home / "store.db")
    for i in range(5):
        (notes / f"n{i}.md").unlink()
    outcome = run("index")
    refused(outcome, 2, f"5 of 8 notes of {notes} are gone, so it was left as it is", "--allow-deletions")
    assert contents(home / "store.db") == before
    assert "8 (0 failed)" in run("status").out
    outcome = run("index", "--allow-deletions")
    assert (outcome.code, "5 removed" in outcome.err) == (0, True)


def test_an_emptied_or_missing_folder_may_be_allowed(run: Run, notes: Path) -> None:
    note_files(notes, a=BOILER)
    run("index", notes)
    (notes / "a.md").unlink()
    refused(run("index"), 2, "1 of 1 notes")
    refused(run("index", notes), 2, "indexed and are deleted now, run btr-assistant index --allow-deletions")
    notes.rmdir()
    refused(run("index"), 2, "1 of 1 notes")
    refused(run("index", notes), 2, "does not exist", "if it was indexed and is deleted", "index --allow-deletions")
    assert "1 removed" in run("index", "--allow-deletions", notes).err
    refused(run("index"), 2, "does not exist: restore it, or run btr-assistant sources remove")


def test_what_is_not_read_is_named_unless_it_should_be_quiet(run: Run, notes: Path, tmp_path: Path) -> None:
    note_files(notes, a="Alpha.")
    for i in range(25):
        (notes / f".{i:02d}.md.icloud").write_bytes(b"")
    outcome = run("index", notes)
    lines = outcome.err.splitlines()
    assert outcome.code == 0
    assert lines[0] == f"{notes}/00.md is in a cloud and not on this disk: download it, then index again"
    assert (len(lines), lines[20]) == (22, "and 5 more like these")
    assert run("index", "-q").err == ""


def test_a_dry_run_says_what_a_run_would_do(run: Run, notes: Path, home: Path) -> None:
    note_files(notes, a=BOILER, b="Beta.")
    (notes / "bad.md").write_bytes(b"\0")
    outcome = run("index", "--dry-run", notes)
    assert outcome.code == 0
    assert outcome.err.splitlines() == [
        f"{notes}/bad.md is not text, it holds zero bytes: rename it if it is no note",
        "Nothing was changed.",
    ]
    lines = outcome.out.splitlines()
    assert lines[0] == ("notes      3: 2 new, 0 changed, 0 moved, 0 restored, 0 removed, 0 unchanged, 1 cannot be read")
    assert lines[1].startswith("to encode  ") and lines[1].endswith(" tokens")
    assert "(assumed, nothing was measured here yet)" in lines[2]
    assert lines[3].startswith("room       0.0 MB")
    assert not home.exists()
    run("index", notes)
    (notes / "b.md").unlink()
    note_files(notes, a="Changed.", old="Old.")
    before = contents(home / "store.db")
    outcome = run("index", "--dry-run")
    assert outcome.out.startswith(
        "notes      3: 1 new, 1 changed, 0 moved, 0 restored, 1 removed, 0 unchanged, 1 cannot"
    )
    assert contents(home / "store.db") == before


def test_a_dry_run_shows_the_text_that_will_be_encoded(run: Run, notes: Path) -> None:
    note_files(notes, a=f"---\nsecret: yes\n---\n# Heating\n\n## Boiler\n\n{BOILER}\x1b[2J")
    outcome = run("index", "--dry-run", "--show", notes / "a.md")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[0].endswith("a.md:4  Heating")
    assert BOILER.strip() in outcome.out
    assert "secret" not in outcome.out
    assert "\x1b" not in outcome.out
    refused(run("index", "--show", notes / "a.md"), 2, "--show needs --dry-run")
    refused(run("index", "--dry-run", "--show", notes / "b.md"), 2, "b.md is gone")


def test_sources_are_listed_added_and_removed(run: Run, notes: Path, tmp_path: Path, home: Path) -> None:
    refused(run("sources", "list"), 3, "no notes are indexed yet")
    refused(run("sources", "add", tmp_path / "nowhere"), 2, "does not exist")
    note_files(notes, a=BOILER)
    note_files(tmp_path / "other", b="Beta.")
    outcome = run("sources", "add", notes)
    assert outcome == Outcome(0, "", f"added {notes}: run btr-assistant index to encode it\n")
    assert run("sources", "list").out == f"{notes}  0 notes\n"
    assert run("index").code == 0
    run("index", tmp_path / "other")
    (tmp_path / "other").rename(tmp_path / "away")
    assert run("sources", "list").out == f"{notes}  1 note\n{tmp_path}/other  1 note  (not there now)\n"
    refused(run("sources", "remove", tmp_path), 2, "is no source: btr-assistant sources list shows them")
    refused(run("sources", "remove", notes), 2, f"1 note of {notes} would be forgotten: add --yes, or --dry-run")
    assert "1 note would be forgotten. Nothing was changed." in run("sources", "remove", notes, "--dry-run").err
    assert run("ask", QUESTION).code == 0
    assert run("sources", "remove", notes, "--yes") == Outcome(0, "", f"forgot 1 note of {notes}\n")
    assert b"Hansen" not in (home / "store.db").read_bytes()
    assert (notes / "a.md").exists()
    assert run("sources", "remove", tmp_path / "other", "-y").code == 0
    assert run("sources", "list").out == ""
    refused(run("watch"), 2, "no folder is known yet")


def test_a_removal_that_is_not_confirmed_changes_nothing(
    run: Run, notes: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_files(notes, a=BOILER)
    run("index", notes)
    before = contents(home / "store.db")
    monkeypatch.setattr("app.cli_base.on_terminal", lambda: True)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    assert run("sources", "remove", notes).code == 130
    assert contents(home / "store.db") == before
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "y")
    assert run("sources", "remove", notes).code == 0
    assert contents(home / "store.db") == []


@pytest.mark.parametrize("arguments", [["cleanup"], ["sources", "remove", "NOTES", "-y"], ["sources", "add", "NOTES"]])
def test_what_writes_waits_for_its_turn(run: Run, notes: Path, arguments: list[str]) -> None:
    note_files(notes, a=BOILER)
    run("index", notes)
    with writer_lock(resolve().lock):
        given = [str(notes) if argument == "NOTES" else argument for argument in arguments]
        refused(run(*given), 3, "another index run is writing to this store")


# filters


def test_questions_and_searches_may_be_asked_of_a_part_of_the_notes(run: Run, notes: Path) -> None:
    note_files(notes, house__a=f"---\ndate: 2024-03-20\n---\n{BOILER}", work__b="The boiler room of the office. #idea")
    run("index", notes)
    assert "14 March 2024" in run("ask", QUESTION, "--in", "folder:house").out
    assert run("ask", QUESTION, "--scope", "folder:work").code == 1
    assert "a.md" not in run("search", "boiler", "--in", "tag:idea").out
    assert "b.md" not in run("search", "boiler", "--in", "date:2024", "--in", "folder:house").out
    found = json.loads(run("search", "--json", "boiler", "--in", "-tag:idea").out)
    assert [Path(result["path"]).name for result in found["results"]] == ["a.md"]
    outcome = run("search", "boiler", "--in", "folder:nowhere")
    assert outcome == Outcome(1, "", "No notes match folder:nowhere.\nNothing found.\n")
    outcome = run("ask", "--json", QUESTION, "--in", "date:2023")
    assert (outcome.code, outcome.err) == (1, "No notes match date:2023.\n")
    assert json.loads(outcome.out)["sources"] == []


def test_a_batch_is_asked_of_a_part_of_the_notes(run: Run, own_sample: Places, tmp_path: Path) -> None:
    (tmp_path / "questions").write_text(QUESTION)
    arguments = ["ask", "--batch", str(tmp_path / "questions"), "--in"]
    assert json.loads(run(*arguments, "folder:house").out)["answer"]
    assert json.loads(run(*arguments, "folder:work").out)["answer"] is None


@pytest.mark.parametrize("command", [["ask", QUESTION], ["search", "boiler"]])
@pytest.mark.parametrize("text", ["house", "", "date:soon", 'author:"Jane'])
def test_what_is_no_filter_is_refused(run: Run, own_sample: Places, command: list[str], text: str) -> None:
    refused(run(*command, "--in", text), 2, "write ")


# many questions

LINES = f"""{QUESTION}

{{"question": "What port does the staging database listen on?", "id": 7}}
   {NOT_IN_NOTES}\t
"""


def check_batch(outcome: Outcome) -> None:
    """One object a line, in order, for the three questions."""
    assert (outcome.code, outcome.err) == (0, "")
    answers = [json.loads(line) for line in outcome.out.splitlines()]
    assert [answer["question"] for answer in answers] == [
        QUESTION,
        "What port does the staging database listen on?",
        NOT_IN_NOTES,
    ]
    assert all(words in answer["answer"] for words, answer in zip(["14 March 2024", "5433"], answers, strict=False))
    assert [typed(answer) for answer in answers] == [ANSWER, ANSWER, ANSWER | {"answer": "NoneType"}]


@pytest.mark.parametrize("data", [LINES, "\ufeff" + LINES.replace("\n", "\r\n")], ids=["plain", "windows"])
def test_batch_answers_every_line_of_a_file_in_order(run: Run, own_sample: Places, tmp_path: Path, data: str) -> None:
    (tmp_path / "questions").write_bytes(data.encode())
    check_batch(run("ask", "--batch", tmp_path / "questions"))


def test_batch_answers_every_line_of_standard_input(
    run: Run, own_sample: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LINES.encode()), encoding="ascii"))
    check_batch(run("ask", "--batch", "-"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"question": 1}', "line 2 has a question that is no text: correct it"),
        (b'{"query": "x"}', "line 2 is no JSON object with a question: correct it"),
        (b'{"question": "x"', "line 2 is no JSON object with a question: correct it"),
        (b'{"question": ""}', "line 2: the question is empty"),
        (b"x" * 10_001, "line 2: the question has 10,001 characters, at most 10,000"),
        (b"caf\xe9?", "not UTF-8"),
    ],
)
def test_a_bad_line_is_one_sentence(run: Run, own_sample: Places, tmp_path: Path, line: bytes, says: str) -> None:
    (tmp_path / "questions").write_bytes(QUESTION.encode() + b"\n" + line + b"\n")
    outcome = run("ask", "--batch", tmp_path / "questions")
    assert outcome.code == 2
    assert says in outcome.err
    assert outcome.err.count("\n") == 1
    assert [json.loads(answer)["question"] for answer in outcome.out.splitlines()] in ([], [QUESTION])


def test_a_batch_without_questions_prints_nothing(run: Run, own_sample: Places, tmp_path: Path) -> None:
    (tmp_path / "questions").write_text("\n  \n")
    assert run("ask", "--batch", tmp_path / "questions") == Outcome(0, "", "")


@pytest.mark.parametrize("name", ["nothing", "."])
def test_a_batch_file_that_cannot_be_read_is_refused(run: Run, own_sample: Places, tmp_path: Path, name: str) -> None:
    refused(run("ask", "--batch", tmp_path / name), 2, "cannot read", "one question a line")


# bad input: folders and files


def test_a_missing_folder(run: Run, tmp_path: Path, home: Path) -> None:
    refused(run("index", tmp_path / "nowhere"), 2, "nowhere does not exist: give a folder of notes")
    assert not home.exists()


def test_an_empty_folder_loses_nothing_that_is_stored(run: Run, notes: Path, home: Path, tmp_path: Path) -> None:
    (notes / "a.md").write_text(BOILER)
    run("index", notes)
    before = contents(home / "store.db")
    (tmp_path / "empty").mkdir()
    refused(run("index", tmp_path / "empty"), 2, "empty holds no notes that can be read", "nothing was changed")
    (notes / "a.md").unlink()
    refused(run("index", notes), 2, "holds no notes that can be read: give a folder of notes, nothing was changed")
    assert contents(home / "store.db") == before


def test_a_file_of_another_kind(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    refused(run("index", tmp_path / "a.png"), 2, "a.png is not a note that can be read", "or a folder")


def test_files_of_every_format_that_cannot_be_read_are_listed_with_what_to_do(run: Run, notes: Path) -> None:
    (notes / "a.md").write_text(BOILER)
    broken = {
        "binary.md": random.Random(0).randbytes(4000),
        "broken.docx": b"PK",
        "broken.ipynb": b"{",
        "empty.pdf": b"",
        "protected.pdf": pdf([["secret"]], password=b"sesame"),
        "scanned.pdf": pdf([None]),
    }
    for name, data in broken.items():
        (notes / name).write_bytes(data)
    assert run("index", notes).code == 5
    listed = json.loads(run("status", "--failed", "--json").out)
    assert listed["failed"] == len(broken)
    assert [Path(failure["path"]).name for failure in listed["failures"]] == sorted(broken)
    lines = run("status", "--failed").out.splitlines()
    for failure, line in zip(listed["failures"], lines, strict=True):
        assert ": " in failure["reason"]
        assert line == f"{failure['path']} {failure['reason']}"
    assert run("ask", QUESTION).code == 0


def test_an_answer_in_a_pdf_has_its_page(run: Run, notes: Path) -> None:
    (notes / "a.pdf").write_bytes(pdf([["About the house."], [BOILER], ["About the garden."]]))
    assert run("index", notes).code == 0
    source = json.loads(run("ask", QUESTION, "--json").out)["sources"][0]
    assert source["page"] == 2
    assert f"{notes / 'a.pdf'}, page 2  a" in run("ask", QUESTION).out
    assert json.loads(run("search", "house", "--json").out)["results"][0]["page"] == 1


def test_an_answer_among_links_and_comments_is_shown_clean_and_stands_where_its_source_says(
    run: Run, notes: Path
) -> None:
    text = "---\ntags: x\n---\n%%\na secret\ncomment\n%%\n\n"
    text += "The [[Heating|boiler]] was serviced on [14 March](https://x.y) 2024.\n"
    (notes / "a.md").write_text(text)
    assert run("index", notes).code == 0
    answer = json.loads(run("ask", "When was the boiler serviced?", "--json").out)
    source = answer["sources"][0]
    assert source["quote"] == "The boiler was serviced on 14 March 2024."
    assert answer["answer"] in source["quote"]
    assert source["line"] == 9
    assert text[source["start"] : source["end"]].replace("](https://x.y)", "") == answer["answer"]
    assert f"[{answer['answer']}]" in run("ask", "When was the boiler serviced?").out
    assert "secret" not in run("search", "secret").out


def test_files_that_cannot_be_read_are_skipped_and_reported(run: Run, notes: Path) -> None:
    (notes / "a.md").write_text(BOILER)
    (notes / "binary.md").write_bytes(random.Random(0).randbytes(4000))
    (notes / "link.md").symlink_to("nowhere.md")
    outcome = run("index", notes)
    assert (outcome.code, outcome.out) == (5, "")
    lines = outcome.err.splitlines()
    assert lines[0] == f"{notes}/binary.md is not text, it holds zero bytes: rename it if it is no note"
    assert lines[1] == f"{notes}/link.md is gone, or a link that leads nowhere: restore or remove it"
    assert "3 notes: 1 indexed, 0 unchanged, 0 removed, 2 failed" in lines[2]
    assert run("index", "-q", notes) == Outcome(5, "", "\n".join(lines[:2]) + "\n")
    assert run("status", "--failed") == Outcome(0, "\n".join(lines[:2]) + "\n", "")
    assert json.loads(run("status", "--json").out)["failed"] == 2
    assert run("ask", QUESTION).code == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_keeps_its_earlier_content(run: Run, notes: Path, home: Path) -> None:
    (notes / "a.md").write_text(BOILER)
    run("index", notes)
    (notes / "a.md").write_text("Changed.\n" + BOILER)
    (notes / "a.md").chmod(0)
    outcome = run("index", notes)
    assert outcome.code == 5
    assert "cannot be read (Permission denied): check its permissions" in outcome.err
    assert "14 March 2024" in rows(home / "store.db", "SELECT text FROM passages")[0][0]


def test_a_file_whose_opening_fails_keeps_its_earlier_content(
    run: Run, notes: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (notes / "a.md").write_text(BOILER)
    (notes / "b.md").write_text("The ladder stands behind the shed.\n")
    run("index", notes)
    before = contents(home / "store.db")
    (notes / "a.md").write_text("Changed.\n" + BOILER)
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "a.md":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    outcome = run("index", notes)
    assert outcome.code == 5
    assert f"{notes}/a.md cannot be read (Permission denied): check its permissions" in outcome.err
    assert contents(home / "store.db") == before


def test_invalid_utf8_and_invalid_front_matter_are_indexed(run: Run, notes: Path) -> None:
    text = "Das Café öffnet früh, und die Brötchen sind süß. Später wird es voll.\n"
    (notes / "latin.md").write_bytes(text.encode("cp1252"))
    (notes / "front.md").write_text(f"---\ntitle: [broken\n---\n\n{BOILER}")
    outcome = run("index", notes)
    assert outcome.code == 0
    assert "2 indexed" in outcome.err
    assert f"{notes}/front.md has front matter that is no valid YAML: correct it" in outcome.err
    assert "14 March 2024" in run("ask", QUESTION).out.splitlines()[0]
    assert "Café öffnet" in run("search", "Brötchen").out


# bad input: questions


def test_an_empty_question(run: Run, own_sample: Places) -> None:
    for arguments in (["ask", ""], ["ask", "  \n "], ["search", ""]):
        refused(run(*arguments), 2, "the question is empty: type what you want to know")


def test_no_question_at_all_and_two_kinds_of_them(run: Run, own_sample: Places) -> None:
    refused(run("ask"), 2, "give a question or --batch FILE")
    refused(run("ask", QUESTION, "--batch", "-"), 2, "give a question or --batch FILE")


def test_a_question_of_ten_thousand_characters_is_read_and_one_more_refused(run: Run, own_sample: Places) -> None:
    longest = (f"{QUESTION} " * 1000)[:9_999] + "x"
    assert len(longest) == 10_000
    outcome = run("ask", "--json", longest)
    assert outcome.code in (0, 1)
    assert json.loads(outcome.out)["question"] == longest
    refused(run("ask", longest + "x"), 2, "has 10,001 characters, at most 10,000 can be read: ask a shorter one")
    refused(run("search", longest + "x"), 2, "has 10,001 characters")


@pytest.mark.parametrize("question", ["?", '"', "NOT", "(boiler* AND", "🐝", "-- --", "\udce9"])
def test_a_question_that_is_no_question_is_answered_or_not(run: Run, own_sample: Places, question: str) -> None:
    outcome = run("ask", "--json", "--", question)
    assert outcome.code in (0, 1)
    assert typed(json.loads(outcome.out)).keys() == ANSWER.keys()


# bad input: stores


@pytest.mark.parametrize("arguments", [["ask", QUESTION], ["search", "boiler"], ["status"]])
def test_no_store_yet(run: Run, home: Path, arguments: list[str]) -> None:
    refused(run(*arguments), 3, "no notes are indexed yet", "run btr-assistant index FOLDER first")
    assert not home.exists()


@pytest.mark.parametrize("arguments", [["ask", QUESTION], ["status"], ["index", "NOTES"]])
@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("PRAGMA user_version = 99", ["has schema 99, this version knows 6: upgrade btr-assistant"]),
        (
            "UPDATE settings SET value = 'feedfeedfeedfeed' WHERE key = 'fingerprint'",
            ["was made with bundle feedfeedfeedfeed", "move it away and run", "/notes", "model use"],
        ),
    ],
    ids=["newer", "other bundle"],
)
def test_a_store_that_is_newer_or_of_another_bundle_is_refused_and_kept(
    run: Run, own_sample: Places, notes: Path, arguments: list[str], sql: str, says: list[str]
) -> None:
    (notes / "a.md").write_text("New.")
    execute(sql, own_sample.store)
    before = contents(own_sample.store)
    refused(run(*(str(notes) if argument == "NOTES" else argument for argument in arguments)), 3, *says)
    assert contents(own_sample.store) == before


@pytest.mark.parametrize("arguments", [["ask", QUESTION], ["status"], ["index", "NOTES"]])
@pytest.mark.parametrize("kind", ["text", "other database", "folder"])
def test_a_file_that_is_no_store_is_refused_and_kept(
    run: Run, notes: Path, tmp_path: Path, arguments: list[str], kind: str
) -> None:
    (notes / "a.md").write_text("New.")
    path = tmp_path / "photos.db"
    if kind == "text":
        path.write_text("not SQLite at all\n" * 100)
    elif kind == "other database":
        execute("CREATE TABLE photos (name TEXT)", path)
    else:
        path.mkdir()
    before = path.read_bytes() if path.is_file() else b""
    outcome = run("--store", path, *(str(notes) if argument == "NOTES" else argument for argument in arguments))
    refused(outcome, 3, "photos.db")
    assert any(words in outcome.err for words in ("--store", "move it away", "run btr-assistant index FOLDER first"))
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_damaged_store_is_refused(run: Run, own_sample: Places) -> None:
    data = bytearray(own_sample.store.read_bytes())
    data[4096:] = random.Random(0).randbytes(len(data) - 4096)
    own_sample.store.write_bytes(data)
    refused(run("ask", QUESTION), 3, "is not a readable store", "move it away")


def test_a_place_that_cannot_be_written(run: Run, notes: Path, tmp_path: Path) -> None:
    (notes / "a.md").write_text("New.")
    (tmp_path / "file").write_text("x")
    refused(run("--store", tmp_path / "file" / "store.db", "index", notes), 3, "cannot write", "--store")


def test_a_home_that_is_a_file(run: Run, notes: Path, home: Path) -> None:
    (notes / "a.md").write_text("New.")
    home.write_text("x")
    refused(run("index", notes), 3, "cannot write", "set BTR_ASSISTANT_HOME")
    refused(run("status"), 3, "no notes are indexed yet")


def test_a_second_index_run_is_told_to_wait(run: Run, notes: Path) -> None:
    (notes / "a.md").write_text(BOILER)
    with writer_lock(resolve().lock):
        refused(run("index", notes), 3, "another index run is writing to this store: wait for it to finish")
    assert run("index", notes).code == 0


def test_questions_are_answered_while_another_run_holds_the_lock(run: Run, own_sample: Places) -> None:
    with writer_lock(resolve().lock):
        assert run("ask", QUESTION).code == 0


# bad input: bundles, devices, flags, configuration


@pytest.fixture
def bundle_copy(tmp_path: Path) -> Path:
    """A bundle that may be damaged."""
    return Path(shutil.copytree(EMBEDDED_BUNDLE, tmp_path / "bundle"))


@pytest.mark.parametrize("command", ["ask", "index"])
def test_a_corrupted_bundle(run: Run, own_sample: Places, notes: Path, bundle_copy: Path, command: str) -> None:
    (notes / "a.md").write_text("New.")
    before = contents(own_sample.store)
    with (bundle_copy / UPPER).open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))
    outcome = run("--bundle", bundle_copy, command, QUESTION if command == "ask" else notes)
    refused(outcome, 4, "upper.onnx is damaged, its hash differs", "reinstall btr-assistant or export")
    assert contents(own_sample.store) == before


@pytest.mark.parametrize("arguments", [["ask", QUESTION], ["status"]])
def test_a_missing_bundle(run: Run, own_sample: Places, tmp_path: Path, arguments: list[str]) -> None:
    for name in ("nowhere", "home"):
        outcome = run("--bundle", tmp_path / name, *arguments)
        refused(outcome, 4, "is not a bundle, it has no manifest.json: give another --bundle")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\x00", b"[]", b"1", b"{}", b'{"format_version": 1}'])
def test_a_garbage_manifest(run: Run, own_sample: Places, bundle_copy: Path, text: bytes) -> None:
    (bundle_copy / MANIFEST).write_bytes(text)
    refused(run("--bundle", bundle_copy, "ask", QUESTION), 4, "manifest.json", "export the bundle again")


@pytest.mark.parametrize("device", ["warp", "CPU"])
def test_an_absent_device_lists_those_present(run: Run, own_sample: Places, notes: Path, device: str) -> None:
    (notes / "a.md").write_text("New.")
    for arguments in (["ask", QUESTION], ["index", str(notes)]):
        outcome = run("--device", device, *arguments)
        refused(outcome, 2, f"device {device} is not present, ONNX Runtime offers: ", "cpu")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--colour"],
        ["ask", "--jsn", "x"],
        ["sources", "x"],
        ["idnex"],
        ["search"],
        ["ask", "-n", "0", "x"],
        ["ask", "a", "b"],
    ],
)
def test_flags_and_commands_that_nobody_knows(run: Run, arguments: list[str]) -> None:
    outcome = run(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert "Usage: btr-assistant" in outcome.err
    assert "Error: " in outcome.err


def test_a_configuration_that_cannot_be_used(run: Run, home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text("stroe = '/a'\n")
    refused(run("status"), 2, "config.toml has the entry stroe", "known are store, bundle, device")


# what is printed


def test_colour_only_where_it_is_wanted(own_sample: Places, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in run("ask", QUESTION).out
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda stream, color: color is False)  # a terminal
    assert run("ask", QUESTION).out.startswith("\x1b[1m")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run("ask", QUESTION).out


def test_control_characters_of_notes_never_reach_the_terminal(run: Run, notes: Path) -> None:
    text = "# Boiler \x1b[31m\r\n\r\n" + BOILER.replace("cellar was", "cellar\r\nwas\x07")
    (notes / "a\x1b[2J.md").write_bytes(text.encode())
    run("index", notes)
    for arguments in (["ask", QUESTION], ["search", "boiler"], ["ask", NOT_IN_NOTES]):
        printed = run(*arguments).out.replace("\n", "")
        assert printed.isprintable()
        assert "Boiler" in printed


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_of_a_terminal_and_leaves_nothing_behind() -> None:
    stream = Terminal()
    show = _ProgressLine(stream, quiet=False)
    for done, seconds in ((1, 0.2), (2, 0.21), (3, 0.5), (1000, 0.51)):
        show(Progress(done, 1000, 0, seconds, "/a.md"))
    show.end()
    lines = stream.getvalue().split("\r\x1b[K")
    assert [line.partition(" notes")[0] for line in lines] == ["", "1 of 1,000", "3 of 1,000", "1,000 of 1,000", ""]
    assert lines[1].endswith("5 notes/s · 3:20 left")


@pytest.mark.parametrize(("stream", "quiet"), [(io.StringIO(), False), (Terminal(), True)])
def test_progress_is_silent_in_a_pipe_and_when_told_so(stream: io.StringIO, quiet: bool) -> None:
    show = _ProgressLine(stream, quiet)
    show(Progress(1, 1, 0, 1.0, "/a.md"))
    show.end()
    assert stream.getvalue() == ""


# real processes

PROGRAM = [sys.executable, "-c", "from app.cli import main; main()"]


def process(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program as the shell starts it."""
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


def test_a_process_answers_from_notes_that_another_one_indexed(notes: Path) -> None:
    (notes / "a.md").write_text(f"# Boiler 🔥\n\n{BOILER}")
    indexed = process("index", notes)
    assert (indexed.returncode, indexed.stdout) == (0, "")
    assert "\r" not in indexed.stderr  # no progress into a pipe
    answered = process("ask", QUESTION)
    assert answered.returncode == 0
    assert "14 March 2024" in answered.stdout.splitlines()[0]
    narrow = process("ask", QUESTION, PYTHONIOENCODING="latin-1")
    assert (narrow.returncode, narrow.stderr.count("Traceback")) == (0, 0)
    assert "Boiler ?" in narrow.stdout


def test_a_process_that_fails_says_one_sentence(home: Path) -> None:
    failed = process("ask", QUESTION)
    assert (failed.returncode, failed.stdout) == (3, "")
    assert failed.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGKILL", -9)])
def test_an_index_run_that_is_stopped_keeps_its_notes_and_the_next_one_finishes(
    run: Run, notes: Path, home: Path, name: str, code: int
) -> None:
    for i in range(150):
        (notes / f"note{i:03d}.md").write_text(f"# Note {i}\n\nThis is note number {i}, with a few words.\n" * 3)
    running = subprocess.Popen(
        [*PROGRAM, "index", str(notes)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's & would have it ignored
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not stored(home / "store.db"):
            time.sleep(0.01)
        running.send_signal(getattr(signal, name))
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == code
    if name == "SIGINT":
        assert "interrupted; every note finished so far is kept, run it again to go on" in err
    assert "Traceback" not in err
    kept = stored(home / "store.db")
    assert 0 < kept < 150
    outcome = run("index", notes)
    assert outcome.code == 0
    assert f"150 notes: {150 - kept} indexed, {kept} unchanged, 0 removed, 0 failed" in outcome.err


def stored(path: Path) -> int:
    """How many notes a store holds; none where there is no store yet."""
    try:
        return int(rows(path, "SELECT COUNT(*) FROM documents")[0][0])
    except sqlite3.OperationalError:
        return 0


# measuring


def questions_file(folder: Path, times: int = 1) -> Path:
    """Questions on the sample notes, with their answers, each so many times."""
    rows = [
        {"question": QUESTION, "answers": ["14 March 2024"]},
        {"question": "Which port does the staging database listen on?", "answers": ["5433", "port 5433"]},
        {"question": NOT_IN_NOTES, "answers": [], "is_impossible": True},
        {"question": "What is my passport number?", "answers": []},
    ]
    path = folder / "questions.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows * times))
    return path


def test_eval_prints_the_figures_and_json_has_the_documented_shape(run: Run, sample: Places, tmp_path: Path) -> None:
    path = questions_file(tmp_path)
    outcome = run("--store", sample.store, "eval", path, "--open")
    assert outcome.code == 0
    assert outcome.out.startswith("binarized  2 questions, EM 100.0, F1 100.0, p50 / p95 ")
    assert "recall @1 100.0%, @5 100.0%, @20 100.0%, MRR 1.000" in outcome.out
    outcome = run("--store", sample.store, "eval", path, "--open", "--json")
    figures = json.loads(outcome.out)
    assert typed(figures) == {
        "schema_version": "int", "reader": "str", "questions": "int", "em": "float", "f1": "float",
        "recall_at_k": {"1": "float", "5": "float", "20": "float"}, "mrr": "float",
        "abstention": {
            "threshold": "float", "precision": "float", "recall": "float", "answered": "float", "auroc": "float"
        },
        "coverage": [{"coverage": "float", "risk": "float", "confidence": "float"}],
        "ms_per_question": {"p50": "float", "p95": "float"},
    }  # fmt: skip


def test_eval_refuses_what_cannot_be_measured(run: Run, sample: Places, tmp_path: Path) -> None:
    path = questions_file(tmp_path)
    refused(run("--store", sample.store, "eval", path), 2, "has no context to read", "--open")
    refused(run("--store", sample.store, "eval", path, "--without"), 2, "--without needs --open")
    refused(run("--store", sample.store, "eval", tmp_path / "none.jsonl"), 2, "cannot be read")
    refused(run("--store", sample.store, "eval", path, "--open", "--reader", "full"), 4, "--with-baselines")
    refused(run("eval", path, "--open"), 3, "index")


def test_calibrate_changes_when_the_store_answers_and_reset_undoes_it(run: Run, sample: Places, tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    shutil.copy(sample.store, store)
    path = questions_file(tmp_path, times=6)
    before = rows(store, "SELECT key, value FROM settings WHERE key != 'revision' ORDER BY key")
    outcome = run("--store", store, "calibrate", path, "--dry-run")
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines()] == ["null_logit", "temperature", "threshold"]
    assert rows(store, "SELECT key, value FROM settings WHERE key != 'revision' ORDER BY key") == before
    assert run("--store", store, "calibrate", path).out == outcome.out
    execute("UPDATE settings SET value = json_set(value, '$.null_logit', 99) WHERE key = 'calibration'", store)
    assert run("--store", store, "calibrate", path).out == outcome.out  # what is fitted does not depend on what was
    kept = dict(rows(store, "SELECT key, value FROM settings"))["calibration"]
    numbers = [f"{value:g}" for name, value in json.loads(kept).items() if name != "reader"]
    assert numbers == [line.split()[1] for line in outcome.out.splitlines()]
    assert run("--store", store, "ask", QUESTION).code == 0
    execute("UPDATE settings SET value = json_set(value, '$.null_logit', 999) WHERE key = 'calibration'", store)
    assert run("--store", store, "ask", QUESTION).code == 1
    execute("UPDATE settings SET value = 'x' WHERE key = 'calibration'", store)
    refused(run("--store", store, "ask", QUESTION), 3, "calibrate --reset")
    assert run("--store", store, "calibrate", "--reset").code == 0
    assert rows(store, "SELECT key, value FROM settings WHERE key != 'revision' ORDER BY key") == before


def test_a_calibration_that_cannot_be_kept_is_not_said_to_be(run: Run, sample: Places, tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    shutil.copy(sample.store, store)
    no = "CREATE TRIGGER no BEFORE INSERT ON settings WHEN new.key = 'calibration' BEGIN SELECT RAISE(ABORT, 'no'); END"
    execute(no, store)
    outcome = run("--store", store, "calibrate", questions_file(tmp_path, times=6), "--json")
    assert (outcome.code, outcome.out) == (3, "")


def test_a_calibration_waits_for_what_is_being_indexed(
    run: Run, sample: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store.db"
    shutil.copy(sample.store, store)
    held, told = threading.Event(), threading.Event()
    echo = click.echo

    def hear(message: object = None, **how: Any) -> None:
        if "waiting for it to finish" in str(message):
            told.set()
        echo(message, **how)

    def hold() -> None:
        with writer_lock(resolve(str(store)).lock):
            held.set()
            told.wait(60)

    monkeypatch.setattr(click, "echo", hear)
    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    outcome = run("--store", store, "calibrate", questions_file(tmp_path, times=6), "--json")
    thread.join()
    assert told.is_set()
    assert (outcome.code, json.loads(outcome.out)["kept"]) == (0, True)
    assert "calibration" in dict(rows(store, "SELECT key, value FROM settings"))


def test_calibrate_needs_enough_questions_of_both_kinds(run: Run, sample: Places, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"question": NOT_IN_NOTES, "answers": []}))
    refused(run("--store", sample.store, "calibrate", path, "--dry-run"), 2, "at least 10 of either")
    refused(run("--store", sample.store, "calibrate"), 2, "--reset")
    refused(run("--store", sample.store, "calibrate", path, "--reset"), 2, "--reset")
