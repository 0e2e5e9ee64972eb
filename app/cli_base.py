"""
What the commands share: exit codes, JSON on stdout, progress on a terminal, filters as an option.

Answers go to stdout, talk to stderr. Exit codes: 0 answered or done, 1 nothing found or not in your notes, 2 usage or
configuration, or a source that was left as it is because too much of it is gone, 3 store, 4 bundle, 5 finished but
some files failed, 70 a bug of ours, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, TextIO

import click

from app.display import short

if TYPE_CHECKING:
    from app.assistant import SearchResult, Source
    from store.scope import Scope

NOTHING_FOUND, REFUSED, FILES_FAILED, BUG, INTERRUPTED = 1, 2, 5, 70, 130

scope_option = click.option(
    "--in",
    "--scope",
    "filters",
    multiple=True,
    metavar="FILTER",
    help='Only notes with: folder:work tag:idea author:"Jane" date:2025-01..2025-03 -tag:private',
)


def parse_filters(filters: tuple[str, ...]) -> Scope:
    from app.scope import parse_scope
    from store.scope import EVERYTHING

    return parse_scope(" ".join(filters)) if filters else EVERYTHING


def on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def print_json(value: dict[str, Any], indent: int | None = 2) -> None:
    """One JSON object on stdout; escaped where stdout could not hold every character."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    click.echo(json.dumps(value, ensure_ascii=not utf8, indent=indent))


def place(found: Source | SearchResult) -> str:
    """Where something stands: a page, in a file that has them, else a line."""
    return f"{short(found.path)}, page {found.page}" if found.page is not None else f"{short(found.path)}:{found.line}"


class Counter:
    """ "12 of 400 questions" on one line of a terminal; silent in a pipe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, done: int, total: int) -> None:
        if self._stream.isatty():
            self._stream.write(f"\r\x1b[K{done:,} of {total:,} questions" if done < total else "\r\x1b[K")
            self._stream.flush()
