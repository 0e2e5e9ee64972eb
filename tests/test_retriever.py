"""Retrieval: two rankings fused, codes scored as defined, and a question that can never be a syntax error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app import retriever as module
from app.bundle import Bundle
from app.places import Places
from app.retriever import FUSION, LEXICAL_WEIGHT, PRIOR, Hit, Retriever, fuse, priors
from store.codec import Bits, Floats, pack, unpack
from store.records import NewDocument, NewPassage
from store.tokens import TokenStore
from tests.conftest import run_index

NASTY = [
    '"',
    '""',
    'a"b',
    "'; DROP TABLE passages; --",
    "AND",
    "OR",
    "NOT",
    "NEAR",
    "boiler AND",
    "OR boiler",
    "NEAR(boiler garden, 2)",
    "boiler NOT garden",
    "*",
    "boil*",
    "^boiler",
    "heading:boiler",
    "-boiler",
    "+boiler",
    "(",
    ")))(((",
    "{heading text}: x",
    "boiler\0garden",
    "\0",
    "🐝",
    "node.js v1.2.3 C++ foo-bar_baz",
    "_",
    "__ _",
    "\u0301",
    "日本語 العربية ไทย",
    "İ ǅ ß ﬁ",
    "what is the",
    "x" * 10_000,
    "word " * 2_000,
    "\ud800",
]


@pytest.fixture(scope="session")
def sample_store(sample: Places) -> Iterator[TokenStore]:
    """The store of the sample notes, for reading."""
    with TokenStore.open(sample.store) as opened:
        yield opened


@pytest.mark.parametrize("text", NASTY)
def test_nasty_questions_are_words_and_never_syntax(sample_store: TokenStore, text: str) -> None:
    sample_store.match(text, 10)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text())
@example(text="boiler")
def test_any_question_can_be_matched(sample_store: TokenStore, text: str) -> None:
    for passage_id, score in sample_store.match(text, 3):
        assert isinstance(passage_id, int)
        assert score == score


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(st.sampled_from(["boiler", "AND", "OR", "NOT", "NEAR", '"', "*", "^", ":", "-", "(", ")", "{", "}"]))
)
def test_operators_never_hide_a_word(sample_store: TokenStore, words: list[str]) -> None:
    found = sample_store.match(" ".join(["boiler", *words]), 50)
    assert {passage_id for passage_id, _ in sample_store.match("boiler", 50)} <= {passage_id for passage_id, _ in found}


def test_fusion_adds_weighted_reciprocal_ranks() -> None:
    one, two, three = (1 / (FUSION + rank) for rank in (1, 2, 3))
    lexical = LEXICAL_WEIGHT
    assert fuse([7, 8, 9], [8, 7]) == [
        Hit(7, lexical * one + two),
        Hit(8, lexical * two + one),
        Hit(9, lexical * three),
    ]
    assert fuse([], []) == []


def test_words_count_more_than_codes() -> None:
    assert [hit.passage_id for hit in fuse([5, 2], [2, 5])] == [5, 2]


def test_equal_scores_keep_the_order_of_the_store() -> None:
    assert [hit.passage_id for hit in fuse([5, 2], [5, 2])] == [5, 2]
    assert [hit.passage_id for hit in fuse([], [9, 4])] == [9, 4]


def put(store: TokenStore, name: str, codes: Bits) -> None:
    """One note with a passage for each code."""
    passages = [
        NewPassage(0, 4, 1, None, "", "text", 1, code.tobytes(), b"\0", np.zeros(1, "<f2").tobytes()) for code in codes
    ]
    store.put_document(store.add_source("/"), NewDocument(name, "h", 1, 1, name, {}), passages)


def reference(codes: Bits, query: Floats) -> list[int]:
    """Definition: largest inner product of signs and float code first, earlier passages first among equals."""
    similarity = [float(np.dot(unpack(code), query)) for code in codes]
    return sorted(range(1, len(codes) + 1), key=lambda i: (-similarity[i - 1], i))


def test_the_nearest_are_those_of_the_definition(store: TokenStore) -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 256, (50, 8), dtype=np.uint8)
    query = generator.integers(-3, 4, 64).astype(np.float32)
    put(store, "a", codes)
    assert Retriever(store).nearest(query, 50) == reference(codes, query)
    assert Retriever(store).nearest(query, 5) == reference(codes, query)[:5]


def test_the_hamming_scan_keeps_the_nearest(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESCORED", 20)
    generator = np.random.default_rng(1)
    codes = generator.integers(0, 256, (200, 8), dtype=np.uint8)
    query = generator.choice([-1.0, 1.0], 64).astype(np.float32)  # then both scores rank alike
    codes[123] = pack(query)
    put(store, "a", codes)
    assert Retriever(store).nearest(query, 5)[0] == 124
    similarity = {i: float(unpack(codes[i - 1]) @ query) for i in range(1, 201)}
    found = [similarity[i] for i in Retriever(store).nearest(query, 5)]
    assert found == sorted(similarity.values(), reverse=True)[:5]


def test_an_empty_store_has_nothing_near(store: TokenStore) -> None:
    assert Retriever(store).retrieve("boiler", np.ones(64, np.float32), 5) == []


def test_notes_indexed_meanwhile_are_found(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    (notes / "a.md").write_text("The boiler is in the cellar.")
    run_index(store, bundle, notes)
    question = "Where is the ladder?"
    code = bundle.encode_question(question).code
    with TokenStore.open(store.path) as reader:
        retriever = Retriever(reader)
        assert len(retriever.retrieve(question, code, 5)) == 1
        (notes / "b.md").write_text("The ladder stands behind the shed.")
        run_index(store, bundle, notes)
        best = retriever.retrieve(question, code, 5)[0]
        assert "ladder" in reader.passages([best.passage_id])[0].text


def test_a_prior_is_what_a_hit_falls_short_of_the_best() -> None:
    hits = fuse([7, 8], [8, 9])
    found = priors(hits)
    assert found.keys() == {7, 8, 9}
    assert found[8] == 0 > found[7] > found[9]
    assert found[9] == pytest.approx(PRIOR * (hits[2].score - hits[0].score))
    assert priors([]) == {}
