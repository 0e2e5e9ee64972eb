"""
The pictures and the transcript of docs/, from the real program: `make docs`, or python -m tests.pictures.

The notes are a copy of examples/notes, read by the embedded model; keys are pressed and commands run as a person would.
Textual's picture of a screen asks for a font from the web, which is taken out: a picture needs nothing but itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import TextArea

from app.chat.app import ChatApp
from app.chat.cards import Card
from app.chat.engine import AssistantEngine
from app.chat.pane import SourcePane
from app.chat.settings import Settings
from app.places import EMBEDDED_BUNDLE, Places

ROOT = Path(__file__).parent.parent
NOW = 1_763_000_000.0
"""The time in the pictures; the notes were written some months before it."""
TRANSCRIPT = [
    "btr-assistant index notes",
    'btr-assistant ask "When was the boiler serviced?"',
    'btr-assistant ask "What is my passport number?"',
    "btr-assistant ask \"Which port does the database listen on?\" --in folder:work --json | jq -r '.answer'",
    'btr-assistant search -n 2 "frost in spring"',
    "printf 'When was the boiler serviced?\\nand the next one?\\n/more\\n/right\\n' | btr-assistant chat --plain",
    "btr-assistant sessions search boiler --json | jq '.sessions[].name'",
    "btr-assistant eval --mine",
    "btr-assistant status",
]
_FONTS = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)


@contextlib.contextmanager
def desk() -> Iterator[Path]:
    """A folder with the notes in it, where the person stands, and an empty home."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        shutil.copytree(ROOT / "examples" / "notes", folder / "notes")
        for number, note in enumerate(sorted((folder / "notes").rglob("*.*"))):
            os.utime(note, (NOW - 86_400 * (40 + 61 * number),) * 2)
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


async def until(pilot: Pilot[None], holds: Callable[[], bool]) -> None:
    """Wait for something to be so."""
    for _ in range(3000):
        if holds():
            return
        await pilot.pause(0.02)
    raise SystemExit("the chat did not get there")


async def ask(pilot: Pilot[None], question: str) -> Card:
    """Type a question and wait for its card."""
    before = len(pilot.app.query(Card))
    await pilot.press(*question, "enter")
    await until(pilot, lambda: len(pilot.app.query(Card)) > before and not pilot.app.query(Card).last().waiting)
    return pilot.app.query(Card).last()


def picture(app: ChatApp) -> str:
    """What is on the screen, as SVG that needs nothing from anywhere."""
    return "\n".join(line.rstrip() for line in _FONTS.sub("", app.export_screenshot()).splitlines()) + "\n"


async def answers(pilot: Pilot[None]) -> None:
    """An answer, and a question that goes on from it."""
    await ask(pilot, "When was the boiler serviced?")
    await ask(pilot, "and the next one?")


async def nothing(pilot: Pilot[None]) -> None:
    """What the notes do not hold."""
    await ask(pilot, "What is my passport number?")


async def source(pilot: Pilot[None]) -> None:
    """An answer in its note, in the high-contrast theme."""
    await ask(pilot, "Which port does the staging database listen on?")
    await pilot.press("ctrl+s")
    shown = pilot.app.query_one(SourcePane).query_one(TextArea)
    await until(pilot, lambda: bool(shown.selected_text))


async def keys(pilot: Pilot[None]) -> None:
    """What F1 shows."""
    await pilot.press("f1")


PICTURES = {
    "chat": (answers, (96, 34), None),
    "source": (source, (120, 26), "high-contrast"),
    "not-in-your-notes": (nothing, (96, 30), None),
    "keys": (keys, (96, 48), None),
}
"""Name -> what is done, columns and rows, theme."""


async def take(folder: Path, name: str) -> str:
    """One picture, over the notes of a desk."""
    steps, size, theme = PICTURES[name]
    places = Places(folder / "home" / "store.db", EMBEDDED_BUNDLE, "cpu", folder / "home")
    with AssistantEngine(places, saves=False) as engine:
        app = ChatApp(engine.open, Settings(theme=theme), clock=lambda: NOW)
        async with app.run_test(size=size) as pilot:
            if not places.store.exists():
                await until(pilot, lambda: "no notes" in app._status)
                await pilot.press(*"notes", "home", *"./", "enter")
            await until(pilot, lambda: bool(app._notes) and not app._indexed)
            app.clear_notifications()
            await steps(pilot)
            await pilot.pause()
            return picture(app)


def transcript(folder: Path) -> str:
    """Commands and what they print, one after the other, in a bash that finds the program by its name."""
    shutil.rmtree(folder / "home", ignore_errors=True)
    bin_ = folder / "bin"
    bin_.mkdir()
    (bin_ / "btr-assistant").write_text(f"#!{sys.executable}\nfrom app.cli import main\nmain()\n")
    (bin_ / "btr-assistant").chmod(0o755)
    environment = dict(os.environ) | {
        "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "BTR_ASSISTANT_HOME": str(folder / "home"),
    }
    parts = []
    for command in TRANSCRIPT:
        done = subprocess.run(
            ["bash", "--norc", "-c", command],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
        )  # fmt: skip
        parts.append(f"$ {command}\n{done.stdout.replace(str(folder), '/home/me').rstrip()}\n")
    return (
        "# A session, as it was typed\n\nOver the notes of `examples/notes`; `make docs` makes it.\n\n"
        "```console\n" + "\n".join(parts) + "```\n"
    )


def main() -> None:
    """Write the pictures and the transcript into docs/, or those that are named."""
    wanted = sys.argv[1:] or [*PICTURES, "transcript"]
    with desk() as folder:
        for name in wanted:
            if name in PICTURES:
                (ROOT / "docs" / f"{name}.svg").write_text(asyncio.run(take(folder, name)), encoding="utf-8")
        if "transcript" in wanted:
            (ROOT / "docs" / "transcript.md").write_text(transcript(folder), encoding="utf-8")


if __name__ == "__main__":
    main()
