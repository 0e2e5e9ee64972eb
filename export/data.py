"""
Question-answer rows -> batches that share work.

A row is `{title, context, question, answers: [{text, answer_start}]}` (JSONL, gzipped or not). Questions of one
context become one `Passage` with its questions, because the lower encoder of a split reader reads a passage once
for all of them: with SQuAD's 4.6 questions a context, a training step costs half of what a full reader's does.

Passages that are longer than the window are cut into overlapping windows; two windows of one article travel
together, so that a question's negative is a passage of the same article, but never of the same context: an
overlapping window may hold the answer. A row may bring `hard_negatives: [{title, text}]`, passages that retrieval finds
for its question and that do not hold the answer: then the first of them that holds none of the context's answers is
the negative.
"""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch
from tokenizers import Tokenizer
from torch import Tensor

from export.checkpoint import read_tokenizer
from store.bundle import FRAMES
from store.errors import ExportError

MAX_HEADING = 24
MAX_QUESTION = 40
MAX_ANSWER = 32


@dataclass
class Question:
    """A question on one passage."""

    ids: list[int]
    """[CLS] question [SEP]; with a T5's tokens there is no [CLS], and [SEP] is </s>, here and below."""
    start: int
    """First answer token, counted in the passage's body."""
    end: int
    """Last answer token, inclusive."""
    answer: list[int] = field(default_factory=list)
    """answer [SEP], for a reader that writes it."""


@dataclass
class Passage:
    """A window of a context, with the questions that it answers."""

    article: str
    context: int
    """Number of the context it was cut from."""
    head: list[int]
    """[CLS] heading [SEP]."""
    body: list[int]
    questions: list[Question] = field(default_factory=list)


@dataclass
class Batch:
    """P passages, Q questions, N pairs of them; every tensor padded with 0."""

    passage_ids: Tensor
    """(P, L) [CLS] heading [SEP] body [SEP]."""
    body_start: Tensor
    """(P,) position of the body's first token."""
    body_ids: Tensor
    """(P, n)."""
    body_mask: Tensor
    """(P, n) true on body tokens."""
    question_ids: Tensor
    """(Q, q)."""
    pair_question: Tensor
    """(N,) index into the questions."""
    pair_passage: Tensor
    """(N,) index into the passages."""
    slot: Tensor
    """(N,) which of its question's passages this pair is, from 0."""
    gold_pair: Tensor
    """(Q,) pair that holds the answer, -1 where none does."""
    start: Tensor
    """(Q,) first answer token in the gold pair."""
    end: Tensor
    """(Q,) last answer token."""
    answer_ids: Tensor
    """(Q, a) answer [SEP]; only [SEP] where no passage holds the answer."""


def read_rows(paths: Sequence[Path]) -> Iterator[dict]:
    """
    Rows of JSONL files, gzipped or not, in order.

    Raises:
        ExportError: If a file is missing or holds a line that is not a JSON object.
    """
    for path in paths:
        if not path.is_file():
            raise ExportError(f"{path} does not exist: give a JSONL file of questions")
        number = 0
        try:
            with _lines(path) as lines:
                for line in lines:
                    number += 1
                    if line.strip():
                        yield _checked(json.loads(line))
        except json.JSONDecodeError as error:
            raise ExportError(f"{path}:{number} is not JSON ({error.msg}): correct it") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise ExportError(
                f"{path}:{number} is no object with context, question and answers "
                "([{text, answer_start}, ...]), or with odd hard_negatives ([{title, text}, ...]): correct it"
            ) from error
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise ExportError(f"{path} cannot be read after line {number} ({error}): give a whole file") from error


def _lines(path: Path) -> TextIO:
    """The lines of a file, gzipped or not."""
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")


def _checked(row: Any) -> dict[str, Any]:
    """A row whose entries have the right types; raises what a wrong one raises."""
    texts = [row["context"], row["question"], row.get("title") or "", *(answer["text"] for answer in row["answers"])]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError
    negatives = [text for n in row.get("hard_negatives") or [] for text in (n["title"], n["text"])]
    if not all(isinstance(text, str) for text in negatives):
        raise TypeError
    if not all(type(answer["answer_start"]) is int for answer in row["answers"]):
        raise TypeError
    return row


