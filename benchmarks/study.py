"""
Studies: the same data, the same budget, one thing different; each prints one table.

    python -m benchmarks.study binarizers CHECKPOINT RUNS --base RUN --train ... --validation ...
    python -m benchmarks.study depth      ...
    python -m benchmarks.study ablations  ...

Every variant is a run folder below RUNS and goes on where it was stopped; steps that `--base`, then the first variant,
has finished by the same recipe, from the same --start-full, --start and --retrieved, are taken from there. Figures are
`train.json`'s: token-level exact match and F1 in torch, given the passage, on 500 held-out passages. They steer; what
is reported of the program comes from `btr-assistant eval`.

With `--notes` and `--questions` every variant is also exported, indexes the notes and answers every n-th of the
questions from them, through the int8 graphs. What depth costs in time is told by all of them in turn, passage by
passage and question by question, in processor time: that of what else runs on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from app.assistant import Assistant
from app.evaluation import load_questions
from export.binarizer import KINDS, ResidualBinarizer
from export.bundle import make_bundle
from export.data import load_passages, load_tokenizer
from export.recipe import Recipe, load_recipe
from export.saved import alone_in
from export.train import train
from store.errors import ExportError
from store.runs import common_ids

_OWN = {"id base + residual": "residual"}
_BESIDE = {"base sees neighbours": "neighbours", "restored from their vectors too": "context"}
BINARIZERS = {
    f"{name}{', common words bare' if bare else ''}, m = {bits}": [
        f"split.binarizer='{kind}'",
        f"split.bits={bits}",
        f"binarized.bare={bare}",
    ]
    for bare, kinds, widths in (
        (0.0, {"naive: annealed tanh": "naive", "plain sign, straight through": "plain"}, (384,)),
        (0.0, {"sign x scale": "sign", "mean + gain x scale x sign": "gain"}, (384,)),
        (0.0, _OWN, (64, 96, 128, 192, 384)),
        (0.0, _BESIDE, (128,)),
        (0.0, {"restored from their vectors too": "context"}, (192, 384)),
        (1.0, _OWN, (128, 192)),
        (1.0, {"restored from their vectors too": "context"}, (96, 128, 192)),
    )
    for name, kind in kinds.items()
    for bits in widths
}
DEPTH = {
    f"{lower} + {upper} layers": [f"split.split_layer={lower}", f"split.upper_layers={upper}"]
    for lower, upper in ((3, 3), (4, 2), (5, 1), (6, 2), (6, 3))
}
ABLATIONS = {
    "whole recipe": [],
    "without distillation": [
        f"{step}.{loss}=0.0" for step in ("decomposed", "binarized") for loss in ("tokens", "logits")
    ],
    "without token distillation": ["decomposed.tokens=0.0", "binarized.tokens=0.0"],
    "without recovery": ["binarized.recovery=0.0"],
    "binarized step taught by the full reader": ["binarized.teacher='full'", "binarized.tokens=0.0"],
    "without the early head": ["decomposed.early=0.0", "binarized.early=0.0"],
    "without shared tokens": ["split.match_rank=0"],
}
STUDIES = {"binarizers": BINARIZERS, "depth": DEPTH, "ablations": ABLATIONS}


def bytes_per_token(recipe: Recipe, held: float, hidden_size: int = 384) -> float:
    """Stored bits, scale and masks of a token; `held` is the share of tokens that are no common words."""
    split = recipe.split
    bits = split.bits if issubclass(KINDS[split.binarizer], ResidualBinarizer) else hidden_size
    if recipe.binarized.bare:
        return held * (bits / 8 + 1) + (1 + held) / 8
    return bits / 8 + (0 if split.binarizer in ("naive", "plain") else 2)


def held_share(checkpoint: Path, files: Sequence[Path]) -> float:
    """The share of the tokens of question files' contexts that are no common words."""
    tokenizer = load_tokenizer(checkpoint)
    common = common_ids(tokenizer.get_vocab())
    ids = np.concatenate([passage.body for passage in load_passages(files, tokenizer, Recipe().data.window)])
    return float(1 - common[ids].mean())


def program(*arguments: str | Path) -> dict[str, Any]:
    """What a command of the program prints with `--json`; nothing where it prints none."""
    command = [sys.executable, "-m", "benchmarks.run", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout or "{}")
    return found


