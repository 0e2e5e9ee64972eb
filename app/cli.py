"""
The command line: the group, its flags, and what becomes of errors. The commands stand in the modules `app.cli_*`.

Each command parses, calls once, prints. Slow imports stand inside the command that needs them.
"""

from __future__ import annotations

import os
import sys
import traceback

import click

from app import (
    __version__,
    cli_ask,
    cli_help,
    cli_index,
    cli_measure,
    cli_serve,
    cli_sessions,
    cli_settings,
    cli_trust,
    complete,
)
from app.cli_base import BUG, INTERRUPTED, keep_quiet_about_closed_pipes
from app.places import resolve
from store.errors import BtrError

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Ask": cli_ask.COMMANDS,
    "The chat": cli_sessions.COMMANDS,
    "Notes": cli_index.COMMANDS,
    "The store": cli_trust.COMMANDS,
    "Your own questions": cli_measure.COMMANDS,
    "Elsewhere": cli_serve.COMMANDS,
    "Settings": cli_settings.COMMANDS,
    "Help": cli_help.COMMANDS,
}


class Sections(click.Group):
    """A group whose help lists its commands by what they are for; those of no section last."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        listed = {command.name for section in SECTIONS.values() for command in section}
        others = tuple(command for name, command in self.commands.items() if name not in listed)
        width = max(map(len, self.commands))
        for title, commands in {**SECTIONS, "Commands": others}.items():
            if commands:
                with formatter.section(title):
                    rows = [(f"{c.name:<{width}}", c.get_short_help_str(formatter.width)) for c in commands]
                    formatter.write_dl(rows)


@click.group(cls=Sections, invoke_without_command=True, context_settings=_CONTEXT)
@click.option(
    "--store", metavar="FILE", shell_complete=complete.files, help="The store to use (default: in your data folder)."
)
@click.option(
    "--bundle", metavar="FOLDER", shell_complete=complete.folders, help="The model to use (default: the embedded one)."
)
@click.option(
    "--device",
    metavar="NAME",
    shell_complete=complete.devices,
    help="cpu, or an accelerator that ONNX Runtime offers here (default: cpu).",
)
@click.option("--no-rescan", is_flag=True, help="Open the chat without looking for notes that changed.")
@click.version_option(__version__, prog_name="btr-assistant")
@click.pass_context
def cli(context: click.Context, store: str | None, bundle: str | None, device: str | None, no_rescan: bool) -> None:
    """Answers questions from your own notes, offline. Without a command: opens the chat.

    \b
    btr-assistant index ~/notes
    btr-assistant ask "when was the boiler serviced?"
    btr-assistant
    """
    context.color = False if os.environ.get("NO_COLOR") else None
    if context.invoked_subcommand is None:
        cli_sessions.open_chat(resolve(store, bundle, device), rescan=not no_rescan)


for command in (command for section in SECTIONS.values() for command in section):
    cli.add_command(command)


def main() -> None:
    """The `btr-assistant` command: errors a person can act on become one sentence and an exit code."""
    keep_quiet_about_closed_pipes()
    try:
        sys.exit(cli.main(prog_name="btr-assistant", standalone_mode=False) or 0)
    except BtrError as error:
        click.echo(f"btr-assistant: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as interrupt:
        cause = interrupt.__cause__ or interrupt.__context__ or interrupt
        click.echo("; ".join(["btr-assistant: interrupted", *map(str, cause.args)]), err=True)
        sys.exit(INTERRUPTED)
    except Exception:  # not 1, which means "not in your notes"
        traceback.print_exc()
        click.echo("btr-assistant: this is a bug, please report it with the lines above", err=True)
        sys.exit(BUG)
