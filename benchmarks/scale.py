"""
How the program does on many notes: time, memory and size as they grow.

    python -m benchmarks.scale --notes 40000
    python -m benchmarks.scale --passages 10000,100000,1000000 --plot docs/scale.svg

`--notes` writes made-up notes (`benchmarks.synthetic`), indexes them with the real command, indexes again, opens the
chat in a pseudo-terminal, and asks. `--passages` makes stores of that many passages and asks them: their rows are
written through the store's own interface, but only a few hundred of the passages are encoded, the others are variants
of these with other words and codes, so that a million need not be encoded one by one. With `--index FOLDER` notes are
then really indexed, into a copy of each store; what all of it would take at that rate is told. `--base STORE` takes
another store's passages, and only beyond them variants. `--keep FOLDER` keeps notes and stores, and finds them again.
`--questions FILE` asks real questions, JSONL, spread evenly over the file; else they are made up, of words of the
notes, and few have an answer.

Peak memory is of the one process measured, as the kernel counts it (wait4).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import math
import os
import pty
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from app.bundle import Bundle
from app.evaluation import load_questions
from app.places import EMBEDDED_BUNDLE
from app.retriever import CANDIDATES, Retriever
from app.scope import parse_scope
from benchmarks.speed import ROOT, percentiles, row
from benchmarks.synthetic import fill, fill_from, questions, write_notes
from store.scope import EVERYTHING
from store.tokens import TokenStore

COMMAND = (sys.executable, "-m", "benchmarks.run")
FIRST_PAINT, OPEN = "sk your notes", "all local"
"""What the chat shows when it can be typed into (its cursor stands on the A), and when the notes are open."""
ASKED = 60
"""Questions; the first ten warm up."""
PATIENCE = 120.0
"""Seconds after which the chat is given up."""
SCOPES = (EVERYTHING, parse_scope("-tag:private"), parse_scope('folder:"topic 007"'))
"""All, a scope that holds nearly all, and one that holds little."""
PANELS = {
    "ask, ms": ("ask p50", "ask p95", "retrieval p50", "retrieval p95"),
    "peak memory of ask, MB": ("memory",),
    "store, MB": ("store",),
    "index at the rate measured, minutes": ("index",),
}
COLOURS = ("#1b6ca8", "#7fb2d9", "#b3501b", "#e3a983")


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    seconds: float
    megabytes: float
    """Peak memory."""
    out: str


def ended(process: subprocess.Popen[Any], began: float, out: str = "") -> Ended:
    """Wait for a process; its seconds and peak memory."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return Ended(time.perf_counter() - began, usage.ru_maxrss * unit / 1e6, out)


def command(environment: dict[str, str], *arguments: str) -> Ended:
    """Run the real command line to its end; anything but an answer or an abstention ends the benchmark."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env=environment
        )
        assert process.stdout is not None
        done = ended(process, began, process.stdout.read().decode())
        if process.returncode not in (0, 1):
            errors.seek(0)
            sys.exit(errors.read().decode())
    return done


def chat(environment: dict[str, str]) -> tuple[float, float, float]:
    """Open the chat in a terminal and leave it: seconds to its first paint and to the open notes, peak memory in MB."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = {**environment, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [*COMMAND], stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=environment, start_new_session=True
    )
    os.close(slave)
    screen, seconds, waiting = "", list[float](), [FIRST_PAINT, OPEN]
    for chunk in _chunks(master, began + PATIENCE):
        screen += chunk
        if waiting and waiting[0] in screen:
            seconds.append(time.perf_counter() - began)
            if len(waiting) == 1:
                os.write(master, b"\x11")  # ctrl+q
            screen = screen.partition(waiting.pop(0))[2]
    if waiting:
        process.kill()
        sys.exit(f"the chat did not show {waiting[0]!r}:\n{screen[-2000:]}")
    megabytes = ended(process, began).megabytes
    os.close(master)
    return seconds[0], seconds[1], megabytes


def _chunks(master: int, until: float) -> Iterator[str]:
    while time.perf_counter() < until:
        if select.select([master], [], [], 0.1)[0]:
            try:
                data = os.read(master, 65536)
            except OSError:  # the other side is closed
                return
            if not data:
                return
            yield data.decode(errors="replace")


