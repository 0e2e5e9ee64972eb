"""The question box: what is typed, what was typed before, and commands completed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.suggester import Suggester
from textual.widgets import Input

PROMPT = "Ask your notes"
NO_QUESTION = "Type a question first, then press Enter"
FOLDER = "The folder of your notes, for example ~/notes"


class QuestionBox(Input):
    """Where questions are typed; it remembers the earlier ones."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Ask", show=False, id="chat.send", tooltip="Ask the question"),
        Binding("up", "older", "Earlier", show=False, id="chat.history.older", tooltip="Earlier question"),
        Binding("down", "newer", "Later", show=False, id="chat.history.newer", tooltip="Later question"),
        Binding("tab", "complete", "Complete", show=False, id="chat.complete", tooltip="Take what is suggested"),
        Binding("pageup", "app.scroll(-1)", "Up", show=False, id="chat.scroll.up", tooltip="Scroll up"),
        Binding("pagedown", "app.scroll(1)", "Down", show=False, id="chat.scroll.down", tooltip="Scroll down"),
    ]

    def __init__(self, commands: Sequence[str]) -> None:
        super().__init__(placeholder=PROMPT, suggester=Completer(commands))
        self.cursor_blink = False
        self._prompt = PROMPT
        self._asked: list[str] = []
        self._at = 0
        """Index of the question shown; `len(self._asked)` is the draft."""
        self._draft = ""

    def prompt(self, prompt: str) -> None:
        """What the empty box says; a hint that stands there stays."""
        if self.placeholder == self._prompt:
            self.placeholder = prompt
        self._prompt = prompt

    def remember(self, questions: Sequence[str]) -> None:
        """Put questions of earlier chats before those of this one."""
        self._asked[:0] = questions
        self._at += len(questions)

    def take(self) -> str:
        """The question typed, remembered; the box is empty afterwards. Empty if there was none."""
        question = self.value.strip()
        if question and self._asked[-1:] != [question]:
            self._asked.append(question)
        self._at, self._draft = len(self._asked), ""
        self.placeholder = self._prompt if question else NO_QUESTION
        self.clear()
        return question

    def action_older(self) -> None:
        """Show the question before."""
        self._show(self._at - 1)

    def action_newer(self) -> None:
        """Show the question after, at last what was being typed."""
        self._show(self._at + 1)

    def action_complete(self) -> None:
        """Take what is suggested, as the right arrow does at the end of the line."""
        self.action_end()
        self.action_cursor_right()

    def _show(self, at: int) -> None:
        if not 0 <= at <= len(self._asked):
            return
        if self._at == len(self._asked):
            self._draft = self.value
        self._at = at
        self.value = [*self._asked, self._draft][at]
        self.action_end()


class Completer(Suggester):
    """Suggests commands and, after /index or for a path, folders; these are looked up in a thread."""

    def __init__(self, commands: Sequence[str]) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._commands = commands

    async def get_suggestion(self, value: str) -> str | None:
        """What would complete a value; None: nothing."""
        before, _, path = value.rpartition(" ") if value.startswith("/index ") else ("", "", value)
        if path.startswith(("~", os.sep, ".")) and (before or os.sep in path[1:] or path.startswith("~")):
            folder = await asyncio.to_thread(folder_like, path)
            if folder is not None:
                return f"{before} {folder}".lstrip()
        if value.startswith("/"):
            return next((command for command in self._commands if command.startswith(value)), None)
        return None


def folder_like(path: str) -> str | None:
    """The first folder whose path begins so, spelled as it was begun."""
    head, tail = os.path.split(path)
    try:
        with os.scandir(os.path.expanduser(head) or ".") as entries:
            names = sorted(entry.name for entry in entries if entry.name.startswith(tail) and entry.is_dir())
    except (OSError, ValueError):
        return None
    names = [name for name in names if tail.startswith(".") or not name.startswith(".")]
    return str(Path(head, names[0])) if names else None