def measured(run: Path, notes: Path, questions: Path, every: int) -> list[str]:
    """Recall@20 and EM / F1 over the store of a run's int8 graphs, which is made."""
    bundle, store = run / "bundle", run / "store.db"
    if not (bundle / "manifest.json").is_file():
        make_bundle(run, bundle, "study")
    for old in run.glob("store.db*"):
        old.unlink()
    where = ("--bundle", bundle, "--store", store)
    program(*where, "index", "-q", notes)
    figures = program(*where, "eval", questions, "--open", "--every", str(every), "--json")
    return [f"{100 * figures['recall_at_k']['20']:.1f} %", f"{figures['em']:.1f} / {figures['f1']:.1f}"]


def costs(runs: Sequence[Path], questions: Path, every: int) -> list[list[str]]:
    """Of each measured run: tokens encoded in a second of processor time, and its ms a question, medians."""
    with ExitStack() as open_ones:
        assistants = [
            open_ones.enter_context(Assistant.open(run / "store.db", bundle=run / "bundle", device="cpu"))
            for run in runs
        ]
        speeds: list[list[float]] = [[] for _ in runs]
        times: list[list[float]] = [[] for _ in runs]
        for question in load_questions(questions)[::every]:
            passage = assistants[0].search(question.text, 1)[0]
            for assistant, speed, ms in zip(assistants, speeds, times, strict=True):
                began = time.process_time()
                tokens = assistant.bundle.encode_passage(passage.heading, passage.text).tokens
                speed.append(tokens / (time.process_time() - began))
                began = time.process_time()
                assistant.ask(question.text)
                ms.append(1000 * (time.process_time() - began))
    return [
        [f"{statistics.median(speed):,.0f}", f"{statistics.median(ms):.0f}"]
        for speed, ms in zip(speeds, times, strict=True)
    ]


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--base", type=Path, help="run whose finished steps are used")
    parser.add_argument("--train", type=Path, action="append", required=True)
    parser.add_argument("--validation", type=Path, action="append", required=True)
    parser.add_argument("--start-full", type=Path, help="as btr-export train has it; so the next two")
    parser.add_argument("--start", type=Path)
    parser.add_argument("--retrieved", type=Path, action="append", default=[])
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a setting of every variant")
    parser.add_argument("--only", action="append", default=[], help="only variants whose name holds this text")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--notes", type=Path, help="notes to index (benchmarks.corpus)")
    parser.add_argument("--questions", type=Path, help="questions about them")
    parser.add_argument("--every", type=int, default=12, help="ask every n-th question")
    options = parser.parse_args()
    if bool(options.notes) != bool(options.questions):
        parser.error("--notes and --questions belong together")
    lines: list[str] = []
    held, exported = held_share(options.checkpoint, options.validation), {}
    base = options.base
    for number, (name, settings) in enumerate(STUDIES[options.study].items()):
        if options.only and not any(text in name for text in options.only):
            continue
        recipe = load_recipe(None, [*options.settings, *settings])
        out = options.runs / f"{options.study}-{number:02d}"
        shown: list[str] = []
        try:
            with alone_in(out):
                figures = train(
                    options.checkpoint,
                    options.train,
                    options.validation,
                    out,
                    recipe,
                    options.device,
                    base,
                    options.start_full,
                    options.start,
                    retrieved=options.retrieved,
                    dev_passages=500,
                    eval_every=10_000,
                )
            base = out if base == options.base else base
            shown += [f"{figures[step]['em']:.1f} / {figures[step]['f1']:.1f}" if step in figures else "-" for step in
                      ("full", "decomposed", "binarized")]  # fmt: skip
            if options.notes:
                shown += measured(out, options.notes, options.questions, options.every)
                exported[len(lines)] = out
        except ExportError as error:  # a variant that cannot be made, or not exported, leaves the others their rows
            shown.append(str(error))
        lines.append(f"| {name} | {bytes_per_token(recipe, held):.1f} | {' | '.join(shown)} |")
        print(lines[-1], flush=True)
    titles = ["variant", "bytes a token", "full EM / F1", "decomposed EM / F1", "binarized EM / F1"]
    if options.notes:
        titles += ["recall@20", "open EM / F1", "tokens encoded/s", "ms a question"]
        found = costs(list(exported.values()), options.questions, options.every)
        for number, cells in zip(exported, found, strict=True):
            lines[number] += f" {' | '.join(cells)} |"
    print(f"\n| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
