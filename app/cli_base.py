"""
What the commands share: exit codes, JSON on stdout, progress on a terminal, options that mean the same everywhere.

Answers go to stdout, talk to stderr. Exit codes: 0 answered or done, 1 nothing found or not in your notes, 2 usage or
configuration, or a source that was left as it is because too much of it is gone, 3 store, 4 bundle, 5 finished but
some files failed, 70 a bug of ours, 130 interrupted. Whoever stops reading the output does not change them.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TextIO, TypeVar

import click

from app import SCHEMA_VERSION, complete
from app.display import finite, many, plain, short
from app.places import Places, resolve
from store.errors import UsageError

if TYPE_CHECKING:
    from app.assistant import SearchResult, Source
    from store.scope import Scope

P = ParamSpec("P")
R = TypeVar("R")
NOTHING_FOUND, REFUSED, FILES_FAILED, BUG, INTERRUPTED = 1, 2, 5, 70, 130

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object (docs/json.md).")
passages_option = click.option(
    "-n",
    "--passages",
    metavar="N",
    default=20,
    show_default=True,
    type=click.IntRange(1, 100),
    help="Passages to read.",
)
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
scope_option = click.option(
    "--in",
    "--scope",
    "filters",
    multiple=True,
    metavar="FILTER",
    shell_complete=complete.filters,
    help='Only notes with: folder:work tag:idea author:"Jane" date:2025-01..2025-03 -tag:private',
)


def pass_places(command: Callable[Concatenate[Places, P], R]) -> Callable[P, R]:
    """
    Hand a command the places that the flags before it, the environment and the configuration file name.

    Only when it runs: its help, and the completion of its line, need no configuration that can be read.
    """

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        flags = click.get_current_context().find_root().params
        return command(resolve(flags["store"], flags["bundle"], flags["device"]), *args, **kwargs)

    return update_wrapper(run, command)


def parse_filters(filters: tuple[str, ...]) -> Scope:
    """The scope of all `--in` together."""
    from app.scope import parse_scope
    from store.scope import EVERYTHING

    return parse_scope(" ".join(filters)) if filters else EVERYTHING


def standard_input() -> TextIO:
    """Standard input as UTF-8 and nothing else, whatever the locale says; closing it closes that."""
    return io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig")


def on_terminal() -> bool:
    """Whether there is a person to ask."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def confirm(yes: bool, what: str, question: str, hint: str = "add --yes") -> None:
    """
    Go on only if told to: by the flag, or by the person at the terminal.

    Raises:
        UsageError: If there is nobody to ask; it ends with the hint.
    """
    if yes:
        return
    if not on_terminal():
        raise UsageError(f"{what}: {hint}")
    click.confirm(plain(question), abort=True, err=True)


def and_questions(count: int) -> str:
    """What is said of the saved questions that go with notes; nothing where there is none."""
    return f" and {many(count, 'saved question')}" if count else ""


def in_browser() -> bool:
    """Whether textual-serve runs this process for a browser."""
    return os.environ.get("TEXTUAL_DRIVER", "").endswith(":WebDriver")


def print_json(value: Mapping[str, Any], indent: int | None = 2) -> None:
    """One JSON object on stdout, `schema_version` first; escaped where stdout could not hold every character."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    versioned = finite({"schema_version": SCHEMA_VERSION, **value})
    click.echo(json.dumps(versioned, ensure_ascii=not utf8, indent=indent, allow_nan=False))


def place(found: Source | SearchResult) -> str:
    """Where something stands: a page, in a file that has them, else a line."""
    return f"{short(found.path)}, page {found.page}" if found.page is not None else f"{short(found.path)}:{found.line}"


class Output(io.FileIO):
    """Standard output or error: once whoever reads it has gone, the rest is dropped without a word."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            self.gone = True
            return memoryview(data).nbytes

    gone = False


def reader_gone() -> bool:
    """Whether nobody reads standard output any more, so that work for it alone can stop."""
    return getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "gone", False)


def keep_quiet_about_closed_pipes() -> None:
    """Write to standard output and error through `Output`, and replace what a terminal or pipe cannot hold."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue  # a test's
        raw = getattr(stream.buffer, "raw", stream.buffer)  # the buffer itself is raw under PYTHONUNBUFFERED
        if type(raw) is not io.FileIO:  # a Windows console
            stream.reconfigure(errors="replace")
            continue
        stream.flush()
        buffer = io.BufferedWriter(Output(stream.fileno(), "w", closefd=False))
        lines = stream.line_buffering or stream.write_through or name == "stderr"
        errors = "replace" if name == "stdout" else stream.errors
        setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, errors, line_buffering=lines))


class Counter:
    """ "12 of 400 questions" on one line of a terminal; silent in a pipe."""

    def __init__(self, stream: TextIO, what: str = "questions") -> None:
        self._stream, self._what = stream, what

    def __call__(self, done: int, total: int) -> None:
        if self._stream.isatty():
            self._stream.write(f"\r\x1b[K{done:,} of {total:,} {self._what}" if done < total else "\r\x1b[K")
            self._stream.flush()
