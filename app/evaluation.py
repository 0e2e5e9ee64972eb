"""
How well a reader answers: questions with known answers in, exact match, F1, retrieval and abstention figures out.

Two ways to ask. *Given* the passage: a row's context is split as a note would be, and the best span of its passages
counts. *Open*: passages come from the store, so retrieval counts too; `without` asks once more over everything but the
question's own article, where the right reply is "not in your notes".

Scores are SQuAD's: lower case, no punctuation, no articles; the best of a row's references counts.
"""

from __future__ import annotations

import collections
import functools
import gzip
import hashlib
import json
import re
import string
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.baselines import READERS
from app.bundle import Bundle
from app.calibration import SETTING, Calibration, Observation, from_json, of_manifest
from app.documents import Document
from app.passages import PassageSplitter
from app.reader import PassageBits, Reader, Span
from app.retriever import CANDIDATES, Retriever
from store.codec import token_arrays
from store.errors import UsageError
from store.tokens import StoredPassage, TokenStore

SCHEMA_VERSION = 1
RIGHT = 0.5
"""F1 from which an answer counts as right where only right or wrong is asked."""
DEPTHS = (1, 5, 20)
"""k of recall@k."""


@dataclass(frozen=True)
class Question:
    """A question with its known answers."""

    text: str
    answers: tuple[str, ...]
    """None of them: the text does not say."""
    context: str | None
    title: str


@dataclass(frozen=True)
class Outcome:
    """How one question went."""

    question: Question
    answerable: bool
    """What was read may hold the answer; false where the article was left out, or where there is none."""
    answer: str
    """The best span, whether or not it would be given."""
    scores: tuple[float, ...]
    """Of the passages' best spans, best first."""
    same: tuple[bool, ...]
    """Which of them are the best one's answer."""
    rank: int | None
    """Of the first passage that holds the answer, from 1; None where none was found, or nothing was retrieved."""
    ms: float

    @property
    def em(self) -> float:
        """1 if the answer is a reference, 0 if not."""
        return best(exact, self.answer, self.question.answers) if self.answerable else 0.0

    @property
    def f1(self) -> float:
        """Token overlap with the nearest reference."""
        return best(f1, self.answer, self.question.answers) if self.answerable else 0.0

    @property
    def observation(self) -> Observation:
        """What a calibration learns from it."""
        return Observation(self.scores, self.same, self.f1 >= RIGHT)

    def confidence(self, calibration: Calibration) -> float:
        """Of the best answer, as `ask` would state it."""
        shares = calibration.probabilities(self.scores)
        return sum(share for share, same in zip(shares, self.same, strict=True) if same)


