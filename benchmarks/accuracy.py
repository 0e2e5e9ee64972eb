"""
Exact match and F1, given the gold passage.

    python -m benchmarks.accuracy validation.jsonl.gz                     the embedded bundle, as it ships
    python -m benchmarks.accuracy validation.jsonl.gz --run runs/first    and its reader in torch: float and binarized

Every reader gets the same windows: a context longer than the bundle's passages is split as a note would be, and the
best span of all windows counts. Scores are SQuAD's, with the references that a row has.
"""

from __future__ import annotations

import argparse
import collections
import functools
import gzip
import json
import re
import string
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from app.bundle import Bundle
from app.documents import Document
from app.passages import PassageSplitter
from app.places import EMBEDDED_BUNDLE
from app.reader import ExtractiveReader, PassageBits, best_span, whole_words
from store.codec import token_arrays

Predict = Callable[[str, str, str], str]
"""(title, context, question) -> answer."""


def normalise(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1(predicted: str, reference: str) -> float:
    """Token overlap of two answers."""
    a, b = normalise(predicted).split(), normalise(reference).split()
    common = sum((collections.Counter(a) & collections.Counter(b)).values())
    if not a or not b:
        return float(a == b)
    return 2 * common / (len(a) + len(b)) if common else 0.0


def windows(splitter: PassageSplitter, title: str, context: str) -> list[tuple[str, str]]:
    """(heading, text) of the passages that a note with this title and text would have."""
    document = Document(Path("context.txt"), "text", context, 0, title.replace("_", " "), {}, "")
    return [(passage.heading, passage.text) for passage in splitter.split(document)]


def bundle_reader(bundle: Bundle) -> Predict:
    """The shipped path: lower.onnx -> bytes -> upper.onnx."""
    splitter = PassageSplitter(bundle.tokenizer, bundle.manifest.passage_tokens)
    reader = ExtractiveReader(bundle)

    @functools.lru_cache(maxsize=64)
    def encode(title: str, context: str) -> list[PassageBits]:
        passages = []
        for heading, text in windows(splitter, title, context):
            encoded = bundle.encode_passage(heading, text)
            passages.append(PassageBits(text, *token_arrays(encoded.bits, encoded.scale, encoded.tokens)))
        return passages

    def predict(title: str, context: str, question: str) -> str:
        passages = encode(title, context)
        best = reader.read(bundle.encode_question(question), passages)[0]
        return passages[best.passage].text[best.start : best.end]

    return predict


def torch_reader(run: Path, bundle: Bundle, binarized: bool) -> Predict:
    """The trained reader in torch at full precision; the bundle lends its tokenizer and sizes."""
    import torch

    from export.train import load_reader

    reader = load_reader(run)
    splitter = PassageSplitter(bundle.tokenizer, bundle.manifest.passage_tokens)
    cls, sep = bundle.tokenizer.token_to_id("[CLS]"), bundle.tokenizer.token_to_id("[SEP]")

    def encode(text: str) -> list[int]:
        return bundle.tokenizer.encode(text, add_special_tokens=False).ids

    @functools.lru_cache(maxsize=64)
    def lower(heading: str, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        head, body = encode(heading)[: bundle.manifest.heading_tokens], bundle.tokenize(text).ids
        ids = torch.tensor([[cls, *head, sep, *body, sep]])
        with torch.no_grad():
            return reader.lower(ids, ids != 0)[:, len(head) + 2 : -1], torch.tensor([body])

    def predict(title: str, context: str, question: str) -> str:
        q_ids = torch.tensor([[cls, *encode(question)[: bundle.manifest.question_tokens], sep]])
        best, answer = -np.inf, ""
        with torch.no_grad():
            h_q = reader.lower(q_ids, q_ids != 0)
            for heading, text in windows(splitter, title, context):
                h, ids = lower(heading, text)
                start, end = reader.read(h_q, q_ids, h, ids, torch.ones_like(ids, dtype=torch.bool), binarized)
                first, last, score = best_span(start[0].numpy(), end[0].numpy())
                if score > best:
                    offsets = bundle.tokenize(text).offsets
                    a, b = whole_words(text, offsets[first][0], offsets[last][1])
                    best, answer = score, text[a:b]
        return answer

    return predict


def rows(path: Path, every: int) -> Iterator[dict]:
    """Every n-th answerable row of a JSONL file."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        yield from (row for i, row in enumerate(map(json.loads, lines)) if row["answers"] and i % every == 0)


def measure(name: str, predict: Predict, data: list[dict]) -> None:
    """One line of the table."""
    exact = overlap = 0.0
    began = time.perf_counter()
    for row in data:
        answer = predict(row.get("title") or "", row["context"], row["question"])
        references = [a["text"] for a in row["answers"]]
        exact += max(normalise(answer) == normalise(reference) for reference in references)
        overlap += max(f1(answer, reference) for reference in references)
    n, seconds = len(data), time.perf_counter() - began
    print(f"{name:<34} {n:>9,} {100 * exact / n:>6.2f} {100 * overlap / n:>6.2f} {1000 * seconds / n:>10.1f}")
    sys.stdout.flush()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--bundle", type=Path, action="append", help="bundle folder; repeatable (default: embedded)")
    parser.add_argument("--run", type=Path, action="append", default=[], help="training run, measured in torch")
    parser.add_argument("--every", type=int, default=1, help="measure every n-th row only")
    options = parser.parse_args()
    data = list(rows(options.questions, options.every))
    bundles = [Bundle.open(folder) for folder in options.bundle or [EMBEDDED_BUNDLE]]
    print(f"{'reader':<34} {'questions':>9} {'EM':>6} {'F1':>6} {'ms/question':>11}")
    for bundle in bundles:
        measure(
            f"{bundle.manifest.name} ({bundle.manifest.provenance['precision']} graphs)", bundle_reader(bundle), data
        )
    for run in options.run:
        for binarized in (False, True):
            kind = "binarized" if binarized else "float states"
            measure(f"{run.name} (torch, {kind})", torch_reader(run, bundles[0], binarized), data)


if __name__ == "__main__":
    main()
