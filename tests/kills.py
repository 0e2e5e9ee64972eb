"""
The program killed at random moments: the store stays whole, and a finishing run makes good what is missing.

    python -m tests.kills --kills 200 [--seed N] [--only SCENARIO] [--case N]

A scenario is a store, a folder of notes that went on without it, and the commands that bring the store up to date. They
run in a process of their own, undisturbed once. Then, in each case, from the same beginning, one to three processes in
a row are ended by SIGKILL, and the commands run to their end. The moment is drawn from what the undisturbed run did:
a statement of SQL (those of triggers count) or a change of a file in the store's folder, a stretch of instructions of
SQLite's machine in the middle of a statement, or a time. The production code knows nothing of it: the process that is
killed hooks into Python's audit events and into SQLite's tracing.

After every kill: SQLite's integrity check and all of `verify`; no note is lost, doubled or half there. At the end: what
the store holds is, row by row, word by word and bit by bit, what it holds after the undisturbed run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import click

from app.bundle import Bundle
from app.cli import main
from app.indexer import SPEED
from app.verify import findings, reencode
from store.bundle import Manifest
from store.errors import StoreError
from store.tokens import REVISION, TokenStore
from store.upkeep import LOGS, pages, references

PRELOADED = (
    "app.cli app.indexer app.bundle app.forget app.verify app.formats.markdown app.formats.html app.formats.mail "
    "onnxruntime tokenizers sqlite_utils store.schema store.upkeep semantic_text_splitter filelock pathspec frontmatter"
).split()
INSTRUCTIONS = 5
"""Of SQLite's machine between two moments."""
_NEAR = 60
"""Moments at the beginning and at the end that are drawn more often: there a store is made, migrated and replaced."""
KINDS = ("change", "change", "change", "instruction", "instruction", "time")
"""What decides the moment of a kill, as often as they are drawn."""
WORDS = (
    "boiler serviced march hansen garden pear tree planted november staging database port 5433 heating house the of is"
).split()
SECRET = "quillfeather"
"""In every note that is forgotten, in no other."""


class Fault(AssertionError):
    """A promise that a kill broke."""


# the process that is killed


@dataclass
class _Moments:
    """Counts what this process does, and kills it at one of these moments."""

    kind: str
    at: int
    counts: Counter[str] = field(default_factory=Counter)

    def tick(self, kind: str) -> None:
        self.counts[kind] += 1
        if kind == self.kind and self.counts[kind] == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, home: str) -> None:
        """Have every statement, every stretch of instructions and every change of a file under a home counted."""

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in ("os.rename", "os.remove", "os.link", "os.chmod", "os.mkdir"):
                if str(arguments[0]).startswith(home):
                    self.tick("change")
            elif event == "open" and str(arguments[0]).startswith(home) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
                self.tick("change")

        def connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = unwatched(*arguments, **named)
            connection.set_trace_callback(lambda _: self.tick("change"))
            connection.set_progress_handler(lambda: self.tick("instruction"), INSTRUCTIONS)
            return connection

        unwatched, sqlite3.connect = sqlite3.connect, connect
        sys.addaudithook(hook)


