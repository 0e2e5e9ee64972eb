"""
What holds for all commands: an example in every help that works, JSON as documented, quiet pipes, completion.

`docs/json.md` is compared with what the commands print, in both directions: no key is undocumented, none is missing.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from app import cli
from app.cli_base import print_json
from app.places import Places
from tests.conftest import SAMPLE_NOTES, Run, piped

ROOT = Path(__file__).parent.parent
QUESTION = "When was the boiler serviced?"
FOREVER = {"watch", "serve", "mcp", "chat"}
"""Commands that run until somebody stops them: their examples are only parsed."""
NO_JSON = {"completion", "help", "mcp"}
"""Commands that print something of another form."""


def commands(group: click.Group = cli.cli, *above: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with its words, groups included."""
    for name, command in group.commands.items():
        yield (*above, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)


COMMANDS = dict(commands())


def name_of(words: tuple[str, ...]) -> str:
    return " ".join(words)


def help_of(words: tuple[str, ...], width: int = 80) -> str:
    """A command's help on a terminal of some width."""
    context = click.Context(
        cli.cli, info_name="btr-assistant", terminal_width=width, help_option_names=["-h", "--help"]
    )
    for word in words:
        assert isinstance(context.command, click.Group)
        context = click.Context(context.command.commands[word], parent=context, info_name=word, terminal_width=width)
    return context.get_help()


def example_of(words: tuple[str, ...]) -> list[str]:
    """The arguments of the one example in a command's help, which stands on a line of its own."""
    (example,) = re.findall(r"^ *Example: btr-assistant (.*)$", help_of(words), re.MULTILINE)
    return shlex.split(example)


# examples


@pytest.mark.parametrize("words", COMMANDS, ids=name_of)
def test_every_command_has_one_example_that_parses(words: tuple[str, ...]) -> None:
    arguments = example_of(words)
    assert arguments[: len(words)] == list(words) or isinstance(COMMANDS[words], click.Group)
    context = click.Context(cli.cli, info_name="btr-assistant", **cli.cli.context_settings)
    command: click.Command = cli.cli
    while isinstance(command, click.Group):
        _, found, arguments = command.resolve_command(context, arguments)
        assert found is not None
        command = found
    command.make_context(command.name, arguments, parent=context)  # raises where it does not parse


def questions(path: Path) -> None:
    """Enough questions of either kind to calibrate with."""
    rows = [
        {"question": QUESTION, "answers": ["14 March 2024"]},
        {"question": "What port does the staging database listen on?", "answers": ["5433"]},
        {"question": "Who won the football world cup in 1998?", "answers": [], "is_impossible": True},
        {"question": "What is my passport number?", "answers": []},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows * 6))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with notes under ~/notes, which is also where the person stands."""
    shutil.copytree(SAMPLE_NOTES, tmp_path / "notes")
    (tmp_path / "notes" / "diary").mkdir()
    (tmp_path / "notes" / "diary" / "monday.md").write_text("# Monday\n\nThe kite hangs in the plum tree.\n")
    questions(tmp_path / "my-questions.jsonl")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_example_does_what_its_help_says(run: Run, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them one after the other, as a person might type them; those that ask are told yes."""
    order = ["index", "backup", "calibrate", "restore", "forget", "sources remove", "sources add", "sources"]
    first = [words for name in order[:3] for words in COMMANDS if name_of(words) == name]
    last = [words for name in order[3:] for words in COMMANDS if name_of(words) == name]
    between = [words for words in COMMANDS if words not in first + last and words[0] not in FOREVER]
    asking = {"restore", "forget", "sources remove", "sessions delete"}
    assert run("index", "notes").code == 0
    for _ in range(3):  # the examples speak of session 3
        monkeypatch.setattr("sys.stdin", piped(f"{QUESTION}\n"))
        assert run("chat", "--plain").code == 0
    for words in (*first, *between, *last):
        arguments = example_of(words) + ["--yes"] * (name_of(words) in asking)
        if "--offline-proof" in arguments:
            arguments.remove("--offline-proof")  # 20 seconds, and tested elsewhere
        outcome = run(*(argument.replace("~", str(desk)) for argument in arguments))
        assert outcome.code == 0, (arguments, outcome)


