"""
Retrieval alone: words, passage codes, their fusion and, with a checkpoint, float sentence embeddings.

    btr-assistant --store val.db index VAL        (notes made by benchmarks.corpus)
    python -m benchmarks.retrieval val.db validation.jsonl.gz --every 8 --checkpoint all-MiniLM-L6-v2/

A passage is relevant if it is of the question's own context. Figures are ir_measures' on the first 100 of each ranking.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import ir_measures
import numpy as np
from ir_measures import RR, R

from app.bundle import Bundle
from app.evaluation import load_questions
from app.places import EMBEDDED_BUNDLE
from app.retriever import CANDIDATES, Retriever, fuse
from store.codec import Floats
from store.records import StoredPassage
from store.tokens import TokenStore

DEPTH = 100
MEASURES = [R @ 1, R @ 5, R @ 20, RR @ 100]


def embed(checkpoint: Path, texts: list[str]) -> Floats:
    """Normalised sentence embeddings (n, d) by the checkpoint in torch, at full precision."""
    import torch

    from export.data import load_tokenizer, pad
    from export.reader import load_bert
    from export.retrieval import SentenceTeacher

    teacher, tokenizer = SentenceTeacher(load_bert(checkpoint), 8, 0), load_tokenizer(checkpoint)
    ids = [e.ids[:256] for e in tokenizer.encode_batch(texts)]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    found = np.zeros((len(ids), teacher.bert.config.hidden_size), dtype=np.float32)
    for at in range(0, len(order), 32):
        chosen = order[at : at + 32]
        found[chosen] = teacher.embed(pad([ids[i] for i in chosen])).to(torch.float32).numpy()
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--bundle", type=Path, default=EMBEDDED_BUNDLE)
    parser.add_argument("--checkpoint", type=Path, help="also rank by this checkpoint's float sentence embeddings")
    parser.add_argument("--every", type=int, default=1, help="ask every n-th question only")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    questions = [q for q in load_questions(options.questions) if q.context is not None][:: options.every]
    runs: dict[str, list[list[int]]] = {"BM25": [], "passage codes": [], "fused": []}
    with TokenStore.open(options.store, bundle.manifest.fingerprint) as store:
        ids = [int(i) for i in store.codes()[0]]
        passages: list[StoredPassage] = [
            p for at in range(0, len(ids), 500) for p in store.passages(ids[at : at + 500])
        ]
        retriever = Retriever(store)
        for question in questions:
            lexical = [i for i, _ in store.match(question.text, CANDIDATES)]
            semantic = retriever.nearest(bundle.encode_question(question.text).code, CANDIDATES)
            fused = [hit.passage_id for hit in fuse(lexical, semantic)]
            for name, ranking in zip(runs, (lexical, semantic, fused), strict=True):
                runs[name].append(ranking[:DEPTH])
    if options.checkpoint:
        near = embed(options.checkpoint, [q.text for q in questions])
        far = embed(options.checkpoint, [f"{p.heading}. {p.text}" for p in passages])
        order = np.argsort(-(near @ far.T), axis=1)[:, :DEPTH]
        runs[f"{options.checkpoint.name}, float"] = [[passages[i].id for i in row] for row in order]
    context_of = {p.id: p.content_hash for p in passages}
    wanted = [hashlib.sha256((q.context or "").encode()).hexdigest() for q in questions]
    qrels = [ir_measures.Qrel(str(q), digest, 1) for q, digest in enumerate(wanted)]
    print(f"{len(questions):,} questions over {len(passages):,} passages\n")
    print("| ranking | recall@1 | recall@5 | recall@20 | MRR |\n|---|---|---|---|---|")
    for name, rankings in runs.items():
        scored = []
        for q, ranking in enumerate(rankings):
            seen: set[str] = set()
            for rank, i in enumerate(ranking):  # a context's first passage stands for it, the others keep their ranks
                document = f"{context_of[i]} again at {rank}" if context_of[i] in seen else context_of[i]
                seen.add(context_of[i])
                scored.append(ir_measures.ScoredDoc(str(q), document, -rank))
        figures = ir_measures.calc_aggregate(MEASURES, qrels, scored)
        print(f"| {name} | " + " | ".join(f"{figures[measure]:.3f}" for measure in MEASURES) + " |")


if __name__ == "__main__":
    main()