def normalise(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact(predicted: str, reference: str) -> float:
    """1 if two answers are the same after normalisation."""
    return float(normalise(predicted) == normalise(reference))


def f1(predicted: str, reference: str) -> float:
    """Token overlap of two answers."""
    a, b = normalise(predicted).split(), normalise(reference).split()
    common = sum((collections.Counter(a) & collections.Counter(b)).values())
    if not a or not b:
        return float(a == b)
    return 2 * common / (len(a) + len(b)) if common else 0.0


def best(score: Callable[[str, str], float], predicted: str, references: Sequence[str]) -> float:
    """The best score against any reference."""
    return max((score(predicted, reference) for reference in references), default=0.0)


def load_questions(path: Path) -> list[Question]:
    """
    Questions from JSONL (gzipped or not) or from a SQuAD file.

    A line is an object with `question` and `answers`, texts or `{text}` objects; `context` and `title` are optional.

    Raises:
        UsageError: If the file cannot be read, a row is no question, or there is none.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}): give a JSONL or SQuAD file of questions") from error
    questions = []
    for where, row in _rows(path, text):
        try:
            questions.append(_question(row))
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f'{where} is no object with question and answers: write {{"question": ..., "answers": [...]}}'
            ) from error
    if not questions:
        raise UsageError(f"{path} holds no question: give a JSONL or SQuAD file of questions")
    return questions


def _rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """(where, row) of every question; a SQuAD file is one object with `data`."""
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        try:
            for article in whole["data"]:
                for paragraph in article["paragraphs"]:
                    for row in paragraph["qas"]:
                        shared = {"title": article.get("title"), "context": paragraph["context"]}
                        yield f"{path}, question {row.get('id')!r}", {**row, **shared}
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is not in SQuAD's format ({error!r} is missing or odd): correct it") from error
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield f"{path}:{number}", json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}:{number} is not JSON ({error}): correct it") from error


def _question(row: Any) -> Question:
    answers = [] if row.get("is_impossible") else row["answers"]
    if isinstance(answers, str) or not isinstance(row["question"], str):
        raise TypeError
    texts = tuple(dict.fromkeys(answer if isinstance(answer, str) else answer["text"] for answer in answers))
    context, title = row.get("context"), row.get("title") or ""
    if not all(isinstance(text, str) for text in (*texts, title, context or "")):
        raise TypeError
    return Question(row["question"], texts, context, title)


class Examination:
    """Questions put to a bundle's readers, over their contexts or over a store."""

    def __init__(self, questions: Sequence[Question], bundle: Bundle, store: TokenStore | None) -> None:
        self.questions, self.bundle, self.store = questions, bundle, store
        kept = store.setting(SETTING) if store else None
        self.calibration = from_json(kept) if kept else of_manifest(bundle.manifest)

    def ask(
        self, reader: str, passages: int, without: bool, progress: Callable[[int, int], None] = lambda *_: None
    ) -> list[Outcome]:
        """
        Every question's outcome with the reader of this name (`app.baselines.READERS`).

        Raises:
            ModelError: If the bundle does not have that reader.
            UsageError: If no question can be asked.
        """
        chosen = READERS[reader](self.bundle)
        if self.store is None:
            outcomes = ask_given(self.questions, self.bundle, chosen)
        else:
            outcomes = ask_open(self.questions, self.store, self.bundle, chosen, passages, without)
        total = len(self.questions) * (2 if self.store and without else 1)
        found = []
        for outcome in outcomes:
            found.append(outcome)
            progress(len(found), total)
        return found


def ask_given(questions: Sequence[Question], bundle: Bundle, reader: Reader) -> Iterator[Outcome]:
    """
    Each question over its own context, split as a note with the row's title would be.

    Raises:
        UsageError: If a question has no context.
    """
    splitter = PassageSplitter(bundle.tokenizer, bundle.manifest.passage_tokens)

    @functools.lru_cache(maxsize=64)
    def encode(title: str, context: str) -> list[PassageBits]:
        document = Document(Path("context.txt"), "text", context, 0, title.replace("_", " "), {}, "")
        passages = []
        for passage in splitter.split(document):
            encoded = bundle.encode_passage(passage.heading, passage.text)
            bits, scale = token_arrays(encoded.bits, encoded.scale, encoded.tokens)
            passages.append(PassageBits(passage.text, bits, scale, passage.heading))
        return passages

    for question in questions:
        if question.context is None:
            raise UsageError(f"the question {question.text!r} has no context to read: ask over the store with --open")
        passages = encode(question.title, question.context)
        began = time.perf_counter()
        spans = reader.read(bundle.encode_question(question.text), passages, _never)
        ms = 1000 * (time.perf_counter() - began)
        yield _outcome(question, bool(question.answers), [p.text for p in passages], spans, None, ms)


def ask_open(
    questions: Sequence[Question], store: TokenStore, bundle: Bundle, reader: Reader, passages: int, without: bool
) -> Iterator[Outcome]:
    """
    Each question over the store; with `without`, once more over the store without its article.

    A passage holds the answer if it is of the question's context or, where a row names none, if an answer stands in it.
    The article is every document with a context of the same title or, where the row has no context, every document
    whose passages hold an answer.
    """
    retriever = Retriever(store)
    articles: dict[str, set[str]] = collections.defaultdict(set)
    for question in questions:
        if question.context is not None:
            articles[question.title or question.context].add(_digest(question.context))
    for question in questions:
        began = time.perf_counter()
        encoded = bundle.encode_question(question.text)
        with store.snapshot():
            hits = [hit.passage_id for hit in retriever.retrieve(question.text, encoded.code, 2 * CANDIDATES)]
            retrieved = time.perf_counter() - began
            found = store.passages(hits)
            holds = _holds(question)
            holding = [holds(passage) for passage in found]
            choices = [(True, found[:passages])]
            if without:
                article = articles.get(question.title or question.context or "") if question.context else None
                if article is None:
                    article = {p.content_hash for p, held in zip(found, holding, strict=True) if held}
                choices.append((False, [p for p in found if p.content_hash not in article][:passages]))
            rank = holding.index(True) + 1 if True in holding else None
            bits = store.token_bits([p.id for _, chosen in choices for p in chosen])
        for own, chosen in choices:
            inputs = [PassageBits(p.text, *bits[p.id], p.heading) for p in chosen]
            began = time.perf_counter()
            spans = reader.read(encoded, inputs, _never)
            ms = 1000 * (retrieved + time.perf_counter() - began)
            answerable = own and bool(question.answers)
            yield _outcome(question, answerable, [p.text for p in chosen], spans, rank if own else None, ms)


def _holds(question: Question) -> Callable[[StoredPassage], bool]:
    if question.context is not None:
        digest = _digest(question.context)
        return lambda passage: passage.content_hash == digest
    wanted = [normalise(answer) for answer in question.answers]
    return lambda passage: any(answer in normalise(passage.text) for answer in wanted if answer)


def _outcome(
    question: Question, answerable: bool, texts: Sequence[str], spans: Sequence[Span], rank: int | None, ms: float
) -> Outcome:
    answers = [texts[span.passage][span.start : span.end] for span in spans]
    same = tuple(answer.casefold() == answers[0].casefold() for answer in answers)
    return Outcome(
        question, answerable, answers[0] if answers else "", tuple(span.score for span in spans), same, rank, ms
    )


def summary(outcomes: Sequence[Outcome], reader: str, calibration: Calibration, opened: bool) -> dict[str, Any]:
    """The figures of a run, as `eval --json` prints them; shares are 0..1, EM and F1 0..100."""
    asked = [outcome for outcome in outcomes if outcome.answerable]
    times = [outcome.ms for outcome in outcomes]
    figures: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "reader": reader,
        "questions": len(asked),
        "em": _mean([100 * outcome.em for outcome in asked]),
        "f1": _mean([100 * outcome.f1 for outcome in asked]),
        "recall_at_k": None,
        "mrr": None,
        "abstention": None,
        "coverage": None,
        "ms_per_question": {"p50": round(float(np.percentile(times, 50)), 1)} if times else {},
    }
    if times:
        figures["ms_per_question"]["p95"] = round(float(np.percentile(times, 95)), 1)
    if opened:
        ranks = [outcome.rank for outcome in asked]
        figures["recall_at_k"] = {str(k): _mean([float(r is not None and r <= k) for r in ranks]) for k in DEPTHS}
        figures["mrr"] = _mean([1 / rank if rank else 0.0 for rank in ranks])
    if len(asked) < len(outcomes) and asked:
        figures["abstention"] = _abstention(outcomes, calibration)
    figures["coverage"] = coverage_risk(outcomes, calibration)
    return figures


