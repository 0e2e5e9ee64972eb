"""
Ways to make stored tokens smaller, by what they cost in answers: one table of bytes a token against EM and F1.

    btr-assistant --store val.db index VAL        (notes made by benchmarks.corpus)
    python -m benchmarks.compression val.db validation.jsonl.gz --every 16 [--open] [--only ours,paper]

Each question reads the passages of its own context or, with `--open`, the 20 best of the store: the same ones for every
way, so differences are paired; with `--save` and `--against` also between the stores of two bundles. What the reader
looks at again it reads without bits: `--looks 0` says what they alone are worth. Bytes count vectors, scales, masks,
pointers and passage codes over the whole store.

- ours: common words without vectors, the rest in runs of neighbours (store.runs), as `btr-assistant compact` does.
- paper: BTR section 3.2. Common words collapse to one vector an id; the others merge with vectors of their own id by
  bipartite Hamming matching over the whole store, in blocks. Pointers are counted at log2 of an id's vectors.
- salient: only the tokens of largest scale keep a vector.
- content: the same, but common words keep none before the others.
- runs: neighbours share vectors, common words like any other.
- pooled: tokens of one id share a vector within a passage; the re-tokenized text is the pointer.
- byte: every token's own vector, its scale in one byte as in a compacted store (store.codec).
- lossless: what LZMA makes of a passage's bits, each token's XORed with the one's before. Nothing is lost.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.bundle import Bundle
from app.evaluation import best, exact, f1, load_questions
from app.places import EMBEDDED_BUNDLE
from app.reader import LOOKS, ExtractiveReader, PassageBits
from app.retriever import Retriever
from store.codec import Bits, Floats, Packed, decoded_scales, encoded_scales, read_packed, unpack
from store.records import StoredPassage
from store.runs import common_ids, compress, runs_kept
from store.tokens import TokenStore

BLOCK = 1024
"""Vectors on each side of a bipartite matching: time is linear in a frequent id's tokens, and memory bounded."""


@dataclass(frozen=True)
class Corpus:
    """All tokens of a store, passage after passage."""

    passages: list[StoredPassage]
    first: npt.NDArray[np.int64]
    """(P + 1,): where each passage begins."""
    ids: npt.NDArray[np.int64]
    """(N,)."""
    bits: Bits
    """(N, m / 8)."""
    scale: Floats
    """(N,)."""
    common: npt.NDArray[np.bool_]
    """(N,)."""


Restored = tuple[Bits, Floats, float]
"""Bits (N, m / 8) and scales (N,) as they are read back, and the bytes that they take."""


def load(store: TokenStore, bundle: Bundle) -> Corpus:
    """Every token of a store, with a vector of its own: compressed passages are encoded again."""
    passages: list[StoredPassage] = []
    ids, bits, scale = [], [], []
    last = 0
    while batch := store.packed_after(last, 500):
        passages += store.passages([row.passage_id for row in batch if row.live])
        for row in batch:
            if row.live:
                ids.append(np.array(bundle.tokenize(row.text).ids))
                whole = row.passage
                if whole.starts is not None:
                    again = bundle.encode_passage(passages[len(ids) - 1].heading, row.text)
                    whole = read_packed(again.bits, again.scale, None, again.tokens)
                bits.append(whole.bits)
                scale.append(whole.scale.astype(np.float32))
        last = batch[-1].passage_id
    flat = np.concatenate(ids)
    first = np.cumsum([0, *map(len, ids)])
    return Corpus(
        passages,
        first,
        flat,
        np.concatenate(bits),
        np.concatenate(scale),
        common_ids(bundle.tokenizer.get_vocab())[flat],
    )


def as_indexed(corpus: Corpus, _: float) -> Restored:
    """Every token's own vector."""
    return corpus.bits, corpus.scale, corpus.bits.nbytes + 2.0 * len(corpus.scale)


def ours(corpus: Corpus, ratio: float, common: bool = True) -> Restored:
    """What ships; without `common`, common words are merged like any other."""
    bits, scale, size = np.zeros_like(corpus.bits), np.zeros_like(corpus.scale), 0
    for a, b in zip(corpus.first[:-1], corpus.first[1:], strict=True):
        whole = Packed(
            corpus.bits[a:b], corpus.scale[a:b].astype(np.float16), np.ones(b - a, dtype=np.bool_), starts=None
        )
        packed = compress(whole, ~corpus.common[a:b] if common else whole.held, [ratio])
        bits[a:b], scale[a:b] = packed.tokens()
        size += sum(len(part or b"") for part in packed.to_bytes())
    return bits, scale, size


def runs(corpus: Corpus, ratio: float) -> Restored:
    """Runs of all tokens."""
    return ours(corpus, ratio, common=False)


def salient(corpus: Corpus, ratio: float, content: bool = False) -> Restored:
    """A passage's tokens of largest scale; with `content`, common words last."""
    weight = corpus.scale - (1e3 * corpus.common if content else 0)
    kept = np.zeros(len(weight), dtype=np.bool_)
    for a, b in zip(corpus.first[:-1], corpus.first[1:], strict=True):
        kept[a + np.argsort(-weight[a:b], kind="stable")[: runs_kept(int(b - a), ratio)]] = True
    vector = corpus.bits.shape[1] + 1
    return corpus.bits, np.where(kept, corpus.scale, 0), float(vector * kept.sum() + len(kept) / 8)


