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
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app import SCHEMA_VERSION
from app.baselines import baseline
from app.bundle import Bundle
from app.calibration import SETTING, Calibration, Observation, in_force
from app.compaction import Compressor, own_ratios
from app.documents import Document
from app.formats.base import encodable
from app.indexer import encode
from app.passages import PassageSplitter
from app.reader import PassageBits, Reader, Span, never, open_reader
from app.retriever import CANDIDATES, Retriever, fuse, to_read
from store.codec import token_arrays
from store.errors import UsageError
from store.records import StoredPassage
from store.tokens import TokenStore

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
    answers: tuple[str, ...]
    """The passages' best spans, best first, whether or not they would be given."""
    scores: tuple[float, ...]
    """Theirs."""
    rank: int | None
    """Of the first passage that holds the answer, from 1; None where none was found, or nothing was retrieved."""
    ms: float

    @property
    def answer(self) -> str:
        """The best span; empty where nothing was read."""
        return self.answers[0] if self.answers else ""

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
        return Observation(self.answers, self.scores, self.f1 >= RIGHT)

    def confidence(self, calibration: Calibration) -> float:
        """Of the best answer, as `ask` would state it."""
        shares = calibration.confidences(self.answers, self.scores)
        return round(next(iter(shares.values()), 0.0), 4)


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
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read ({reason}): give a JSONL or SQuAD file of questions") from error
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
    except (ValueError, RecursionError):
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
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield f"{path}:{number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}:{number} is not JSON ({error}): correct it") from error


def _question(row: Any) -> Question:
    answers = [] if row.get("is_impossible") else row["answers"]
    if isinstance(answers, dict):  # as the datasets library writes SQuAD
        answers = answers["text"]
    if isinstance(answers, str) or not isinstance(row["question"], str):
        raise TypeError
    texts = tuple(dict.fromkeys(answer if isinstance(answer, str) else answer["text"] for answer in answers))
    context, title = row.get("context"), row.get("title") or ""
    if not all(isinstance(text, str) for text in (*texts, title, context or "")):
        raise TypeError
    return Question(encodable(row["question"]), texts, encodable(context) if context else None, title)


class Examination:
    """Questions put to a bundle's readers, over their contexts or over a store."""

    def __init__(
        self,
        questions: Sequence[Question],
        bundle: Bundle,
        store: TokenStore | None,
        every: int = 1,
        finished: int | None = None,
        looks: int | None = None,
        ratio: float | None = None,
        beams: int | None = None,
        own_calibration: bool = True,
    ) -> None:
        """
        Of the questions every n-th is asked; the others say what belongs to an article.

        Without its `own_calibration` a store is read by the bundle's: what is fitted must not depend on what was.

        `finished` is how many passages the binarized reader reads to the end, `looks` at how many it looks again;
        `ratio` and `beams` are a generative one's.
        """
        self.questions, self.bundle, self.store, self.every = questions, bundle, store, every
        self._settings = (finished, looks, ratio, beams)
        kept = store.setting(SETTING) if store and own_calibration else None
        self.calibration = in_force(kept, bundle.manifest)
        self._readers: dict[str, Reader] = {}

    def reader(self, name: str) -> Reader:
        """
        The reader of this name: binarized, or one of `app.baselines`.

        Raises:
            ModelError: If the bundle does not have it.
            UsageError: If a setting is not its kind's.
        """
        if name not in self._readers:
            *_, beams = self._settings
            self._readers[name] = (
                open_reader(self.bundle, *self._settings, self.calibration)
                if name == "binarized"
                else baseline(self.bundle, name, beams or 1)
            )
        return self._readers[name]

    def ask(
        self, reader: str, passages: int, without: bool, progress: Callable[[int, int], None] = lambda *_: None
    ) -> list[Outcome]:
        """
        Every question's outcome with the reader of this name.

        Raises:
            ModelError: If the bundle does not have that reader.
            UsageError: If no question can be asked.
        """
        chosen, asked = self.reader(reader), self.questions[:: self.every]
        if self.store is None:
            outcomes = ask_given(asked, self.bundle, chosen)
        else:
            articles = articles_of(self.questions, self.store) if without else None
            outcomes = ask_open(asked, self.store, self.bundle, chosen, passages, articles)
        total = len(asked) + (sum(bool(q.answers) for q in asked) if self.store and without else 0)
        found = []
        for outcome in outcomes:
            found.append(outcome)
            progress(len(found), total)
        return found


def ask_given(questions: Sequence[Question], bundle: Bundle, reader: Reader) -> Iterator[Outcome]:
    """
    Each question over its own context, split and stored as a note with the row's title would be.

    Raises:
        UsageError: If a question has no context.
    """
    splitter = PassageSplitter(bundle.tokenizer, bundle.manifest.passage_tokens)
    compressor = Compressor(bundle, own_ratios(bundle.manifest))

    @functools.lru_cache(maxsize=64)
    def encoded(title: str, context: str) -> list[PassageBits]:
        document = Document(Path("context.txt"), "text", context, 0, title.replace("_", " "), {}, "")
        passages = []
        for passage in splitter.split(document):
            stored = encode(bundle, passage, compressor)
            bits, scale = token_arrays(stored.bits, stored.scale, stored.tokens, stored.runs)
            passages.append(PassageBits(passage.text, bits, scale, passage.heading))
        return passages

    for question in questions:
        if question.context is None:
            raise UsageError(f"the question {question.text!r} has no context to read: ask over the store with --open")
        passages = encoded(question.title, question.context)
        began = time.perf_counter()
        spans = reader.read(bundle.encode_question(question.text), passages, never)
        ms = 1000 * (time.perf_counter() - began)
        yield _outcome(question, bool(question.answers), passages, spans, None, ms)


