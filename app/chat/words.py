"""What the chat says of an answer in words, the same on a card and line by line; no colour says what words do not."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from app.assistant import Answer, Source
from app.display import plain, short

_LEVELS = ((0.9, "very likely"), (0.75, "likely"), (0.5, "possible"), (0.25, "unlikely"), (0.0, "very unlikely"))
"""(Lowest confidence, its words), best first; the bar has as many marks as there are levels."""
_DAY = 86_400
_GOTO_EDITORS = {"code", "code-insiders", "codium", "cursor", "windsurf"}
"""Editors that take `--goto path:line`; all others are given the `+line path` of vi, nano and emacs."""


def likelihood(confidence: float) -> str:
    """A confidence 0..1 as words and a bar."""
    rank = next((rank for rank, (lowest, _) in enumerate(_LEVELS) if confidence >= lowest), len(_LEVELS) - 1)
    return f"{_LEVELS[rank][1]} {'▰' * (len(_LEVELS) - rank)}{'▱' * rank}"


def age(modified: float | None, now: float) -> str:
    """How long ago a note was last written, in words; empty where that is not known."""
    if modified is None:
        return ""
    days = int((now - modified) // _DAY)
    if days < 1:
        return "written today"
    for length, unit in ((365, "year"), (30, "month"), (7, "week"), (1, "day")):
        count = days // length
        if count >= (1 if unit == "day" else 2):
            return f"{count} {unit}{'s' if count > 1 else ''} old"
    return f"{days} days old"


def place(source: Source) -> str:
    """`path:line` or the page, the path as short as a person would write it."""
    where = f", page {source.page}" if source.page is not None else f":{source.line}"
    return plain(short(source.path)) + where


def stages(answer: Answer) -> str:
    """Milliseconds per stage."""
    ms = answer.timings_ms
    return f"retrieve {ms.retrieve:,.0f} ms · load {ms.load:,.0f} ms · read {ms.read:,.0f} ms"


def editor_command(environment: Mapping[str, str], path: str, line: int) -> list[str] | None:
    """The command that opens a file at a line in `$VISUAL` or `$EDITOR`; None if neither is set to one."""
    editor = environment.get("VISUAL") or environment.get("EDITOR") or ""
    try:
        command = [word.strip("\"'") for word in shlex.split(editor, posix=os.name != "nt")]
    except ValueError:  # a quote that is not closed
        return None
    if not command or not command[0]:
        return None
    if Path(command[0]).stem.lower() in _GOTO_EDITORS:
        return [*command, "--goto", f"{path}:{line}"]
    return [*command, f"+{line}", path]


def judgement(verdict: str, correction: str | None) -> str:
    """What a person said of an answer: wrong source; the right answer is 9 June."""
    if correction is None:
        return verdict
    return f"the right answer is {plain(correction, 60)}" if correction else "it is not in your notes"
