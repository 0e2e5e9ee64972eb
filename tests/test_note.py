"""A source in its note: the right lines, whatever the file has become."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app.assistant import Assistant, Source
from app.documents import DocumentError
from app.note import excerpt
from tests.conftest import SAMPLE_NOTES


def source(path: Path, text: str, answer: str, stale: bool = False) -> Source:
    at = text.index(answer)
    return Source(str(path), 1, None, "", answer, (0, len(answer)), at, at + len(answer), stale)


def test_the_answer_is_marked_where_it_stands(assistant: Assistant) -> None:
    answer = assistant.ask("When was the boiler serviced?")
    found = excerpt(answer.sources[0])
    assert found.span is not None and found.first_line == 1
    assert found.text[slice(*found.span)] == answer.answer
    assert found.text == (SAMPLE_NOTES / "house" / "heating.md").read_text()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_of_a_long_note_a_window_is_shown(tmp_path: Path, end: str) -> None:
    text = end.join(f"line {i}" for i in range(1, 10_001))
    (tmp_path / "a.md").write_bytes(text.encode())
    found = excerpt(source(tmp_path / "a.md", text, "line 5000" + end))
    assert found.first_line == 4880
    assert found.text.startswith("line 4880")
    assert found.span is not None and found.text[slice(*found.span)].startswith("line 5000")
    assert len(found.text) < 4_000
    one = "word " * 100_000
    (tmp_path / "b.md").write_text(one)
    found = excerpt(replace(source(tmp_path / "b.md", one, "word"), start=250_000, end=250_004))
    assert len(found.text) <= 40_004


def test_a_note_that_changed_is_searched_and_what_is_gone_is_not_marked(tmp_path: Path) -> None:
    path, text = tmp_path / "a.md", "The boiler was serviced in May."
    path.write_text("Added.\n" * 3 + text)
    stale = source(path, text, "in May", stale=True)
    found = excerpt(stale)
    assert found.span is not None and found.text[slice(*found.span)] == "in May"
    path.write_text("Nothing of it.")
    assert excerpt(stale).span is None
    path.unlink()
    with pytest.raises(DocumentError, match="is gone"):
        excerpt(stale)


def test_a_format_without_lines_is_shown_as_its_text(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<h1>Boiler</h1><p>Serviced in <b>May</b> 2024.</p>")
    found = excerpt(source(tmp_path / "a.html", "# Boiler\n\nServiced in May 2024.", "May 2024"))
    assert found.first_line is None
    assert found.span is not None and found.text[slice(*found.span)] == "May 2024"
