"""
The command that explains: help, on the terminal or as a manual page.

One text, that of the commands themselves: the manual page is made from them, and kept as docs/btr-assistant.1, which
the installation puts where `man` looks. A test holds the two together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from app import __version__

_FILES = (
    ("config.toml", "The settings; btr-assistant config show says where it is, and where every value comes from."),
    ("store.db", "What was read of the notes, in the data folder; btr-assistant status says where."),
    (".gitignore, .btrignore", "In a folder of notes: what is left out, by git's rules."),
)
_ENVIRONMENT = (
    ("BTR_ASSISTANT_HOME", "One folder for settings, store, locks and models."),
    ("BTR_ASSISTANT_STORE, BTR_ASSISTANT_BUNDLE, BTR_ASSISTANT_DEVICE", "As --store, --bundle and --device."),
    ("BTR_ASSISTANT_TOKEN", "As --token of serve."),
    ("VISUAL, EDITOR", "What the chat opens a source with."),
    ("NO_COLOR", "If set, nothing is coloured."),
    ("TERM", "If dumb, the chat is line by line."),
)
_STATUS = (
    ("0", "Answered, or done."),
    ("1", "Not in your notes, or nothing found."),
    ("2", "Usage or configuration, or a folder left as it is because too much of it is gone."),
    ("3", "The store."),
    ("4", "The model."),
    ("5", "Some files could not be read."),
    ("70", "A bug of ours."),
    ("130", "Interrupted."),
)


@click.command("help")
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.option("--all", "everything", is_flag=True, help="Every command, one after the other.")
@click.option("--man", is_flag=True, help="The manual page, for man -l or troff.")
@click.pass_context
def help_(context: click.Context, words: tuple[str, ...], everything: bool, man: bool) -> None:
    """Explain a command, or all of them.

    The manual page is installed too: man btr-assistant.

    Example: btr-assistant help sessions export
    """
    root = context.find_root()
    if man:
        click.echo(manual(root), nl=False)
        return
    chosen = root
    for word in words:
        group = chosen.command
        found = group.get_command(chosen, word) if isinstance(group, click.Group) else None
        if found is None:
            raise click.UsageError(f"there is no command {' '.join(words)}: btr-assistant help lists them", ctx=root)
        chosen = _below(chosen, found)
    if not everything:
        click.echo(chosen.get_help())
        return
    click.echo_via_pager("\n\n\n".join(each.get_help() for each in _walk(chosen)) + "\n")


def manual(root: click.Context) -> str:
    """The manual page of a program, in man's language."""
    name = root.info_name or ""
    text, *example = _paragraphs(root.command)
    lines = [
        f'.TH {_escaped(name).upper()} 1 "" "{name} {__version__}" "User Commands"',
        *(".SH NAME", f"{_escaped(name)} \\- {_escaped(text.partition('. ')[0].rstrip('.'))}"),
        *(".SH SYNOPSIS", f".B {_escaped(name)}", "[OPTIONS] [COMMAND] [ARGS]..."),
        *(".SH DESCRIPTION", _escaped(text)),
        *(f".PP\n.nf\n{_escaped(part)}\n.fi" for part in example),
        *(".SH OPTIONS", *_options(root)),
        ".SH COMMANDS",
    ]
    for each in _walk(root):
        if each is not root:
            usage = " ".join(each.command.collect_usage_pieces(each))
            lines += [f'.SS "{_escaped(each.command_path.removeprefix(name).strip())} {_escaped(usage)}"']
            lines += [line for part in _paragraphs(each.command) for line in (".PP", _escaped(part))]
            lines += _options(each)
    for title, rows in (("FILES", _FILES), ("ENVIRONMENT", _ENVIRONMENT), ("EXIT STATUS", _STATUS)):
        lines += [f".SH {title}", *(line for term, what in rows for line in _row(term, what))]
    return "\n".join(lines) + "\n"


def _walk(context: click.Context) -> Iterator[click.Context]:
    """A command and all below it."""
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            found = context.command.get_command(context, name)
            assert found is not None
            yield from _walk(_below(context, found))


def _below(context: click.Context, command: click.Command) -> click.Context:
    return click.Context(command, parent=context, info_name=command.name)


def _paragraphs(command: click.Command) -> list[str]:
    """What a command says of itself; lines that stay lines keep their ends."""
    parts = re.split(r"\n\s*\n", (command.help or "").strip())
    return [
        part.removeprefix("\b\n") if part.startswith("\b\n") else " ".join(part.split())
        for part in ("\n".join(line.strip(" ") for line in part.splitlines()) for part in parts)
    ]


def _options(context: click.Context) -> list[str]:
    """Each option and what it does."""
    options = [each for each in context.command.get_params(context) if isinstance(each, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context))]
    return [line for term, what in records for line in _row(term, what)]


def _row(term: str, what: str) -> list[str]:
    return [".TP", f"\\fB{_escaped(term)}\\fR", _escaped(what)]


def _escaped(text: str) -> str:
    """Text that troff prints as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace('"', "\\(dq")
    return re.sub(r"^(?=[.'])", r"\\&", escaped, flags=re.MULTILINE)


COMMANDS = (help_,)
