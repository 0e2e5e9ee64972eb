"""The pages of docs/: their examples run, the commands, options and files that they name exist."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path

import click
import pytest

from app import cli
from tests.conftest import SAMPLE_NOTES, Run
from tests.pictures import PICTURES, TRANSCRIPT, desk, take

ROOT = Path(__file__).parent.parent
PLOTS = {"scale"}
"""Pictures that a benchmark draws."""
PAGES = sorted((ROOT / "docs").glob("*.md"))


def test_the_python_examples_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for arguments in ([], ["--store", str(tmp_path / "notes.db")]):
        assert run(*arguments, "index", SAMPLE_NOTES).code == 0
    first, second = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.M | re.S)
    exec(compile(first, "python.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"14 March 2024 \(\d+%\)", printed[0])
    assert printed[1:4] == [str(SAMPLE_NOTES / "house" / "heating.md"), "8", "Heating > Boiler"]
    exec(compile(second, "python.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "2 notes"
    assert "heating.md" in printed[1]
    assert printed[-1] == "the question is empty: type what you want to know"


def named(text: str) -> list[str]:
    """The calls of the program in a page's code."""
    code = re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return [call.replace("\n", " ") for call in code if call.startswith("btr-assistant ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_and_options_that_a_page_names_exist(page: Path) -> None:
    for call in named(page.read_text(encoding="utf-8")):
        command: click.Command = cli.cli
        known = {option for parameter in command.params for option in parameter.opts}
        for word in shlex.split(call)[1:]:
            if isinstance(command, click.Group) and not word.startswith("-"):
                assert word in command.commands, call
                command = command.commands[word]
                known = {option for parameter in command.params for option in parameter.opts}
            elif word.startswith("-") and word not in ("-", "--help"):
                assert word in known, call


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_pages_that_a_page_links_to_exist(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).is_file(), link


def test_pictures_are_shown_and_need_nothing_from_the_web() -> None:
    """After a change that is meant: make docs."""
    pictures = {path.stem for path in (ROOT / "docs").glob("*.svg")}
    assert pictures == {*PICTURES, *PLOTS}
    pages = [ROOT / "README.md", *PAGES]
    shown = {Path(link).name for page in pages for link in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page.read_text())}
    assert shown == {f"{name}.svg" for name in pictures}
    for path in (ROOT / "docs").glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"url\((?!#)|@import|href", text)
        assert "btr-assistant" in text


def test_a_picture_is_of_the_real_program() -> None:
    with desk() as folder:
        text = asyncio.run(take(folder, "chat")).replace("&#160;", " ")
    for words in ("14 March 2024", "read as", "notes/house/heating.md:8", ">likely ▰▰▰▰▱", "6 notes"):
        assert words in text
    kept = (ROOT / "docs" / "chat.svg").read_text(encoding="utf-8").replace("&#160;", " ")
    facts = re.compile(r" · [\d,]+ ms")  # how long it took is another each time
    lines = [re.findall(r">([^<>]+)</text>", facts.sub("", each)) for each in (text, kept)]
    assert lines[0] == lines[1], "the chat does not look like this any more: make docs"


def test_the_transcript_has_every_command_and_what_it_printed() -> None:
    text = (ROOT / "docs" / "transcript.md").read_text(encoding="utf-8")
    assert [line[2:] for line in text.splitlines() if line.startswith("$ ")] == TRANSCRIPT
    for words in ("14 March 2024", "Not in your notes.", "5433", "Read as:", "kept: right", "1 right, 0 wrong"):
        assert words in text
    assert "Traceback" not in text


def test_the_exit_codes_of_the_page_are_those_of_the_program() -> None:
    from app.cli_base import BUG, FILES_FAILED, INTERRUPTED, NOTHING_FOUND, REFUSED
    from store.errors import ModelError, StoreError, UsageError

    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.M)}
    errors = {kind.exit_code for kind in (UsageError, StoreError, ModelError)}
    assert codes == {0, NOTHING_FOUND, REFUSED, FILES_FAILED, BUG, INTERRUPTED} | errors