def over_notes(count: int, folder: Path, asking: Sequence[str], environment: dict[str, str]) -> None:
    """The table of `--notes`."""
    notes = folder / f"notes-{count}"
    if not notes.exists():
        began = time.perf_counter()
        write_notes(notes, count)
        row("notes written", f"{count:,} in {time.perf_counter() - began:.1f} s")
    environment["BTR_ASSISTANT_HOME"] = str(folder / f"home-{count}")
    first = command(environment, "index", "-q", str(notes))
    status = json.loads(command(environment, "status", "--json").out)
    row("notes", f"{status['notes']:,} notes, {status['passages']:,} passages, {status['tokens']:,} tokens")
    row("index, whole process", f"{first.seconds:.1f} s, {status['tokens'] / first.seconds:,.0f} tokens/s")
    row("index, peak memory", f"{first.megabytes:.0f} MB")
    row("store", f"{status['store_bytes'] / 1e6:.1f} MB, {status['bytes_per_token']:.1f} bytes kept per token")
    again = command(environment, "index", "-q")
    row("index again, nothing changed", f"{again.seconds:.2f} s, {again.megabytes:.0f} MB")
    paints = [chat(environment) for _ in range(3)]
    row("chat, first paint, median of 3", f"{np.median([paint[0] for paint in paints]):.2f} s")
    row("chat, notes open, median of 3", f"{np.median([paint[1] for paint in paints]):.2f} s")
    row("chat, peak memory", f"{max(paint[2] for paint in paints):.0f} MB")
    asked(environment, folder, asking)


def asked(environment: dict[str, str], folder: Path, asking: Sequence[str]) -> dict[str, float]:
    """Ask cold and warm through the command line, print, and return the figures for the plot."""
    cold = [command(environment, "ask", question).seconds for question in asking[:3]]
    row("ask, cold from the shell, median of 3", f"{np.median(cold):.2f} s")
    batch = folder / "questions.txt"
    batch.write_text("\n".join(asking))
    warm = command(environment, "ask", "--batch", str(batch))
    timings = [json.loads(line)["timings_ms"] for line in warm.out.splitlines()][10:]
    for stage in ("total", "retrieve", "load", "read"):
        name = "ask, warm, p50 / p95" if stage == "total" else f"  {stage}"
        row(name, percentiles([timing[stage] / 1000 for timing in timings]))
    row(f"ask, peak memory of {len(asking)} questions", f"{warm.megabytes:.0f} MB")
    totals = [timing["total"] for timing in timings]
    retrieve = [timing["retrieve"] for timing in timings]
    return {
        "ask p50": float(np.percentile(totals, 50)),
        "ask p95": float(np.percentile(totals, 95)),
        "retrieval p50": float(np.percentile(retrieve, 50)),
        "retrieval p95": float(np.percentile(retrieve, 95)),
        "cold": float(np.median(cold)),
        "memory": warm.megabytes,
    }


def over_passages(
    count: int,
    folder: Path,
    bundle: Bundle,
    base: Path | None,
    notes: Path | None,
    asking: Sequence[str],
    environment: dict[str, str],
) -> dict[str, float]:
    """The table of one store of `--passages`, and its figures for the plot."""
    path = folder / f"{count}{'' if base is None else f'-{base.stem}'}.db"
    row(f"--- {count:,} passages", "")
    if not path.exists():
        began, part = time.perf_counter(), folder / f"{count}.part"
        with TokenStore.create(part, bundle.manifest.fingerprint, bundle.manifest.name) as store:
            if base is None:
                fill(store, bundle, count)
            else:
                with TokenStore.open(base, bundle.manifest.fingerprint) as real:
                    fill_from(store, bundle, real, count)
        part.rename(path)
        row("store made", f"{time.perf_counter() - began:.0f} s")
    code = bundle.encode_question("ready?").code
    began = time.perf_counter()
    with TokenStore.open(path, bundle.manifest.fingerprint) as store:
        retriever = Retriever(store)
        row("store opened", f"{1000 * (time.perf_counter() - began):.1f} ms")
        first = timed(lambda: retriever.nearest(code, CANDIDATES))
        counts = store.counts()
        size = f"{counts.store_bytes / 1e6:,.1f} MB, {counts.bytes_per_token:.2f} bytes per token"
        row("store, all / kept", f"{size}, {counts.store_bytes / counts.tokens:.1f} with text and search")
        row("codes loaded and first scan", f"{1000 * first:.1f} ms")
        encoded = [(question, bundle.encode_question(question).code) for question in asking]
        for scope in SCOPES:
            within = f", {scope.text}" if scope else ""
            words = [timed(partial(store.match, question, CANDIDATES, scope)) for question, _ in encoded]
            codes = [timed(partial(retriever.nearest, code, CANDIDATES, scope)) for _, code in encoded]
            row(f"rank by words{within}, p50 / p95", percentiles(words))
            row(f"rank by codes{within}, p50 / p95", percentiles(codes))
    environment["BTR_ASSISTANT_STORE"] = str(path)
    figures = {**asked(environment, folder, asking), "store": counts.store_bytes / 1e6}
    if notes:
        figures["index"] = counts.tokens / indexed_into(path, notes, dict(environment)) / 60
        row("index all at that rate", f"{figures['index']:,.0f} minutes")
    return figures


