"""Jupyter notebooks: cells at the lines of the JSON file; outputs out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.documents import DocumentError
from app.formats.notebook import read
from tests.test_formats import paths, rows


def notebook(*cells: dict[str, Any], indent: int | None = 1) -> bytes:
    """A notebook as Jupyter writes it."""
    metadata = {"language_info": {"name": "python"}}
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4}, indent=indent).encode()


def cell(kind: str, source: str | list[str]) -> dict[str, Any]:
    """A cell with an output that is not to be read."""
    return {"cell_type": kind, "source": source, "outputs": [{"text": ["an output"]}]}


def test_cells_are_notes_and_code_at_their_lines_in_the_file() -> None:
    data = notebook(
        cell("markdown", ["# Boiler\n", "\n", "%%hidden\n", "%% See [[Valve|the valve]].\n", "## Log"]),
        cell("code", ["x = 1\n", "y = '[[x|y]]'"]),
        cell("markdown", "Serviced.\nIn March."),
        cell("raw", "no"),
        cell("code", []),
    )
    content = read(data)
    lines = data.decode().split("\n")
    found = rows(content)
    assert [row for _, row in found] == [
        "# Boiler",
        " See the valve.",
        "## Log",
        "```python",
        "x = 1",
        "y = '[[x|y]]'",
        "```",
        "Serviced.",
        "In March.",
    ]
    for line, row in found:
        if not row.startswith("```"):
            assert row.split()[-1].strip("'.[]|xy") in lines[line - 1]
    assert content.title == "Boiler"
    assert paths(content) == [["Boiler"], ["Boiler", "Log"]]


def test_a_notebook_on_one_line_is_on_line_one() -> None:
    assert rows(read(notebook(cell("markdown", ["a\n", "b"]), indent=None))) == [(1, "a"), (1, "b")]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"cells": 1}',
        b'{"cells": [1]}',
        b"[" * 100_000,
        b'{"cells": [{}',
        b"NaN",
        b'"\\ud800"',
    ],
)
def test_what_is_no_notebook_is_refused(data: bytes) -> None:
    with pytest.raises(DocumentError, match="is no notebook that can be read"):
        read(data)


def test_a_notebook_of_an_old_format_is_refused() -> None:
    with pytest.raises(DocumentError, match="of a format before 2015: open it in Jupyter and save it again"):
        read(b'{"worksheets": []}')


@pytest.mark.parametrize("source", [None, 1, [1, None], {"a": 1}, ["\ud83d ok"]])
def test_a_cell_without_text_is_left_out(source: Any) -> None:
    assert read(notebook({"cell_type": "markdown", "source": source})).text.strip() in ("", "\ufffd ok")


def test_half_a_character_in_a_title_is_replaced() -> None:
    assert read(b'{"cells": [], "metadata": {"title": "\\udcff Boiler"}}').title == "\ufffd Boiler"