def test_what_the_list_of_commands_says_is_not_cut_short() -> None:
    for words in ((), *(words for words, command in COMMANDS.items() if isinstance(command, click.Group))):
        listed = help_of(words)
        assert "..." not in listed.replace("[ARGS]...", "")
    for words in COMMANDS:
        if len(words) == 1:
            assert len(re.findall(rf"^  {words[0]} +\S", help_of(()), re.MULTILINE)) == 1


# JSON


def documented() -> dict[str, Any]:
    """Title of each section of docs/json.md -> the shape in its block."""
    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+?)\n.*?^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return {title: json.loads(block) for title, block in sections}


TYPES: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float),
    "true or false": lambda value: type(value) is bool,
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}


def check(value: Any, shape: Any, where: str = "") -> None:
    """A value is of a documented shape, with every key of it and no other."""
    if isinstance(shape, str):
        assert any(TYPES[kind](value) for kind in re.split(r" or (?=null)", shape)), (where, value)
    elif isinstance(shape, list):
        assert isinstance(value, list), where
        for i, item in enumerate(value):
            check(item, shape[0], f"{where}[{i}]")
    elif "*" in shape:
        assert value, where
        for key, item in value.items():
            check(item, shape["*"], f"{where}.{key}")
    else:
        assert list(value) == list(shape), where
        for key, item in value.items():
            check(item, shape[key], f"{where}.{key}")


CALLS = {
    "ask": ["ask", "--json", QUESTION],
    "search": ["search", "--json", "boiler"],
    "chat": ["chat", "--json"],
    "sessions list": ["sessions", "list", "--json"],
    "sessions search": ["sessions", "search", "--json", "boiler"],
    "sessions show": ["sessions", "show", "--json", "1"],
    "sessions rename": ["sessions", "rename", "--json", "2", "The cellar"],
    "sessions delete": ["sessions", "delete", "--json", "--yes", "2"],
    "eval --mine": ["eval", "--json", "--mine"],
    "index": ["index", "--json", "~/notes"],
    "index --dry-run": ["index", "--dry-run", "--json", "~/notes"],
    "index --dry-run --show FILE": ["index", "--dry-run", "--json", "--show", "~/notes/house/heating.md"],
    "sources list": ["sources", "list", "--json"],
    "sources add": ["sources", "add", "--json", "~/notes/diary"],
    "sources remove": ["sources", "remove", "--json", "--yes", "~/notes/diary"],
    "watch": [],
    "status": ["status", "--json"],
    "status --failed --deleted": ["status", "--failed", "--deleted", "--json"],
    "cleanup": ["cleanup", "--json"],
    "doctor": ["doctor", "--json"],
    "verify": ["verify", "--json"],
    "backup": ["backup", "--json", "backup.db"],
    "restore": ["restore", "--json", "--yes", "backup.db"],
    "compact": ["compact", "--json"],
    "forget": ["forget", "--json", "--yes", "~/notes/house/garden.md"],
    "forget --dry-run": ["forget", "--json", "--dry-run", "~/notes/diary"],
    "eval": ["eval", "--json", "--open", "my-questions.jsonl"],
    "calibrate": ["calibrate", "--json", "--dry-run", "my-questions.jsonl"],
    "serve": [],
    "config show": ["config", "show", "--json"],
    "config set": ["config", "set", "--json", "device", "cpu"],
    "config unset": ["config", "unset", "--json", "device"],
    "model list": ["model", "list", "--json"],
    "model show": ["model", "show", "--json"],
    "model verify": ["model", "verify", "--json"],
    "model use": ["model", "use", "--json", "embedded"],
}
"""What is called to see it; nothing for what would never end, and is called below."""


