"""Figures that are what they say: scoring against known cases, retrieval against a library, both ways of asking."""

import gzip
import json
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from ir_measures import RR, R

from app.assistant import Assistant
from app.bundle import Bundle
from app.calibration import Calibration
from app.evaluation import (
    Examination,
    Outcome,
    Question,
    best,
    coverage_risk,
    exact,
    f1,
    load_questions,
    normalise,
    summary,
)
from app.indexer import index
from app.places import Places
from store.errors import ModelError, UsageError
from store.tokens import TokenStore
from tests.conftest import SAMPLE_NOTES

PLAIN = Calibration(0.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Boiler!", "boiler"),
        ("  a  cat,  an owl ", "cat owl"),
        ("theatre", "theatre"),
        ("5,433", "5433"),
        ("the", ""),
    ],
)
def test_normalisation_is_squads(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("predicted", "reference", "expected"),
    [
        ("14 March 2024", "on 14 March 2024", 6 / 7),
        ("Hansen", "hansen.", 1.0),
        ("Hansen", "Priya", 0.0),
        ("the", "a", 1.0),
        ("", "Priya", 0.0),
        ("cat cat", "cat", 2 / 3),
    ],
)
def test_f1_is_token_overlap(predicted: str, reference: str, expected: float) -> None:
    assert f1(predicted, reference) == pytest.approx(expected)


def test_the_best_reference_counts() -> None:
    assert best(exact, "Hansen", ["Hansen & Son", "the Hansen"]) == 1
    assert best(f1, "Hansen", ["Hansen & Son", "Priya"]) == pytest.approx(2 / 3)
    assert best(f1, "Hansen", []) == 0


