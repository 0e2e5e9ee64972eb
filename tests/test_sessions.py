"""Sessions: turns in the store beside the notes, and nothing of a forgotten note left in them."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from store.errors import StoreError, UsageError
from store.records import Placement
from store.sessions import RIGHT, WRONG_ANSWER, NewTurn, SessionStore, Turn
from store.tokens import TokenStore
from tests.conftest import Run
from tests.test_tokens import document, passage

SECRET = "The combination of the grey safe is 73-91-14, said Quillfeather in the garden."


def turn(question: str = "when?", quote: str = "", path: str = "/notes/a.md", read_as: str | None = None) -> NewTurn:
    outcome = {"answer": quote[:20] or None, "sources": [{"path": path, "quote": quote}]}
    return NewTurn(1_700_000_000.5, question, read_as, "", outcome, [path])


@pytest.fixture
def sessions(store: TokenStore) -> SessionStore:
    return SessionStore.open(store.path)


def test_a_session_begins_with_its_first_turn_and_ends_with_its_last(sessions: SessionStore) -> None:
    assert sessions.sessions() == []
    first, _ = sessions.add_turn(None, turn("when was the boiler serviced?", "14 March"))
    assert sessions.add_turn(first, turn("and the roof?"))[0] == first
    second, _ = sessions.add_turn(None, turn("who?"))
    assert [(s.id, s.name, s.turns) for s in sessions.sessions()] == [
        (second, "who?", 1),
        (first, "when was the boiler serviced?", 2),
    ]
    kept = sessions.turns(first)[0]
    assert (kept.question, kept.read_as, kept.asked_at) == ("when was the boiler serviced?", None, 1_700_000_000)
    assert kept.outcome["answer"] == "14 March"
    sessions.delete(first)
    assert [session.id for session in sessions.sessions()] == [second]
    for missing in (sessions.delete, sessions.session, lambda i: sessions.rename(i, "x")):
        with pytest.raises(UsageError, match=f"there is no session {first}: btr-assistant sessions list"):
            missing(first)


def test_a_turn_of_a_session_that_is_gone_begins_another(sessions: SessionStore) -> None:
    first, _ = sessions.add_turn(None, turn())
    sessions.delete(first)
    again, _ = sessions.add_turn(first, turn("who?"))
    assert [(s.id, s.name) for s in sessions.sessions()] == [(again, "who?")]


def test_a_session_is_renamed_and_found_by_name_question_and_answer(sessions: SessionStore) -> None:
    first, _ = sessions.add_turn(None, turn("when was the Boiler serviced?", "14 March"))
    sessions.add_turn(None, turn("what is 100%_sure?"))
    sessions.rename(first, "  The\nhouse ")
    assert sessions.session(first).name == "The house"
    for text in ("house", "boiler SERVICED", "march", "house march"):
        assert [session.id for session in sessions.sessions(text)] == [first], text
    assert len(sessions.sessions("100%_")) == 1
    assert sessions.sessions("boiler roof") == []
    sessions.rename(first, "")
    assert sessions.session(first).name == "when was the Boiler serviced?"


def test_a_verdict_is_kept_and_taken_back(sessions: SessionStore) -> None:
    session, key = sessions.add_turn(None, turn())
    assert sessions.turns(session)[0].key == key
    sessions.judge(key, WRONG_ANSWER, "15 March")
    assert [(t.verdict, t.correction) for t in sessions.judged()] == [(WRONG_ANSWER, "15 March")]
    sessions.judge(key, RIGHT)
    assert [(t.verdict, t.correction) for t in sessions.judged()] == [(RIGHT, None)]
    sessions.judge(key, None)
    assert sessions.judged() == []
    sessions.delete(session)
    with pytest.raises(StoreError, match="is not saved any more: ask it again"):
        sessions.judge(key, RIGHT)


def test_a_verdict_is_not_kept_with_another_turn_that_got_the_number_of_one_that_is_gone(
    sessions: SessionStore,
) -> None:
    session, old = sessions.add_turn(None, turn("when?"))
    sessions.delete(session)
    again, new = sessions.add_turn(None, turn("who?"))
    assert new.id == old.id
    with pytest.raises(StoreError, match="is not saved any more: ask it again"):
        sessions.judge(old, RIGHT)
    sessions.delete(again)
    _, later = sessions.add_turn(None, replace(turn("when?"), asked_at=1_700_000_009))
    with pytest.raises(StoreError, match="is not saved any more: ask it again"):
        sessions.judge(old, RIGHT)
    assert sessions.judged() == []
    sessions.judge(later, RIGHT)
    assert [kept.question for kept in sessions.judged()] == ["when?"]


def test_earlier_questions_come_oldest_first_and_none_twice_in_a_row(sessions: SessionStore) -> None:
    for question in ("one", "two", "two", "one"):
        sessions.add_turn(None, turn(question))
    assert sessions.questions() == ["one", "two", "one"]
    assert sessions.questions(limit=1) == ["one"]


def test_a_turn_is_saved_while_an_indexer_writes_note_after_note(store: TokenStore, sessions: SessionStore) -> None:
    source = store.add_source("/notes")
    written: list[int] = []

    def write() -> None:
        with TokenStore.open(store.path) as writer:
            for number in range(20):
                writer.put_document(source, document(f"/notes/{number}.md"), [passage("text")])
                written.append(number)

    thread = threading.Thread(target=write)
    thread.start()
    for number in range(20):
        sessions.add_turn(None, turn(f"question {number}"))
    thread.join()
    assert (len(sessions.sessions()), len(written)) == (20, 20)


def test_a_failed_turn_leaves_nothing(sessions: SessionStore) -> None:
    bad = NewTurn(0, None, None, "", {}, [])  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        sessions.add_turn(None, bad)
    assert sessions.sessions() == []
    sessions.add_turn(None, turn())


def test_what_a_session_saves_does_not_make_a_reader_load_its_codes_again(
    store: TokenStore, sessions: SessionStore
) -> None:
    source = store.add_source("/notes")
    store.put_document(source, document(), [passage("text")])
    with TokenStore.open(store.path) as reader:
        index = reader.code_index()
        sessions.add_turn(None, turn())
        assert reader.code_index() is index
        store.put_document(source, document("/notes/b.md"), [passage("more")])
        assert len(reader.code_index()) == 2


def test_there_are_no_sessions_without_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no notes are indexed yet"):
        SessionStore.open(tmp_path / "nowhere.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_a_store_that_cannot_be_written_says_so_before_anything_is_asked(
    store: TokenStore, sessions: SessionStore
) -> None:
    sessions.check_writable()
    store.path.chmod(0o400)
    with SessionStore.open(store.path) as readonly, pytest.raises(StoreError, match="check its permissions"):
        readonly.check_writable()


# what is forgotten


def quoting(store: TokenStore, *, quote: str = SECRET, path: str = "/notes/a.md", question: str = "which?") -> None:
    with SessionStore.open(store.path) as sessions:
        sessions.add_turn(None, turn(question, quote, path))


def questions(store: TokenStore) -> list[str]:
    with SessionStore.open(store.path) as sessions:
        return sessions.questions()


def test_a_note_that_moved_takes_the_turns_that_quote_it_along(store: TokenStore) -> None:
    """Two notes change places; then one of them is edited, and forgotten under its new name."""
    source = store.add_source("/notes")
    a = store.put_document(source, document("/notes/a.md"), [passage("one")])
    b = store.put_document(source, document("/notes/b.md"), [passage("two")])
    quoting(store, question="of a?", path="/notes/a.md", quote="one")
    quoting(store, question="of b?", path="/notes/b.md", quote="two")
    store.place_documents([Placement(a, source, "/notes/b.md", 1, 2), Placement(b, source, "/notes/a.md", 1, 2)])
    new = store.put_document(source, document("/notes/b.md"), [passage("edited")])
    store.forget([new], [])
    assert questions(store) == ["of b?"]


def test_cleaning_up_and_removing_a_source_leave_no_turn_that_quotes_them(store: TokenStore) -> None:
    source, other = store.add_source("/notes"), store.add_source("/other")
    gone = store.put_document(source, document("/notes/a.md"), [passage("one")])
    store.put_document(source, document("/notes/b.md"), [passage("two")])
    store.put_document(other, document("/other/c.md"), [passage("three")])
    for path in ("/notes/a.md", "/notes/b.md", "/other/c.md"):
        quoting(store, question=path, path=path)
    store.delete_documents([gone], 1)
    assert len(questions(store)) == 3
    store.purge()
    assert questions(store) == ["/notes/b.md", "/other/c.md"]
    store.remove_source("/notes")
    assert questions(store) == ["/other/c.md"]
    assert store._connection.execute("SELECT COUNT(*) FROM sessions").fetchone() == (1,)


def considering(answer: str | None, *paths: str) -> NewTurn:
    """An outcome as the engine makes it: answered from the first of some notes, or from none; the others considered."""
    places = [{"path": path, "heading": path[-4:], "quote": f"{SECRET} Says {path}."} for path in paths]
    candidates = [{"path": path, "answer": f"what {path} says", "confidence": 0.5} for path in paths]
    if answer is not None:
        candidates[0]["answer"] = answer
    sources = places if answer is None else places[:1]
    outcome = {"answer": answer, "confidence": 0.5, "sources": sources, "candidates": candidates, "places": places}
    return NewTurn(1_700_000_000, "when?", None, "", outcome, paths)


def kept_turn(store: TokenStore) -> Turn | None:
    """The one turn that is saved; None: none."""
    with SessionStore.open(store.path) as sessions:
        turns = [turn for session in sessions.sessions() for turn in sessions.turns(session.id)]
    assert len(turns) <= 1
    return turns[0] if turns else None


def removed(store: TokenStore, path: str, how: str) -> int:
    """A note leaves the store in one of the ways there are; how many turns went."""
    (document_id,) = [found.id for found in store.documents() if found.path == path]
    if how == "forget":
        return store.forget([document_id], [])
    if how == "sources remove":
        return store.remove_source(str(Path(path).parent))
    store.delete_documents([document_id], 1)
    assert store.lost_turns([path]) == ([1] if path == "/1/a.md" else [])
    return store.purge()


@pytest.mark.parametrize("how", ["cleanup", "forget", "sources remove"])
def test_a_turn_loses_what_it_considered_of_a_removed_note_and_goes_with_the_note_that_answered(
    store: TokenStore, how: str
) -> None:
    for number in (1, 2, 3):
        source = store.add_source(f"/{number}")
        store.put_document(source, document(f"/{number}/a.md"), [passage(f"text {number}")])
    with SessionStore.open(store.path) as sessions:
        _, turn_id = sessions.add_turn(None, considering("14 March", "/1/a.md", "/2/a.md", "/3/a.md"))
        sessions.judge(turn_id, RIGHT)
    assert removed(store, "/2/a.md", how) == 0
    left = kept_turn(store)
    assert left is not None
    assert (left.verdict, left.outcome) == (RIGHT, considering("14 March", "/1/a.md", "/3/a.md").outcome)
    assert store._connection.execute("SELECT path FROM quotes ORDER BY path").fetchall() == [
        ("/1/a.md",),
        ("/3/a.md",),
    ]
    store.vacuum()
    assert b"/2/a.md" not in store.path.read_bytes()
    assert removed(store, "/1/a.md", how) == 1
    assert kept_turn(store) is None
    assert store._connection.execute("SELECT (SELECT COUNT(*) FROM sessions), (SELECT COUNT(*) FROM quotes)").fetchone(
    ) == (0, 0)  # fmt: skip


def test_a_turn_without_an_answer_loses_the_closest_place_that_is_removed_and_stays(store: TokenStore) -> None:
    source = store.add_source("/2")
    store.put_document(source, document("/2/a.md"), [passage("text")])
    with SessionStore.open(store.path) as sessions:
        sessions.add_turn(None, considering(None, "/1/a.md", "/2/a.md"))
    assert store.remove_source("/2") == 0
    left = kept_turn(store)
    assert left is not None and left.outcome == considering(None, "/1/a.md").outcome


@pytest.mark.parametrize(
    ("correction", "left"),
    [
        ("what /2/a.md says", None),
        ("The grey safe", None),
        ("it is What /2/A.md says, too", None),
        ("another", "another"),
        ("", ""),
    ],
)
def test_a_correction_goes_with_the_candidate_that_says_it(
    store: TokenStore, correction: str, left: str | None
) -> None:
    """The verdict stays: the answer that was given is wrong all the same."""
    source = store.add_source("/2")
    store.put_document(source, document("/2/a.md"), [passage("text")])
    with SessionStore.open(store.path) as sessions:
        _, turn_id = sessions.add_turn(None, considering("14 March", "/1/a.md", "/2/a.md"))
        sessions.judge(turn_id, WRONG_ANSWER, correction)
    store.remove_source("/2")
    found = kept_turn(store)
    assert found is not None and (found.verdict, found.correction) == (WRONG_ANSWER, left)


def test_a_turn_names_notes_by_where_they_moved_and_loses_the_right_one(store: TokenStore) -> None:
    source = store.add_source("/notes")
    ids = [store.put_document(source, document(f"/notes/{name}.md"), [passage(name)]) for name in "abc"]
    with SessionStore.open(store.path) as sessions:
        sessions.add_turn(None, considering("14 March", "/notes/a.md", "/notes/b.md", "/notes/c.md"))
    swapped = [Placement(ids[1], source, "/notes/c.md", 1, 2), Placement(ids[2], source, "/notes/b.md", 1, 2)]
    store.place_documents([*swapped, Placement(ids[0], source, "/notes/new.md", 1, 2)])
    store.forget([ids[1]], [])
    left = kept_turn(store)
    assert left is not None
    assert [(place["path"], place["quote"][-15:]) for place in left.outcome["places"]] == [
        ("/notes/new.md", "ys /notes/a.md."),
        ("/notes/b.md", "ys /notes/c.md."),
    ]
    assert store.forget([ids[0]], []) == 1


def test_a_turn_that_does_not_say_where_its_notes_moved_goes_as_a_whole(store: TokenStore) -> None:
    """One that was saved by an earlier version: which of its places is of which note cannot be told."""
    source = store.add_source("/notes")
    moved = store.put_document(source, document("/notes/new.md"), [passage("text")])
    with SessionStore.open(store.path) as sessions:
        sessions.add_turn(None, considering("14 March", "/notes/a.md", "/notes/b.md"))
    with store._transaction():
        store._connection.execute("UPDATE quotes SET path = '/notes/new.md' WHERE path = '/notes/b.md'")
    assert store.forget([moved], []) == 1
    assert kept_turn(store) is None


def test_forgetting_a_note_that_was_only_considered_keeps_the_question_and_leaves_nothing(
    run: Run, notes: Path, home: Path
) -> None:
    (notes / "boiler.md").write_text("The boiler was serviced on 14 March 2024 by the roofers of the next village.")
    (notes / "safe.md").write_text(f"# Grey safe\n\n{SECRET}\n")
    run("index", notes)
    boiler, safe = str(notes / "boiler.md"), str(notes / "safe.md")
    with SessionStore.open(home / "store.db") as sessions:
        _, turn_id = sessions.add_turn(None, considering("14 March 2024", boiler, safe))
        sessions.judge(turn_id, RIGHT)
        kept = considering("14 March 2024", boiler, safe).outcome
        kept["places"][0]["quote"] = kept["sources"][0]["quote"] = "The boiler was serviced on 14 March 2024"
        sessions.add_turn(None, NewTurn(1, "when, once more?", None, "", kept, [boiler, safe]))
    assert json.loads(run("forget", safe, "--dry-run", "--json").out)["questions"] == 1
    assert "1 note and 1 saved question would be forgotten: add --yes" in run("forget", safe).err
    outcome = run("forget", safe, "--yes")
    assert (outcome.code, outcome.out.partition(" of ")[0]) == (0, "forgot 1 note and 1 saved question: 0")
    with SessionStore.open(home / "store.db") as sessions:
        assert sessions.questions() == ["when, once more?"]  # the other one's answer had text of it
    for file in home.iterdir():
        assert b"uillfeather" not in file.read_bytes()


def test_cleanup_and_sources_remove_say_how_many_questions_go(run: Run, notes: Path, home: Path) -> None:
    for name in "abcdef":
        (notes / f"{name}.md").write_text(f"Note {name}.")
    run("index", notes)
    with SessionStore.open(home / "store.db") as sessions:
        for name in "ab":
            sessions.add_turn(None, considering("Note", str(notes / f"{name}.md"), str(notes / "c.md")))
    (notes / "a.md").unlink()
    (notes / "c.md").unlink()
    run("index", notes)
    assert json.loads(run("cleanup", "--dry-run", "--json").out)["questions"] == 1
    told = "2 deleted notes and 1 saved question would be removed. Nothing was changed.\n"
    assert run("cleanup", "--dry-run").err == told
    assert run("cleanup").err.startswith("2 deleted notes and 1 saved question removed, ")
    assert json.loads(run("sources", "remove", notes, "--dry-run", "--json").out)["questions"] == 1
    assert "4 notes and 1 saved question would be forgotten. " in run("sources", "remove", notes, "--dry-run").err
    assert f"4 notes of {notes} and 1 saved question would be forgotten: " in run("sources", "remove", notes).err
    assert run("sources", "remove", notes, "--yes").err == f"forgot 4 notes of {notes} and 1 saved question\n"


def test_nothing_that_a_session_quotes_of_a_forgotten_note_is_left(run: Run, notes: Path, home: Path) -> None:
    (notes / "safe.md").write_text(f"# Grey safe\n\n{SECRET}\n")
    (notes / "b.md").write_text("The roof was mended in May by the roofers from the next village.")
    run("index", notes)
    safe, roof = str(notes / "safe.md"), str(notes / "b.md")
    with SessionStore.open(home / "store.db") as sessions:
        sessions.add_turn(None, turn("what of the safe?", SECRET, safe))
        sessions.add_turn(None, turn("what of it, once more?", SECRET, "/moved/since.md"))
        kept, _ = sessions.add_turn(None, turn("what of the roof?", "The roof was mended in May", roof))
        sessions.add_turn(kept, turn(SECRET, "", roof))
        named, _ = sessions.add_turn(None, turn("who?", "", roof))
        sessions.rename(named, SECRET)
    outcome = run("forget", safe, "--yes")
    assert (outcome.code, outcome.out.partition(" of ")[0]) == (0, "forgot 1 note and 3 saved questions: 0")
    with SessionStore.open(home / "store.db") as sessions:
        assert [session.name for session in sessions.sessions()] == ["who?", "what of the roof?"]
        assert sessions.questions() == ["what of the roof?", "who?"]
    for file in home.iterdir():
        assert b"uillfeather" not in file.read_bytes()
    assert run("verify").code == 0
