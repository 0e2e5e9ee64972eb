"""The table of generative readers: who reads what, what a row says, and that graphs and torch are one reader."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.bundle import Bundle
from app.evaluation import load_questions
from app.indexer import index
from benchmarks.generative import (
    FULL,
    OURS,
    RATIOS,
    SPLIT,
    Turn,
    asked,
    gained,
    kept,
    parity,
    readers,
    table,
    take_turns,
)
from store.errors import UsageError
from store.tokens import TokenStore
from tests.conftest import new_store
from tests.tiny import CONTEXT


@pytest.fixture(scope="module")
def floats(generative: Path) -> Bundle:
    return Bundle.open(generative / "float32")


@pytest.fixture(scope="module")
def store(generative: Path, floats: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notes")
    for name, text in {"heating": CONTEXT, "staging": "The staging database listens on port 5433."}.items():
        (folder / f"{name}.txt").write_text(text)
    with new_store(folder / "t5.db", floats) as opened:
        assert index(opened, floats, [folder]).indexed == 2
    return folder / "t5.db"


def test_every_reader_gets_every_question(generative: Path, floats: Bundle, store: Path) -> None:
    questions = load_questions(generative / "train.jsonl")
    asks = readers(floats, floats)
    with TokenStore.open(store) as opened:
        put, turns = take_turns(asks, asked(opened, floats, questions, 2))
        counts = opened.counts()
    assert put == questions
    assert list(asks)[:2] == [FULL, SPLIT]
    assert set(turns) == set(asks)
    answers = {name: [turn.answer for turn in own] for name, own in turns.items()}
    right = [question.answers[0] for question in questions]
    for name in (FULL, SPLIT, f"{OURS}, ratio 0"):
        assert sum(a == b for a, b in zip(answers[name], right, strict=True)) >= 3, name
    assert list(answers.values())[2] == answers[f"{OURS}, ratio 0"]  # the same bundle twice: nothing was mixed up
    assert all(turn.encoder > 0 < turn.decoder for own in turns.values() for turn in own)
    assert sum(turn.held[0] for turn in turns[FULL]) >= 3
    sizes = {name: kept(name, floats, floats, counts) for name in turns}
    lines = list(table(put, turns, sizes))
    assert len(lines) == 2 + 3 + len(RATIOS)
    assert {line.count("|") for line in lines} == {11}


def test_a_row_compares_with_the_unsplit_reader(generative: Path) -> None:
    questions = load_questions(generative / "train.jsonl")[:2]  # 4 march, hansen
    all_hold, source_alone, none = (True, True, True), (True, False, False), (False, False, False)
    turns = {
        FULL: [Turn("4 March", 0.4, 0.1, all_hold), Turn("the Hansen", 0.2, 0.1, source_alone)],
        OURS: [Turn("4 march", 0.1, 0.1, all_hold), Turn("boiler", 0.1, 0.1, none)],
    }
    rows = [line.split(" | ") for line in list(table(questions, turns, {FULL: 0.0, OURS: 6.0}))[2:]]
    assert rows[0][1:-1] == ["100.0", "100.0", "100.0%", "300", "400 / 490", "1.00", "1.00", "0.0"]
    assert rows[1][1:-1] == ["50.0", "50.0", "50.0%", "100", "200 / 200", "3.00", "2.00", "6.0"]
    assert [row[-1] for row in rows] == ["100.0 / 50.0 / 50.0 |", "100.0 / 100.0 / 100.0 |"]  # of right answers alone


def test_gains_are_medians_of_what_each_question_gains() -> None:
    none = (0.4, 0.2, 0.3)
    took = {0.0: none, 0.1: none, 0.2: (0.2, 0.1, 0.3), 0.3: (0.1, 0.1, 0.1), 0.5: (0.8, 0.1, 0.6)}
    turns = {
        f"{OURS}, ratio {ratio:g}": [Turn("", seconds, 0.1, (True, True, True)) for seconds in own]
        for ratio, own in took.items()
    }
    assert gained(turns).endswith(" 0.1 / 0.2 / 0.3 / 0.5: 1.00 / 2.00 / 3.00 / 0.50 times as fast as at 0.")


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5])
def test_graphs_and_torch_are_one_reader(generative: Path, floats: Bundle, store: Path, ratio: float) -> None:
    """Upper graph, what is merged in it and over the passages, cross and decoder graph: logits, scores, answers."""
    questions = load_questions(generative / "train.jsonl")
    with TokenStore.open(store) as opened:
        found = list(parity(generative / "run", floats, asked(opened, floats, questions, 2), ratio))
    assert len(found) == 4
    assert max(p.logits for p in found) < 1e-3
    assert max(p.score for p in found) < 1e-3
    assert all(p.same for p in found)


def test_the_run_of_an_extractive_reader_is_refused(floats: Bundle, tiny: Path) -> None:
    with pytest.raises(UsageError, match="is the run of an extractive reader"):
        next(parity(tiny.parent / "run", floats, iter([])))


def test_it_is_known_which_passages_hold_the_answer(generative: Path, floats: Bundle, store: Path) -> None:
    with TokenStore.open(store) as opened:
        for one in asked(opened, floats, load_questions(generative / "train.jsonl"), 2):
            texts = [passage.text for passage, holds in zip(one.passages, one.holding, strict=True) if holds]
            assert len(texts) == 1
            assert one.question.answers[0] in texts[0]


def test_the_command_prints_the_table_and_the_parity(generative: Path, store: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.generative", str(store), str(generative / "train.jsonl")]
    command += ["--bundle", str(generative / "float32"), "--passages", "2", "--count", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("2 questions, 2 passages; btr-t5, ")
    assert f"| {OURS}, ratio 0.5 |" in done.stdout
    done = subprocess.run([*command, "--parity", str(generative / "run")], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("2 questions, 2 passages, ratio 0: logits differ by at most ")
    assert done.stdout.endswith(" 2 greedy answers are the same\n")
    done = subprocess.run([*command, "--naive", str(generative)], capture_output=True, text=True)
    assert done.returncode == 4
    assert done.stderr.startswith("generative: ") and done.stderr.count("\n") == 1
