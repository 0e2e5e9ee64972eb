"""What a person can press and type in the chat, and its theme: bindings by their ids, commands by their names."""

from __future__ import annotations

from typing import NamedTuple

from textual.binding import Binding, BindingType
from textual.theme import Theme

_DETAILS = "Show or hide timings and other candidates"
HIGH_CONTRAST = Theme(
    name="high-contrast",
    primary="#ffff00",
    secondary="#00ffff",
    accent="#00ffff",
    warning="#ffaf00",
    error="#ff8080",
    success="#00ff00",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#000000",
    boost="#000000",
    dark=True,
    text_alpha=1.0,
    variables={
        "text-muted": "#ffffff",
        "text-disabled": "#c8c8c8",
        "border": "#ffffff",
        "footer-key-foreground": "#ffff00",
    },
)


class Command(NamedTuple):
    """What can be typed in place of a question."""

    argument: str
    what: str
    method: str


COMMANDS = {
    "/scope": Command("FILTER", "Ask of a part of the notes: /scope tag:idea; alone: of all", "_set_scope"),
    "/index": Command("FOLDER", "Index a folder of notes; alone: pick one", "_index_command"),
    "/sessions": Command("WORDS", "Saved sessions, those with some words", "_sessions_command"),
    "/new": Command("", "Begin a new session", "_new_command"),
    "/rename": Command("NAME", "Name this session", "_rename_command"),
    "/export": Command("FILE", "Write this session to a Markdown file", "_export_command"),
    "/delete": Command("", "Delete this session", "_delete_command"),
    "/follow": Command("on|off", "Read follow-up questions with the one before, or as they are", "_follow_command"),
    "/right": Command("", "This answer is right", "_right_command"),
    "/wrong": Command("ANSWER", "This answer is wrong; the right one, or a minus: not in the notes", "_wrong_command"),
    "/wrong-source": Command("", "The answer is right, its source is not", "_wrong_source_command"),
    "/theme": Command("NAME", "Colours: /theme high-contrast; alone: pick one", "_theme_command"),
    "/help": Command("", "Keys and commands", "_help_command"),
    "/quit": Command("", "Leave the chat", "_quit_command"),
}


def _key(key: str, action: str, what: str, name: str, tooltip: str, *, show: bool = True) -> Binding:
    # priority, because the box would take some of them for itself
    return Binding(key, action, what, id=f"chat.{name}", tooltip=tooltip, show=show, priority=True)


BINDINGS: list[BindingType] = [
    Binding("f1", "help", "Help", id="chat.help", tooltip="Keys and commands"),
    Binding("escape", "cancel", "Cancel", id="chat.cancel", tooltip="Give up the question, or close the source"),
    _key("ctrl+n", "next_option", "Other", "other", "Show the next candidate, or the next closest passage"),
    _key("ctrl+s", "toggle_source", "Source", "source", "Show the passage in its note"),
    _key("ctrl+o", "open_source", "Open", "open", "Open the source in your editor, at its line"),
    _key("ctrl+y", "copy_answer", "Copy", "copy", "Copy the answer"),
    _key("ctrl+d", "details", "Details", "details", _DETAILS, show=False),
    _key("ctrl+r", "sessions", "Sessions", "sessions", "Saved sessions: resume, rename, export, delete"),
    _key("ctrl+q", "quit", "Quit", "quit", "Leave the chat"),
    _key("ctrl+b", "copy_source", "Copy source", "copy.source", "Copy the quote and its place", show=False),
    _key("ctrl+l", "new", "New", "new", "Begin a new session", show=False),
    _key("ctrl+t", "follow", "Follow-ups", "follow", "Read follow-up questions as they are, or not", show=False),
    _key("ctrl+f", "folder", "Folder", "folder", "Pick a folder of notes to index", show=False),
    _key("f5", "judge('right')", "Right", "right", "This answer is right", show=False),
    _key("f6", "wrong", "Wrong", "wrong", "This answer is wrong", show=False),
    _key("f7", "judge('wrong source')", "Wrong source", "wrong.source", "The source is wrong", show=False),
    _key("ctrl+up", "choose(-1)", "Card above", "card.older", "Choose the card above", show=False),
    _key("ctrl+down", "choose(1)", "Card below", "card.newer", "Choose the card below", show=False),
    Binding("ctrl+c", "help_quit", show=False, system=True),  # Textual's own, not inherited for the order's sake
]
