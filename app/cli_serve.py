"""
The commands that let others in: serve, the chat in a browser, and mcp, the notes for other programs.

Each needs an extra of the installation, and says so.
"""

from __future__ import annotations

import sys

import click

from app.cli_base import json_option, parse_filters, pass_places, print_json, scope_option
from app.places import Places
from store.errors import UsageError


@click.command()
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port", metavar="N", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Where to listen."
)
@click.option("--allow-remote", is_flag=True, help="Listen where other machines can connect; needs a token.")
@click.option(
    "--token",
    envvar="BTR_ASSISTANT_TOKEN",
    show_envvar=True,
    help="What to ask for; without one, a new one is made. A flag can be seen by other users of the machine.",
)
@json_option
@pass_places
def serve(places: Places, host: str, port: int, allow_remote: bool, token: str | None, as_json: bool) -> None:
    """Open the chat in a browser, on this machine only.

    The link that is printed lets in whoever has it. Nothing is encrypted on the way.

    Example: btr-assistant serve --port 8080
    """
    try:
        from app.serve import GuardedServer, chat_command, check_address
    except ModuleNotFoundError as error:
        raise UsageError("serve needs the web extra: pip install 'btr-assistant[web]'") from error

    token = check_address(host, allow_remote, token)

    def announce(link: str) -> None:
        if as_json:
            print_json({"url": link})
            sys.stdout.flush()
            return
        click.echo(f"The chat is at {link}\nCtrl-C ends.", err=True)

    GuardedServer(chat_command(places), host, port, token, announce).listen()


@click.command()
@scope_option
@pass_places
def mcp(places: Places, filters: tuple[str, ...]) -> None:
    """Let other programs search, ask and read your notes (MCP).

    Over standard input and output, reading only. With --in, notes outside it cannot be seen. In a client's settings:
    command btr-assistant, arguments mcp --in folder:work

    Example: btr-assistant mcp --in folder:work
    """
    try:
        from app.mcp_server import make_server
    except ModuleNotFoundError as error:
        raise UsageError("mcp needs an extra: pip install 'btr-assistant[mcp]'") from error
    from app.assistant import Assistant

    scope = parse_filters(filters)
    with Assistant.open(places) as assistant:
        make_server(assistant, scope).run("stdio")


COMMANDS = (serve, mcp)
