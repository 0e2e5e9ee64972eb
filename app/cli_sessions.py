"""
The chat's commands: `chat` itself, and `sessions`, which lists, shows, finds, exports and deletes what was asked.

Slow imports stand inside the command that needs them.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.cli_base import (
    NOTHING_FOUND,
    Counter,
    confirm,
    in_browser,
    json_option,
    on_terminal,
    pass_places,
    print_json,
    standard_input,
    yes_option,
)
from app.display import many, plain
from app.places import Places
from store.errors import UsageError

if TYPE_CHECKING:
    from store.sessions import Session, SessionStore


def open_chat(
    places: Places,
    *,
    rescan: bool = True,
    linear: bool = False,
    as_json: bool = False,
    save: bool = True,
    resume: int | None = None,
) -> None:
    """
    The chat in the full screen or, on a terminal that is dumb or if asked for, line by line; as JSON always.

    Raises:
        UsageError: If there is no terminal for the full screen.
        BtrError: If the notes cannot be opened.
    """
    from app.chat.settings import load_settings

    settings = load_settings(places.config)
    linear = linear or as_json or (os.environ.get("TERM") == "dumb" and on_terminal())
    if not linear and not on_terminal() and not in_browser():
        raise UsageError(
            "the chat needs a terminal: use btr-assistant ask 'your question' in a pipe, or btr-assistant chat --plain"
        )
    from app.chat import run_chat, run_plain

    save = save and settings.save
    if not linear:
        run_chat(places, settings, rescan=rescan, save=save, resume=resume)
        return
    print_line = partial(print_json, indent=None) if as_json else None
    with standard_input() as lines:
        run_plain(places, settings, lines, rescan=rescan, save=save, resume=resume, print_json=print_line)


@click.command()
@click.option("--plain", "linear", is_flag=True, help="Line by line: for screen readers and pipes.")
@click.option("--no-save", is_flag=True, help="Keep nothing of this chat.")
@click.option("--resume", metavar="SESSION", type=int, help="Go on with a session: sessions list shows their numbers.")
@click.option("--no-rescan", is_flag=True, help="Do not look for notes that changed.")
@click.option("--json", "as_json", is_flag=True, help="Line by line, one JSON object an answer (docs/json.md).")
@pass_places
def chat(places: Places, linear: bool, no_save: bool, resume: int | None, no_rescan: bool, as_json: bool) -> None:
    """Ask your notes in a conversation.

    Without a command, btr-assistant does the same.

    Example: btr-assistant chat --resume 3
    """
    open_chat(places, rescan=not no_rescan, linear=linear, as_json=as_json, save=not no_save, resume=resume)


@click.group()
def sessions() -> None:
    """Saved conversations: list, show, rename, search, export, delete.

    Example: btr-assistant sessions list
    """


def _store(places: Places) -> SessionStore:
    from store.sessions import SessionStore

    return SessionStore.open(places.store)


def _print_list(found: list[Session], as_json: bool) -> None:
    from app.sessions import summary

    if as_json:
        print_json({"sessions": [summary(session) for session in found]})
        return
    for session in found:
        last = datetime.fromtimestamp(session.last_at).strftime("%Y-%m-%d %H:%M")
        click.echo(f"{session.id:>4}  {last}  {session.turns:>4,} questions  {plain(session.name, 80)}")


@sessions.command("list")
@json_option
@pass_places
def sessions_list(places: Places, as_json: bool) -> None:
    """List the saved sessions, the latest first.

    Example: btr-assistant sessions list
    """
    with _store(places) as store:
        _print_list(store.sessions(), as_json)


@sessions.command("search")
@click.argument("words", nargs=-1, required=True)
@json_option
@pass_places
def sessions_search(places: Places, words: tuple[str, ...], as_json: bool) -> None:
    """List the sessions that say all these words.

    In their name, questions or answers.

    Example: btr-assistant sessions search boiler
    """
    with _store(places) as store:
        found = store.sessions(" ".join(words))
    if found or as_json:
        _print_list(found, as_json)
    if not found:
        click.echo("No session has these words.", err=True)
        sys.exit(NOTHING_FOUND)


@sessions.command("show")
@click.argument("session", type=int)
@json_option
@pass_places
def sessions_show(places: Places, session: int, as_json: bool) -> None:
    """Print the questions and answers of a session.

    Example: btr-assistant sessions show 3
    """
    click.echo(_text(places, session, as_json), nl=False)


@sessions.command("export")
@click.argument("session", type=int)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--json", "to_json", is_flag=True, help="JSON, whatever the file is called.")
@pass_places
def sessions_export(places: Places, session: int, file: Path, to_json: bool) -> None:
    """Write a session to a new file.

    Markdown, or JSON if the name ends so.

    Example: btr-assistant sessions export 3 boiler.md
    """
    text = _text(places, session, to_json or file.suffix.lower() == ".json")
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise UsageError(f"{file} exists and is not overwritten: give another name, or remove it") from None
    except OSError as error:
        raise UsageError(f"cannot write {file} ({error.strerror}): give another file") from error
    click.echo(f"written to {plain(str(file))}", err=True)


def _text(places: Places, session_id: int, as_json: bool) -> str:
    from app.sessions import to_json, to_markdown

    with _store(places) as store:
        session = store.session(session_id)
        turns = store.turns(session_id)
    if as_json:
        return json.dumps(to_json(session, turns), ensure_ascii=False, indent=2) + "\n"
    return to_markdown(session, turns)


@sessions.command("rename")
@click.argument("session", type=int)
@click.argument("name")
@json_option
@pass_places
def sessions_rename(places: Places, session: int, name: str, as_json: bool) -> None:
    """Give a session a name.

    An empty one goes back to its first question.

    Example: btr-assistant sessions rename 3 "The boiler"
    """
    from app.sessions import summary

    with _store(places) as store:
        store.rename(session, name)
        renamed = store.session(session)
    if as_json:
        print_json(summary(renamed))
        return
    click.echo(f"session {session} is called {plain(renamed.name, 80)} now", err=True)


@sessions.command("delete")
@click.argument("session", type=int, nargs=-1, required=True)
@yes_option
@click.option("--dry-run", is_flag=True, help="List what would be deleted.")
@json_option
@pass_places
def sessions_delete(places: Places, session: tuple[int, ...], yes: bool, dry_run: bool, as_json: bool) -> None:
    """Delete sessions with what was said to their answers.

    Example: btr-assistant sessions delete 3
    """
    from app.sessions import summary

    with _store(places) as store:
        chosen = [store.session(session_id) for session_id in dict.fromkeys(session)]
        if not as_json and (dry_run or not yes):
            for found in chosen:
                click.echo(f"{found.id}  {many(found.turns, 'question')}  {plain(found.name, 80)}", err=not dry_run)
        what = f"{len(chosen):,} sessions"
        rows = [summary(found) for found in chosen]
        if dry_run:
            if as_json:
                print_json({"sessions": rows, "deleted": False})
            else:
                click.echo(f"{what} would be deleted. Nothing was changed.", err=True)
            return
        confirm(yes, f"{what} would be deleted", f"Delete {what}?")
        for found in chosen:
            store.delete(found.id)
    if as_json:
        print_json({"sessions": rows, "deleted": True})
        return
    click.echo(f"deleted {what}", err=True)


def evaluate_mine(places: Places, only_rows: bool, as_json: bool) -> None:
    """
    Ask again what was marked in the chat, or only print it as lines that `eval` and `calibrate` read.

    Raises:
        UsageError: If nothing was marked.
        BtrError: If store or bundle cannot be used.
    """
    from app.assistant import Assistant
    from app.mine import replay, rows, summary
    from store.sessions import WRONG_SOURCE

    with _store(places) as store:
        turns = store.judged()
    if not turns:
        raise UsageError("nothing is marked yet: press F5 in the chat for a right answer, F6 for a wrong one")
    if only_rows:
        for row in rows(turns):
            click.echo(json.dumps(row, ensure_ascii=False))
        return
    with Assistant.open(places) as assistant:
        figures = summary(replay(assistant, turns, Counter(sys.stderr)))
    if as_json:
        print_json(figures)
        return
    for row in figures["rows"]:
        if row["right"] is not True:
            expected = "another answer" if row["expected"] is None else ", ".join(row["expected"]) or "not in the notes"
            if row["verdict"] == WRONG_SOURCE:
                expected += ", from another source"
            click.echo(
                f"{'wrong' if row['right'] is False else 'new':<6}{plain(row['question'])}\n      "
                f"{plain(row['answer'] or 'not in your notes')} (expected: {plain(expected)})"
            )
    click.echo(
        f"{many(figures['questions'], 'question')}: {figures['right']:,} right, {figures['wrong']:,} wrong, "
        f"{figures['changed']:,} with another answer than the wrong one; "
        f"{figures['mended']:,} mended, {figures['lost']:,} lost since they were marked"
    )


COMMANDS = (chat, sessions)