def read_texts(paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """
    Title and text of every row of JSONL files, gzipped or not, that is not the text before it.

    Raises:
        ExportError: If a file is missing, damaged, or holds a row without text.
    """
    for path in paths:
        before = None
        try:
            with _lines(path) as lines:
                for number, line in enumerate(lines, start=1):
                    row = json.loads(line)
                    text = row.get("text", row.get("context"))
                    if not isinstance(text, str):
                        raise ExportError(f"{path}:{number} has neither text nor context: correct it")
                    if text != before:  # questions on one context stand next to each other
                        yield str(row.get("title") or ""), text
                    before = text
        except (ValueError, OSError, EOFError, zlib.error, AttributeError) as error:
            raise ExportError(f"{path} cannot be read ({error}): give a whole JSONL file of texts") from error


def load_tokenizer(folder: Path) -> Tokenizer:
    """
    A checkpoint's tokenizer, without the truncation and padding that published ones come with.

    Raises:
        ExportError: If it has none, or a damaged one.
    """
    tokenizer = read_tokenizer(folder)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def frame(tokenizer: Tokenizer) -> tuple[list[int], int]:
    """
    What stands before a text, and what ends each of its parts: [CLS] and [SEP], or nothing and </s>.

    Raises:
        ExportError: If the tokenizer has neither.
    """
    for before, end in FRAMES.values():
        ids = [tokenizer.token_to_id(token) for token in (*before, end)]
        if None not in ids:
            return ids[:-1], ids[-1]
    raise ExportError("the tokenizer has neither [CLS] and [SEP] nor </s>: give a BERT or T5 checkpoint")


def load_passages(paths: Sequence[Path], tokenizer: Tokenizer, window: int) -> list[Passage]:
    """
    Rows grouped by context, tokenized, cut into windows of at most `window` body tokens.

    Windows without questions are left out, but for hard negatives.

    Raises:
        ExportError: If a file cannot be used, or none holds a question with an answer.
    """
    rows: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for row in read_rows(paths):
        if row["answers"]:
            rows[row.get("title") or "", row["context"]].append(row)
    keys = list(rows)
    bodies = _encode(tokenizer, [context for _, context in keys])
    heads = _heads(tokenizer, [title for title, _ in keys])
    before, sep = frame(tokenizer)
    found = [_negative(rows[key]) for key in keys]
    others = [negative for negative in found if negative]
    negatives = zip(
        _heads(tokenizer, [negative["title"] for negative in others]),
        _encode(tokenizer, [negative["text"] for negative in others]),
        strict=True,
    )
    answers = iter(_encode(tokenizer, [row["answers"][0]["text"] for key in keys for row in rows[key]]))
    overlap = window // 4
    passages = []
    for number, ((title, context), (ids, offsets), head) in enumerate(zip(keys, bodies, heads, strict=True)):
        group = rows[title, context]
        article = f"{title}, {number}" if found[number] else title
        questions = _encode(tokenizer, [row["question"] for row in group])
        starts = range(0, max(1, len(ids) - overlap), window - overlap)
        windows = [Passage(article, number, [*before, *head, sep], ids[at : at + window]) for at in starts]
        for row, (question, _) in zip(group, questions, strict=True):
            answer, (answer_ids, _) = row["answers"][0], next(answers)
            span = _token_span(offsets, answer["answer_start"], answer["answer_start"] + len(answer["text"]))
            if span is None:
                continue
            for at, passage in zip(starts, windows, strict=True):
                if at <= span[0] and span[1] < at + window:
                    asked, said = [*before, *question[:MAX_QUESTION], sep], [*answer_ids[:MAX_ANSWER], sep]
                    passage.questions.append(Question(asked, span[0] - at, span[1] - at, said))
                    break
        passages.extend(passage for passage in windows if passage.questions)
        if found[number]:
            head, (ids, _) = next(negatives)
            passages.append(Passage(article, len(keys) + number, [*before, *head, sep], ids[:window]))
    if not passages:
        raise ExportError(f"{', '.join(map(str, paths))} hold no answerable question: give other files")
    return passages


def batches(
    passages: Sequence[Passage],
    pair_tokens: int,
    seed: int | str,
    unanswerable: float = 0.0,
    second: float = 0.0,
    others: int = 1,
) -> Iterator[Batch]:
    """
    One epoch of batches of about `pair_tokens` padded question-passage tokens, in a seeded order.

    A share `unanswerable` of the questions sees only another passage of the article, so that their answer is the null
    option; a share `second` sees one next to the right passage or, with more `others`, 1 to so many passages more.
    """
    rng = random.Random(seed)
    units = _units(passages, rng)
    rng.shuffle(units)
    groups: list[list[Passage]] = []
    for at in range(0, len(units), 256):  # alike in length, for little padding, but still mixed
        groups.extend(_groups(units[at : at + 256], pair_tokens))
    rng.shuffle(groups)
    for group in groups:
        if not any(passage.questions for passage in group):
            continue
        yield _collate(group, unanswerable, second, others, rng)


def answerable(passages: Sequence[Passage], pair_tokens: int) -> Iterator[tuple[list[int], Batch]]:
    """Batches of each question with its right passage alone, shortest first, and the numbers of their passages."""
    numbers = sorted((n for n, p in enumerate(passages) if p.questions), key=lambda n: len(passages[n].body))
    order = iter(numbers)
    for group in _groups([[passages[n]] for n in numbers], pair_tokens):
        yield [next(order) for _ in group], _collate(group, 0.0, 0.0, 1, random.Random(0))


def _groups(units: Sequence[list[Passage]], pair_tokens: int) -> Iterator[list[Passage]]:
    """The passages of units, the shortest first, in groups of about `pair_tokens` padded question-passage tokens."""
    group: list[Passage] = []
    cost = 0
    for unit in sorted(units, key=lambda unit: max(len(p.body) for p in unit)):
        unit_cost = sum(len(p.questions) for p in unit) * (max(len(p.body) for p in unit) + 16)
        if group and cost + unit_cost > pair_tokens:
            yield group
            group, cost = [], 0
        group.extend(unit)
        cost += unit_cost
    if group:
        yield group


def _units(passages: Sequence[Passage], rng: random.Random) -> list[list[Passage]]:
    """Pairs of passages of one article that are alike in length; singles where an article is odd."""
    articles: dict[str, list[Passage]] = defaultdict(list)
    for passage in passages:
        articles[passage.article].append(passage)
    units = []
    for group in articles.values():
        group = sorted(group, key=lambda p: len(p.body) + rng.random() * 8)
        units.extend(group[at : at + 2] for at in range(0, len(group), 2))
    return units


def _collate(group: list[Passage], unanswerable: float, second: float, others: int, rng: random.Random) -> Batch:
    pairs: list[tuple[int, int, int]] = []
    gold, starts, ends, questions = [], [], [], []
    for at, passage in enumerate(group):
        foreign = [i for i, other in enumerate(group) if other.context != passage.context]
        siblings = [i for i in foreign if group[i].article == passage.article] or foreign
        for question in passage.questions:
            draw = rng.random()
            number = len(questions)
            questions.append(question)
            starts.append(question.start)
            ends.append(question.end)
            if draw < unanswerable and siblings:
                gold.append(-1)
                wrong = [rng.choice(siblings)]
                if others > 1:
                    wrong = _beside(siblings, foreign, 1 + _count(others, second, rng), rng)
                pairs.extend((number, other, slot) for slot, other in enumerate(wrong))
                continue
            gold.append(len(pairs))
            pairs.append((number, at, 0))
            if others > 1:
                beside = _beside(siblings, foreign, _count(others, second, rng), rng)
            else:
                beside = [rng.choice(siblings)] if draw < unanswerable + second and siblings else []
            pairs.extend((number, other, slot) for slot, other in enumerate(beside, start=1))
    body_ids = pad([p.body for p in group])
    sep = group[0].head[-1]
    said = [q.answer if at >= 0 else [sep] for q, at in zip(questions, gold, strict=True)]
    lengths = torch.tensor([len(p.body) for p in group])
    columns = torch.tensor(pairs).T
    return Batch(
        passage_ids=pad([[*p.head, *p.body, sep] for p in group]),
        body_start=torch.tensor([len(p.head) for p in group]),
        body_ids=body_ids,
        body_mask=torch.arange(body_ids.shape[1])[None] < lengths[:, None],
        question_ids=pad([q.ids for q in questions]),
        pair_question=columns[0],
        pair_passage=columns[1],
        slot=columns[2],
        gold_pair=torch.tensor(gold),
        start=torch.tensor(starts),
        end=torch.tensor(ends),
        answer_ids=pad(said),
    )


def _count(others: int, second: float, rng: random.Random) -> int:
    """How many wrong passages a question sees: as many with the right one as without it, so that it tells nothing."""
    return rng.randint(1, others) if rng.random() < second else 0


def _beside(siblings: list[int], foreign: list[int], others: int, rng: random.Random) -> list[int]:
    """Up to `others` different passages: those of the article first, then any of another context."""
    chosen = rng.sample(siblings, min(others, len(siblings)))
    left = [i for i in foreign if i not in chosen]
    return chosen + rng.sample(left, min(others - len(chosen), len(left)))


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Lists of ids -> (len(rows), longest) padded with 0."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])


def _negative(rows: Sequence[dict[str, Any]]) -> dict[str, str] | None:
    """The first hard negative of a context's rows that holds the answer to none of them, for it is paired with all."""
    answers = [answer["text"].lower() for row in rows for answer in row["answers"]]
    found: Iterator[dict[str, str]] = (negative for row in rows for negative in row.get("hard_negatives") or [])
    return next((n for n in found if not any(answer in n["text"].lower() for answer in answers)), None)


def _heads(tokenizer: Tokenizer, titles: list[str]) -> list[list[int]]:
    return [ids[:MAX_HEADING] for ids, _ in _encode(tokenizer, [title.replace("_", " ") for title in titles])]


def _encode(tokenizer: Tokenizer, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
    return [(e.ids, e.offsets) for e in tokenizer.encode_batch(texts, add_special_tokens=False)]


def _token_span(offsets: list[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
    return (inside[0], inside[-1]) if inside else None
