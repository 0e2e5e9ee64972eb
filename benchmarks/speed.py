"""
Speed, memory and size over folders of notes.

    python -m benchmarks.speed ~/notes [MORE...] [--baselines BUNDLE]

Indexes into a temporary store, indexes again, asks questions cold (a new process each) and warm (p50 of many). With
`--baselines`, a bundle made by `btr-export bundle --with-baselines`, the split reader is timed against the full one,
which reads the passages' text: same passages, same process, alternating runs.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement

from app.assistant import Assistant
from app.baselines import FullReader
from app.bundle import Bundle
from app.places import resolve
from app.reader import ExtractiveReader
from app.retriever import to_read
from app.size import alternatives, parts, word_index

ROOT = Path(__file__).parent.parent
QUESTIONS = (
    "how do I list all open ports?",
    "what is the default port of the server?",
    "which command shows the commit history as a graph?",
    "how can I resize an image from the command line?",
    "what does the strict option do?",
    "how do I run a single test?",
    "which function parses a date?",
    "how do I rename a column in a table?",
    "what is the shortcut to split a window?",
    "how do I undo the last commit?",
)


def row(name: str, value: str) -> None:
    """One line of the table."""
    print(f"{name:<52} {value:>24}")
    sys.stdout.flush()


def timed(*arguments: str, runs: int = 5) -> tuple[float, int]:
    """Median seconds of a command as a whole process, and the peak memory in MB of all children so far."""
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "benchmarks.run", *arguments], capture_output=True, cwd=ROOT)
        seconds.append(time.perf_counter() - began)
        if done.returncode not in (0, 1):
            sys.exit(done.stderr.decode())
    return statistics.median(seconds), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024


def install_size() -> int:
    """Bytes of this package and everything the base install brings, as installed here."""
    todo, seen, total = ["btr-assistant"], set(), 0
    while todo:
        name = todo.pop()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if distribution.name in seen:
            continue
        seen.add(distribution.name)
        for file in (distribution.files or []) if name != "btr-assistant" else []:  # its own are counted below
            path = Path(str(distribution.locate_file(file)))
            total += path.stat().st_size if path.is_file() else 0
        for requirement in distribution.requires or []:
            parsed = Requirement(requirement)
            if parsed.marker is None or parsed.marker.evaluate({"extra": ""}):
                todo.append(parsed.name)
    return total + sum(f.stat().st_size for part in ("app", "store") for f in (ROOT / part).rglob("*") if f.is_file())


def percentiles(seconds: list[float]) -> str:
    """p50 and p95 in milliseconds."""
    return f"{1000 * np.percentile(seconds, 50):.1f} / {1000 * np.percentile(seconds, 95):.1f} ms"


def against_full(assistant: Assistant, baselines: Path, runs: int = 30) -> None:
    """The split reader and the full one: same code around the graphs, same 20 real passages, alternating."""
    bundle, split_times, full_times = assistant.bundle, [], []
    split_reader, full_reader = ExtractiveReader(bundle), FullReader(Bundle.open(baselines))
    for run in range(runs):
        question = QUESTIONS[run % len(QUESTIONS)]
        encoded = bundle.encode_question(question)
        hits = assistant._retriever.retrieve(question, encoded.code, 20)
        found = assistant.store.passages([hit.passage_id for hit in hits])
        bits = assistant.store.token_bits([passage.id for passage in found])
        inputs = to_read(hits, found, bits)
        began = time.perf_counter()
        split_reader.read(bundle.encode_question(question), inputs)
        split_times.append(time.perf_counter() - began)
        began = time.perf_counter()
        full_reader.read(encoded, inputs)
        full_times.append(time.perf_counter() - began)
    row("read 20 passages, split int8, p50 / p95", percentiles(split_times[1:]))
    row("read 20 passages, full int8, p50 / p95", percentiles(full_times[1:]))
    ratios = [full / split for split, full in zip(split_times[1:], full_times[1:], strict=True)]
    row("split against full, median of paired ratios", f"{statistics.median(ratios):.2f}x faster")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notes", nargs="+")
    parser.add_argument("--baselines", type=Path, help="bundle folder that also holds the full reader")
    parser.add_argument("--bundle", help="bundle to measure (default: embedded)")
    options = parser.parse_args()
    row("what", "measured")
    row("base install", f"{install_size() / 1e6:.0f} MB")
    row("--help, whole process, median of 5", f"{timed('--help')[0]:.3f} s")
    with tempfile.TemporaryDirectory() as home:
        for name in [name for name in os.environ if name.startswith("BTR_ASSISTANT_")]:
            del os.environ[name]  # nobody's own store is measured into
        os.environ["BTR_ASSISTANT_HOME"] = home
        if options.bundle:
            os.environ["BTR_ASSISTANT_BUNDLE"] = options.bundle
        seconds, memory = timed("index", "-q", *options.notes, runs=1)
        places = resolve()
        with Assistant.open(places) as assistant:
            counts = assistant.store.counts()
            size = f"{counts.notes:,} notes, {counts.passages:,} passages, {counts.tokens:,} tokens"
            row("notes", size)
            row("index, whole process", f"{seconds:.1f} s, {counts.tokens / seconds:,.0f} tokens/s")
            row("index, peak memory", f"{memory} MB")
            row("index again, nothing changed", f"{timed('index', '-q', *options.notes, runs=3)[0]:.2f} s")
            row("bytes per token", f"{counts.bytes_per_token:.1f}")
            for name, size in parts(counts).items():
                row(f"  {name.replace('_', ' ')}", f"{size:.2f}")
            row("  and the word index", f"{word_index(counts):.2f}")
            for name, size in alternatives(counts, assistant.bundle.manifest).items():
                row(f"  instead: {name.replace('_', ' ')}", f"{size:,.1f}")
            row("the passages' text, bytes per token", f"{counts.text_bytes / counts.tokens:.1f}")
            row("ask, cold from the shell, median of 5", f"{timed('ask', QUESTIONS[0])[0]:.2f} s")
            times = []
            for _ in range(4):
                for question in QUESTIONS:
                    began = time.perf_counter()
                    assistant.ask(question)
                    times.append(time.perf_counter() - began)
            row("ask, warm, 20 passages, p50 / p95", percentiles(times[10:]))
            if options.baselines:
                against_full(assistant, options.baselines)


if __name__ == "__main__":
    main()