def indexed_into(path: Path, notes: Path, environment: dict[str, str]) -> float:
    """Index a folder into a copy of a store with the real command; tokens a second."""
    with tempfile.TemporaryDirectory(dir=path.parent) as apart:
        environment["BTR_ASSISTANT_STORE"] = str(shutil.copy(path, apart))
        before = json.loads(command(environment, "status", "--json").out)["tokens"]
        done = command(environment, "index", "-q", str(notes))
        tokens = json.loads(command(environment, "status", "--json").out)["tokens"] - before
    row(f"index {tokens:,} tokens more", f"{done.seconds:.1f} s, {tokens / done.seconds:,.0f} tokens/s")
    row("index, peak memory", f"{done.megabytes:.0f} MB")
    return float(tokens / done.seconds)


def timed(work: Callable[[], object]) -> float:
    """Seconds that some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def plot(path: Path, counts: Sequence[int], figures: Sequence[dict[str, float]]) -> None:
    """Draw what was measured against the number of passages, both axes logarithmic, as one SVG."""
    panels = {title: names for title, names in PANELS.items() if all(name in figures[0] for name in names)}
    width = 320 * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="340" viewBox="0 0 {width} 340" '
        'font-family="sans-serif" font-size="12">',
        "<title>btr-assistant: time, memory and size against the number of passages</title>",
        f'<rect width="{width}" height="340" fill="white"/>',
    ]
    for number, (title, names) in enumerate(panels.items()):
        parts += _panel(70 + 320 * number, title, counts, {name: [found[name] for found in figures] for name in names})
    path.write_text("\n".join([*parts, "</svg>", ""]))


def _panel(left: int, title: str, counts: Sequence[int], series: dict[str, list[float]]) -> Iterator[str]:
    """One diagram of 230 x 230 pixels, its curves named at their ends' height."""
    top, side = 50, 230
    values = [value for curve in series.values() for value in curve]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    first, last = math.log10(min(counts)), math.log10(max(counts))

    def across(count: float) -> float:
        return left + side * (math.log10(count) - first) / max(last - first, 1e-9)

    def up(value: float) -> float:
        return top + side * (1 - (math.log10(value) - low) / max(high - low, 1))

    yield f'<text x="{left}" y="{top - 20}" font-weight="bold">{title}</text>'
    for power in range(low, max(high, low + 1) + 1):
        y = up(10.0**power)
        yield f'<path d="M{left} {y:.1f}h{side}" stroke="#ddd"/>'
        yield f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>'
    for count in counts:
        yield f'<text x="{across(count):.1f}" y="{top + side + 18}" text-anchor="middle">{count:,}</text>'
    for curve, colour in zip(series.values(), COLOURS, strict=False):
        points = " ".join(f"{across(count):.1f},{up(value):.1f}" for count, value in zip(counts, curve, strict=True))
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for number, (name, colour) in enumerate(zip(series, COLOURS, strict=False)):
        x = left + 80 * (number % 3)
        yield f'<text x="{x}" y="{top + side + 36 + 14 * (number // 3)}" fill="{colour}">{name}</text>'


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", type=int, help="made-up notes to index")
    parser.add_argument("--passages", help="sizes of made-up stores, with commas between")
    parser.add_argument("--plot", type=Path, help="with --passages: the SVG to write")
    parser.add_argument("--bundle", type=Path, default=EMBEDDED_BUNDLE)
    parser.add_argument("--base", type=Path, help="with --passages: a store to take passages from")
    parser.add_argument("--index", type=Path, help="with --passages: a folder of notes to index into a copy of each")
    parser.add_argument("--questions", type=Path, help="JSONL with the questions to ask")
    parser.add_argument("--keep", type=Path, help="folder for notes and stores, which are used again")
    options = parser.parse_args()
    if (options.base or options.index) and not options.passages:
        parser.error("--base and --index need --passages")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BTR_ASSISTANT_")}
    environment["BTR_ASSISTANT_BUNDLE"] = str(options.bundle.absolute())
    with contextlib.ExitStack() as opened:
        folder = options.keep or Path(opened.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        environment["BTR_ASSISTANT_HOME"] = str(folder)
        asking = questions(ASKED)
        if options.questions:
            found = [question.text for question in load_questions(options.questions)]
            if len(found) < ASKED:
                parser.error(f"{options.questions} holds {len(found)} questions: give at least {ASKED}")
            asking = [found[at] for at in np.linspace(0, len(found) - 1, ASKED).astype(int)]
        row("what", "measured")
        if options.notes:
            over_notes(options.notes, folder.absolute(), asking, dict(environment))
        if options.passages:
            bundle = Bundle.open(options.bundle)
            counts = [int(count) for count in options.passages.split(",")]
            notes = options.index.absolute() if options.index else None
            given = (folder.absolute(), bundle, options.base, notes, asking, dict(environment))
            figures = [over_passages(count, *given) for count in counts]
            if options.plot:
                plot(options.plot, counts, figures)


if __name__ == "__main__":
    main()
