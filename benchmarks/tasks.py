"""
The paper's five tasks with our readers: full, split with float states, binarized; one table beside the paper's.

    python -m benchmarks.tasks DATA KEEP --bundle BASELINES --questions 1000

DATA holds open/{nq,triviaqa,webquestions}.dev.jsonl.gz, choice/{fever,mmlu}.dev.jsonl.gz and wiki/simplewiki.jsonl.gz.
The articles are indexed once, into KEEP; a run that was interrupted goes on, a finished store is used again. BASELINES
is made by `btr-export bundle --with-baselines`.

- NQ, TriviaQA, WebQuestions: asked over the store; exact match with any alias. Recall counts the questions for which
  one of the 20 best passages holds an alias as whole words.
- FEVER: a claim is read against its own evidence, as it stands and as questions from which a name or a number was
  taken; what the reader finds, with the words that both share, goes into a logistic regression. It is fitted on the
  claims of one half and reported on the other.
- MMLU: question and choice are asked together over the store; the choice whose best span scores highest is taken.

Standard errors are of the questions asked; between two readers they are of the paired differences.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from app.bundle import Bundle
from app.cli_base import INTERRUPTED, Counter
from app.evaluation import Examination, Outcome, Question, load_questions, normalise
from app.indexer import Progress, index, writing
from benchmarks.corpus import write_note
from store.errors import BtrError, UsageError
from store.search import STOPWORDS
from store.tokens import TokenStore

Doubles = npt.NDArray[np.float64]

READERS = ("full", "split", "binarized")
PASSAGES = 20
SEED = 20261121
OPEN = {"NQ": "nq", "TriviaQA": "triviaqa", "WebQuestions": "webquestions"}
PAPER = {
    "NQ": ("52.1", "49.5", "42.9", "39.8"),
    "TriviaQA": ("69.3", "66.7", "57.1", "54.1"),
    "WebQuestions": ("46.4", "43.8", "43.1", "39.x"),
    "FEVER": ("72.9", "70.2", "", ""),
    "MMLU": ("38.6", "35.4", "", ""),
}
"""Atlas base and BTR base, BERT base and BTR-BERT (arXiv 2310.01329)."""
COLUMNS = (
    *("task", "questions", "chance", *READERS, "binarized against full", f"recall@{PASSAGES}"),
    *("Atlas base", "BTR base", "BERT base", "BTR-BERT"),
)
NEGATIONS = frozenset(
    "not no never none nobody nothing neither nor without cannot only exclusively solely incapable unable failed "
    "refused yet t".split()
)
"""Words that often turn a claim round; "t" is what tokenization leaves of n't."""
_WORD = re.compile(r"\w+")
_NAME = re.compile(r"[A-Z0-9][\w.&'-]*(?: (?:of |the |and |for )?[A-Z0-9][\w.&'-]*)*")


@dataclass(frozen=True)
class Choice:
    """A question with its choices, or a claim with its labels."""

    question: str
    context: str
    choices: tuple[str, ...]
    answer: int
    """Index into the choices."""


@dataclass(frozen=True)
class Row:
    """How one task went."""

    task: str
    right: Mapping[str, Doubles]
    """Reader -> 1 or 0 of each question (q,)."""
    chance: float | None = None
    """Share that needs no reading, 0..1."""
    recall: Doubles | None = None
    """1 or 0 of each question (q,)."""