def _abstention(outcomes: Sequence[Outcome], calibration: Calibration) -> dict[str, float]:
    sure = np.array([outcome.confidence(calibration) for outcome in outcomes])
    answerable = np.array([outcome.answerable for outcome in outcomes])
    held_back = sure < calibration.threshold
    inside, outside = sure[answerable], sure[~answerable]
    wins = (inside[:, None] > outside[None]).mean() + (inside[:, None] == outside[None]).mean() / 2
    return {
        "threshold": calibration.threshold,
        "precision": round(float((held_back & ~answerable).sum() / max(1, held_back.sum())), 4),
        "recall": round(float(held_back[~answerable].mean()), 4),
        "answered": round(float((~held_back)[answerable].mean()), 4),
        "auroc": round(float(wins), 4),
    }


def coverage_risk(outcomes: Sequence[Outcome], calibration: Calibration, steps: int = 10) -> list[dict[str, float]]:
    """What share of the given answers is wrong if only the surest 10 %, 20 %, ... of the questions are answered."""
    ordered = sorted(outcomes, key=lambda outcome: -outcome.confidence(calibration))
    wrong = np.cumsum([outcome.f1 < RIGHT for outcome in ordered])
    curve = []
    for step in range(1, steps + 1):
        count = len(ordered) * step // steps
        if count:
            confidence = ordered[count - 1].confidence(calibration)
            risk = wrong[count - 1] / count
            curve.append({"coverage": step / steps, "risk": round(float(risk), 4), "confidence": round(confidence, 4)})
    return curve


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4) if values else 0.0


def _digest(context: str) -> str:
    return hashlib.sha256(context.encode()).hexdigest()


def _never() -> bool:
    return False
