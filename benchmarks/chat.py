"""
The chat as a person at a terminal has it: from its start to the prompt, and from the Enter key to the answer on screen.

    python -m benchmarks.chat --notes 10000 --keep FOLDER

Made-up notes (`benchmarks.synthetic`) are indexed once into FOLDER, and found there again. The real program then runs
in a pseudo-terminal: it is started five times and left at its prompt, and once asked three questions that do not count
and `--questions` that do, each in a new session. An answer is on the screen when the last line of its card has been
written, which holds the milliseconds that the engine took; the difference is what the chat adds: its worker, the card,
layout, the terminal. While it is asked, the chat looks for notes that changed, as it always does (`--no-rescan` leaves
that out).

With `--quick` only some hundred passages are encoded, and every other is given the bits of parts of these. Text, sizes,
search index and the work of a question are the same; what is answered means nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

import numpy as np

from app.bundle import Bundle, EncodedPassage
from app.indexer import index
from app.places import EMBEDDED_BUNDLE
from benchmarks.scale import COMMAND, FIRST_PAINT, OPEN, PATIENCE
from benchmarks.speed import ROOT, percentiles, row
from benchmarks.synthetic import questions, write_notes
from store.codec import pack
from store.tokens import TokenStore

WARM_UP, STARTS = 3, 5
LAST_LINE = re.compile(r"(?:^|[^\d,])([\d,]+) ms\b")
"""Of a card: how long the engine took."""
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_POOL = 300
_TURNED = 0.15
"""Share of the bits of a passage's code that are turned over."""


class Borrowed(Bundle):
    """The bundle, but for bits: those of some hundred encoded passages serve all others."""

    def prepare(self, texts: list[str]) -> None:
        """Encode what will be lent."""
        made = [super(Borrowed, self).encode_passage("", text) for text in texts]
        width = self.manifest.bits // 8
        self._bits = np.concatenate([np.frombuffer(each.bits, np.uint8).reshape(-1, width) for each in made])
        self._scale = np.concatenate([np.frombuffer(each.scale, np.uint8).reshape(-1, 2) for each in made])
        self._codes = [np.frombuffer(each.code, np.uint8) for each in made]
        self._random = np.random.default_rng(1)

    def encode_passage(self, heading: str, text: str) -> EncodedPassage:
        """As many tokens as the passage has, from anywhere in the pool."""
        tokens = len(self.tokenize(text).ids)
        first = int(self._random.integers(0, len(self._bits) - tokens))
        code = self._codes[int(self._random.integers(len(self._codes)))]
        turned = pack(_TURNED - self._random.random(8 * len(code), dtype=np.float32))
        taken = slice(first, first + tokens)
        return EncodedPassage(
            tokens, self._bits[taken].tobytes(), self._scale[taken].tobytes(), (code ^ turned).tobytes()
        )


def make(count: int, folder: Path, quick: bool) -> None:
    """Notes and their store, where they are not there yet."""
    notes, path = folder / "notes", folder / "store.db"
    if path.exists():
        return
    if not notes.exists():
        write_notes(notes, count)
    bundle = Bundle.open(EMBEDDED_BUNDLE)
    if quick:
        lender = Borrowed.open(EMBEDDED_BUNDLE, threads=1)
        some = sorted(notes.rglob("*.md"))[:: max(1, count // _POOL)]
        lender.prepare([" ".join(note.read_text().split()[-120:]) for note in some])
        bundle = lender
    part = folder / "store.part.db"
    part.unlink(missing_ok=True)
    with TokenStore.create(part, bundle.manifest.fingerprint, bundle.manifest.name) as store:
        index(store, bundle, [notes])
    part.rename(path)


class Terminal:
    """The program in a pseudo-terminal of 120 x 40, and what it has written since it was last asked."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        environment = {**environment, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self.began = time.perf_counter()
        self._process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=environment,
        )  # fmt: skip
        os.close(slave)
        self._raw = b""

    def press(self, keys: str) -> float:
        """Type, and forget what was written before; when that was."""
        self._read(0)
        self._raw = b""
        os.write(self._master, keys.encode())
        return time.perf_counter()

    def wait(self, pattern: re.Pattern[str]) -> tuple[float, str]:
        """When a pattern was first on the screen, and its group."""
        late = time.perf_counter() + PATIENCE
        while time.perf_counter() < late:
            self._read(0.1)
            found = pattern.search(_ESCAPES.sub("", self._raw.decode(errors="replace")))
            if found:
                return time.perf_counter(), found[found.re.groups]
        self._process.kill()
        sys.exit(f"the chat did not show {pattern.pattern!r}:\n{self._raw.decode(errors='replace')[-2000:]}")

    def _read(self, seconds: float) -> None:
        while select.select([self._master], [], [], seconds)[0]:
            self._raw += os.read(self._master, 65536)
            seconds = 0

    def leave(self) -> None:
        """Ctrl+Q, and the end."""
        os.write(self._master, b"\x11")
        while self._process.poll() is None:
            try:
                self._read(0.1)
            except OSError:  # the other side is closed
                break
        self._process.wait()
        os.close(self._master)


def start(environment: dict[str, str], *arguments: str) -> tuple[float, float]:
    """Seconds from exec to the prompt, and to the open notes."""
    terminal = Terminal(environment, *arguments)
    painted, _ = terminal.wait(re.compile(re.escape(FIRST_PAINT)))
    opened, _ = terminal.wait(re.compile(re.escape(OPEN)))
    terminal.leave()
    return painted - terminal.began, opened - terminal.began


def ask(environment: dict[str, str], asked: list[str], *arguments: str) -> list[tuple[float, float]]:
    """Of each question, seconds from Enter to the answer on the screen, and of these the engine's."""
    terminal = Terminal(environment, *arguments)
    terminal.wait(re.compile(re.escape(OPEN)))
    seconds = []
    for question in asked:
        terminal.press("/new\r")  # no older card that is painted again and taken for the answer
        time.sleep(0.5)
        terminal.press(question)
        time.sleep(0.3)  # a person looks before pressing Enter; the letters are painted
        pressed = terminal.press("\r")
        shown, engine = terminal.wait(LAST_LINE)
        seconds.append((shown - pressed, float(engine.replace(",", "")) / 1000))
        time.sleep(0.3)
    terminal.leave()
    return seconds


def main() -> None:
    """Build what is missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", type=int, default=10_000)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="folder for notes and store, which are used again")
    parser.add_argument("--quick", action="store_true", help="do not encode every passage")
    parser.add_argument("--no-rescan", action="store_true", help="the chat does not look for changed notes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        make(options.notes, folder, options.quick)
        environment = {**os.environ, "BTR_ASSISTANT_HOME": str(folder)}
        arguments = ("--no-rescan",) * options.no_rescan
        with TokenStore.open(folder / "store.db") as store:
            counts = store.counts()
        row("notes, passages", f"{counts.notes:,}, {counts.passages:,}")
        row("load before", f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        starts = [start(environment, *arguments) for _ in range(STARTS)]
        row("exec to first paint of the prompt, p50 / p95", percentiles([painted for painted, _ in starts]))
        row("exec to open notes, p50 / p95", percentiles([opened for _, opened in starts]))
        seconds = ask(environment, questions(WARM_UP + options.questions), *arguments)[WARM_UP:]
        row("Enter to answer on screen, p50 / p95", percentiles([shown for shown, _ in seconds]))
        row("of it the engine, p50 / p95", percentiles([engine for _, engine in seconds]))
        row("of it the chat, p50 / p95", percentiles([shown - engine for shown, engine in seconds]))
        row("load after", f"{os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