def lines_of(path: Path) -> Iterator[Any]:
    """
    The rows of a gzipped JSONL file, one at a time.

    Raises:
        UsageError: If it cannot be read or a line is not JSON.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise UsageError(f"{path}:{number} is not JSON ({error}): correct it") from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read ({reason}): give a folder with open/, choice/ and wiki/") from error


def load_choices(path: Path) -> list[Choice]:
    """
    Questions with choices from gzipped JSONL: {question, choices, answer}, and `context` where there is evidence.

    Raises:
        UsageError: If the file cannot be read, a row is no such question, or there is none.
    """
    found = []
    for number, row in enumerate(lines_of(path), start=1):
        try:
            choices = tuple(str(choice) for choice in row["choices"])
            found.append(Choice(row["question"], row.get("context") or "", choices, choices.index(row["answer"])))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UsageError(f"{path}:{number} has no question, choices and an answer that is one of them") from error
    if not found:
        raise UsageError(f"{path} holds no question: give a folder with open/, choice/ and wiki/")
    return found


def step_of(count: int, wanted: int | None) -> int:
    """Every how manieth of so many questions is asked, so that they are at most the wanted number."""
    return max(1, -(-count // wanted)) if wanted else 1


def wiki_store(articles: Path, keep: Path, bundle: Bundle, limit: int | None) -> Path:
    """
    A finished store of the first articles, made in `keep` unless it is there; an interrupted one is gone on with.

    Raises:
        UsageError: If the articles cannot be read.
        StoreError: If the store cannot be written, or another run writes it.
    """
    name = f"simplewiki-{limit or 'all'}-{bundle.manifest.fingerprint}"
    finished, unfinished, notes = keep / f"{name}.db", keep / f"{name}.unfinished.db", keep / f"notes-{limit or 'all'}"
    if finished.is_file():
        return finished
    for number, row in enumerate(islice(lines_of(articles), limit), start=1):
        try:
            write_note(notes, number, row["title"], row["text"])
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{articles}:{number} is no object with title and text: correct it") from error
        except OSError as error:
            raise UsageError(f"{notes} cannot be written ({error.strerror}): give another folder to keep") from error
    with writing(unfinished, keep / f"{name}.lock", bundle.manifest) as store:
        report = index(store, bundle, [notes.absolute()], told_now_and_then())
    if report.failed:
        print(f"{len(report.failed):,} articles left out, the first: {': '.join(report.failed[0])}", file=sys.stderr)
    unfinished.rename(finished)
    return finished


def told_now_and_then(seconds: float = 30.0) -> Callable[[Progress], None]:
    """Says on stderr where an index run stands, at most once in so many seconds."""
    told = 0.0

    def tell(progress: Progress) -> None:
        nonlocal told
        if progress.seconds - told >= seconds:
            told = progress.seconds
            speed = progress.tokens / progress.seconds
            print(
                f"{progress.done:,} of {progress.total:,} articles, {speed:,.0f} tokens/s, "
                f"{progress.seconds_left / 60:.0f} minutes left",
                file=sys.stderr,
                flush=True,
            )

    return tell


def ask_all(examination: Examination) -> dict[str, list[Outcome]]:
    """Reader -> every question's outcome."""
    return {
        name: examination.ask(name, PASSAGES, without=False, progress=Counter(sys.stderr, f"questions, {name}"))
        for name in READERS
    }


def open_row(task: str, outcomes: Mapping[str, Sequence[Outcome]]) -> Row:
    """Exact match with any alias, and whether one of the first passages holds one."""
    ranks = [outcome.rank for outcome in outcomes["binarized"] if outcome.answerable]
    return Row(
        task,
        {name: np.array([o.em for o in found if o.answerable]) for name, found in outcomes.items()},
        recall=np.array([float(rank is not None and rank <= PASSAGES) for rank in ranks]),
    )


def choice_questions(choices: Sequence[Choice], bundle: Bundle) -> list[Question]:
    """Each question with each of its choices."""

    def tokens(text: str) -> int:
        return len(bundle.tokenizer.encode(text, add_special_tokens=False).ids)

    limit = bundle.manifest.question_tokens
    return [Question(joined(c.question, choice, tokens, limit), (), None, "") for c in choices for choice in c.choices]


def joined(question: str, choice: str, tokens: Callable[[str], int], limit: int) -> str:
    """Question and choice as one; a question too long for the reader loses words at its beginning, the choice none."""
    words = question.split()
    while len(words) > 1 and tokens(f"{' '.join(words)} {choice}") > limit:
        del words[0]
    return f"{' '.join(words)} {choice}"


def mmlu_row(choices: Sequence[Choice], outcomes: Mapping[str, Sequence[Outcome]]) -> Row:
    """The choice for which the reader finds most is taken; `outcomes` are of `choice_questions`."""
    right = {}
    for name, found in outcomes.items():
        scores = iter([max(outcome.scores, default=-np.inf) for outcome in found])
        right[name] = np.array([float(np.argmax([next(scores) for _ in c.choices]) == c.answer) for c in choices])
    return Row("MMLU", right, chance=float(np.mean([1 / len(c.choices) for c in choices])))


def claim_questions(claim: Choice) -> list[Question]:
    """A claim as it stands, then its clozes, each with what was taken out as its answer."""
    return [
        Question(text, (taken,), claim.context, "") for text, taken in [(claim.question, ""), *clozes(claim.question)]
    ]


