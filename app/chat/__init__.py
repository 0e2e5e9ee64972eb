"""
The chat, in the terminal's full screen (`app.chat.app`) or line by line (`app.chat.plain`), over one engine.

Nothing of Textual is imported until the full screen opens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TextIO

from app.chat.engine import AssistantEngine
from app.chat.settings import Settings
from app.places import Places

__all__ = ["run_chat", "run_plain"]


def run_chat(
    places: Places,
    settings: Settings,
    *,
    rescan: bool = True,
    save: bool = True,
    resume: int | None = None,
    headless: bool = False,
) -> None:
    """
    Run the chat in the full screen until it is left; notes are opened in a thread, after the first frame.

    Raises:
        BtrError: If the notes cannot be opened.
        SystemExit: If the chat crashed; Textual has printed the traceback.
    """
    from app.chat.app import ChatApp

    with AssistantEngine(places, rescans=rescan, saves=save) as engine:
        app = ChatApp(engine.open, settings, resume=resume)
        app.run(headless=headless)  # returns when every worker thread has ended: the engine can be closed
    if app.failure is not None:
        raise app.failure
    if app.return_code:
        sys.exit(app.return_code)


def run_plain(
    places: Places,
    settings: Settings,
    lines: TextIO,
    *,
    rescan: bool = True,
    save: bool = True,
    resume: int | None = None,
    print_json: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """
    Run the chat over lines and standard output, until they end; with `print_json`, that has answers.

    Raises:
        BtrError: If the notes cannot be opened, or the lines are not in their encoding.
    """
    from app.chat.plain import PlainChat

    with AssistantEngine(places, rescans=rescan, saves=save) as engine:
        PlainChat(engine.open(), settings, lines, sys.stdout, sys.stderr, resume=resume, print_json=print_json).run()
