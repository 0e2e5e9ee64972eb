"""Reading: the best span as defined, whole words, comparable scores, and giving up when told so."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from app.bundle import Bundle, EncodedQuestion, Survey
from app.calibration import Calibration
from app.documents import Document
from app.indexer import encode
from app.passages import PassageSplitter
from app.reader import (
    FAR,
    HOPE,
    SHORT,
    Cancelled,
    ExtractiveReader,
    PassageBits,
    best_span,
    blocks,
    whole_words,
)
from store.bundle import LOWER, UPPER
from store.codec import Bits, token_arrays

Halves = npt.NDArray[np.float16]
GIVEN = Calibration(0.0, 1.0, 0.0)
"""Everything that is found is given as an answer."""
LOGITS = hnp.arrays(np.float32, st.integers(1, 12), elements=st.integers(-20, 20).map(float))


def passage(bundle: Bundle, text: str) -> PassageBits:
    """A text as the store would hand it over."""
    document = Document(Path("/a.txt"), "text", text, 0, "a", {}, "h")
    (cut,) = PassageSplitter(bundle.tokenizer, bundle.manifest.passage_tokens).split(document)
    encoded = encode(bundle, cut)
    return PassageBits(cut.text, *token_arrays(encoded.bits, encoded.scale, encoded.tokens))


def rooms(bundle: Bundle) -> list[PassageBits]:
    """Six passages, of which the third says where the boiler is."""
    names = ["cat", "dog", "boiler", "car", "owl", "tree"]
    return [passage(bundle, f"The {name} is in room {i}.") for i, name in enumerate(names)]


def promises(bundle: Bundle, question: EncodedQuestion, inputs: Sequence[PassageBits]) -> list[float]:
    """What the early span head finds in each passage."""
    return [bundle.survey(question, bundle.tokenize(p.text).ids, p.bits, p.scale).relevance for p in inputs]


def watched(monkeypatch: pytest.MonkeyPatch, inputs: Sequence[PassageBits]) -> list[int]:
    """Which passages are surveyed from now on."""
    read: list[int] = []
    survey = Bundle.survey

    def watching(self: Bundle, question: EncodedQuestion, ids: Sequence[int], bits: Bits, scale: Halves) -> Survey:
        read.append(next(i for i, one in enumerate(inputs) if one.bits is bits))
        return survey(self, question, ids, bits, scale)

    monkeypatch.setattr(Bundle, "survey", watching)
    return read


@settings(deadline=None)
@given(LOGITS, st.data(), st.integers(1, 12))
def test_the_best_span_is_that_of_the_definition(start: np.ndarray, data: st.DataObject, longest: int) -> None:
    end = data.draw(hnp.arrays(np.float32, len(start), elements=st.integers(-20, 20).map(float)))
    first, last, score = best_span(start, end, longest=longest)
    n = len(start)
    assert score == max(start[i] + end[j] for i in range(n) for j in range(i, min(n, i + longest)))
    assert score == start[first] + end[last]
    assert first <= last < first + longest


def test_the_first_of_equal_spans_wins() -> None:
    assert best_span(np.zeros(5, np.float32), np.zeros(5, np.float32)) == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("text", "start", "end", "word"),
    [
        ("the boilers hum", 4, 8, "boilers"),
        ("the boilers hum", 6, 11, "boilers"),
        ("the boilers hum", 4, 11, "boilers"),
        ("14 March 2024.", 0, 13, "14 March 2024"),
        ("port 5433, then", 6, 8, "5433"),
        ("x" * 5, 2, 3, "x" * 5),
        ("a-b", 0, 1, "a"),
        ("naïve", 0, 2, "naïve"),
        ("the cafe\u0301 opens", 4, 8, "cafe\u0301"),
        ("the nai\u0308ve", 9, 11, "nai\u0308ve"),
    ],
)
def test_a_span_never_cuts_a_word(text: str, start: int, end: int, word: str) -> None:
    a, b = whole_words(text, start, end)
    assert text[a:b] == word


@given(st.text(min_size=1, max_size=30), st.data())
def test_a_widened_span_holds_the_span(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    a, b = whole_words(text, start, end)
    assert 0 <= a <= start < end <= b <= len(text)


def test_reading_ranks_the_passage_that_answers_first(bundle: Bundle) -> None:
    texts = ["The garden has a pear tree.", "The database listens on port 5433.", "Coffee is ground at 17."]
    question = bundle.encode_question("What port does the database listen on?")
    spans = ExtractiveReader(bundle, margin=math.inf).read(question, [passage(bundle, text) for text in texts])
    assert spans[0].passage == 1
    assert "5433" in texts[1][spans[0].start : spans[0].end]
    assert sorted(span.passage for span in spans) == [0, 1, 2]
    assert [span.score for span in spans] == sorted((span.score for span in spans), reverse=True)


def test_a_passage_scores_the_same_whatever_is_read_with_it(bundle: Bundle) -> None:
    one, other = (passage(bundle, text) for text in ("The boiler is in the cellar.", "The bees came in June."))
    question = bundle.encode_question("Where is the boiler?")
    reader = ExtractiveReader(bundle, looks=6)
    alone = reader.read(question, [one])[0].score
    together = next(span.score for span in reader.read(question, [other, one, other]) if span.passage == 1)
    assert together == alone


def test_what_retrieval_says_of_a_passage_counts(bundle: Bundle) -> None:
    here, there = passage(bundle, "The boiler is in the cellar."), passage(bundle, "The boiler is in the attic.")
    question = bundle.encode_question("Where is the boiler?")
    reader = ExtractiveReader(bundle, 6, math.inf, 0)
    scores = {span.passage: span.score for span in reader.read(question, [here, there])}
    spans = reader.read(question, [replace(here, prior=-9.0), there])
    assert [span.passage for span in spans] == [1, 0]
    assert [span.score for span in spans] == [scores[1], scores[0] - 9]
    first = ExtractiveReader(bundle, 1, math.inf, 0).read(question, [replace(here, prior=-99.0), there])
    assert [span.passage for span in first] == [1]  # it is not even finished


def test_only_the_passages_that_look_best_early_are_finished(bundle: Bundle) -> None:
    inputs = rooms(bundle)
    question = bundle.encode_question("Where is the boiler?")
    early = promises(bundle, question, inputs)
    spans = ExtractiveReader(bundle, 2, math.inf, 0).read(question, inputs)
    assert {span.passage for span in spans} == set(np.argsort(early)[-2:])
    everything = ExtractiveReader(bundle, 6, math.inf, 0).read(question, inputs)
    assert [span for span in everything if span in spans] == spans  # what is left out changes nothing of the rest
    assert len(everything) == 6
    first, _, third, fourth = sorted(early)[:-5:-1]
    assert third - fourth > 0.01
    for margin, count in ((0.0, 2), (first - third - 0.01, 2), (first - third, 3), (first - third + 0.01, 3)):
        assert len(ExtractiveReader(bundle, 6, margin, 0).read(question, inputs)) == count


def test_passages_that_retrieval_puts_last_are_read_if_they_could_still_win(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = rooms(bundle)
    question = bundle.encode_question("Where is the boiler?")
    early = promises(bundle, question, inputs)
    read = watched(monkeypatch, inputs)
    monkeypatch.setattr("app.reader.SURVEYED", 2)
    best = max(early[2] - 1, early[4])  # of the two that retrieval puts first
    reader = ExtractiveReader(bundle, margin=best + 5)
    for prior, count in ((-5 - HOPE - 0.01, 2), (-5 - HOPE + 0.01, 6), (-1.0, 6)):
        read.clear()
        first = {2: replace(inputs[2], prior=-1.0), 4: inputs[4]}
        asked = [first.get(i, replace(one, prior=prior)) for i, one in enumerate(inputs)]
        assert reader.read(question, asked)[0].passage == 2
        assert len(read) == count
        assert {2, 4} <= set(read)
    read.clear()
    ExtractiveReader(bundle, 6, math.inf, 0).read(
        question, [replace(one, prior=-99.0 * i) for i, one in enumerate(inputs)]
    )
    assert sorted(read) == list(range(6))


def test_where_no_passage_promises_an_answer_fewer_are_read(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = rooms(bundle)
    question = bundle.encode_question("Where is the boiler?")
    early = promises(bundle, question, inputs)
    read = watched(monkeypatch, inputs)
    monkeypatch.setattr("app.reader.SURVEYED", 3)
    margin = max(early) - min(early) + 1
    for above, surveyed in ((-9.0, 6), (0.5, 6), (99.0, 3)):
        wanted = Calibration(max(early) + above + SHORT, 1.0, 0.5)
        for kept, count in ((margin, surveyed), (math.inf, 6)):
            read.clear()
            spans = ExtractiveReader(bundle, margin=kept, calibration=wanted).read(question, inputs)
            assert len(read) == len(spans) == count
    monkeypatch.setattr(bundle, "manifest", replace(bundle.manifest, **asdict(wanted)))  # used where none is given
    assert len(ExtractiveReader(bundle, margin=margin).read(question, inputs)) == 3
    for wanted, count in ((GIVEN, 6), (Calibration(0.0, 1.0, 1.0), 3)):  # whatever is found is given; nothing is
        assert len(ExtractiveReader(bundle, margin=margin, calibration=wanted).read(question, inputs)) == count


def test_the_best_span_holds_against_the_states_of_its_passage(bundle: Bundle) -> None:
    """The passage that looks best early is read from its states, then the best one's until that one is."""
    names = ["cat", "dog", "boiler", "car", "owl", "tree"]
    inputs = [passage(bundle, f"The {name} is in room {i} below the {names[i - 1]}.") for i, name in enumerate(names)]
    question = bundle.encode_question("Where is the boiler?")

    def alone(looks: int) -> list[float]:
        reader = ExtractiveReader(bundle, looks=looks, calibration=GIVEN)
        return [reader.read(question, [one])[0].score for one in inputs]

    stored, exact = alone(0), alone(1)
    assert all(a != b for a, b in zip(stored, exact, strict=True))
    early = promises(bundle, question, inputs)

    def expected(prior: Sequence[float], looks: int) -> tuple[list[tuple[int, float]], int]:
        scores, seen = [s + p for s, p in zip(stored, prior, strict=True)], set()
        best = int(np.argmax(np.add(early, prior)))
        while len(seen) < looks and best not in seen:
            scores[best] = exact[best] + prior[best]
            seen.add(best)
            best = int(np.argmax(scores))
        return sorted(enumerate(scores), key=lambda at: -at[1]), len(seen)

    counts = set()
    for prior in ([0.0] * 6, [-score for score in stored], [9 - score for score in exact], [-one for one in early]):
        for looks in (0, 1, 2, 6):
            told = [replace(one, prior=p) for one, p in zip(inputs, prior, strict=True)]
            spans = ExtractiveReader(bundle, 6, math.inf, looks, GIVEN).read(question, told)
            ranked, looked = expected(prior, looks)
            assert [span.passage for span in spans] == [i for i, _ in ranked]
            assert [span.score for span in spans] == pytest.approx([score for _, score in ranked])
            counts.add((looks, looked))
    assert {(1, 1), (2, 2), (6, 1)} <= counts  # both of those that stop by themselves and of those that are stopped
    assert any(looks == 6 and looked > 2 for looks, looked in counts)


