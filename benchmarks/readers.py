"""
Every reader in one table: answers, time, memory and size, over the same questions and passages in one run.

    python -m benchmarks.corpus VAL validation.jsonl.gz --halves .
    btr-assistant --store val.db index VAL
    btr-export bundle RUN INT8 --with-baselines
    btr-export bundle RUN FP32 --with-baselines --precision float32
    python -m benchmarks.readers val.db val-b.jsonl --baselines INT8 --float-baselines FP32 --full RUN/full \\
        --encoder all-MiniLM-L6-v2

The readers take turns question by question, each in its own process, so that whatever else the machine does hits all
alike; absolute times are those of a busy machine if it was one, the ratios are not. A reader that needs what is not
given or not installed is left out with a sentence. Within a row a reader answers questions until it has used up
`--budget` seconds; "asked" says how many, and how fast a reader reads is told by the questions that the unsplit one of
int8 answered too.

Time goes from the question to the answer: retrieval, which is the same for all, and reading, which is loading what is
kept of the passages, unpacking and reading it; the latter is a median, and its processor time that of all threads.
Bytes a token are what is kept besides text, the passage codes that retrieval needs always counted. Peak memory is of
the reader's process, up to and with this row.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from app.bundle import Bundle
from app.evaluation import Question, best, exact, f1, load_questions
from app.places import EMBEDDED_BUNDLE
from app.reader import PassageBits
from app.retriever import Retriever
from benchmarks.peers import (
    CHECKPOINT,
    GGUF,
    KINDS,
    OURS,
    RETRIEVAL,
    UNSPLIT,
    Setup,
    Turn,
    left_out,
    serve,
    states_file,
    write_checkpoint,
    write_gguf,
    write_states,
)
from benchmarks.yardsticks import indexing, roofline, ways, write_encoder
from store.bundle import TOKENIZER
from store.errors import BtrError, ModelError, UsageError
from store.records import StoredPassage
from store.tokens import TokenStore

DEPTHS = "5,10,20,40,100"
SETTLE = 0.01
"""Seconds between two turns: the threads of some libraries spin a while before they sleep."""
INDEXED = 60_000
"""Tokens for the comparison of indexing."""
HEADER = (
    "| passages | reader | asked | EM / F1 | p50 / p95 ms | of it reading | its processor time | reads, times as fast "
    "as unsplit int8 | questions/s | bytes/token | peak MB |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


class Child:
    """A reader in its own process."""

    def __init__(self, name: str, setup: Setup) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, name, setup), daemon=True)
        self._process.start()
        other.close()

    def ask(self, text: str, depth: int) -> Turn:
        """
        Its turn.

        Raises:
            BtrError: What the reader raised, or that its process is gone.
        """
        try:
            self._connection.send((text, depth))
            turn = self._connection.recv()
        except (EOFError, OSError) as error:
            raise ModelError(f"the process of {self.name} is gone: its error stands above, or leave it out") from error
        if isinstance(turn, BtrError):
            raise turn
        assert isinstance(turn, Turn)
        return turn

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.terminate()


Turns = dict[str, dict[int, Turn]]
"""Reader -> number of the question -> its turn."""


def take_turns(
    children: Sequence[Child], questions: Sequence[Question], depth: int, budget: float, expected: Mapping[str, float]
) -> Turns:
    """
    Ask each question of every reader, the first reader another one each time, until its budget of seconds is used up.

    `expected` are the seconds that a question may take the reader, where that is known: no turn begins that would go
    over the budget.
    """
    turns: Turns = {child.name: {} for child in children}
    spent = dict.fromkeys(turns, 0.0)
    longest = {name: expected.get(name, 0.0) for name in turns}
    for number, question in enumerate(questions):
        first = number % len(children)
        for child in [*children[first:], *children[:first]]:
            if spent[child.name] + longest[child.name] > budget:
                continue
            turn = child.ask(question.text, depth)
            turns[child.name][number] = turn
            spent[child.name] += turn.seconds
            longest[child.name] = statistics.median(t.seconds for t in turns[child.name].values())
            time.sleep(SETTLE)
    return turns


def ratios(turns: Turns, name: str) -> list[float]:
    """How many times as fast a reader reads as the unsplit one in int8, for each question that both answered."""
    own, other = turns[name], turns.get(UNSPLIT, {})
    return [other[number].reading / own[number].reading for number in own if number in other]


def line(
    name: str, depth: int, turns: Turns, questions: Sequence[Question], kept: float, expected: float | None
) -> str:
    """A reader's row."""
    own = turns[name]
    cells = [str(depth), KINDS[name].title, str(len(own))]
    if not own:
        return "| " + " | ".join([*cells, "", f"about {1000 * (expected or 0):,.0f}", *[""] * 6]) + " |"
    seconds = [turn.seconds for turn in own.values()]
    scores = score(own, questions)
    faster = ratios(turns, name)
    cells += [
        " / ".join(f"{100 * np.mean(column):.1f}" for column in zip(*scores, strict=True)) if scores else "",
        " / ".join(f"{1000 * np.percentile(seconds, share):,.0f}" for share in (50, 95)),
        f"{1000 * statistics.median(turn.reading for turn in own.values()):,.0f}",
        f"{1000 * statistics.median(turn.processor for turn in own.values()):,.0f}",
        f"{statistics.median(faster):.2f}" if faster and name != RETRIEVAL else "",
        f"{len(own) / sum(seconds):.2f}",
        f"{kept:,.1f}",
        f"{max(turn.megabytes for turn in own.values()):,.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def score(own: Mapping[int, Turn], questions: Sequence[Question]) -> list[tuple[float, float]]:
    """(EM, F1), 0 to 1, of each answer; none of a reader that gives none."""
    return [
        (best(exact, turn.answer, questions[number].answers), best(f1, turn.answer, questions[number].answers))
        for number, turn in own.items()
        if turn.answer is not None
    ]


def against_unsplit(turns: Turns, depth: int, questions: Sequence[Question]) -> str | None:
    """Ours against the unsplit reader in int8 over the questions that both answered, in words."""
    if OURS not in turns or UNSPLIT not in turns:
        return None
    both = sorted(turns[OURS].keys() & turns[UNSPLIT].keys())
    if not both:
        return None
    ours, other = ([f for _, f in score({n: turns[name][n] for n in both}, questions)] for name in (OURS, UNSPLIT))
    change = 100 * (np.array(ours) - np.array(other))
    share = np.mean(ours) / max(float(np.mean(other)), 1e-9)
    faster = ratios(turns, OURS)
    low, high = np.percentile(faster, [25, 75])
    processor = statistics.median(turns[UNSPLIT][n].processor / turns[OURS][n].processor for n in both)
    return (
        f"{depth} passages: ours reads {statistics.median(faster):.2f} times as fast as the unsplit reader, both int8 "
        f"(median of {len(both)} ratios, half of them within {low:.2f} and {high:.2f}), {processor:.2f} times in "
        f"processor time; F1 {100 * np.mean(ours):.1f} for {100 * np.mean(other):.1f} "
        f"({change.mean():+.1f} ± {change.std() / len(both) ** 0.5:.1f}), {share:.1%} of it kept."
    )


@dataclass(frozen=True)
class Retrieved:
    """What the questions' passages are, before anybody reads them."""

    passages: list[StoredPassage]
    """All of them, once."""
    ranks: list[int | None]
    """Of each question's own passage, from 1."""
    first: tuple[str, list[int]]
    """The first question, and the ids of its passages."""


def retrieve(store: TokenStore, bundle: Bundle, questions: Sequence[Question], depth: int) -> Retrieved:
    """The `depth` best passages of every question."""
    retriever, found, ranks, first = Retriever(store), dict[int, StoredPassage](), list[int | None](), None
    for question in questions:
        hits = retriever.retrieve(question.text, bundle.encode_question(question.text).code, depth)
        passages = store.passages([hit.passage_id for hit in hits])
        found |= {passage.id: passage for passage in passages}
        own = hashlib.sha256((question.context or "").encode()).hexdigest()
        ranks.append(next((at for at, p in enumerate(passages, start=1) if p.content_hash == own), None))
        first = first or (question.text, [passage.id for passage in passages])
    if not found or first is None:
        raise UsageError(f"{store.path} holds no passage for these questions: index the notes that they are about")
    return Retrieved(list(found.values()), ranks, first)


def choose(questions: Sequence[Question], count: int) -> list[Question]:
    """So many of the questions that have an answer, at equal distances."""
    answerable = [question for question in questions if question.answers]
    if not answerable:
        raise UsageError("none of the questions has an answer to hold a reader's against: give others")
    step = max(1, len(answerable) // count)
    return answerable[::step][:count]


def prepare(setup: Setup, names: Sequence[str], passages: Sequence[StoredPassage], tokenizer: Path) -> dict[str, float]:
    """Write the files that the readers of these names are made of; the bytes a token of those that keep states."""
    sizes = {}
    dtypes = [name.removeprefix("states-") for name in names if name.startswith("states-")]
    if dtypes and setup.baselines is not None:
        bundle = Bundle.open(setup.baselines, threads=setup.threads)
        kept = write_states(bundle, passages, {dtype: setup.file(states_file(dtype)) for dtype in dtypes})
        sizes = {f"states-{dtype}": size for dtype, size in kept.items()}
    if "pipeline" in names and setup.full is not None:
        write_checkpoint(setup.file(CHECKPOINT), setup.full, tokenizer)
    if "llama.cpp" in names and not setup.file(GGUF).exists():
        write_gguf(setup.file(GGUF))
    return sizes


def stored_notes(store: TokenStore, tokens: int) -> list[tuple[str, str]]:
    """(title, text) of the first notes of a store with so many tokens."""
    notes, seen = [], 0
    for document in store.documents():
        if seen >= tokens:
            break
        passages = [] if document.deleted else store.note(document.path) or []
        seen += sum(passage.tokens for passage in passages)
        notes.append((Path(document.path).stem, "\n\n".join(passage.text for passage in passages)))
    return notes


def run(options: argparse.Namespace, work: Path) -> None:
    """Print the table and the lines below it."""
    depths = sorted(_numbers(options.passages))
    names = [name for name in options.only.split(",") if name in KINDS]
    if len(names) < len(options.only.split(",")) or not names:
        raise UsageError(f"--only {options.only}: give some of {', '.join(KINDS)}, with commas between")
    setup = Setup(
        options.store, options.bundle, options.threads, options.baselines, options.float_baselines, options.full, work
    )
    sentences = [sentence for name in names if (sentence := left_out(name, setup))]
    names = [name for name in names if not left_out(name, setup)]
    questions = choose(load_questions(options.questions), options.count)
    bundle = Bundle.open(options.bundle, threads=options.threads)
    with TokenStore.open(options.store, bundle.manifest.fingerprint) as store:
        found = retrieve(store, bundle, questions, depths[-1])
        counts, notes = store.counts(), stored_notes(store, INDEXED)
        text, ids = found.first
        bits = store.token_bits(ids)
        first = [PassageBits(p.text, *bits[p.id], p.heading) for p in store.passages(ids[:20])]
    codes = counts.code_bytes / counts.tokens
    sizes = prepare(setup, names, found.passages, bundle.folder / TOKENIZER)
    kept = {name: codes + sizes.get(name, 0.0) for name in names} | {
        name: counts.bytes_per_token for name in names if name.startswith(OURS)
    }
    print(
        f"{len(questions)} questions over {counts.notes:,} notes, {counts.passages:,} passages, {counts.tokens:,} "
        f"tokens; {options.threads} threads; {bundle.manifest.name}, {bundle.manifest.fingerprint}\n\n{HEADER}",
        flush=True,
    )
    with ExitStack() as stack:
        children = [stack.enter_context(Child(name, setup)) for name in names]
        expected: dict[str, float] = {}
        for child in children:
            child.ask(questions[0].text, 1)  # loads its graphs
        for before, depth in zip([1, *depths], depths, strict=False):
            expected = {name: seconds * depth / before for name, seconds in expected.items()}
            turns = take_turns(children, questions, depth, options.budget, expected)
            for name in names:
                print(line(name, depth, turns, questions, kept[name], expected.get(name)), flush=True)
            seconds = {name: [turn.seconds for turn in turns[name].values()] for name in names}
            expected |= {name: statistics.median(own) for name, own in seconds.items() if own}
            at = sum(rank is not None and rank <= depth for rank in found.ranks)
            sentences.append(f"{depth} passages: the question's own is among them for {at / len(questions):.1%}.")
            sentences += filter(None, [against_unsplit(turns, depth, questions)])
    if "llama.cpp" in names:
        sentences.append(
            "llama.cpp: the time to its first token, which does not depend on the weights; they are random, so that "
            "there is no answer. It is given the same passages as one prompt, in the tokens of our reader."
        )
    print("\n" + "\n".join(f"* {sentence}" for sentence in sentences), flush=True)
    if importlib.util.find_spec("onnx") is None:
        print("* Roofline: left out, for onnx cannot be imported.")
    else:
        print(f"* {roofline(bundle, text, first)}", flush=True)
    print(f"\n{ways(bundle, text, first)}\n", flush=True)
    if options.encoder is None:
        print("* Indexing: left out, for --encoder was not given.")
    else:
        write_encoder(work / "encoder", options.encoder)
        encoder = Bundle(work / "encoder", bundle.manifest, "cpu", options.threads)
        print(f"* {indexing(bundle, encoder, notes, work)}")


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(1 <= number <= 200 for number in numbers):
        raise UsageError(f"--passages {text}: give numbers from 1 to 200, with commas between")
    return numbers


def main() -> None:
    """The command: what a person can act on becomes one sentence and an exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("questions", type=Path, help="JSONL or SQuAD's format, as `eval` takes it")
    parser.add_argument("--bundle", type=Path, default=EMBEDDED_BUNDLE, help="that the store was made with")
    parser.add_argument("--baselines", type=Path, help="int8 bundle made by btr-export bundle --with-baselines")
    parser.add_argument("--float-baselines", type=Path, help="the same with --precision float32")
    parser.add_argument("--full", type=Path, help="the full step of a training run, for transformers")
    parser.add_argument("--encoder", type=Path, help="checkpoint folder for plain embedding, to compare indexing with")
    parser.add_argument("--passages", default=DEPTHS, help=f"rows of the table (default {DEPTHS})")
    parser.add_argument("--count", type=int, default=48, help="questions")
    parser.add_argument("--budget", type=float, default=40.0, help="seconds for each reader of each row")
    parser.add_argument("--only", default=",".join(KINDS), help="readers to measure, by name")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="six questions over 5 and 20 passages")
    options = parser.parse_args()
    if options.quick:
        options.count, options.passages, options.budget = 6, "5,20", 10.0
    try:
        if options.count < 1 or options.threads < 1 or options.budget <= 0:
            raise UsageError("--count, --threads and --budget are 1 or more")
        with tempfile.TemporaryDirectory() as work:
            run(options, Path(work))
    except BtrError as error:
        print(f"readers: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("readers: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