def fever_row(
    claims: Sequence[Choice], outcomes: Mapping[str, Sequence[Outcome]]
) -> tuple[Row, list[tuple[str, Doubles]]]:
    """
    The row, and what other heads do on the same half: name -> 1 or 0 of each claim (q,).

    `outcomes` are of all the claims' `claim_questions`.
    """
    ends = np.cumsum([0, *(len(claim_questions(claim)) for claim in claims)])
    labels = np.array([claim.answer for claim in claims])
    fitting = halves([claim.question for claim in claims])
    words = np.array([shared_words(claim.question, claim.context) for claim in claims])
    found = {name: np.array([findings(told[a:b]) for a, b in pairwise(ends)]) for name, told in outcomes.items()}

    def right(features: Doubles) -> Doubles:
        head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        head.fit(features[fitting], labels[fitting])
        return np.asarray(head.predict(features[~fitting]) == labels[~fitting], dtype=np.float64)

    majority = np.bincount(labels[fitting]).argmax()
    chance = (labels[~fitting] == majority).astype(np.float64)
    row = Row("FEVER", {name: right(np.hstack([words, found[name]])) for name in READERS}, chance=float(chance.mean()))
    others = [("the majority label", chance), ("words shared, no reader", right(words))]
    others += [(f"{name}, no words shared", right(found[name])) for name in READERS]
    return row, others


def clozes(claim: str, most: int = 3) -> list[tuple[str, str]]:
    """A claim's names and numbers, the last of them first -> (the claim as a question for it, what was taken out)."""
    found = []
    for match in _NAME.finditer(claim):
        name = match.group().rstrip(".'-")
        if name.casefold() in STOPWORDS:
            continue
        text = f"{claim[: match.start()]}what{claim[match.start() + len(name) :]}"
        found.append((f"{text.rstrip('. ')}?", name))
    return found[::-1][:most]


def findings(outcomes: Sequence[Outcome]) -> list[float]:
    """
    What a reader makes of a claim, then of its clozes, over the evidence -> features.

    Of the claim: its best span's margin over none and over the other passages' best, its length, and how much of it the
    claim says itself. Of the clozes: whether the reader finds what was taken out, and how surely.
    """
    whole, taken = outcomes[0], outcomes[1:]
    scores = [*whole.scores, 0.0, 0.0]
    answer = normalise(whole.answer).split()
    said = set(normalise(whole.question.text).split())
    own = [scores[0], scores[0] - scores[1], float(len(answer)), share(answer, said)]
    if not taken:
        return [*own, *[0.0] * 8]
    overlap = np.array([outcome.f1 for outcome in taken])
    sure = np.array([max(outcome.scores, default=0.0) for outcome in taken])
    surest = int(sure.argmax())
    return [
        *own,
        1.0,
        *(float(value) for value in (overlap.min(), overlap.mean(), overlap.max(), overlap[surest])),
        *(float(value) for value in (sure.min(), sure.max(), (sure * (1 - overlap)).max())),
    ]


def shared_words(claim: str, evidence: str) -> list[float]:
    """How much of a claim its evidence says in the same words -> features; no reader has a part in them."""
    said, read = _WORD.findall(claim), _WORD.findall(evidence)
    known, pairs = (
        {word.lower() for word in read},
        set(zip(map(str.lower, read), map(str.lower, read[1:]), strict=False)),
    )
    content = [word.lower() for word in said if word.lower() not in STOPWORDS]
    numbers = [word for word in said if word.isdigit()]
    names = [word.lower() for word in said[1:] if word[:1].isupper()]
    own = list(zip(map(str.lower, said), map(str.lower, said[1:]), strict=False))
    sentences = [set(map(str.lower, _WORD.findall(sentence))) for sentence in re.split(r"(?<=[.!?])\s+", evidence)]
    return [
        share(content, known),
        max(share(content, sentence) for sentence in sentences),
        share(own, pairs),
        share(numbers, known),
        float(len(numbers)),
        share(names, known),
        float(sum(word.lower() in NEGATIONS for word in said)),
        float(sum(word.lower() in NEGATIONS for word in read)),
        float(np.log1p(len(said))),
        float(np.log1p(len(read))),
    ]


def share(parts: Sequence[Any], whole: set[Any]) -> float:
    """How many of some things are among others; 1 where there is none."""
    return sum(part in whole for part in parts) / len(parts) if parts else 1.0


