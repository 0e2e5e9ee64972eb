"""
The commands that find: ask, which reads passages and answers, and search, which lists them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from app import complete
from app.cli_base import (
    NOTHING_FOUND,
    json_option,
    parse_filters,
    pass_places,
    passages_option,
    place,
    print_json,
    reader_gone,
    scope_option,
    standard_input,
)
from app.display import plain
from app.places import Places
from store.errors import StoreError, UsageError

if TYPE_CHECKING:
    from app.assistant import Answer, Assistant, Source
    from store.scope import Scope


@click.command()
@click.argument("question", required=False)
@json_option
@click.option(
    "--batch",
    metavar="FILE",
    shell_complete=complete.files,
    help="Answer every line of a file (- for standard input) as JSON lines.",
)
@passages_option
@scope_option
@pass_places
def ask(
    places: Places, question: str | None, as_json: bool, batch: str | None, passages: int, filters: tuple[str, ...]
) -> None:
    """Answer a question from your notes, with its source.

    QUESTION may be - to read it from standard input. A line of --batch FILE is a question, or a JSON object with one.

    Example: btr-assistant ask "when was the boiler serviced?"
    """
    if (question is None) == (batch is None):
        raise UsageError("give a question or --batch FILE: btr-assistant ask 'when was the boiler serviced?'")
    from app.assistant import Assistant, check_question

    scope = parse_filters(filters)
    if batch is not None:
        with _open_lines(batch) as lines, Assistant.open(places) as assistant:
            for line in _questions(lines):
                print_json(assistant.ask(line, passages, scope=scope).to_json(), indent=None)
                sys.stdout.flush()
                if reader_gone():
                    break
        return
    assert question is not None
    question = check_question(_standard_input() if question == "-" else question)
    with Assistant.open(places) as assistant:
        answer = assistant.ask(question, passages, scope=scope)
        _warn_if_empty(assistant, scope)
    if as_json:
        print_json(answer.to_json())
    else:
        _print_answer(answer)
    if answer.abstained:
        _tell_if_indexing(places)
        sys.exit(NOTHING_FOUND)


def _warn_if_empty(assistant: Assistant, scope: Scope) -> None:
    if scope and not assistant.count_notes(scope):
        click.echo(f"No notes match {plain(scope.text)}.", err=True)


def _tell_if_indexing(places: Places) -> None:
    from app.indexer import is_written

    with suppress(StoreError):  # of a folder that cannot be written to
        if is_written(places.lock):
            click.echo("Notes are being indexed at the moment: what is not read yet cannot be found.", err=True)


@click.command()
@click.argument("query")
@json_option
@click.option(
    "-n", "--limit", metavar="N", default=10, show_default=True, type=click.IntRange(1, 1000), help="Passages to list."
)
@scope_option
@pass_places
def search(places: Places, query: str, as_json: bool, limit: int, filters: tuple[str, ...]) -> None:
    """List the passages closest to some words, without reading.

    Example: btr-assistant search "boiler pressure valve"
    """
    from app.assistant import Assistant, check_question

    check_question(query)
    scope = parse_filters(filters)
    with Assistant.open(places) as assistant:
        results = assistant.search(query, limit, scope)
        _warn_if_empty(assistant, scope)
    if as_json:
        rows = [asdict(result) for result in results]
        print_json({"query": query.strip(), "results": rows})
    for result in () if as_json else results:
        click.secho(place(result), fg="cyan", nl=False)
        click.secho(f"  {plain(result.heading)}", dim=True)
        click.echo("    " + " ".join(plain(result.text).split())[:200])
    if not results:
        if not as_json:
            click.echo("Nothing found.", err=True)
        _tell_if_indexing(places)
        sys.exit(NOTHING_FOUND)


def _print_answer(answer: Answer) -> None:
    if answer.answer is None:
        click.echo("Not in your notes.")
        if answer.sources:
            click.echo("Closest passages:")
        for source in answer.sources:
            click.echo(f"  {place(source)}  {plain(source.heading)}{_stale(source)}")
    else:
        source = answer.sources[0]
        click.secho(plain(answer.answer), bold=True)
        click.echo()
        quote, (first, last) = plain(source.quote), source.marked
        click.echo("  " + quote[:first], nl=False)
        if first < last:  # a written answer need not stand in the note
            click.secho(f"[{quote[first:last]}]", bold=True, nl=False)
        click.echo(quote[last:])
        click.echo(f"  {place(source)}  {plain(source.heading)}{_stale(source)}")
    timings = answer.timings_ms
    click.echo(
        f"  confidence {answer.confidence:.0%} · {timings.total:.0f} ms: retrieve {timings.retrieve:.0f}, "
        f"load {timings.load:.0f}, read {timings.read:.0f}"
    )


def _stale(source: Source) -> str:
    return "  (changed since it was indexed)" if source.stale else ""


def _standard_input() -> str:
    """All of standard input, as one question."""
    if sys.stdin.isatty():
        click.echo("Type a question, then press Ctrl-D.", err=True)
    with _open_lines("-") as text:
        try:
            return text.read()
        except UnicodeDecodeError as error:
            raise UsageError(f"standard input is not UTF-8 ({error.reason}): convert it") from error


def _open_lines(name: str) -> TextIO:
    if name == "-":
        return standard_input()
    try:
        return Path(name).open(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {name} ({error.strerror}): give a file with one question a line") from error


def _questions(lines: TextIO) -> Iterator[str]:
    """One question a line, or one JSON object with `question` a line; blank lines are left out."""
    number = 0
    try:
        for number, line in enumerate(lines, start=1):
            text = line.strip()
            if text:
                yield _question(text, number)
    except UnicodeDecodeError as error:
        raise UsageError(f"the questions are not UTF-8 after line {number}: save them as UTF-8") from error


def _question(text: str, number: int) -> str:
    from app.assistant import check_question

    if text.startswith("{"):
        try:
            text = json.loads(text)["question"]
        except (ValueError, KeyError, RecursionError) as error:
            raise UsageError(f"line {number} is no JSON object with a question: correct it") from error
        if not isinstance(text, str):
            raise UsageError(f"line {number} has a question that is no text: correct it")
    try:
        return check_question(text)
    except UsageError as error:
        raise UsageError(f"line {number}: {error}") from error


COMMANDS = (ask, search)
