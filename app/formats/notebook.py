"""
Jupyter notebooks: Markdown cells as notes, code cells as fenced code, with the line of the .ipynb file for each.

Outputs are left out: they are made again by running it, and most are pictures and tables. Lines are those of the JSON
file, where each line of a cell stands on a line of its own.
"""

from __future__ import annotations

from json import JSONDecoder
from json.decoder import scanstring  # type: ignore[attr-defined]
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from typing import Any

from app.formats.base import Content, DocumentError, LineMap, SourceMap, Writer, decode, encodable, without
from app.formats.markdown import code_ranges, noise_ranges, titles

_BROKEN = "is no notebook that can be read: open it in Jupyter and save it again"


class _Placed(str):
    """A string of a JSON file that knows where it began."""

    at: int


class _PlacingDecoder(JSONDecoder):
    """json, in Python and not in C: that one cannot say where a string stood."""

    def __init__(self) -> None:
        super().__init__()
        self.parse_string = self._placed
        self.scan_once = py_make_scanner(self)

    @staticmethod
    def _placed(text: str, at: int, strict: bool) -> tuple[str, int]:
        value, end = scanstring(text, at, strict)
        placed = _Placed(value)
        placed.at = at
        return placed, end


def read(data: bytes) -> Content:
    """
    The cells of a notebook.

    Raises:
        DocumentError: If it is no notebook, or one of an old format.
    """
    text = decode(data)
    try:
        notebook = _PlacingDecoder().decode(text)
    except (ValueError, RecursionError) as error:  # json lets through what int() says of 5,000 digits
        raise DocumentError(_BROKEN) from error
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells", notebook.get("worksheets")), list):
        raise DocumentError(_BROKEN)
    if "cells" not in notebook:
        raise DocumentError("is a notebook of a format before 2015: open it in Jupyter and save it again")
    metadata = notebook.get("metadata")
    language = _language(metadata)
    lines, out = LineMap(text), Writer()
    for cell in notebook["cells"]:
        if not isinstance(cell, dict):
            raise DocumentError(_BROKEN)
        source, places = _source(cell.get("source", ""), lines)
        if not source.strip() or cell.get("cell_type") not in ("markdown", "code"):
            continue
        out.block()
        if cell["cell_type"] == "code":
            out.add(f"```{language}\n", places[0])
            _write(out, source, places)
            out.add("```\n")
        else:
            _markdown(out, source, places)
    title = metadata.get("title") if isinstance(metadata, dict) else None
    found = out.content("markdown")
    first = found.headings[0] if found.headings else None
    opens = first is not None and not found.text[: first.offset].strip()
    return Content(
        found.text,
        found.kind,
        title=encodable(title) if isinstance(title, str) else first.path[-1] if first and opens and first.path else "",
        headings=found.headings,
        anchors=found.anchors,
    )


def _language(metadata: Any) -> str:
    """The notebook's language, if it is a word."""
    info = metadata.get("language_info") if isinstance(metadata, dict) else None
    name = info.get("name") if isinstance(info, dict) else None
    return str(name) if isinstance(name, str) and name.isalnum() else ""


def _source(value: Any, lines: LineMap) -> tuple[str, list[int]]:
    """A cell's text, and the line of the file for each of its lines."""
    pieces = [piece for piece in (value if isinstance(value, list) else [value]) if isinstance(piece, _Placed)]
    text = ""
    places: list[int] = []
    parts = []
    for piece in pieces:
        clean = encodable(piece).replace("\r\n", "\n").replace("\r", "\n")
        parts.append(clean)
        fresh = not places or text.endswith("\n")
        text = clean or text
        places += [lines.line(piece.at)] * (clean.count("\n") + fresh - clean.endswith("\n") if clean else 0)
    return "".join(parts), places or [1]


def _write(out: Writer, text: str, places: list[int]) -> None:
    for number, line in enumerate(text.split("\n")):
        out.add(line + "\n", places[min(number, len(places) - 1)])


def _markdown(out: Writer, source: str, places: list[int]) -> None:
    """A Markdown cell, cleaned as a note is."""
    clean, anchors = without(source, noise_ranges(source, 0, code_ranges(source)))
    origin, begins = SourceMap(clean, anchors), out.length
    for offset, level, title in titles(clean):
        out.heading(level, title, begins + offset)
    at = 0
    for line in clean.split("\n"):
        out.add(line + "\n", places[min(origin.at(at).line, len(places)) - 1])
        at += len(line) + 1
