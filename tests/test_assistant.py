"""The engine: an answer is an exact slice of the file as it is, or marked stale, or "not in your notes"."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.assistant import (
    MAX_QUESTION_CHARACTERS,
    Answer,
    Assistant,
    Source,
    check_question,
    is_stale,
    quote_around,
)
from app.bundle import Bundle
from app.documents import hash_of
from app.formats.base import decode
from app.places import EMBEDDED_BUNDLE, Places
from app.reader import Cancelled
from store.errors import StoreError, UsageError
from store.tokens import TokenStore
from tests.conftest import new_store, run_index

QUESTION = "When was the boiler serviced?"
BOILER = "The boiler in the cellar was serviced on 14 March 2024 by Hansen & Son."

Asked = Callable[[str], Answer]


@pytest.fixture
def ask(notes: Path, store: TokenStore, bundle: Bundle) -> Iterator[Asked]:
    """A question to whatever lies in the folder of notes when it is first asked."""
    reader: list[Assistant] = []

    def call(question: str) -> Answer:
        if not reader:
            run_index(store, bundle, notes)
            opened = TokenStore.open(store.path, bundle.manifest.fingerprint)
            reader.append(Assistant(opened, bundle))
        return reader[0].ask(question)

    yield call
    for assistant in reader:
        assistant.close()


def check_source(answer: Answer) -> Source:
    """The source of an answer, after comparing it with its file, byte for byte."""
    assert answer.answer is not None
    assert not answer.abstained
    (source,) = answer.sources
    text = decode(Path(source.path).read_bytes())
    assert text[source.start : source.end] == answer.answer
    assert answer.answer in source.quote
    assert source.quote in text
    at = source.start - source.quote.index(answer.answer)
    assert text[at : at + len(source.quote)] == source.quote
    assert source.line == len(text[: source.start].replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    assert not source.stale
    return source


@pytest.mark.parametrize(
    ("question", "answer", "file", "line"),
    [
        (QUESTION, "14 March 2024", "heating.md", 8),
        ("What port does the staging database listen on?", "5433", "staging.md", 3),
    ],
)
def test_a_clear_question_is_answered_with_its_place(
    assistant: Assistant, question: str, answer: str, file: str, line: int
) -> None:
    outcome = assistant.ask(question)
    source = check_source(outcome)
    assert outcome.answer is not None
    assert answer in outcome.answer
    assert (Path(source.path).name, source.line, source.page) == (file, line, None)
    assert 0.5 < outcome.confidence <= 1
    first = outcome.candidates[0]
    assert (first.answer, first.confidence, first.path, first.line) == (
        outcome.answer,
        outcome.confidence,
        source.path,
        source.line,
    )


def test_candidates_differ_and_come_best_first(assistant: Assistant) -> None:
    candidates = assistant.ask(QUESTION).candidates
    assert 1 < len(candidates) <= 5
    assert len({candidate.answer.casefold() for candidate in candidates}) == len(candidates)
    confidences = [candidate.confidence for candidate in candidates]
    assert confidences == sorted(confidences, reverse=True)


def test_what_no_note_says_is_not_answered(assistant: Assistant) -> None:
    answer = assistant.ask("Who won the football world cup in 1998?")
    assert answer.abstained
    assert answer.answer is None
    assert 0 <= answer.confidence < 0.5
    assert 1 <= len(answer.sources) <= 3
    for source in answer.sources:
        assert decode(Path(source.path).read_bytes())[source.start : source.end] == source.quote
        assert not source.stale


VARIANTS: dict[str, tuple[str, bytes]] = {
    "plain": ("a.md", f"# Boiler\n\n{BOILER}\n".encode()),
    "windows": ("a.md", f"# Boiler\r\n\r\nFirst.\r\n\r\n{BOILER}\r\n".encode()),
    "old mac": ("a.md", f"# Boiler\r\rFirst.\r\r{BOILER}\r".encode()),
    "marked": ("a.md", f"\ufeff# Boiler\n\n{BOILER}\n".encode()),
    "utf-16": ("a.md", f"\ufeff# Boiler\n\n{BOILER}\n".encode("utf-16-le")),
    "front matter": ("a.md", f"---\ntitle: House\ntags: [a, b]\n---\n\n# Boiler\n\n{BOILER}\n".encode()),
    "all": ("a.md", f"\ufeff---\r\ntitle: 🏠\r\n---\r\n# Boiler 🔥\r\n\r\n🐝 naïve.\r\n\r\n{BOILER}\r\n".encode()),
    "invalid front matter": ("a.md", f"---\ntitle: [broken\n---\n\n{BOILER}\n".encode()),
    "emoji before": ("a.md", f"🐝🐝🐝 e\u0301e\u0301 日本\n\n🏠 {BOILER}\n".encode()),
    "text file": ("a.txt", f"House\n\n{BOILER}\n".encode()),
    "no line end": ("a.md", BOILER.encode()),
    "odd name": ("#1 100%_🐝.md", f"# Boiler\n\n{BOILER}\n".encode()),
    "long before": ("a.md", f"# Boiler\n\n{'We looked at it again. ' * 60}\n\n{BOILER}\n".encode()),
}


@pytest.mark.parametrize(("name", "data"), VARIANTS.values(), ids=VARIANTS.keys())
def test_an_answer_is_an_exact_slice_of_its_file(notes: Path, ask: Asked, name: str, data: bytes) -> None:
    (notes / name).write_bytes(data)
    answer = ask(QUESTION)
    assert Path(check_source(answer).path).name == name
    assert answer.answer is not None
    assert "14 March 2024" in answer.answer


def test_a_file_in_another_encoding_is_answered_from_its_text(notes: Path, ask: Asked) -> None:
    text = f"Das Café öffnet früh, und die Brötchen sind süß. Wir gehen später über die Brücke zurück.\n\n{BOILER}\n"
    (notes / "a.md").write_bytes(text.encode("cp1252"))
    check_source(ask(QUESTION))


def test_an_answer_from_a_file_that_changed_is_stale(notes: Path, ask: Asked) -> None:
    path = notes / "a.md"
    path.write_text(f"# Boiler\n\n{BOILER}\n")
    assert not ask(QUESTION).sources[0].stale
    path.write_text(f"Added.\n\n# Boiler\n\n{BOILER}\n")
    answer = ask(QUESTION)
    assert answer.answer is not None
    assert answer.sources[0].stale
    path.unlink()
    assert ask(QUESTION).sources[0].stale


def test_a_file_that_was_only_touched_or_written_back_is_not_stale(notes: Path, ask: Asked) -> None:
    path = notes / "a.md"
    path.write_text(f"# Boiler\n\n{BOILER}\n")
    ask(QUESTION)
    path.write_text("Something else.")
    path.write_text(f"# Boiler\n\n{BOILER}\n")
    os.utime(path, (1, 1))
    check_source(ask(QUESTION))


def test_a_file_is_read_once_a_question(notes: Path, ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many candidates and closest passages stand in it; and again for the next question."""
    text = "The boiler was serviced on 14 March 2024, on 3 May 2023 and on 9 June 2022.\n\n"
    (notes / "a.md").write_text(text + "".join(f"# Part {n}\n\n{text * 9}" for n in range(3)))
    (notes / "b.md").write_text("The roof was mended on 2 April 2021.")
    read: list[Path] = []

    def counted(path: Path) -> str | None:
        read.append(path)
        return hash_of(path)

    monkeypatch.setattr("app.assistant.hash_of", counted)
    answer = ask(QUESTION)
    paths = [place.path for place in (*answer.sources, *answer.places)]
    assert len(paths) > len(set(paths))
    assert sorted(map(str, read)) == sorted(set(paths))
    (notes / "a.md").write_text("The boiler is gone.")
    assert ask(QUESTION).sources[0].stale