def halves(claims: Sequence[str], seed: int = SEED) -> npt.NDArray[np.bool_]:
    """
    Which rows are fitted on (n,): those of half of the different claims, so that none is on both sides.

    Raises:
        UsageError: If there are no two.
    """
    different = list(dict.fromkeys(claims))
    if len(different) < 2:
        raise UsageError("the head of FEVER is fitted on one claim and measured on another: ask at least 2 --questions")
    chosen = np.random.default_rng(seed).permutation(len(different))[: len(different) // 2]
    fitted = {different[i] for i in chosen}
    return np.array([claim in fitted for claim in claims])


def percent(values: Doubles, sign: bool = False) -> str:
    """Mean and standard error of some questions' figures (q,), in percent."""
    mean, error = 100 * values.mean(), 100 * values.std() / len(values) ** 0.5
    return f"{mean:+.1f} ± {error:.1f}" if sign else f"{mean:.1f} ± {error:.1f}"


def line(row: Row) -> str:
    """A row of the table."""
    return table_line(
        row.task,
        f"{len(row.right['full']):,}",
        "" if row.chance is None else f"{100 * row.chance:.1f}",
        *(percent(row.right[name]) for name in READERS),
        percent(row.right["binarized"] - row.right["full"], sign=True),
        "" if row.recall is None else percent(row.recall),
        *PAPER[row.task],
    )


def table_line(*cells: str) -> str:
    """Cells as Markdown."""
    return f"| {' | '.join(cells)} |"


def near_chance(row: Row) -> str | None:
    """The sentence for readers that are within two standard errors of what needs no reading."""
    if row.chance is None:
        return None
    count = len(row.right["full"])
    error = (row.chance * (1 - row.chance) / count) ** 0.5
    near = [name for name in READERS if abs(row.right[name].mean() - row.chance) <= 2 * error]
    if not near:
        return None
    return (
        f"{row.task}: {', '.join(near)} within two standard errors ({200 * error:.1f} points) of chance "
        f"({100 * row.chance:.1f} %): nothing was shown to be known."
    )


def main() -> None:
    """Print the table; errors a person can act on are one sentence and their exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with open/, choice/ and wiki/")
    parser.add_argument("keep", type=Path, help="folder for the notes and the store, which are used again")
    parser.add_argument("--bundle", type=Path, required=True, help="bundle with the full and the float split reader")
    parser.add_argument("--articles", type=counted, help="index only the first so many articles")
    parser.add_argument("--questions", type=counted, help="ask at most so many of each task, evenly spaced")
    parser.add_argument("--only", default=",".join(PAPER), help="tasks, by name (default: %(default)s)")
    options = parser.parse_args()
    tasks = options.only.split(",")
    if unknown := [task for task in tasks if task not in PAPER]:
        parser.error(f"there is no task {', '.join(unknown)}: give some of {', '.join(PAPER)}")
    try:
        measure(options.data, options.keep, options.bundle, options.articles, options.questions, tasks)
    except BtrError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with the store", file=sys.stderr)
        sys.exit(INTERRUPTED)


def counted(text: str) -> int:
    """A number from 1 on, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def measure(
    data: Path, keep: Path, folder: Path, articles: int | None, questions: int | None, tasks: Sequence[str]
) -> None:
    """
    The table, a row as soon as it is known, then what belongs to it.

    Raises:
        BtrError: If data, bundle or store cannot be used.
    """
    bundle = Bundle.open(folder)
    checked = Examination([], bundle, None)
    for name in READERS:
        checked.reader(name)  # one that is missing is told before anything is indexed
    asked = {task: load_questions(data / "open" / f"{OPEN[task]}.dev.jsonl.gz") for task in tasks if task in OPEN}
    choices = {
        task: load_choices(data / "choice" / f"{task.lower()}.dev.jsonl.gz") for task in tasks if task not in OPEN
    }
    choices = {task: found[:: step_of(len(found), questions)] for task, found in choices.items()}
    notes, others, store = [], list[tuple[str, Doubles]](), None
    began = time.monotonic()
    try:
        if asked or "MMLU" in choices:
            path = wiki_store(data / "wiki" / "simplewiki.jsonl.gz", keep, bundle, articles)
            store = TokenStore.open(path, bundle.manifest.fingerprint)
            counts = store.counts()
            print(
                f"{counts.notes:,} articles, {counts.passages:,} passages, {counts.tokens:,} tokens; "
                f"{PASSAGES} passages read; bundle {bundle.manifest.name} ({bundle.manifest.fingerprint})\n"
            )
        print(table_line(*COLUMNS), "\n|" + "---|" * len(COLUMNS), sep="", flush=True)
        for task in tasks:
            every = 1
            if task in OPEN:
                rows, every = asked[task], step_of(len(asked[task]), questions)
            elif task == "MMLU":
                rows = choice_questions(choices[task], bundle)
            else:
                rows = [question for claim in choices[task] for question in claim_questions(claim)]
            outcomes = ask_all(Examination(rows, bundle, None if task == "FEVER" else store, every))
            if task in OPEN:
                row = open_row(task, outcomes)
            elif task == "MMLU":
                row = mmlu_row(choices[task], outcomes)
            else:
                row, others = fever_row(choices[task], outcomes)
            print(line(row), flush=True)
            if note := near_chance(row):
                notes.append(note)
    finally:
        if store is not None:
            store.close()
    if others:
        print(f"\n{table_line('FEVER by', 'accuracy')}\n|---|---|")
        for name, right in others:
            print(table_line(name, percent(right)))
    print("\n" + "\n".join([*notes, f"{(time.monotonic() - began) / 60:.0f} minutes."]))


if __name__ == "__main__":
    main()
