"""
Generative readers in one table: unsplit, split with float states, binarized naively and calibrated; runtime ratios.

    python -m benchmarks.generative STORE QUESTIONS --bundle INT8 --naive NAIVE_INT8
    python -m benchmarks.generative STORE QUESTIONS --bundle FP32 --parity RUN

INT8 is made by `btr-export bundle RUN INT8 --with-baselines`, NAIVE_INT8 likewise from a run that shares the first two
steps of RUN and has `--set split.binarizer="'naive'"`; STORE is indexed with the --bundle. The readers take turns
question by question on the same passages, the first one another each time. The encoder side is everything before the
decoder: stored bits are read, unpacked and restored, texts are tokenized. States of the float split reader are computed
anew and the naive reader's bits too, so their times say nothing and are left out.

The last column is about the right answers alone (exact match): how many have a source that holds the answer, as `eval`
has it; how many would have one if it were always the passage that the decoder attended to most, or always the first
that was retrieved.

`--parity RUN` holds the graphs of a float32 bundle against the run in torch from the same stored bits instead: logits
of the first token, the greedy answer, and its score, at a runtime `--ratio`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from app.baselines import FloatSplitGenerative, FullGenerative
from app.bundle import Bundle, EncodedQuestion
from app.evaluation import Question, best, exact, f1, holding_ids, load_questions
from app.generative import MAX_ANSWER_TOKENS, START, Fused, GenerativeReader, nothing_written
from app.reader import PassageBits
from app.retriever import Retriever, to_read
from benchmarks.readers import choose
from store.bundle import DECODER, MOST_MERGED
from store.codec import Floats, token_arrays
from store.errors import BtrError, UsageError
from store.records import Counts
from store.tokens import TokenStore

RATIOS = (0.0, 0.1, 0.2, 0.3, 0.5)
FULL, SPLIT, NAIVE = "full (FiD)", "split, float states (DeFormer)", "split, naive binarization"
OURS = "split, calibrated binarization"
COLUMNS = (
    *("reader", "EM", "F1", "share of full's EM + F1", "encoder, p50 ms", "whole, p50 / p95 ms"),
    *("encoder, times as fast", "whole, times as fast", "bytes a token"),
    "right answers whose source / most attended / first passage holds them, %",
)


@dataclass(frozen=True)
class Asked:
    """A question with the passages that all readers get."""

    question: Question
    encoded: EncodedQuestion
    passages: list[PassageBits]
    load: float
    """Seconds to read the stored bits."""
    holding: list[bool]
    """Whether each passage holds the answer."""


@dataclass(frozen=True)
class Turn:
    """One question, answered by one reader."""

    answer: str
    encoder: float
    """Seconds before the decoder."""
    decoder: float
    """Seconds from there on."""
    held: tuple[bool, bool, bool]
    """Whether its source, the passage attended to most and the first one retrieved hold the answer."""


def asked(store: TokenStore, bundle: Bundle, questions: Sequence[Question], depth: int) -> Iterator[Asked]:
    """Questions with their `depth` best passages."""
    retriever = Retriever(store)
    for question in questions:
        encoded = bundle.encode_question(question.text)
        hits = retriever.retrieve(question.text, encoded.code, depth)
        found = store.passages([hit.passage_id for hit in hits])
        began = time.perf_counter()
        bits = store.token_bits([passage.id for passage in found])
        load = time.perf_counter() - began
        holding = holding_ids(question, found)
        yield Asked(question, encoded, to_read(hits, found, bits), load, [passage.id in holding for passage in found])


def encoded_by(bundle: Bundle, one: Asked) -> Asked:
    """The same question and passages, encoded by another bundle."""
    passages = []
    for passage in one.passages:
        encoded = bundle.encode_passage(passage.heading, passage.text)
        bits, scale = token_arrays(encoded.bits, encoded.scale, encoded.tokens)
        passages.append(replace(passage, bits=bits, scale=scale))
    return Asked(one.question, bundle.encode_question(one.question.text), passages, 0.0, one.holding)


def turn(reader: GenerativeReader, one: Asked) -> Turn:
    """A reader's greedy answer, and how long it took; only the unsplit one does without the stored bits."""
    alone = isinstance(reader, FullGenerative)  # needs the question's ids and no states
    began = time.perf_counter() - (0.0 if alone else one.load)
    question = one.encoded if alone else reader.bundle.encode_question(one.question.text)
    encoded = reader.encode_all(question, one.passages)
    middle = time.perf_counter()
    hypothesis, *_ = reader.decode(reader.fuse(question, encoded))
    ended = time.perf_counter()
    span = reader.span(hypothesis, one.passages)
    source, attended, first = (one.holding[at] for at in (span.passage, int(hypothesis.mass.argmax()), 0))
    return Turn(span.text or "", middle - began, ended - middle, (source, attended, first))