def test_a_note_that_became_a_folder_is_stale(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    (notes / "a.md").write_text(BOILER)
    run_index(store, bundle, notes)
    (passage,) = store.passages([1])
    assert not is_stale(passage)
    (notes / "a.md").unlink()
    (notes / "a.md").mkdir()
    assert is_stale(passage)


def test_an_empty_store_abstains_with_no_sources(store: TokenStore, bundle: Bundle) -> None:
    answer = Assistant(store, bundle).ask(QUESTION)
    assert (answer.answer, answer.confidence, answer.sources, answer.candidates) == (None, 0.0, [], [])


@pytest.mark.parametrize("question", ["?", "🐝", "\0", "\ud800", '"', "NEAR(", "word " * 2000, "x" * 10_000])
def test_a_strange_question_is_answered_or_abstained(assistant: Assistant, question: str) -> None:
    answer = assistant.ask(question)
    assert answer.abstained == (answer.answer is None)
    answer.question.encode()


def test_the_same_question_gets_the_same_answer(assistant: Assistant) -> None:
    first, second = assistant.ask(QUESTION), assistant.ask(f"  {QUESTION}\n")
    assert (first.answer, first.confidence, first.sources, first.candidates, first.question) == (
        second.answer,
        second.confidence,
        second.sources,
        second.candidates,
        second.question,
    )


def test_questions_from_several_threads_wait_for_each_other(assistant: Assistant) -> None:
    answers: list[str | None] = []
    threads = [threading.Thread(target=lambda: answers.append(assistant.ask(QUESTION).answer)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 3
    assert len(set(answers)) == 1


def test_a_cancelled_question_is_given_up(assistant: Assistant) -> None:
    with pytest.raises(Cancelled):
        assistant.ask(QUESTION, cancelled=lambda: True)
    assert assistant.ask(QUESTION).answer is not None


def test_stages_add_up_to_the_total(assistant: Assistant) -> None:
    timings = assistant.ask(QUESTION).timings_ms
    stages = (timings.retrieve, timings.load, timings.read)
    assert all(stage >= 0 for stage in stages)
    assert sum(stages) <= timings.total + 0.3


def test_reading_fewer_passages_gives_fewer_candidates(assistant: Assistant) -> None:
    assert len(assistant.ask(QUESTION, passages=1).candidates) == 1


def test_search_lists_passages_as_they_stand_in_their_files(assistant: Assistant) -> None:
    results = assistant.search("certificate renewal", 3)
    assert len(results) == 3
    assert Path(results[0].path).name == "2025-02-11-retrospective.md"
    assert results[0].heading == "Retrospective, 11 February 2025"
    for result in results:
        assert result.text in decode(Path(result.path).read_bytes())
    scores = [result.score for result in results]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("question", ["", "  \n\t", "\u2003"])
def test_an_empty_question_is_refused(assistant: Assistant, question: str) -> None:
    for call in (assistant.ask, assistant.search):
        with pytest.raises(UsageError, match="the question is empty: type what you want to know"):
            call(question)


def test_a_question_may_have_ten_thousand_characters_and_not_one_more() -> None:
    assert len(check_question("x" * MAX_QUESTION_CHARACTERS + "  ")) == 10_000
    with pytest.raises(UsageError, match=r"has 10,001 characters, at most 10,000 can be read: ask a shorter one"):
        check_question("x" * (MAX_QUESTION_CHARACTERS + 1))


def test_a_store_of_another_bundle_is_refused(tmp_path: Path) -> None:
    with TokenStore.create(tmp_path / "other.db", "feedfeedfeedfeed", "other"):
        pass
    with pytest.raises(StoreError, match="was made with bundle feedfeedfeedfeed"):
        Assistant.open(Places(tmp_path / "other.db", EMBEDDED_BUNDLE, "cpu", tmp_path))


def test_nothing_leaves_the_machine(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundle, store, index and question from scratch, with every socket refused."""

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    (notes / "a.md").write_text(BOILER)
    fresh = Bundle.open(EMBEDDED_BUNDLE)
    with new_store(tmp_path / "offline.db", fresh) as store:
        run_index(store, fresh, notes)
    with Assistant.open(Places(tmp_path / "offline.db", EMBEDDED_BUNDLE, "cpu", tmp_path)) as assistant:
        check_source(assistant.ask(QUESTION))


@pytest.mark.parametrize(
    ("text", "part", "quote"),
    [
        ("One. Two is here. Three.", "Two", "Two is here."),
        ("One. Two is here. Three.", "One", "One."),
        ("One. Two is here. Three.", "Three", "Three."),
        ("- first item\n- second item\n- third", "second", "- second item"),
        ("a line\nthat goes on\n\nnext", "line", "a line\nthat goes on"),
        ("# Heading\r\n\r\nText here.\r\n\r\nMore.", "Text", "Text here."),
        ("Is it? (Yes.) No!", "Yes", "(Yes.)"),
        ("One. Two. Three.", "One. Two.", "One. Two."),
        ("no end", "no end", "no end"),
    ],
)
def test_a_quote_is_the_sentence_or_item_around_the_answer(text: str, part: str, quote: str) -> None:
    start = text.index(part)
    first, last = quote_around(text, start, start + len(part))
    assert text[first:last] == quote


def test_a_long_sentence_is_quoted_near_the_answer() -> None:
    text = "word " * 500 + "answer " + "word " * 500
    start = text.index("answer")
    first, last = quote_around(text, start, start + 6)
    assert "answer" in text[first:last]
    assert last - first <= 400


@given(st.text(st.sampled_from('ab .?!\n-*1)\r"'), min_size=1, max_size=900), st.data())
def test_a_quote_always_holds_its_answer(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    first, last = quote_around(text, start, end)
    assert 0 <= first <= start < end <= last <= len(text)
    assert last - first <= max(400, end - start)