def test_every_command_that_prints_json_is_documented_and_called_here() -> None:
    leaves = {name_of(words) for words, command in COMMANDS.items() if not isinstance(command, click.Group)}
    takers = [words for words, command in COMMANDS.items() for p in command.params if "--json" in p.opts]
    assert {name_of(words) for words in takers} == leaves - NO_JSON
    able = {name_of(words) for words, command in COMMANDS.items() for p in command.params if p.name == "as_json"}
    assert leaves - NO_JSON - able == {"sessions export"}  # which writes what `sessions show` prints
    titles = {title.partition(" --")[0] for title in documented()}
    assert titles == able
    assert list(documented()) == list(CALLS)


def test_what_is_printed_is_what_is_documented(
    run: Run, desk: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text('[chat.keys]\n"chat.open" = "f9"\n')
    (desk / "notes" / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    (desk / "notes" / "away.md").write_text("Soon gone.\n")
    assert run("index", desk / "notes").code == 5
    (desk / "notes" / "away.md").unlink()
    assert run("index", desk / "notes").code == 5
    for said in (f"{QUESTION}\n/right\n", f"{QUESTION}\n"):
        monkeypatch.setattr("sys.stdin", piped(said))
        assert run("chat", "--plain").code == 0
    monkeypatch.setattr("sys.stdin", piped(f"{QUESTION}\n"))
    shapes = documented()
    seen = {}
    for title, arguments in CALLS.items():
        if not arguments:
            continue
        outcome = run(*(argument.replace("~", str(desk)) for argument in arguments))
        assert outcome.code == {"index": 5}.get(title, 0), (title, outcome)
        check(json.loads(outcome.out), shapes[title], title)
        seen[title] = json.loads(outcome.out)
    assert [row["reason"] != "" for row in seen["index"]["failed"]] == [True]
    assert len(seen["status --failed --deleted"]["failures"]) == len(seen["cleanup"]["notes"]) == 1
    assert seen["forget --dry-run"]["notes"] == [str(desk / "notes" / "diary" / "monday.md")]
    assert seen["forget"]["rules"]


@pytest.mark.parametrize("name", ["watch", "serve"])
def test_what_never_ends_prints_json_as_documented(run: Run, desk: Path, name: str) -> None:
    if name == "serve":
        pytest.importorskip("textual_serve")
    assert run("index", desk / "notes" / "diary").code == 0
    (desk / "notes" / "diary" / "tuesday.md").write_text("The kite is gone.\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [name, "--json", *(["--port", str(port)] if name == "serve" else [])]
    running = subprocess.Popen(
        [sys.executable, "-c", "from app.cli import main; main()", *arguments],
        env=dict(os.environ) | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's & would have it ignored
    )
    try:
        assert running.stdout is not None
        lines = [running.stdout.readline()] if name == "watch" else iter(running.stdout.readline, "}\n")
        said = json.loads("".join(lines) + "}" * (name == "serve"))
    finally:
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)
    check(said, documented()[name])
    wanted = ("what", "indexed") if name == "watch" else ("url", f"http://127.0.0.1:{port}/?token=")
    assert said[wanted[0]].startswith(wanted[1])


def test_a_number_that_is_none_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": (float("-inf"),)}})
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "a": None, "b": [None, 1.5], "c": {"d": [None]}}


# pipes

PROGRAM = "btr-assistant"


@pytest.fixture
def path(tmp_path: Path) -> dict[str, str]:
    """An environment in which a shell finds the program by its name."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / PROGRAM
    program.write_text(f"#!{sys.executable}\nfrom app.cli import main\nmain()\n")
    program.chmod(0o755)
    found = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return dict(os.environ) | found


def shell(script: str, environment: dict[str, str], given: str = "") -> subprocess.CompletedProcess[str]:
    """A script in a real bash."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    return subprocess.run(
        [bash, "--norc", "-c", script], env=environment, input=given, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["search", "boiler"], 0),
        (["ask", QUESTION], 0),
        (["ask", "Who won the football world cup in 1998?"], 1),
        (["config", "show"], 0),
        (["model", "list", "--json"], 0),
    ],
    ids=str,
)
def test_a_reader_that_goes_away_changes_nothing_but_what_is_read(
    own_sample: Places, path: dict[str, str], arguments: list[str], code: int, unbuffered: str
) -> None:
    script = f"{PROGRAM} {shlex.join(arguments)} | true; exit ${{PIPESTATUS[0]}}"
    done = shell(script, path | {"PYTHONUNBUFFERED": unbuffered})
    assert (done.returncode, done.stdout) == (code, "")
    assert "Error" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_batch_ends_when_nobody_reads_its_answers(own_sample: Places, path: dict[str, str]) -> None:
    done = shell(f"yes boiler | {PROGRAM} ask --batch - | head -1; echo ${{PIPESTATUS[1]}}", path)
    answer, code = done.stdout.splitlines()
    assert (json.loads(answer)["question"], code, done.stderr) == ("boiler", "0", "")


