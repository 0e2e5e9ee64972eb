"""
What a shell is offered at the tab key: commands and options by click, values of this computer by the functions here.

The scripts are click's; bash's is handed the line itself, because bash cuts words at a colon, and `tag:` has one.
Whatever goes wrong here is silence: nobody pressed the tab key to read an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from app.places import SETTINGS, Places, models, resolve
from store.errors import BtrError

if TYPE_CHECKING:
    from store.tokens import TokenStore

PROGRAM = "btr-assistant"
SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_BTR_ASSISTANT_COMPLETE"
_BASH = """\
%(complete_func)s() {
    local type value
    COMPREPLY=()
    while IFS=',' read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$(printf '%%q' "$value")") ;;
        esac
    done < <(env COMP_WORDS="${COMP_LINE:0:$COMP_POINT}" COMP_BREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *: ]]; then
        compopt -o nospace
    fi
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


@add_completion_class
class Bash(BashComplete):
    """Bash's script and words, with colons."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)
        at_new_word = not words or line[-1:].isspace()
        return (words[1:], "") if at_new_word else (words[1:-1], words[-1])

    def complete(self) -> str:
        args, incomplete = self.get_completion_args()
        breaks = [mark for mark in ":=" if mark in os.environ.get("COMP_BREAKS", ":=")]
        cut = max((incomplete.rfind(mark) + 1 for mark in breaks), default=0)
        items = self.get_completions(args, incomplete)
        for item in items:
            if item.type == "plain" and item.value.startswith(incomplete[:cut]):
                item.value = item.value[cut:]  # bash put the rest before the cursor already
        return "\n".join(self.format_completion(item) for item in items)


def script(command: click.Command, shell: str) -> str:
    """What a shell has to read to complete a command."""
    kind = get_completion_class(shell)
    assert kind is not None
    return kind(command, {}, PROGRAM, _VARIABLE).source()


Offer = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


def files(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Files and folders, by the shell itself."""
    return [CompletionItem(incomplete, type="file")]


def folders(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Folders, by the shell itself."""
    return [CompletionItem(incomplete, type="dir")]


def devices(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """What ONNX Runtime offers here."""
    from app.bundle import devices as offered

    return _starting(offered(), incomplete)


def settings(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of settings."""
    return _starting(SETTINGS, incomplete)


def bundles(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of models."""
    with suppress(BtrError):
        return _starting(models(_places(context)), incomplete)
    return []


def sources(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Folders and files that are kept in step."""
    return _starting(_of_store(context, lambda store: [source.root for source in store.sources()]), incomplete)


def filters(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Filters: their names, then tags and folders of the notes."""
    name = incomplete.partition(":")[0]
    if ":" not in incomplete:
        return _starting(["folder:", "tag:", "date:"], incomplete)
    known = {"tag": lambda store: store.tags(), "folder": lambda store: store.folders()}.get(name, lambda store: [])
    return _starting([f"{name}:{found}" for found in _of_store(context, known) if " " not in found], incomplete)


def _of_store(context: click.Context, ask: Callable[[TokenStore], list[str]]) -> list[str]:
    from store.tokens import TokenStore

    with suppress(BtrError), TokenStore.open(_places(context).store) as store:
        return ask(store)
    return []


def _places(context: click.Context) -> Places:
    given = context.find_root().params
    return resolve(given.get("store"), given.get("bundle"), given.get("device"))


def _starting(values: Iterable[str], start: str) -> list[CompletionItem[str]]:
    return [CompletionItem(value) for value in values if value.startswith(start) and value.isprintable()]