ROW = {"question": "who?", "answers": [{"text": "Hansen", "answer_start": 0}], "context": "Hansen did.", "title": "A"}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_questions_come_as_lines_gzipped_lines_and_squad(tmp_path: Path) -> None:
    expected = [Question("who?", ("Hansen",), "Hansen did.", "A")]
    assert load_questions(write(tmp_path / "rows.jsonl", ROW)) == expected
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROW).encode()))
    assert load_questions(tmp_path / "rows.jsonl.gz") == expected
    answers = [{"text": "Hansen", "answer_start": 0}] * 3
    qas = [{"id": "1", "question": "who?", "answers": answers}, {"id": "2", "question": "when?", "is_impossible": True}]
    squad = {"version": "1", "data": [{"title": "A", "paragraphs": [{"context": "Hansen did.", "qas": qas}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(squad, indent=1))
    assert load_questions(tmp_path / "squad.json") == [*expected, Question("when?", (), "Hansen did.", "A")]


def test_answers_come_as_the_datasets_library_writes_them_too(tmp_path: Path) -> None:
    row = {**ROW, "answers": {"text": ["Hansen", "Hansen"], "answer_start": [0, 0]}}
    assert load_questions(write(tmp_path / "rows.jsonl", row))[0].answers == ("Hansen",)


def test_a_line_separator_inside_a_row_does_not_end_it(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({**ROW, "question": "who\u2028?"}, ensure_ascii=False))
    assert load_questions(tmp_path / "rows.jsonl")[0].text == "who\u2028?"


def test_a_persons_own_questions_need_no_context(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", {"question": "which port?", "answers": ["5433", "5433"]})
    assert load_questions(path) == [Question("which port?", ("5433",), None, "")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no question"),
        ("{", r"file:1 is not JSON"),
        ('\n{"question": "a"}', r"file:2 is no object with question and answers"),
        ('{"question": 1, "answers": []}', "file:1 is no object"),
        ('{"question": "a", "answers": "b"}', "file:1 is no object"),
        ('{"question": "a", "answers": [3]}', "file:1 is no object"),
        ("[1, 2]", "file:1 is no object"),
        ('{"data": [{"paragraphs": [{}]}]}', "is not in SQuAD's format"),
        ('{"data": [3]}', "is not in SQuAD's format"),
    ],
)
def test_files_that_hold_no_questions_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_questions(tmp_path / "file")
    with pytest.raises(UsageError, match="cannot be read"):
        load_questions(tmp_path / "none.jsonl")
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(UsageError, match="cannot be read"):
        load_questions(tmp_path / "broken.gz")


def outcome(answer: str, score: float, rank: int | None = None, answerable: bool = True) -> Outcome:
    question = Question("who?", ("Hansen",), None, "")
    return Outcome(question, answerable, (answer,), (score,), rank, 10.0)


def test_retrieval_figures_agree_with_the_library() -> None:
    ranks = [1, 3, 7, None, 2, 30]
    figures = summary([outcome("Hansen", 1.0, rank) for rank in ranks], "binarized", PLAIN, opened=True)
    qrels = [ir_measures.Qrel(str(q), "gold", 1) for q in range(len(ranks))]
    run = [
        ir_measures.ScoredDoc(str(q), "gold" if rank == place else f"other{place}", -place)
        for q, rank in enumerate(ranks)
        for place in range(1, 41)
    ]
    expected = ir_measures.calc_aggregate([R @ 1, R @ 5, R @ 20, RR], qrels, run)
    for k in (1, 5, 20):
        assert figures["recall_at_k"][str(k)] == pytest.approx(expected[R @ k], abs=1e-4)
    assert figures["mrr"] == pytest.approx(expected[RR], abs=1e-4)


def test_abstention_figures_by_hand() -> None:
    """Confidences 0.98, 0.27 answerable, 0.73, 0.12 not; the threshold is 0.5."""
    outcomes = [
        outcome("Hansen", 4.0),
        outcome("Priya", -1.0),
        outcome("Priya", 1.0, answerable=False),
        outcome("Priya", -2.0, answerable=False),
    ]
    figures = summary(outcomes, "binarized", PLAIN, opened=False)
    assert figures["questions"] == 2
    assert (figures["em"], figures["f1"]) == (50.0, 50.0)
    assert figures["abstention"] == {
        "threshold": 0.5, "precision": 0.5, "recall": 0.5, "answered": 0.5, "auroc": 0.75
    }  # fmt: skip


def test_few_questions_make_a_short_curve_that_says_its_own_coverage() -> None:
    curve = coverage_risk([outcome("Hansen", 5.0), outcome("Priya", 4.0), outcome("Priya", 1.0)], PLAIN)
    assert [point["coverage"] for point in curve] == [0.3333, 0.6667, 1.0]


def test_without_an_answerable_question_there_are_no_means() -> None:
    figures = summary([outcome("Priya", 1.0, answerable=False)], "binarized", PLAIN, opened=True)
    assert (figures["questions"], figures["em"], figures["mrr"], figures["abstention"]) == (0, None, None, None)
    assert figures["ms_per_question"] == {"p50": None, "p95": None}


def test_the_coverage_risk_curve_takes_the_surest_first() -> None:
    outcomes = [outcome("Priya", 1.0), outcome("Hansen", 5.0), outcome("Hansen", 3.0), outcome("Priya", 4.0)]
    curve = coverage_risk(outcomes, PLAIN, steps=4)
    assert [point["risk"] for point in curve] == [0.0, 0.5, pytest.approx(1 / 3, abs=1e-4), 0.5]
    assert [point["coverage"] for point in curve] == [0.25, 0.5, 0.75, 1.0]
    sure = [point["confidence"] for point in curve]
    assert sure == sorted(sure, reverse=True)


def sample_rows() -> list[Question]:
    """Questions on the sample notes, one with its context."""
    heating = (SAMPLE_NOTES / "house" / "heating.md").read_text()
    return [
        Question("When was the boiler serviced?", ("14 March 2024",), heating, "heating"),
        Question("Which port does the staging database listen on?", ("5433", "port 5433"), None, ""),
    ]


def test_the_given_context_is_read_as_a_note_would_be(bundle: Bundle) -> None:
    outcomes = Examination(sample_rows()[:1], bundle, None).ask("binarized", 20, without=False)
    assert [(o.answer, o.em, o.rank) for o in outcomes] == [("14 March 2024", 1.0, None)]


def test_a_question_without_context_can_only_be_asked_open(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="has no context to read: ask over the store with --open"):
        Examination(sample_rows(), bundle, None).ask("binarized", 20, without=False)


def test_asking_open_retrieves_reads_and_leaves_the_article_out(sample: Places, bundle: Bundle) -> None:
    with TokenStore.open(sample.store) as store:
        asked = Examination(sample_rows(), bundle, store).ask("binarized", 20, without=True)
    own, elsewhere = asked[::2], asked[1::2]
    assert [o.em for o in own] == [1.0, 1.0]
    assert [o.rank for o in own] == [1, 1]
    assert [o.answerable for o in asked] == [True, False, True, False]
    assert all(len(o.answers) == len(o.scores) > 0 for o in asked)
    assert all(o.f1 == 0 and o.rank is None for o in elsewhere)
    assert all("14 March 2024" not in o.answer and "5433" not in o.answer for o in elsewhere)


def test_what_is_measured_is_what_ask_says(sample: Places, bundle: Bundle) -> None:
    """Same answer, same confidence: the figures are the program's own."""
    with TokenStore.open(sample.store) as store:
        examination = Examination(sample_rows(), bundle, store)
        outcomes = examination.ask("binarized", 20, without=False)
    with Assistant.open(sample) as assistant:
        for measured in outcomes:
            answer = assistant.ask(measured.question.text)
            assert answer.candidates[0].answer == measured.answer
            assert answer.candidates[0].confidence == pytest.approx(
                measured.confidence(examination.calibration), abs=1e-3
            )


def test_progress_counts_every_outcome(sample: Places, bundle: Bundle) -> None:
    seen: list[tuple[int, int]] = []
    with TokenStore.open(sample.store) as store:
        Examination(sample_rows(), bundle, store).ask("binarized", 5, True, lambda *at: seen.append(at))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_every_nth_question_is_asked_and_the_others_still_say_what_an_article_is(
    bundle: Bundle, notes: Path, store: TokenStore
) -> None:
    """Two contexts of one article, one of them asked: without the article means without both."""
    contexts = ["The boiler was serviced on 4 March.", "The boiler was serviced on 9 June, once more."]
    for number, context in enumerate(contexts):
        (notes / f"{number}.txt").write_text(context)
    (notes / "pear.txt").write_text("The pear tree was planted in November.")
    index(store, bundle, [notes])
    questions = [Question("When was the boiler serviced?", (c[27:-1],), c, "Boiler") for c in contexts]
    asked = Examination(questions, bundle, store, every=2, finished=3).ask("binarized", 20, without=True)
    assert [o.answerable for o in asked] == [True, False]
    assert asked[0].rank in (1, 2)
    assert len(asked[0].answers) == 3
    assert len(asked[1].answers) == 1


def test_an_answer_stands_in_a_passage_as_whole_words_only(bundle: Bundle, notes: Path, store: TokenStore) -> None:
    (notes / "a.txt").write_text("Port 5433 is for education.")
    (notes / "b.txt").write_text("A cat and 5 dogs.")
    index(store, bundle, [notes])
    asked = Examination([Question("How many dogs?", ("5",), None, "")], bundle, store).ask("binarized", 20, True)
    assert len(asked[1].answers) == 1  # only b.txt was left out


def test_a_context_that_is_no_note_is_judged_by_its_answer(sample: Places, bundle: Bundle) -> None:
    excerpt = Question("When was the boiler serviced?", ("14 March 2024",), "Serviced on 14 March 2024.", "x")
    with TokenStore.open(sample.store) as opened:
        own, elsewhere = Examination([excerpt], bundle, opened).ask("binarized", 20, without=True)
    assert own.rank == 1
    assert all("14 March 2024" not in answer for answer in elsewhere.answers)


@pytest.mark.parametrize("reader", ["full", "split"])
def test_a_bundle_without_baselines_says_how_to_get_them(bundle: Bundle, reader: str) -> None:
    with pytest.raises(ModelError, match="btr-export bundle --with-baselines"):
        Examination(sample_rows(), bundle, None).ask(reader, 20, without=False)