def test_a_question_comes_from_standard_input(own_sample: Places, path: dict[str, str]) -> None:
    done = shell(f"{PROGRAM} ask - --json", path, given=f"\n {QUESTION}\n\n")
    assert done.returncode == 0
    assert json.loads(done.stdout)["question"] == QUESTION
    empty = shell(f"{PROGRAM} ask - < /dev/null", path)
    assert (empty.returncode, empty.stdout) == (2, "")
    assert empty.stderr == "btr-assistant: the question is empty: type what you want to know\n"
    latin = shell(f"printf 'caf\\xe9?' | {PROGRAM} ask -", path)
    assert (latin.returncode, latin.stderr.count("\n")) == (2, 1)
    assert "standard input is not UTF-8" in latin.stderr


# completion


def completed(environment: dict[str, str], line: str) -> list[str]:
    """What a real bash offers at the end of a line, by the printed script."""
    script = f"""
        eval "$({PROGRAM} completion bash)"
        complete -p {PROGRAM} > /dev/null || exit 9
        compopt() {{ [[ $2 == default || $2 == dirnames ]] && echo "<$2>"; }}
        COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
        COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_WORDS=({PROGRAM}) COMP_CWORD=1
        _btr_assistant_completion {PROGRAM}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = shell(script, environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("btr-assistant se", ["search", "serve", "sessions"]),
        ("btr-assistant model ", ["list", "show", "use", "verify"]),
        ("btr-assistant completion ", ["bash", "fish", "zsh"]),
        ("btr-assistant config set d", ["device"]),
        ("btr-assistant model use em", ["embedded"]),
        ("btr-assistant --device c", ["cpu"]),
        ("btr-assistant ask --in ta", ["tag:"]),
        ("btr-assistant ask --in tag:ho", ["house"]),
        ("btr-assistant ask --in folder:wo", ["work"]),
        ("btr-assistant ask --in unknown:", [""]),
        ("btr-assistant index ", ["<default>", ""]),
        ("btr-assistant --bundle ", ["<dirnames>", ""]),
    ],
    ids=str,
)
def test_a_real_bash_completes(own_sample: Places, path: dict[str, str], line: str, offers: list[str]) -> None:
    assert sorted(completed(path, line)) == sorted(offers)


def test_a_real_bash_completes_the_folders_that_are_kept_in_step(own_sample: Places, path: dict[str, str]) -> None:
    (root,) = completed(path, "btr-assistant sources remove /")
    assert root.endswith("/notes")


def test_completion_without_a_store_is_silent(home: Path, path: dict[str, str]) -> None:
    assert completed(path, "btr-assistant ask --in tag:") == [""]
    home.mkdir()
    (home / "config.toml").write_text("broken =")  # which a shell that starts need not be told
    assert completed(path, "btr-assistant ask --in tag:") == [""]


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_other_shells_get_a_script_of_theirs(run: Run, name: str) -> None:
    outcome = run("completion", name)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"_BTR_ASSISTANT_COMPLETE={name}_complete" in outcome.out
    if shutil.which(name):
        assert subprocess.run([name, "-n"], input=outcome.out, text=True).returncode == 0
