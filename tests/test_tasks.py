"""The paper's tasks: files read, answers judged, labels and choices taken as the benchmark says."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from app.bundle import Bundle
from app.evaluation import Outcome, Question
from app.places import EMBEDDED_BUNDLE
from benchmarks.corpus import write_note
from benchmarks.tasks import (
    PASSAGES,
    Choice,
    Row,
    claim_questions,
    clozes,
    fever_row,
    findings,
    halves,
    joined,
    line,
    load_choices,
    measure,
    mmlu_row,
    near_chance,
    open_row,
    shared_words,
    step_of,
    wiki_store,
)
from store.errors import ModelError, UsageError
from store.tokens import TokenStore


def gz(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(f"{json.dumps(row)}\n" for row in rows).encode()))
    return path


def outcome(answer: str, score: float, *references: str, rank: int | None = None, question: str = "who?") -> Outcome:
    return Outcome(Question(question, references, None, ""), bool(references), (answer,), (score,), rank, 1.0)


def of_all(outcomes: list[Outcome]) -> dict[str, list[Outcome]]:
    return {"full": outcomes, "split": outcomes, "binarized": outcomes}


def test_choices_are_read_with_the_place_of_the_answer(tmp_path: Path) -> None:
    claim = {"question": "A pear is red.", "context": "Pears are green.", "choices": ["yes", "no"], "answer": "no"}
    question = {"question": "2 + 2?", "choices": ["3", "4"], "answer": "4", "context": ""}
    assert load_choices(gz(tmp_path / "a.gz", claim, question)) == [
        Choice("A pear is red.", "Pears are green.", ("yes", "no"), 1),
        Choice("2 + 2?", "", ("3", "4"), 1),
    ]


@pytest.mark.parametrize(
    "row",
    [{"question": "a", "choices": ["3"], "answer": "4"}, {"choices": ["3"], "answer": "3"}, [1], {"question": "a"}],
)
def test_rows_without_a_choice_that_is_right_are_refused(tmp_path: Path, row: object) -> None:
    with pytest.raises(UsageError, match=r"a\.gz:1 has no question, choices"):
        load_choices(gz(tmp_path / "a.gz", row))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8b broken")
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"{"))
    for name, message in (("none", "No such file"), ("broken", "cannot be read"), ("text", "text.gz:1 is not JSON")):
        with pytest.raises(UsageError, match=message):
            load_choices(tmp_path / f"{name}.gz")
    with pytest.raises(UsageError, match="holds no question"):
        load_choices(gz(tmp_path / "empty.gz"))


@pytest.mark.parametrize(
    ("count", "wanted", "every"), [(10, None, 1), (10, 20, 1), (10, 10, 1), (10, 9, 2), (10, 3, 4)]
)
def test_never_more_questions_than_wanted_are_asked(count: int, wanted: int | None, every: int) -> None:
    assert step_of(count, wanted) == every
    assert len(range(0, count, every)) <= (wanted or count)


def test_any_alias_is_right_and_recall_counts_what_is_read() -> None:
    row = open_row(
        "NQ",
        of_all(
            [
                outcome("helicopters", 1, "Copter", "The Helicopters", rank=1),
                outcome("helicopter", 1, "Copter", "Helicopters", rank=PASSAGES),
                outcome("copter", 1, "Copter", "Helicopters", rank=PASSAGES + 1),
                outcome("", 0, "Copter"),
            ]
        ),
    )
    assert row.right["full"].tolist() == [1, 0, 1, 0]
    assert row.recall is not None and row.recall.tolist() == [1, 1, 0, 0]


def test_the_choice_whose_span_scores_highest_is_taken() -> None:
    choices = [Choice("a", "", ("x", "y", "z"), 2), Choice("b", "", ("x", "y"), 0), Choice("c", "", ("x", "y"), 1)]
    scores = [-3.0, -2.0, -1.0, 0.5, 0.7, 4.0, 4.0]
    row = mmlu_row(choices, of_all([outcome("?", score) for score in scores]))
    assert row.right["split"].tolist() == [1, 0, 0], "of equal ones the first is taken"
    assert row.chance == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)


def test_a_long_question_loses_its_beginning_and_never_its_choice() -> None:
    def tokens(text: str) -> int:
        return len(text.split())

    assert joined("one two three?", "four five", tokens, 5) == "one two three? four five"
    assert joined("one two three?", "four five", tokens, 4) == "two three? four five"
    assert joined("one two three?", "four five", tokens, 1) == "three? four five"


def test_names_and_numbers_are_taken_out_of_a_claim() -> None:
    assert clozes("The Bank of England was founded in 1694.") == [
        ("The Bank of England was founded in what?", "1694"),
        ("what was founded in 1694?", "The Bank of England"),
    ]
    assert clozes("There is a capital.") == []
    assert len(clozes("Ann met Bob, Cid, Dan and saw Eve.")) == 3
    claim = Choice("Hansen came in May.", "Hansen came.", ("yes", "no"), 0)
    assert [(q.text, q.answers, q.context) for q in claim_questions(claim)] == [
        ("Hansen came in May.", ("",), "Hansen came."),
        ("Hansen came in what?", ("May",), "Hansen came."),
        ("what came in May?", ("Hansen",), "Hansen came."),
    ]


def test_findings_say_whether_what_was_taken_out_is_found() -> None:
    told = [outcome("in May", 2.0, "", question="Hansen came in May.")]
    assert findings(told) == [2.0, 2.0, 2.0, 1.0, *[0.0] * 8]
    told += [outcome("june", 3.0, "May"), outcome("hansen", -1.0, "Hansen")]
    assert findings(told)[4:] == [1.0, 0.0, 0.5, 1.0, 0.0, -1.0, 3.0, 3.0]


def test_shared_words_are_counted_without_a_reader() -> None:
    features = shared_words("The boiler was not in Oslo 2024", "In 2024 the boiler broke. Nobody came.")
    assert features[:8] == [2 / 4, 2 / 4, 1 / 6, 1.0, 1.0, 0.0, 1.0, 1.0]
    assert shared_words("It is.", "")[0] == 1.0, "nothing to be shared"


def test_a_claim_stands_on_one_side_only_and_on_the_same_one_again() -> None:
    claims = [f"claim {i % 30}" for i in range(70)]
    fitted = halves(claims)
    sides = {claim: {bool(f) for c, f in zip(claims, fitted, strict=True) if c == claim} for claim in claims}
    assert all(len(side) == 1 for side in sides.values())
    assert sum(side == {True} for side in sides.values()) == 15
    assert fitted.tolist() == halves(claims).tolist()
    assert fitted.tolist() != halves(claims, seed=1).tolist()
    with pytest.raises(UsageError, match="at least 2 --questions"):
        halves(["the same claim"] * 5)


@pytest.mark.parametrize("turned", [False, True])
def test_fever_is_judged_on_claims_that_were_not_fitted(turned: bool) -> None:
    """
    A claim holds where what is taken out is found: a head learns that, the words shared say nothing.

    Turned round in the half that is not fitted, it is always wrong there.
    """
    claims = [Choice(f"Hansen came in {i}.", "Hansen came then.", ("yes", "no"), i % 2) for i in range(1000, 1100)]
    fitted = halves([claim.question for claim in claims])
    told = []
    for claim, fitting in zip(claims, fitted, strict=True):
        whole, year, name = claim_questions(claim)
        holds = (claim.answer == 0) != (turned and not fitting)
        told += [
            outcome("x", 1, "", question=whole.text),
            outcome(year.answers[0] if holds else "never", 1, *year.answers),
            outcome("x", 1, *name.answers),
        ]
    row, others = fever_row(claims, of_all(told))
    assert len(row.right["full"]) == 50
    assert row.right["binarized"].mean() == 1 - turned
    assert dict(others)["binarized, no words shared"].mean() == 1 - turned
    assert row.chance == dict(others)["the majority label"].mean()
    assert abs(dict(others)["words shared, no reader"].mean() - 0.5) < 0.25


def test_a_line_has_standard_errors_and_the_papers_figures() -> None:
    right = {"full": np.array([1.0, 1, 1, 0]), "split": np.array([1.0, 1, 0, 0]), "binarized": np.array([1.0, 0, 0, 0])}
    cells = line(Row("MMLU", right, chance=0.25)).split(" | ")
    assert cells == [
        "| MMLU",
        "4",
        "25.0",
        "75.0 ± 21.7",
        "50.0 ± 25.0",
        "25.0 ± 21.7",
        "-50.0 ± 25.0",
        "",
        "38.6",
        "35.4",
        "",
        " |",
    ]


def test_readers_near_chance_are_named() -> None:
    half, all_ = np.tile([1.0, 0.0], 200), np.ones(400)
    note = near_chance(Row("FEVER", {"full": all_, "split": half, "binarized": half}, chance=0.5))
    assert note is not None and note.startswith("FEVER: split, binarized within two standard errors (5.0 points)")
    above = (np.arange(400) < 0.56 * 400).astype(np.float64)
    assert near_chance(Row("FEVER", {"full": all_, "split": above, "binarized": above}, chance=0.5)) is None
    assert near_chance(Row("NQ", {"full": half, "split": half, "binarized": half})) is None


@pytest.mark.parametrize(
    ("title", "name"),
    [("AC/DC", "AC DC.txt"), (".NET", "NET.txt"), ("...", "untitled.txt"), ("é" * 80, f"{'é' * 50}.txt")],
)
def test_any_title_is_a_file_name(tmp_path: Path, title: str, name: str) -> None:
    write_note(tmp_path, 7, title, "text")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.txt")] == [f"000007/{name}"]


def test_an_interrupted_store_is_gone_on_with_and_a_finished_one_used_again(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    articles = gz(tmp_path / "wiki.gz", *({"title": f"Note {i}", "text": f"The port is {5000 + i}."} for i in range(4)))
    put, stored = TokenStore.put_document, list[str]()

    def interrupted(self: TokenStore, source: int, document: object, *rest: object) -> None:
        if len(stored) == 1:
            raise KeyboardInterrupt
        stored.append(document.path)  # type: ignore[attr-defined]
        put(self, source, document, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(TokenStore, "put_document", interrupted)
        with pytest.raises(KeyboardInterrupt):
            wiki_store(articles, tmp_path / "keep", bundle, 3)
    again = list[str]()
    with monkeypatch.context() as patch:
        patch.setattr(
            TokenStore,
            "put_document",
            lambda self, source, document, *rest: (again.append(document.path), put(self, source, document, *rest)),
        )
        path = wiki_store(articles, tmp_path / "keep", bundle, 3)
    assert len(again) == 2 and not {*stored} & {*again}
    with TokenStore.open(path, bundle.manifest.fingerprint) as store:
        assert store.counts().notes == 3
    articles.unlink()
    assert wiki_store(articles, tmp_path / "keep", bundle, 3) == path


def test_articles_that_cannot_be_made_notes_are_refused(tmp_path: Path, bundle: Bundle) -> None:
    articles = gz(tmp_path / "wiki.gz", {"title": "A", "text": "b"}, {"title": "A"})
    with pytest.raises(UsageError, match=r"wiki\.gz:2 is no object with title and text"):
        wiki_store(articles, tmp_path / "keep", bundle, None)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        wiki_store(articles, tmp_path / "file", bundle, None)


def test_a_bundle_without_the_other_readers_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--with-baselines"):
        measure(tmp_path, tmp_path / "keep", EMBEDDED_BUNDLE, None, None, ["NQ"])
    assert not (tmp_path / "keep").exists()