def content(corpus: Corpus, ratio: float) -> Restored:
    """Those that are no common words, of largest scale."""
    return salient(corpus, ratio, content=True)


def pooled(corpus: Corpus, _: float) -> Restored:
    """One vector for each id of a passage."""
    bits, scale, size = corpus.bits.copy(), corpus.scale.copy(), 0
    for a, b in zip(corpus.first[:-1], corpus.first[1:], strict=True):
        for i in np.unique(corpus.ids[a:b]):
            rows = a + np.flatnonzero(corpus.ids[a:b] == i)
            _, bits[rows], scale[rows] = merge(corpus.bits[rows], corpus.scale[rows], 1)
            size += corpus.bits.shape[1] + 2
    return bits, scale, size


def paper(corpus: Corpus, ratio: float) -> Restored:
    """BTR section 3.2 over the whole store."""
    bits, scale, size = corpus.bits.copy(), corpus.scale.copy(), 0.0
    order = np.argsort(corpus.ids, kind="stable")
    _, starts = np.unique(corpus.ids[order], return_index=True)
    for rows in np.split(order, starts[1:]):
        keep = 1 if corpus.common[rows[0]] else max(1, runs_kept(len(rows), ratio))
        index, vectors, scales = merge(corpus.bits[rows], corpus.scale[rows], keep)
        bits[rows], scale[rows] = vectors[index], scales[index]
        size += keep * (corpus.bits.shape[1] + 2) + len(rows) * np.ceil(np.log2(keep)) / 8
    return bits, scale, size


def merge(bits: Bits, scale: Floats, keep: int) -> tuple[npt.NDArray[np.int64], Bits, Floats]:
    """
    Vectors (n, m / 8) with scales (n,) -> each one's index (n,) into `keep` merged ones, those and their scales.

    In each round every second vector proposes the nearest of the others, and the closest pairs merge, the first ones of
    equal distance. Sums, ties and scales are those of `store.runs`: a bit whose sum is 0 stays the receiver's.
    """
    signs = unpack(bits).astype(np.float64)
    sums, count, index = signs * scale[:, None], np.ones(len(scale)), np.arange(len(scale))
    if keep == 1:
        total = sums.sum(axis=0, keepdims=True)
        merged = np.packbits(np.where(total == 0, signs[:1], total) > 0, axis=1)
        return np.zeros_like(index), merged, (np.abs(total).mean(axis=1) / len(scale)).astype(np.float32)
    while len(count) > keep:
        proposers, others = np.arange(1, len(count), 2), np.arange(0, len(count), 2)
        to, distance = np.zeros_like(proposers), np.zeros_like(proposers)
        packed = np.packbits(signs > 0, axis=1)
        for at in range(0, len(proposers), BLOCK):
            block, mine = others[at : at + BLOCK], packed[proposers[at : at + BLOCK]].view(np.uint64)
            theirs = packed[block].view(np.uint64)
            near = np.zeros((len(mine), len(theirs)), dtype=np.uint16)
            for word in range(mine.shape[1]):
                near += np.bitwise_count(mine[:, word, None] ^ theirs[None, :, word])
            to[at : at + BLOCK] = block[near.argmin(axis=1)]
            distance[at : at + BLOCK] = near.min(axis=1)
        closest = np.argsort(distance, kind="stable")[: len(count) - keep]
        gone, into = proposers[closest], to[closest]
        np.add.at(sums, into, sums[gone])
        np.add.at(count, into, count[gone])
        left = np.ones(len(count), dtype=np.bool_)
        left[gone] = False
        new = np.arange(len(count))
        new[gone] = into
        index = (np.cumsum(left) - 1)[new[index]]
        sums, count = sums[left], count[left]
        signs = np.where(sums == 0, signs[left], np.sign(sums))
    return index, np.packbits(signs > 0, axis=1), (np.abs(sums).mean(axis=1) / count).astype(np.float32)


def byte(corpus: Corpus, _: float) -> Restored:
    """Every token's own vector with a coarser scale."""
    scale = decoded_scales(encoded_scales(corpus.scale)).astype(np.float32)
    return corpus.bits, scale, corpus.bits.nbytes + 1.0 * len(scale)


def lossless(corpus: Corpus, _: float) -> Restored:
    """The same vectors, coded against their neighbours."""
    filters = [{"id": lzma.FILTER_LZMA2, "lc": 0, "lp": 0, "pb": 0, "preset": 6}]
    size = 2.0 * len(corpus.scale)
    for a, b in zip(corpus.first[:-1], corpus.first[1:], strict=True):
        rows = corpus.bits[a:b].copy()
        rows[1:] ^= corpus.bits[a : b - 1]
        size += min(len(lzma.compress(rows.tobytes(), lzma.FORMAT_RAW, filters=filters)), rows.nbytes)
    return corpus.bits, corpus.scale, size