def test_a_span_far_from_an_answer_gets_no_second_look(bundle: Bundle) -> None:
    question = bundle.encode_question("Where is the boiler?")
    inputs = rooms(bundle)
    early = promises(bundle, question, inputs)
    inputs = [replace(one, prior=-promise) for one, promise in zip(inputs, early, strict=True)]
    stored, exact = (
        [ExtractiveReader(bundle, looks=looks, calibration=GIVEN).read(question, [one])[0].score for one in inputs]
        for looks in (0, 1)
    )
    early_best, best = int(np.argmin(exact)), int(np.argmax(stored))
    pair = [replace(inputs[early_best], prior=inputs[early_best].prior + 0.01), inputs[best]]
    assert early_best != best
    assert exact[early_best] + 0.01 < stored[best]
    for short, scores in ((FAR - 0.01, exact), (FAR + 0.01, stored)):
        wanted = Calibration(stored[best] + short, 1.0, 0.5)
        spans = ExtractiveReader(bundle, 2, math.inf, calibration=wanted).read(question, pair)
        assert next(span.score for span in spans if span.passage == 1) == pytest.approx(scores[best])


def test_a_second_look_reads_the_states_below_the_heading(bundle: Bundle) -> None:
    question = bundle.encode_question("When was it serviced?")
    one = passage(bundle, "The boiler was serviced on 14 March 2024 by Hansen.")
    ids = bundle.tokenize(one.text).ids
    whole = np.array([[*bundle.surround("Cellar > Boiler")[0], *ids, bundle.end]])
    (states,) = bundle.run(LOWER, ["states"], {"ids": whole})
    survey = bundle.look(question, ids, "Cellar > Boiler")
    expected = bundle.upper_inputs(question, ids, one.bits, one.scale, states[:, -len(ids) - 1 : -1])
    joint, relevance = bundle.run(UPPER, ["joint", "relevance"], expected)  # real bits this time: nobody reads them
    assert np.array_equal(survey.joint, joint)
    assert survey.relevance == float(relevance[0])
    assert survey.relevance != bundle.look(question, ids, "Garden").relevance
    assert survey.relevance != bundle.survey(question, ids, one.bits, one.scale).relevance


