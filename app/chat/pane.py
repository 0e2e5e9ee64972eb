"""
The source pane: the passage in its note, scrolled to the answer, which is selected.

The file is read in a thread; what the pane shows is a window of it, so opening it costs the same for any note.
"""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static, TextArea
from textual.widgets.text_area import Selection

from app.assistant import Source
from app.chat.words import place
from app.display import plain
from app.note import Excerpt

_CONTROLS = dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(127, 160)), " ")


class SourcePane(Vertical):
    """A note around a source."""

    def __init__(self) -> None:
        super().__init__(id="pane")
        self.source: Source | None = None
        """What is shown, or being read."""
        self.text = NoteText("", read_only=True, soft_wrap=True, show_line_numbers=True)
        self._title = Static("", id="pane-title", markup=False)

    def compose(self) -> ComposeResult:
        yield self._title
        yield self.text

    def wait(self, source: Source | None) -> None:
        """Say which note is being read."""
        self.source = source
        self._title.update(plain(place(source)) if source else "no source to show yet")
        self.text.load_text("")

    def show(self, source: Source, excerpt: Excerpt) -> None:
        """Show the lines around a source, if it is still the one that is wanted."""
        if source is not self.source:
            return
        lost = "" if excerpt.span else "  not found in the file as it is now"
        title = f"{place(source)}  {plain(source.heading)}{lost}"
        self._title.update(title)
        text = self.text
        text.show_line_numbers = excerpt.first_line is not None
        text.line_number_start = excerpt.first_line or 1
        shown = excerpt.text.translate(_CONTROLS)
        text.load_text(shown)
        if excerpt.span:
            text.selection = Selection(*(_location(shown, offset) for offset in excerpt.span))
            text.call_after_refresh(text.scroll_cursor_visible, center=True)  # when it knows how wide it is

    def fail(self, source: Source, sentence: str) -> None:
        """Say why there is nothing to show."""
        if source is self.source:
            self._title.update(plain(f"{place(source)} {sentence}"))


class NoteText(TextArea, can_focus=False):
    """The text of a note, to be read and scrolled; what is typed goes to the box."""


def _location(text: str, offset: int) -> tuple[int, int]:
    """A character as TextArea counts: (line, column), for any kind of line end."""
    before = text[:offset].replace("\r\n", "\n").replace("\r", "\n")
    return before.count("\n"), len(before) - before.rfind("\n") - 1
