"""Help: it always works, it can be read in pieces, as a whole and as a manual page, which is the one that is kept."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from app import __version__
from tests.conftest import Run
from tests.test_commands import COMMANDS, name_of

PAGE = Path(__file__).parent.parent / "docs" / "btr-assistant.1"


def test_help_and_completion_work_whatever_the_configuration_is_like(run: Run, home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text("broken =")
    for words in ((), *COMMANDS):
        for asked in ([*words, "--help"], [*words, "-h"], ["help", *words]):
            outcome = run(*asked)
            assert (outcome.code, outcome.err) == (0, ""), asked
            assert outcome.out.startswith(f"Usage: {' '.join(['btr-assistant', *words])} "), asked
    for asked in (["help"], ["help", "--man"], ["help", "--all"], ["--version"], ["completion", "zsh"]):
        assert (run(*asked).code, run(*asked).err) == (0, ""), asked
    for asked in (["status"], ["config", "show"], []):
        outcome = run(*asked)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1), asked
        assert "config.toml cannot be read" in outcome.err


def test_all_of_help_has_every_command_once(run: Run) -> None:
    whole = run("help", "--all").out
    for words in COMMANDS:
        assert whole.count(f"Usage: btr-assistant {name_of(words)} [") == 1, words
        if len(words) == 1:
            assert run("help", "--all", *words).out in whole + "\n"


def test_a_command_that_is_not_there_is_one_sentence(run: Run) -> None:
    for words in (["nope"], ["ask", "more"], ["sessions", "nope"]):
        outcome = run("help", *words)
        assert (outcome.code, outcome.out) == (2, "")
        assert f"there is no command {' '.join(words)}: btr-assistant help lists them" in outcome.err


def test_the_manual_page_is_the_one_in_the_repository(run: Run) -> None:
    """After a change that is meant: make docs."""
    page = run("help", "--man").out
    assert page == PAGE.read_text(encoding="utf-8")
    assert f"btr-assistant {__version__}" in page
    for words, command in COMMANDS.items():
        section = page.partition(f'.SS "{name_of(words).replace("-", chr(92) + "-")} ')[2].partition(".SS")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.opts[-1].replace("-", "\\-") in section, (words, parameter.name)


def test_man_reads_the_manual_page_without_a_warning() -> None:
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.skip("there is no man here")
    done = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", str(PAGE)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("EXIT STATUS", "sessions export", "--allow-remote", "~/notes"):
        assert words in done.stdout