def run_command(home: str, arguments: Sequence[str], log: str, kind: str, at: int, report: str) -> None:
    """In a process of its own: the command line, which ends the process with its exit code, unless it is killed."""
    os.environ["BTR_ASSISTANT_HOME"] = home
    sys.argv = ["btr-assistant", *arguments]
    with open(log, "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    moments = _Moments(kind, at)
    moments.watch(home)
    try:
        main()
    finally:
        Path(report).write_text(json.dumps(moments.counts))


# what a store holds

_OWNER = "FROM documents d JOIN sources s ON s.id = d.source_id"
_TABLES = {
    "documents": f"SELECT d.*, s.root AS root {_OWNER}",
    "passages": f"SELECT d.path AS path, p.* {_OWNER} JOIN passages p ON p.document_id = d.id",
    "token_bits": f'SELECT d.path AS path, p."start" AS "start", t.* {_OWNER} JOIN passages p ON p.document_id = d.id '
    "JOIN token_bits t ON t.passage_id = p.id",
    "fields": f"SELECT d.path AS path, f.* {_OWNER} JOIN fields f ON f.document_id = d.id",
    "words": f'SELECT d.path AS path, p."start" AS "start", w.term, w.col, w."offset" {_OWNER} '
    "JOIN passages p ON p.document_id = d.id JOIN temp.words w ON w.doc = p.id",
    "orphaned words": "SELECT w.term, w.doc FROM temp.words w WHERE w.doc NOT IN (SELECT id FROM passages)",
    "failures": "SELECT f.path, f.reason, s.root FROM failures f JOIN sources s ON s.id = f.source_id",
    "sources": "SELECT root FROM sources",
    "settings": f"SELECT key, value FROM settings WHERE key NOT IN ('{SPEED}', '{REVISION}')",
    "schema": "SELECT type, name, tbl_name, sql FROM main.sqlite_master",
    "migrations": "SELECT migration_set, name FROM _sqlite_migrations",
}
_NUMBERS = {"id", "document_id", "source_id", "passage_id"}
"""Columns that hold no more than the order in which rows were made."""
_PRAGMAS = ("user_version", "application_id", "journal_mode", "page_size", "auto_vacuum", "encoding")

State = dict[str, list[Any]]


def state_of(path: Path) -> State:
    """Everything that a store holds, without what only tells when and in which order it came."""
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("CREATE VIRTUAL TABLE temp.words USING fts5vocab('main', 'passages_fts', 'instance')")
        known = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")} | {"words", "orphaned words"}
        state: State = {
            name: sorted((_plain(row) for row in connection.execute(sql)), key=repr)
            for name, sql in _TABLES.items()
            if name in known or name in ("schema", "migrations")
        }
        state["pragmas"] = [(name, connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in _PRAGMAS]
    finally:
        connection.close()
    return state


def _plain(row: sqlite3.Row) -> dict[str, Any]:
    values = {name: row[name] for name in row.keys() if name not in _NUMBERS}  # noqa: SIM118
    if "deleted_at" in values:
        values["deleted_at"] = values["deleted_at"] is not None
    return values


def differences(found: State, expected: State) -> list[str]:
    """Where two stores differ: the rows that only one of them holds."""
    said = []
    for table in sorted({*found, *expected}):
        here, there = found.get(table, []), expected.get(table, [])
        if here != there:
            more = [row for row in here if row not in there][:3]
            less = [row for row in there if row not in here][:3]
            said.append(f"{table}: {len(here)} rows for {len(there)}; too much {more!r:.600}; missing {less!r:.600}")
    return said


@dataclass(frozen=True)
class Note:
    """A stored document with all that is its own in every schema."""

    path: str
    content_hash: str
    live: bool
    content: str
    """Metadata, passages and bits."""


def notes_of(state: State) -> list[Note]:
    """The documents of a store."""
    parts: dict[str, list[Any]] = {row["path"]: [row["title"], row["metadata"]] for row in state["documents"]}
    names = ("start", "end", "line", "page", "heading", "text", "tokens", "code")
    for row in state["passages"]:
        parts[row["path"]].append([row[name] for name in names])
    for row in state["token_bits"]:
        parts[row["path"]].append([row["start"], row["bits"], row["scale"]])
    for row in state["words"]:
        parts[row["path"]].append(list(row.values()))
    return [
        Note(row["path"], row["content_hash"], not row.get("deleted_at", False), repr(parts[row["path"]]))
        for row in state["documents"]
    ]


EMPTY: State = {name: [] for name in ("documents", "passages", "token_bits", "words", "pragmas")}


def check_notes(found: State, before: State, after: State) -> None:
    """
    Every note is whole, as it was or as it shall be; none is lost or doubled.

    Raises:
        Fault: If not.
    """
    now, then, soon = notes_of(found), notes_of(before), notes_of(after)
    whole = {(note.path, note.content) for note in [*then, *soon]}
    by_hash = {(note.content_hash, note.content) for note in [*then, *soon]}
    for note in now:
        if (note.path, note.content) not in whole and (note.live or (note.content_hash, note.content) not in by_hash):
            raise Fault(f"{note.path} is neither as it was nor as it shall be")
    live = {note.path for note in now if note.live}
    if lost := {n.path for n in then if n.live} & {n.path for n in soon if n.live} - live:
        raise Fault(f"{sorted(lost)} were there and shall be there, but are not")
    if found["orphaned words"]:
        raise Fault(f"words of passages that are gone: {found['orphaned words'][:5]}")
    counts = [Counter(note.content_hash for note in notes if note.live) for notes in (now, then, soon)]
    for content_hash, times in counts[0].items():
        if times > max(counts[1][content_hash], counts[2][content_hash]):
            raise Fault(
                f"{[n.path for n in now if n.content_hash == content_hash]} hold the same content, one too many"
            )
    kept = [Counter(note.content_hash for note in notes) for notes in (now, then, soon)]
    for content_hash in kept[1].keys() & kept[2].keys():
        if kept[0][content_hash] < min(kept[1][content_hash], kept[2][content_hash]):
            raise Fault(f"a note with the hash {content_hash} is lost")


# scenarios


@dataclass
class Stage:
    """Where a scenario is played: a folder of notes, a home, and a bundle, at places that never change."""

    folder: Path
    bundle: Path
    rng: Random

    @property
    def notes(self) -> Path:
        return self.folder / "my notes"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def store(self) -> Path:
        return self.home / "store.db"

    @property
    def report(self) -> Path:
        return self.folder / "report.json"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def text(self, name: str) -> str:
        """A note of one to six paragraphs that no other note is equal to."""
        front = f"---\ntags: [{self.rng.choice(WORDS)}]\ndate: 2025-0{self.rng.randint(1, 9)}-11\n---\n"
        paragraphs = [
            " ".join(self.rng.choices(WORDS, k=self.rng.randint(3, 60))) for _ in range(self.rng.randint(1, 6))
        ]
        title = f"# {name} {self.rng.randrange(10**9)}\n\n"
        return self.rng.choice([front, ""]) + self.rng.choice([title, ""]) + "\n\n".join(paragraphs) + f" {name}.\n"

    def write(self, names: Sequence[str], prefix: str = "") -> None:
        for name in names:
            path = self.notes / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(prefix + self.text(name), encoding="utf-8")

    def command(self, *arguments: str, kind: str = "", at: int = 0, seconds: float = 0.0) -> int:
        """Run a command in a process of its own; its exit code, negative where a signal ended it."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        given = ["--bundle", str(self.bundle), *arguments]
        process = context.Process(
            target=run_command, args=(str(self.home), given, str(self.log), kind, at, str(self.report))
        )
        process.start()
        if seconds:
            time.sleep(seconds)
            process.kill()
        process.join(120)
        if process.exitcode is None:
            process.kill()
            raise Fault(f"{' '.join(arguments)} hangs")
        return process.exitcode

    def index(self) -> None:
        """Index the notes, undisturbed."""
        self.done("index", str(self.notes), "--allow-deletions")

    def done(self, *arguments: str) -> None:
        """Run a command that has to succeed; a broken note is no failure."""
        code = self.command(*arguments)
        if code not in (0, 5):
            raise Fault(f"{' '.join(arguments)} ended with {code}: {self.log.read_text()[-2000:]}")


MANY = [f"{folder}/note {i}.md" for i, folder in enumerate(["work", "work/deep", "garden", "."] * 7)]


def _first(stage: Stage) -> list[list[str]]:
    stage.write([*MANY, "page.html", "plain.txt"])
    (stage.notes / "broken.md").write_bytes(b"\0\1\2")
    return [["index", str(stage.notes)]]


def _indexed(stage: Stage) -> None:
    _first(stage)
    stage.index()


def _edits(stage: Stage) -> list[list[str]]:
    _indexed(stage)
    stage.write(stage.rng.sample(MANY, 9))
    stage.write(["new 1.md", "new 2.txt", "work/new 3.md"])
    (stage.notes / "broken.md").write_text("mended")
    (stage.notes / "plain.txt").write_bytes(b"\0broken now")
    for name in stage.rng.sample(sorted(set(MANY)), 2):
        os.utime(stage.notes / name, ns=(1, 1))
    return [["index"]]


def _renames(stage: Stage) -> list[list[str]]:
    _indexed(stage)
    (stage.notes / "garden").rename(stage.notes / "orchard")
    (stage.notes / "work").rename(stage.notes / "office")
    first, second, third = (stage.notes / "orchard" / f"note {i}.md" for i in (2, 6, 10))
    first.rename(stage.folder / "aside")  # three that change places
    second.rename(first)
    third.rename(second)
    (stage.folder / "aside").rename(third)
    shutil.copy(first, stage.notes / "a copy.md")
    (stage.notes / "plain.txt").rename(stage.notes / "another title.txt")
    stage.write(["office/note 0.md", "page.html"])
    return [["index"]]


def _deletions(stage: Stage) -> list[list[str]]:
    _indexed(stage)
    chosen = stage.rng.sample(MANY, 12)
    texts = {name: (stage.notes / name).read_bytes() for name in chosen[:5]}
    for name in texts:
        (stage.notes / name).unlink()
    stage.index()
    for name in chosen[5:]:
        (stage.notes / name).unlink()
    for name, data in list(texts.items())[:4]:
        (stage.notes / name).write_bytes(data)
    (stage.notes / "broken.md").unlink()
    return [["index"]]


def _forget(stage: Stage) -> list[list[str]]:
    stage.write([f"diary/{i}.md" for i in range(9)], prefix=f"The {SECRET} is in here.\n\n")
    _indexed(stage)
    return [["forget", str(stage.notes / "diary"), "--yes", "--ignore"]]


def _cleanup(stage: Stage) -> list[list[str]]:
    stage.write([f"diary/{i}.md" for i in range(9)], prefix=f"The {SECRET} is in here.\n\n")
    _indexed(stage)
    shutil.rmtree(stage.notes / "diary")
    stage.index()
    return [["cleanup"]]


def _compact(stage: Stage) -> list[list[str]]:
    _indexed(stage)
    return [["compact", "--ratio", "0.3"]]


def _remove(stage: Stage) -> list[list[str]]:
    stage.write([f"diary/{i}.md" for i in range(9)], prefix=f"The {SECRET} is in here.\n\n")
    stage.done("index", str(stage.notes / "diary"))
    diary = stage.folder / "diary"
    (stage.notes / "diary").rename(diary)
    stage.done("sources", "remove", str(stage.notes / "diary"), "--yes")
    _indexed(stage)
    stage.done("index", str(diary))
    return [["sources", "remove", str(diary), "--yes"]]


def _restore(stage: Stage) -> list[list[str]]:
    _indexed(stage)
    stage.done("backup", str(stage.home / "backup.db"))
    stage.write([*stage.rng.sample(MANY, 9), "new.md"])
    stage.index()
    return [["restore", str(stage.home / "backup.db"), "--yes"]]


def _backup(stage: Stage) -> list[list[str]]:
    _indexed(stage)
    return [["backup", str(stage.home / "backup.db")], ["index"]]


def _restore_older(stage: Stage) -> list[list[str]]:
    _indexed(stage)
    _downgrade(stage, stage.home / "backup.db", 1)
    stage.write([*stage.rng.sample(MANY, 9), "new.md"])
    stage.index()
    return [["restore", str(stage.home / "backup.db"), "--yes"], ["index"]]


def _migration(version: int) -> Callable[[Stage], list[list[str]]]:
    def prepare(stage: Stage) -> list[list[str]]:
        _indexed(stage)
        _downgrade(stage, stage.folder / "old.db", version)
        for file in stage.home.iterdir():
            file.unlink()
        (stage.folder / "old.db").rename(stage.store)
        stage.write(stage.rng.sample(MANY, 4))
        return [["index"]]

    return prepare


def _downgrade(stage: Stage, path: Path, version: int) -> None:
    """Write the store as an earlier version would have made it."""
    from tests.test_trust import as_it_was

    as_it_was(stage.store, path, version)


SCENARIOS: dict[str, Callable[[Stage], list[list[str]]]] = {
    "first index": _first,
    "edits": _edits,
    "renames": _renames,
    "deletions": _deletions,
    "forget": _forget,
    "cleanup": _cleanup,
    "compact": _compact,
    "sources remove": _remove,
    "backup": _backup,
    "restore": _restore,
    "restore of schema 1": _restore_older,
    "migration from 1": _migration(1),
    "migration from 2": _migration(2),
}
"""What is going on when the kill comes -> what prepares it, and says the commands that are killed."""
_DONE_ALREADY = {"is not in the store": "cleanup", "is no source": "cleanup", "exists and is not overwritten": "index"}
"""What a command says that is run again though its rows or its file were through -> what the kill left to be done."""


class Scenario:
    """A prepared scenario: its beginning, its undisturbed end, and how many moments lie between."""

    def __init__(self, name: str, folder: Path, bundle: Path, seed: int) -> None:
        self.name = name
        self.stage = Stage(folder, bundle, Random(f"{seed}/{name}"))
        self.stage.home.mkdir(parents=True)
        self.stage.notes.mkdir()
        self._opened = Bundle.open(bundle)
        self._manifest: Manifest = self._opened.manifest
        self._commands = SCENARIOS[name](self.stage)
        self._saved = folder / "saved"
        shutil.copytree(self.stage.home, self._saved / "home")
        shutil.copytree(self.stage.notes, self._saved / "notes")
        self._states = [state_of(self.stage.store) if self.stage.store.exists() else EMPTY]
        """At the beginning, and after each command."""
        self._moments: list[dict[str, int]] = []
        self._seconds: list[float] = []
        self._codes: list[int] = []
        self._rehearse()
        self._files = self._listed()

    def _listed(self) -> set[str]:
        """The files of the home, without the logs of SQLite."""
        return {file.name for file in self.stage.home.iterdir() if not file.name.endswith(LOGS)}

    def _rehearse(self) -> None:
        """Run the commands undisturbed, and remember what there was to be disturbed."""
        for command in self._commands:
            began = time.perf_counter()
            self._codes.append(self.stage.command(*command))
            self._seconds.append(time.perf_counter() - began)
            self._moments.append(json.loads(self.stage.report.read_text()))
            self._states.append(state_of(self.stage.store))
        if not set(self._codes) <= {0, 5}:
            raise Fault(f"{self.name}, undisturbed, ends with {self._codes}: {self.stage.log.read_text()[-2000:]}")

    def play(self, seed: str, kills: int) -> Iterator[str]:
        """
        One case: that many kills in a row, then the end; the moment of each kill as it is checked.

        Raises:
            Fault: If a promise is broken.
        """
        rng = Random(seed)
        self.reset()
        number = 0
        for _ in range(kills):
            killed = None
            while killed is None and number < len(self._commands):
                killed = self._kill(number, rng)
                number += killed is None
            if killed is None:
                break
            self.check(number)
            yield killed
        self.finish(number)
        self.check(len(self._commands) - 1)
        if left_over := self._listed() - self._files:
            raise Fault(f"{sorted(left_over)} are left over")
        if said := differences(state_of(self.stage.store), self._states[-1]):
            raise Fault("the finished store differs from the undisturbed one: " + "; ".join(said))
        self.check_residue()

    def reset(self) -> None:
        """Back to the beginning."""
        for name, folder in (("home", self.stage.home), ("notes", self.stage.notes)):
            shutil.rmtree(folder)
            shutil.copytree(self._saved / name, folder)
        self.stage.log.write_text("")

    def _kill(self, number: int, rng: Random) -> str | None:
        """Kill a command at some moment; None where it was through before, or had nothing to do any more."""
        kind, command = rng.choice(KINDS), self._commands[number]
        if kind == "time":
            seconds = rng.uniform(0.002, self._seconds[number])
            code, moment = self.stage.command(*command, seconds=seconds), f"after {1000 * seconds:.0f} ms"
        else:
            total = self._moments[number][kind]
            near = min(total, _NEAR)
            at = rng.choice([rng.randint(1, total), rng.randint(1, near), rng.randint(total - near + 1, total)])
            code, moment = self.stage.command(*command, kind=kind, at=at), f"at {kind} {at:,} of {total:,}"
        if code == -signal.SIGKILL:
            return f"{' '.join(command[:1])} {moment}"
        self._check_code(number, code)
        return None

    def finish(self, first: int = 0) -> None:
        """Run the commands, from one of them on, to their end."""
        for number in range(first, len(self._commands)):
            self._check_code(number, self.stage.command(*self._commands[number]))

    def _check_code(self, number: int, code: int) -> None:
        """A command has to end as it did undisturbed; what was removed already is wiped by `cleanup`, as it says."""
        said = self.stage.log.read_text()
        rest = [command for words, command in _DONE_ALREADY.items() if words in said]
        if code == 2 and rest:
            self.stage.done(*rest)
        elif code != self._codes[number]:
            raise Fault(f"{self._commands[number]} ended with {code}, not {self._codes[number]}: {said[-2000:]}")

    def check(self, number: int = 0) -> None:
        """
        What holds at any moment of a command.

        Raises:
            Fault: If it does not.
        """
        path = self.stage.store
        try:
            with TokenStore.open(path, self._manifest.fingerprint) as store:
                problems = list(reencode(store, self._opened, 2)[1].problems) if store.counts().passages else []
            checks = list(findings(path, self.stage.bundle, self._manifest, self.stage.folder / "check.lock"))
        except StoreError as error:
            first = not self._states[0]["documents"] and str(error).startswith("no notes are indexed yet")
            older = self.name.startswith("migration") and "run btr-assistant index once to migrate it" in str(error)
            if not first and not older:
                raise Fault(f"the store cannot be opened: {error}") from error
            if first:
                return
            problems, checks = [], [pages(path), references(path)]  # what also holds of an earlier schema
        for finding in checks:
            problems.extend(f"{finding.what}: {problem}" for problem in finding.problems)
        if problems:
            raise Fault(f"verify: {problems}")
        found = state_of(path)
        before, after = self._states[number : number + 2]
        check_notes(found, before, after)
        journal = ("journal_mode", "wal")
        if journal in before["pragmas"] and journal not in found["pragmas"] and "restore" not in self.name:
            raise Fault("readers of the store would wait for a writer from now on")
        copy = self.stage.home / "backup.db"
        if self.name == "backup" and copy.exists():
            tables = {name: rows for name, rows in state_of(copy).items() if name != "pragmas"}
            if said := differences(tables, {name: before[name] for name in tables}):
                raise Fault(f"the backup is not what was there: {said}")

    def check_residue(self) -> None:
        """Nothing of what was forgotten is in any file beside the store."""
        if SECRET not in str(self._states[-1]["words"]):
            for file in self.stage.home.iterdir():
                if SECRET.encode() in file.read_bytes().lower():
                    raise Fault(f"{file.name} still holds what was forgotten")


class Harness:
    """Prepared scenarios, each when it is first needed, and cases over all of them in turn."""

    def __init__(self, folder: Path, bundle: Path, seed: int, names: Sequence[str] = tuple(SCENARIOS)) -> None:
        self._folder, self._bundle, self._seed, self._names = folder, bundle, seed, names
        self._prepared: dict[str, Scenario] = {}

    def name(self, case: int) -> str:
        """The scenario of a case."""
        return self._names[case % len(self._names)]

    def scenario(self, name: str) -> Scenario:
        """A scenario, prepared."""
        if name not in self._prepared:
            folder = self._folder / name.replace(" ", "-")
            self._prepared[name] = Scenario(name, folder, self._bundle, self._seed)
        return self._prepared[name]

    def play(self, case: int, most: int) -> Iterator[str]:
        """One case, with at most so many kills."""
        kills = min(most, Random(f"{self._seed}/{case}/kills").choice([1, 1, 2, 3]))
        yield from self.scenario(self.name(case)).play(f"{self._seed}/{case}", kills)


@click.command()
@click.option("--kills", default=200, show_default=True, type=click.IntRange(1), help="How many processes are killed.")
@click.option("--seed", default=0, show_default=True, help="Another one draws other notes and moments.")
@click.option("--only", multiple=True, type=click.Choice(list(SCENARIOS)), help="Only these scenarios; repeatable.")
@click.option("--case", type=click.IntRange(0), help="Play one case again and keep its files.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work (default: a temporary folder).")
def kill(kills: int, seed: int, only: tuple[str, ...], case: int | None, folder: Path | None) -> None:
    """Kill the program at random moments and check that nothing is lost; exit code 1 if something is."""
    import tempfile

    from tests.tiny import bundle

    work = folder or Path(tempfile.mkdtemp(prefix="btr-kills-"))
    harness = Harness(work, bundle(work / "tiny"), seed, only or tuple(SCENARIOS))
    done, faults, moments = 0, [], Counter[str]()
    number = case or 0
    while done < kills if case is None else number == case:
        name = harness.name(number)
        try:
            for moment in harness.play(number, kills - done):
                done += 1
                moments[name] += 1
                click.echo(f"{done:>6,}  case {number:<5} {name:<20} {moment}", err=True)
        except Fault as fault:
            faults.append(number)
            click.echo(f"FAULT in case {number}, {name}: {fault}")
        number += 1
    for name, count in moments.items():
        click.echo(f"{name:<20} {count:>6,} kills")
    click.echo(f"{'all':<20} {done:>6,} kills, {len(faults):,} faults, seed {seed}")
    if case is None and folder is None:
        shutil.rmtree(work)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    kill()
