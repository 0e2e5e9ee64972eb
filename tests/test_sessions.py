"""Sessions: turns in the store beside the notes, and nothing of a forgotten note left in them."""

from __future__ import annotations

import os
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from store.errors import StoreError, UsageError
from store.records import Placement
from store.sessions import RIGHT, WRONG_ANSWER, NewTurn, SessionStore
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
    assert (outcome.code, outcome.out.partition(" of ")[0]) == (0, "forgot 1 note: 0")
    with SessionStore.open(home / "store.db") as sessions:
        assert [session.name for session in sessions.sessions()] == ["who?", "what of the roof?"]
        assert sessions.questions() == ["what of the roof?", "who?"]
    for file in home.iterdir():
        assert b"uillfeather" not in file.read_bytes()
    assert run("verify").code == 0