WAYS: dict[str, tuple[Callable[[Corpus, float], Restored], tuple[float, ...]]] = {
    "ours": (ours, (0.0, 0.1, 0.2, 0.25, 0.4, 0.6, 0.7)),
    "paper": (paper, (0.0, 0.1, 0.25, 0.4)),
    "content": (content, (0.53,)),
    "runs": (runs, (0.53,)),
    "salient": (salient, (0.53,)),
    "pooled": (pooled, (0.0,)),
    "byte": (byte, (0.0,)),
    "lossless": (lossless, (0.0,)),
}
"""Name -> the way and its ratios; 0.53 of all tokens comes to 12 bytes."""


def difference(found: npt.NDArray[np.float64], base: npt.NDArray[np.float64]) -> str:
    """By how much F1 of the same questions, (q, 2) beside EM, is more, with its standard error."""
    change = found[:, 1] - base[:, 1]
    return f"{change.mean():+.1f} ± {change.std() / len(change) ** 0.5:.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--every", type=int, default=1, help="ask every n-th question")
    parser.add_argument("--open", dest="opened", action="store_true", help="read what is retrieved")
    parser.add_argument("--only", default=",".join(WAYS), help="ways to measure, by name")
    parser.add_argument("--looks", type=int, default=LOOKS, help="passages looked at again without bits; 0: bits alone")
    parser.add_argument("--bundle", type=Path, default=EMBEDDED_BUNDLE)
    parser.add_argument("--save", type=Path, help="keep EM and F1 of every question as indexed, as .npz")
    parser.add_argument("--against", type=Path, help="compare with what --save kept, not with this store as indexed")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    questions = [question for question in load_questions(options.questions)[:: options.every] if question.answers]
    with TokenStore.open(options.store, bundle.manifest.fingerprint) as store:
        corpus = load(store, bundle)
        number = {passage.id: n for n, passage in enumerate(corpus.passages)}
        contexts = defaultdict(list)
        for n, passage in enumerate(corpus.passages):
            contexts[passage.content_hash].append(n)
        retriever, asked = Retriever(store), []
        for question in questions:
            encoded = bundle.encode_question(question.text)
            if options.opened:
                hits = retriever.retrieve(question.text, encoded.code, 20)
                chosen = [number[hit.passage_id] for hit in hits]
            else:
                chosen = contexts[hashlib.sha256((question.context or "").encode()).hexdigest()]
            asked.append((question, encoded, chosen))
    reader = ExtractiveReader(bundle, looks=options.looks)

    def scores(bits: Bits, scale: Floats) -> npt.NDArray[np.float64]:
        """EM and F1 of every question (q, 2), in percent."""
        rows = []
        halves = scale.astype(np.float16)
        for question, encoded, chosen in asked:
            slices = [slice(corpus.first[n], corpus.first[n + 1]) for n in chosen]
            found = [corpus.passages[n] for n in chosen]
            inputs = [PassageBits(p.text, bits[s], halves[s], p.heading) for p, s in zip(found, slices, strict=True)]
            spans = reader.read(encoded, inputs)
            answer = found[spans[0].passage].text[spans[0].start : spans[0].end] if spans else ""
            rows.append([best(exact, answer, question.answers), best(f1, answer, question.answers)])
        return 100 * np.array(rows)

    tokens = len(corpus.ids)
    codes = len(corpus.passages) * bundle.manifest.code_bits / 8
    print(f"{len(asked):,} questions, {tokens:,} tokens, {corpus.common.mean():.1%} of them common words\n")
    setup = [str(options.opened), str(options.looks), *(question.text for question in questions)]
    other = options.against.stem if options.against else "as indexed"
    print(f"| way | ratio | bytes a token | EM | F1 | F1 against {other} | seconds |\n|---|---|---|---|---|---|---|")
    whole = scores(*as_indexed(corpus, 0)[:2])
    base = whole
    if options.against:
        with np.load(options.against) as kept:
            if kept["setup"].tolist() != setup:
                sys.exit(f"{options.against} is of other questions, or asked otherwise: give the same --every, ...")
            base = kept["scores"]
    if options.save:
        with options.save.open("wb") as file:
            np.savez(file, scores=whole, setup=np.array(setup))
    size = as_indexed(corpus, 0)[2]
    means = f"{(size + codes) / tokens:.2f} | {whole[:, 0].mean():.1f} | {whole[:, 1].mean():.1f}"
    print(f"| as indexed | | {means} | {difference(whole, base) if options.against else ''} | |")
    for name in options.only.split(","):
        way, ratios = WAYS[name]
        for ratio in ratios:
            began = time.perf_counter()
            bits, scale, size = way(corpus, ratio)
            seconds = time.perf_counter() - began
            same = bits is corpus.bits and scale is corpus.scale
            found = whole if same else scores(bits, scale)
            print(
                f"| {name} | {ratio:g} | {(size + codes) / tokens:.2f} | {found[:, 0].mean():.1f} | "
                f"{found[:, 1].mean():.1f} | {difference(found, base)} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