def articles_of(questions: Sequence[Question], store: TokenStore) -> dict[str, set[str]]:
    """Title, or context where there is none -> content hashes of the stored notes that are contexts of that article."""
    stored = {document.content_hash for document in store.documents() if not document.deleted}
    articles: dict[str, set[str]] = collections.defaultdict(set)
    for question in questions:
        if question.context is not None and (digest := _digest(question.context)) in stored:
            articles[question.title or question.context].add(digest)
    return articles


def ask_open(
    questions: Sequence[Question],
    store: TokenStore,
    bundle: Bundle,
    reader: Reader,
    passages: int,
    articles: Mapping[str, set[str]] | None,
) -> Iterator[Outcome]:
    """
    Each question over the store; with `articles`, what can be answered once more over the store without its article.

    A passage holds the answer if its note is the question's context or, where no note is, if an answer stands in it as
    whole words. The article is what `articles_of` says or, where that is nothing, every note with such a passage.
    """
    retriever = Retriever(store)
    for question in questions:
        began = time.perf_counter()
        encoded = bundle.encode_question(question.text)
        with store.snapshot():
            hits = retriever.retrieve(question.text, encoded.code, passages)
            chosen = store.passages([hit.passage_id for hit in hits])
            bits = store.token_bits([passage.id for passage in chosen])
        spans = reader.read(encoded, to_read(hits, chosen, bits), never)
        ms = 1000 * (time.perf_counter() - began)
        with store.snapshot():
            lexical, semantic = retriever.rankings(question.text, encoded.code, 2 * CANDIDATES)
            found = {passage.id: passage for passage in store.passages(list({*lexical, *semantic}))}
            holding = holding_ids(question, list(found.values()))
            ranked = [hit.passage_id for hit in fuse(lexical[:CANDIDATES], semantic[:CANDIDATES])]
            rank = next((at for at, i in enumerate(ranked, start=1) if i in holding), None)
            own = _outcome(question, bool(question.answers), chosen, spans, rank, ms)
            article = (articles or {}).get(question.title or question.context or "") or {
                found[i].content_hash for i in holding
            }
            left = [
                [i for i in ranking if found[i].content_hash not in article][:CANDIDATES]
                for ranking in (lexical, semantic)
            ]
            hits = fuse(*left)[:passages]
            chosen = [found[hit.passage_id] for hit in hits]
            bits = store.token_bits([passage.id for passage in chosen])
        yield own
        if articles is None or not question.answers:
            continue
        began = time.perf_counter()
        spans = reader.read(encoded, to_read(hits, chosen, bits), never)
        yield _outcome(question, False, chosen, spans, None, 1000 * (time.perf_counter() - began))


def holding_ids(question: Question, passages: Sequence[StoredPassage]) -> set[int]:
    """The ids of those passages that hold the answer."""
    digest = _digest(question.context) if question.context is not None else ""
    own = {passage.id for passage in passages if passage.content_hash == digest}
    if own:
        return own
    wanted = [f" {answer} " for answer in map(normalise, question.answers) if answer]
    texts = {passage.id: f" {normalise(passage.text)} " for passage in passages}
    return {i for i, text in texts.items() if any(answer in text for answer in wanted)}


def _outcome(
    question: Question,
    answerable: bool,
    passages: Sequence[StoredPassage | PassageBits],
    spans: Sequence[Span],
    rank: int | None,
    ms: float,
) -> Outcome:
    answers = tuple(span.answer(passages[span.passage].text) for span in spans)
    return Outcome(question, answerable, answers, tuple(span.score for span in spans), rank, ms)


def summary(outcomes: Sequence[Outcome], reader: str, calibration: Calibration, opened: bool) -> dict[str, Any]:
    """The figures of a run, as `eval --json` prints them; shares are 0..1, EM and F1 0..100."""
    asked = [outcome for outcome in outcomes if outcome.answerable]
    times = [outcome.ms for outcome in asked]
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
        "ms_per_question": {
            f"p{share}": round(float(np.percentile(times, share)), 1) if times else None for share in (50, 95)
        },
    }
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
    counts = dict.fromkeys(len(ordered) * step // steps for step in range(1, steps + 1))
    return [
        {
            "coverage": round(count / len(ordered), 4),
            "risk": round(float(wrong[count - 1]) / count, 4),
            "confidence": ordered[count - 1].confidence(calibration),
        }
        for count in counts
        if count
    ]


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def _digest(context: str) -> str:
    return hashlib.sha256(context.encode()).hexdigest()
