"""What of notes and paths reaches a terminal."""

from pathlib import Path

import pytest

from app.display import plain, short


def test_plain_text_keeps_its_offsets() -> None:
    assert plain("a\r\n\x1b\x9b\u2028b") == "a     b"
    assert plain("x" * 20, 10) == "x" * 9 + "…"


def test_a_path_is_shown_as_short_as_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "here")
    assert short(str(tmp_path / "here" / "a.md")) == "a.md"
    assert short(str(tmp_path / "b.md")) == "~/b.md"
    assert short("/etc/c.md") == "/etc/c.md"


def test_a_path_is_shown_even_when_the_folder_we_are_in_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert short("/etc/c.md") == "/etc/c.md"
