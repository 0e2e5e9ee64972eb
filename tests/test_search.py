"""Ranking by words: the whole ranking in a small store, a bounded part of it in a large one, with the same scores."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from store import search
from store.records import NewDocument, NewPassage
from store.scope import EVERYTHING, Folder, Not, Scope
from store.search import fts_query
from store.tokens import TokenStore

COUNT = 400
SHARES = {"river": 0.02, "bridge": 0.05, "market": 0.08, "winter": 0.1, "house": 0.3, "people": 0.6}
"""Word -> the share of passages that it stands in."""
QUESTIONS = (
    "river",
    "house",
    "people house",
    "river bridge",
    "river winter house people",
    "market winter bridge",
    "winter market",
    "zeppelin",
    "zeppelin house",
)
HALF, TENTH = Scope((Folder("even"),)), Scope((Folder("tenth"),))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenStore]:
    """Passages of words that stand in them as often as `SHARES` says, once to three times."""
    generator = random.Random(1)
    scale = np.zeros(1, "<f2").tobytes()
    with TokenStore.create(tmp_path_factory.mktemp("search") / "store.db", "f", "tiny") as opened:
        source = opened.add_source("/notes")
        for number in range(COUNT):
            words = [word for word, share in SHARES.items() if generator.random() < share]
            filler = [f"x{generator.randrange(50)}" for _ in range(generator.randrange(2, 9))]
            text = " ".join(filler + [word for word in words for _ in range(generator.randrange(1, 4))])
            folder = "tenth" if number % 10 == 0 else "even" if number % 2 else "odd"
            document = NewDocument(f"/notes/{folder}/{number}.md", "h", 1, 1, "a", {})
            opened.put_document(source, document, [NewPassage(0, 1, 1, None, "", text, 1, bytes(4), bytes(2), scale)])
        yield opened


def whole(store: TokenStore, question: str, scope: Scope) -> dict[int, float]:
    """By definition: BM25 of every passage of a scope with any of the words."""
    sql = (
        "SELECT rowid, -bm25(passages_fts, 2.0, 1.0) FROM passages_fts WHERE passages_fts MATCH ? "
        "ORDER BY bm25(passages_fts, 2.0, 1.0), rowid"
    )
    condition, parameters = scope.sql()
    within = f"SELECT p.id FROM passages p JOIN documents d ON d.id = p.document_id WHERE {condition}"
    ids = {row[0] for row in store._connection.execute(within, parameters)}
    return {i: score for i, score in store._connection.execute(sql, (fts_query(question),)) if i in ids}


def having(store: TokenStore, *words: str) -> set[int]:
    """Passages with any of some words."""
    return set(whole(store, " ".join(words), EVERYTHING))


@pytest.mark.parametrize("scope", [EVERYTHING, HALF, TENTH, Scope((Not(Folder("odd")),))], ids=repr)
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_small_store_is_ranked_as_a_whole(store: TokenStore, question: str, scope: Scope) -> None:
    expected = list(whole(store, question, scope).items())
    assert store.match(question, COUNT, scope) == expected
    assert store.match(question, 7, scope) == expected[:7]


@pytest.mark.parametrize("scored", [10, 40, 100])
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_bounded_ranking_keeps_scores_and_order(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch, question: str, scored: int
) -> None:
    said = [word for word in question.split() if word in SHARES]
    total = sum(len(having(store, word)) for word in said)
    telling = [word for word in said if len(having(store, word)) * search.COMMON <= COUNT]
    monkeypatch.setattr(search, "SCORED", scored)
    limit = min([scored, *(len(having(store, word)) for word in telling)])
    found = store.match(question, limit)
    everywhere = total <= scored or not telling
    expected = whole(store, question if everywhere else " ".join(telling), EVERYTHING)
    assert len(found) == min(limit, len(expected))
    assert found == sorted(found, key=lambda item: (-item[1], item[0]))
    for passage_id, score in found:
        assert score == pytest.approx(expected[passage_id])


def test_the_rarest_words_choose_and_all_words_count(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    question, river, winter = "river winter", having(store, "river"), having(store, "winter")
    monkeypatch.setattr(search, "SCORED", len(river))
    expected = {i: score for i, score in whole(store, question, EVERYTHING).items() if i in river}
    found = store.match(question, len(river))
    assert [i for i, _ in found] == list(expected)
    assert [score for _, score in found] == pytest.approx(list(expected.values()))
    assert river & winter  # so that there is something to count
    assert winter - river


def test_a_word_that_is_everywhere_gives_way_to_others(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SCORED", 20)
    assert {i for i, _ in store.match("people market", 15)} <= having(store, "market")
    assert len(store.match("people", COUNT)) == 20


def test_a_word_that_is_nowhere_does_not_hide_common_ones(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SCORED", 20)
    assert store.match("zeppelin house", 15) == store.match("house", 15)
    assert len(store.match("zeppelin house", 15)) == 15
    few = having(store, "river")
    assert len(few) < COUNT
    assert few < {i for i, _ in store.match("river winter", COUNT)} <= having(store, "river", "winter")


def test_of_a_word_that_is_everywhere_the_newest_are_scored(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SCORED", 20)
    assert sorted(i for i, _ in store.match("people", COUNT)) == sorted(having(store, "people"))[-20:]


def test_a_small_scope_of_a_large_store_is_ranked_as_a_whole(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is on what is scored, and that is of the scope alone."""
    monkeypatch.setattr(search, "SCORED", 45)
    for question in QUESTIONS:
        assert store.match(question, COUNT, TENTH) == list(whole(store, question, TENTH).items())


def test_the_work_is_bounded(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by SQLite itself: scoring a tenth of what matches takes a fraction of the steps."""

    def steps() -> int:
        count = 0

        def step() -> None:
            nonlocal count
            count += 1

        store._connection.set_progress_handler(step, 1)
        store.match("house people", 5)
        store._connection.set_progress_handler(None, 0)
        return count

    all_of_it = steps()
    monkeypatch.setattr(search, "SCORED", 10)
    assert steps() < all_of_it / 2


def test_passages_that_come_meanwhile_do_not_disturb_a_scope(tmp_path: Path) -> None:
    """A question outside a snapshot may see newer words than codes."""
    scale = np.zeros(1, "<f2").tobytes()
    passage = NewPassage(0, 1, 1, None, "", "river", 1, bytes(4), bytes(2), scale)
    with TokenStore.create(tmp_path / "store.db", "f", "tiny") as writer:
        source = writer.add_source("/n")
        writer.put_document(source, NewDocument("/n/a/1.md", "h", 1, 1, "a", {}), [passage])
        writer.put_document(source, NewDocument("/n/b/2.md", "h", 1, 1, "a", {}), [passage])
        with TokenStore.open(writer.path) as reader:
            index = reader.code_index()
            writer.put_document(source, NewDocument("/n/a/3.md", "h", 1, 1, "a", {}), [passage])
            reader.code_index = lambda: index  # type: ignore[method-assign]
            assert [i for i, _ in reader.match("river", 5, Scope((Folder("a"),)))] == [1]