def test_nothing_to_read_gives_no_spans(bundle: Bundle) -> None:
    assert ExtractiveReader(bundle).read(bundle.encode_question("Where?"), []) == []


def test_reading_stops_when_it_is_cancelled(bundle: Bundle) -> None:
    inputs = [passage(bundle, f"Sentence number {i}.") for i in range(8)]
    asked: list[bool] = []

    def cancelled() -> bool:
        asked.append(True)
        return len(asked) > 2

    with pytest.raises(Cancelled):
        ExtractiveReader(bundle).read(bundle.encode_question("Which?"), inputs, cancelled)


def test_a_span_does_not_leave_its_block() -> None:
    start, end = np.array([5.0, 0, 0, 1], dtype=np.float32), np.array([0, 0, 0, 5.0], dtype=np.float32)
    assert best_span(start, end)[:2] == (0, 3)
    assert best_span(start, end, np.array([0, 0, 1, 1]))[:2] == (3, 3)


def test_blocks_are_paragraphs_items_rows_and_headings() -> None:
    text = "one two\nthree\n\nfour\n# five\n- six\n  seven\n| eight |\n2. nine"
    words = [(match.start(), match.end()) for match in re.finditer(r"[a-z]+", text)]
    assert blocks(text, words).tolist() == [0, 0, 0, 1, 2, 3, 3, 4, 5]