Ask = Callable[[Asked], Turn]


def readers(bundle: Bundle, naive: Bundle | None) -> dict[str, Ask]:
    """Row of the table -> what answers there."""
    made: dict[str, Ask] = {
        FULL: partial(turn, FullGenerative(bundle)),
        SPLIT: partial(turn, FloatSplitGenerative(bundle)),
    }
    if naive is not None:
        plain = GenerativeReader(naive, 0.0)
        made[NAIVE] = lambda one: turn(plain, encoded_by(naive, one))
    for ratio in RATIOS:
        made[f"{OURS}, ratio {ratio:g}"] = partial(turn, GenerativeReader(bundle, ratio))
    return made


def take_turns(asks: dict[str, Ask], questions: Iterator[Asked]) -> tuple[list[Question], dict[str, list[Turn]]]:
    """The questions, and what every reader made of each, in the same order."""
    put, turns, names = [], defaultdict[str, list[Turn]](list), list(asks)
    for number, one in enumerate(questions):
        put.append(one.question)
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            turns[name].append(asks[name](one))
        print(f"\r{number + 1} questions", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return put, dict(turns)


def table(put: Sequence[Question], turns: dict[str, list[Turn]], sizes: dict[str, float]) -> Iterator[str]:
    """The table's lines; ratios are medians over the questions, against the unsplit reader."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|" + "---|" * len(COLUMNS)
    scores = {
        name: np.array(
            [(best(exact, t.answer, q.answers), best(f1, t.answer, q.answers)) for t, q in zip(own, put, strict=True)]
        )
        for name, own in turns.items()
    }
    reference = max(float(scores[FULL].mean(axis=0).sum()), 1e-9)
    for name, own in turns.items():
        em, overlap = 100 * scores[name].mean(axis=0)
        whole = [1000 * (t.encoder + t.decoder) for t in own]
        pairs = list(zip(own, turns[FULL], strict=True))
        faster = statistics.median(f.encoder / t.encoder for t, f in pairs)
        all_faster = statistics.median((f.encoder + f.decoder) / (t.encoder + t.decoder) for t, f in pairs)
        timed = [""] * 4 if name in (SPLIT, NAIVE) else [
            f"{1000 * statistics.median(t.encoder for t in own):,.0f}",
            f"{np.percentile(whole, 50):,.0f} / {np.percentile(whole, 95):,.0f}",
            f"{faster:.2f}",
            f"{all_faster:.2f}",
        ]  # fmt: skip
        cells = [name, f"{em:.1f}", f"{overlap:.1f}", f"{(em + overlap) / 100 / reference:.1%}", *timed]
        right = [t.held for t, (correct, _) in zip(own, scores[name], strict=True) if correct]
        sources = " / ".join(f"{100 * share:.1f}" for share in np.mean(right, axis=0)) if right else ""
        yield f"| {' | '.join([*cells, f'{sizes[name]:,.1f}', sources])} |"


def gained(turns: dict[str, list[Turn]]) -> str:
    """How much faster the encoder side is where tokens are merged, the median over the questions."""
    none, *merged = (turns[f"{OURS}, ratio {ratio:g}"] for ratio in RATIOS)
    gains = (statistics.median(a.encoder / b.encoder for a, b in zip(none, own, strict=True)) for own in merged)
    ratios = " / ".join(f"{ratio:g}" for ratio in RATIOS[1:])
    return f"Encoder side at ratio {ratios}: {' / '.join(f'{gain:.2f}' for gain in gains)} times as fast as at 0."


def kept(name: str, bundle: Bundle, naive: Bundle | None, counts: Counts) -> float:
    """Bytes a token that a row's reader stores; passage codes and text left out, which all of them need."""
    if name == FULL:
        return 0.0
    if name == SPLIT:
        return 2.0 * bundle.manifest.hidden_size
    if name == NAIVE and naive is not None:
        return naive.manifest.bits / 8 + 2
    return (counts.encoded_bytes - counts.code_bytes) / counts.tokens


@dataclass(frozen=True)
class Parity:
    """How far graphs and torch are apart on one question."""

    logits: float
    """Largest difference of the first token's logits."""
    score: float
    """Of the greedy answer's log probability against the empty one."""
    same: bool
    """The greedy answers are one."""


def parity(run: Path, bundle: Bundle, questions: Iterator[Asked], ratio: float = 0.0) -> Iterator[Parity]:
    """The float32 graphs of a bundle against the run that it was made of, from the same stored bits, at a ratio."""
    import torch

    from export.graphs import T5UpperGraph, vocabulary_tables
    from export.saved import load_reader
    from export.t5 import SplitT5

    torch_reader, reader, share = load_reader(run), GenerativeReader(bundle, ratio), torch.tensor(ratio)
    if not isinstance(torch_reader, SplitT5):
        raise UsageError(f"{run} is the run of an extractive reader: give that of a T5")
    with torch.no_grad():
        tables = vocabulary_tables(torch_reader)  # int8 in the graphs of either precision
        upper = T5UpperGraph(torch_reader, tables)
        for one in questions:
            q_ids, parts = torch.from_numpy(one.encoded.ids), []
            h_q = torch_reader.lower.run(tables["words"](q_ids), q_ids != 0)
            for passage in one.passages:
                ids = torch.tensor([bundle.tokenize(passage.text).ids])
                bits, scale = (torch.tensor(each)[None] for each in (passage.bits, passage.scale))
                parts.append(upper(h_q, q_ids, ids, bits, scale, share)["encoded"])
            asked = q_ids.shape[1] if ratio else 0
            merged = torch.stack([part[:, :asked] for part in parts]).mean(0)
            states = torch.cat([merged, *(part[:, asked:] for part in parts)], dim=1)
            mask = torch.ones(states.shape[:2], dtype=torch.bool)
            fused = reader.fuse(one.encoded, reader.encode_all(one.encoded, one.passages))
            ours, *_ = reader.decode(fused)
            answer = torch.tensor([[*ours.ids, bundle.end]])
            logits, _ = torch_reader.write(states, mask, answer)
            chances = logits.log_softmax(-1)
            score = float(chances[torch.arange(answer.shape[1]), answer[0]].sum() - chances[0, bundle.end])
            length = min(answer.shape[1], MAX_ANSWER_TOKENS)  # an answer this long is ended whatever comes next
            words_only = logits.index_fill(1, torch.tensor([START]), -torch.inf)  # padding is no word
            written = [int(token) for token in words_only.argmax(-1)[:length]]
            if written[0] == bundle.end:  # the empty answer is never written
                written[0] = int(words_only[0].index_fill(0, torch.tensor([bundle.end]), -torch.inf).argmax())
            yield Parity(
                float(np.abs(first_logits(bundle, fused) - logits[0].numpy()).max()),
                abs(score - ours.score),
                written == answer[0, :length].tolist(),
            )


def first_logits(bundle: Bundle, fused: Fused) -> Floats:
    """Logits (V,) of the first token."""
    start = {
        "input_ids": np.array([[START]], np.int64),
        "encoder_attention_mask": np.ones((1, len(fused.shares)), np.int64),
    }
    (logits,) = bundle.run(DECODER, ["logits"], {**start, **fused.keys, **nothing_written(fused.keys)})
    return np.asarray(logits[0, 0])


def main() -> None:
    """Print the table, or the parity."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("questions", type=Path, help="JSONL or SQuAD's format, as `eval` takes it")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--naive", type=Path, help="bundle of the naively binarized run")
    parser.add_argument("--parity", type=Path, metavar="RUN", help="hold the bundle against its run in torch")
    parser.add_argument("--ratio", type=float, default=0.0, help="share of the tokens that --parity merges")
    parser.add_argument("--passages", type=int, default=20)
    parser.add_argument("--count", type=int, default=200, help="questions")
    options = parser.parse_args()
    if min(options.passages, options.count) < 1:
        parser.error("--passages and --count are 1 or more")
    if not 0 <= options.ratio <= MOST_MERGED:
        parser.error(f"--ratio is 0 to {MOST_MERGED}")
    try:
        bundle = Bundle.open(options.bundle)
        naive = Bundle.open(options.naive) if options.naive else None
        questions = choose(load_questions(options.questions), options.count)
        with TokenStore.open(options.store, bundle.manifest.fingerprint) as store:
            given = asked(store, bundle, questions, options.passages)
            if options.parity:
                found = list(parity(options.parity, bundle, given, options.ratio))
                print(
                    f"{len(found)} questions, {options.passages} passages, ratio {options.ratio:g}: "
                    f"logits differ by at most {max(p.logits for p in found):.1e}, "
                    f"of {sum(p.logits > 1e-3 for p in found)} by more than 1e-3, "
                    f"scores by {max(p.score for p in found):.1e}, "
                    f"{sum(p.same for p in found)} greedy answers are the same"
                )
                return
            put, turns = take_turns(readers(bundle, naive), given)
            counts = store.counts()
        made = f"{bundle.manifest.name}, {bundle.manifest.fingerprint}"
        print(f"{len(put)} questions, {options.passages} passages; {made}\n")
        print("\n".join(table(put, turns, {name: kept(name, bundle, naive, counts) for name in turns})))
        print(f"\n{gained(turns)}")
    except BtrError as error:
        print(f"generative: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
