"""
Retrieval and knowing when the notes do not say, over a store of the questions' own contexts.

    python -m benchmarks.abstention validation.jsonl.gz --questions 400

Each question is asked twice over 20 retrieved passages: once as it is, once with every passage of its own context, and
every passage that holds its answer, taken out, so that the right reply is "not in your notes". Prints recall@k of the
two rankings and of their fusion, the AUROC of the best span's score, and what each null logit would give; the one with
the best mean of right answers and right abstentions is what `btr-export bundle --null-logit` wants.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from app.bundle import Bundle
from app.indexer import encode
from app.passages import Passage, PassageSplitter
from app.places import EMBEDDED_BUNDLE
from app.reader import ExtractiveReader, PassageBits
from app.retriever import CANDIDATES, Retriever, fuse
from benchmarks.accuracy import f1, normalise, rows, windows
from store.tokens import NewDocument, TokenStore

READ = 20


def build_store(folder: str, bundle: Bundle, data: list[dict]) -> tuple[TokenStore, dict[int, str]]:
    """A store with one document a context, and the context of every passage id."""
    splitter = PassageSplitter(bundle.tokenizer, bundle.manifest.passage_tokens)
    store = TokenStore.create(Path(folder) / "store.db", bundle.manifest.fingerprint, bundle.manifest.name)
    source = store.add_source("/benchmark")
    contexts = {row["context"]: row.get("title") or "" for row in data}

    def encoded(item: tuple[str, str]) -> list:
        found = windows(splitter, item[1], item[0])
        return [encode(bundle, Passage(0, len(text), 1, heading, text)) for heading, text in found]

    with ThreadPoolExecutor(bundle.threads) as pool:
        for context, passages in zip(contexts, pool.map(encoded, contexts.items()), strict=True):
            store.put_document(source, NewDocument(context, "", 0, 0, "", {}), passages)
    ids = [int(i) for i in store.codes()[0]]
    return store, {passage.id: passage.path for passage in store.passages(ids)}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions_file", type=Path)
    parser.add_argument("--bundle", type=Path, default=EMBEDDED_BUNDLE)
    parser.add_argument("--questions", type=int, default=400)
    options = parser.parse_args()
    data = [row for row in rows(options.questions_file, 1) if all(normalise(a["text"]) for a in row["answers"])]
    bundle = Bundle.open(options.bundle)
    reader = ExtractiveReader(bundle)
    asked = random.Random(0).sample(data, min(options.questions, len(data)))
    ranks: dict[str, list[list[bool]]] = {"BM25": [], "passage codes": [], "fused": []}
    outcomes: list[tuple[bool, float, float]] = []  # (answerable, score, F1 of the answer)
    with tempfile.TemporaryDirectory() as folder:
        store, context_of = build_store(folder, bundle, data)
        print(f"{len(context_of):,} passages of {len(set(context_of.values())):,} contexts, {len(asked)} questions")
        retriever = Retriever(store)
        for row in asked:
            question = bundle.encode_question(row["question"])
            references = [answer["text"] for answer in row["answers"]]
            lexical = [i for i, _ in store.match(row["question"], CANDIDATES)]
            semantic = retriever.nearest(question.code, CANDIDATES)
            fused = [hit.passage_id for hit in fuse(lexical, semantic)]
            for name, ranking in zip(ranks, (lexical, semantic, fused), strict=True):
                ranks[name].append([context_of[i] == row["context"] for i in ranking[:READ]])
            texts = {passage.id: passage.text for passage in store.passages(fused)}
            elsewhere = [
                i
                for i in fused
                if context_of[i] != row["context"]
                and not any(normalise(reference) in normalise(texts[i]) for reference in references)
            ]
            for answerable, chosen in ((True, fused[:READ]), (False, elsewhere[:READ])):
                if not chosen:  # an answer such as "1" stands everywhere
                    continue
                bits = store.token_bits(chosen)
                best = reader.read(question, [PassageBits(texts[i], *bits[i]) for i in chosen])[0]
                answer = texts[chosen[best.passage]][best.start : best.end]
                outcomes.append((answerable, best.score, max(f1(answer, reference) for reference in references)))
        store.close()
    print(f"\n{'ranking':<16}{'recall@1':>10}{'recall@5':>10}{'recall@20':>10}")
    for name, hits in ranks.items():
        print(f"{name:<16}" + "".join(f"{np.mean([any(h[:k]) for h in hits]):>10.3f}" for k in (1, 5, 20)))
    answerable, score, overlap = (np.array(column) for column in zip(*outcomes, strict=True))
    good = answerable & (overlap >= 0.5)
    wins = (score[answerable][:, None] > score[~answerable][None]).mean()
    print(f"\nmean F1 when answering everything {overlap[answerable].mean():.3f}, AUROC of the score {wins:.3f}")
    print(f"{'null logit':>10}{'answered right':>16}{'abstained right':>17}{'precision':>11}{'mean':>8}")
    for null_logit in np.arange(-2, 16.5, 1.0):
        answered = score > null_logit
        right = (good & answered).sum() / answerable.sum()
        abstained = (~answered & ~answerable).sum() / (~answerable).sum()
        precision = (good & answered).sum() / max(1, answered.sum())
        mean = (right + abstained) / 2
        print(f"{null_logit:>10.1f}{right:>16.3f}{abstained:>17.3f}{precision:>11.3f}{mean:>8.3f}")


if __name__ == "__main__":
    main()
