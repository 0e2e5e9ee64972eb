"""Watching: what changes is indexed, what cannot matter is not looked at, and the lock is shared."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from app.bundle import Bundle
from app.indexer import writer_lock, writing
from app.interrupts import heeding_interrupts
from app.watch import Watch, file_events, matters
from store.tokens import TokenStore
from tests.conftest import new_store, run_index
from tests.test_indexer import write


class Folder:
    """A watched folder over a store, with events and a clock that are told what to be."""

    def __init__(self, notes: Path, store: Path, lock: Path, bundle: Bundle) -> None:
        self.notes, self.store, self.lock, self.bundle = notes, store, lock, bundle
        self.said: list[str] = []
        self.now = 0.0
        self.watch = Watch(store, lock, bundle, self.said.append, every=600, clock=lambda: self.now)

    def follow(self, *steps: Callable[[], set[str]]) -> list[str]:
        """Run until the steps, each of which does something and says what paths it touched, are over; what was said."""
        left = list(steps)

        def events(_: Sequence[str]) -> Iterator[set[str]]:
            yield set()
            while left:
                yield left.pop(0)()

        self.said.clear()
        self.watch.run(events)
        return [line.replace(f"{self.notes}{os.sep}", "") for line in self.said]


@pytest.fixture
def folder(notes: Path, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    write(notes, a="Alpha.", b="Beta.")
    with new_store(tmp_path / "store.db", bundle) as store:
        run_index(store, bundle, notes)
    monkeypatch.setattr("app.watch.short", lambda path: path)
    return Folder(notes, tmp_path / "store.db", tmp_path / "a.lock", bundle)


def test_every_change_is_indexed_and_told_in_a_line(folder: Folder) -> None:
    def edit() -> set[str]:
        write(folder.notes, a="Alpha, edited.")
        return {str(folder.notes / "a.md")}

    def rename() -> set[str]:
        (folder.notes / "sub").mkdir()
        (folder.notes / "b.md").rename(folder.notes / "sub" / "b.md")
        return {str(folder.notes / "b.md"), str(folder.notes / "sub")}

    def delete() -> set[str]:
        (folder.notes / "sub" / "b.md").unlink()
        return {str(folder.notes / "sub" / "b.md")}

    def spoil() -> set[str]:
        (folder.notes / "bad.md").write_bytes(b"\0")
        return {str(folder.notes / "bad.md")}

    assert folder.follow(edit, rename, delete, spoil, spoil) == [
        "indexed a.md  4 tokens",
        "moved sub/b.md  from b.md",
        "removed sub/b.md",
        "failed bad.md  is not text, it holds zero bytes: rename it if it is no note",
    ]


def test_what_changed_before_the_watch_is_found(folder: Folder) -> None:
    write(folder.notes, c="Gamma.")
    assert folder.follow() == ["indexed c.md  2 tokens"]


def test_what_events_missed_is_found_by_the_rescan(folder: Folder) -> None:
    def miss() -> set[str]:
        write(folder.notes, c="Gamma.")
        return set()

    def wait() -> set[str]:
        assert folder.said == []
        folder.now += 601
        return set()

    assert folder.follow(miss, wait) == ["indexed c.md  2 tokens"]


def test_a_run_that_holds_the_lock_is_waited_for(folder: Folder) -> None:
    def edit_while_locked() -> set[str]:
        write(folder.notes, a="Alpha, edited.")
        with writer_lock(folder.lock):
            folder.watch._due.add(str(folder.notes))
            folder.watch.sync()
        assert folder.said == ["another index run is writing to this store: wait for it to finish"]
        return set()

    assert folder.follow(edit_while_locked)[1:] == ["indexed a.md  4 tokens"]


def remove_source(folder: Folder) -> None:
    """As `sources remove` does it, in another process."""
    with writing(folder.store, folder.lock, folder.bundle.manifest) as store:
        store.remove_source(str(folder.notes))


def test_a_source_that_was_removed_does_not_come_back(folder: Folder) -> None:
    def remove_and_edit() -> set[str]:
        remove_source(folder)
        write(folder.notes, a="Alpha, edited.")
        return {str(folder.notes / "a.md")}

    assert folder.follow(remove_and_edit) == []
    with TokenStore.open(folder.store) as store:
        assert (store.sources(), store.documents()) == ([], [])


def test_a_source_that_was_removed_while_it_waited_for_its_turn_does_not_come_back(folder: Folder) -> None:
    def edit_while_locked_then_remove() -> set[str]:
        write(folder.notes, a="Alpha, edited.")
        with writer_lock(folder.lock):
            folder.watch._due.add(str(folder.notes))
            folder.watch.sync()
        remove_source(folder)
        return set()

    assert folder.follow(edit_while_locked_then_remove)[1:] == []
    with TokenStore.open(folder.store) as store:
        assert (store.sources(), store.documents()) == ([], [])


def test_a_disk_that_goes_away_is_said_once(folder: Folder, tmp_path: Path) -> None:
    def away() -> set[str]:
        shutil.move(folder.notes, tmp_path / "away")
        return {str(folder.notes)}

    def still() -> set[str]:
        return {str(folder.notes)}

    (line,) = folder.follow(away, still, still)
    assert "2 of 2 notes of" in line
    with TokenStore.open(tmp_path / "store.db") as store:
        assert store.counts().notes == 2


@pytest.mark.parametrize(
    ("path", "does"),
    [
        ("a.md", True),
        ("sub/A.TXT", True),
        ("sub", True),
        ("gone", True),
        (".gitignore", True),
        ("sub/.btrignore", True),
        (".a.md.icloud", True),
        ("picture.png", False),
        (".obsidian", False),
        (".obsidian/workspace.md", False),
        (".git/index.lock", False),
        ("sub/.git/HEAD", False),
    ],
)
def test_what_can_concern_a_note(notes: Path, path: str, does: bool) -> None:
    (notes / "sub").mkdir()
    (notes / "picture.png").write_bytes(b"")
    assert matters(str(notes / path), [str(notes)]) == does


def test_a_hidden_source_is_watched(tmp_path: Path) -> None:
    assert matters(str(tmp_path / ".vault" / "a.md"), [str(tmp_path / ".vault")])


def test_a_hidden_source_is_watched_beside_the_source_that_it_stands_in(tmp_path: Path) -> None:
    both = [str(tmp_path), str(tmp_path / ".private")]
    assert matters(str(tmp_path / ".private" / "a.md"), both)
    assert not matters(str(tmp_path / ".private" / ".git" / "a.md"), both)


def test_events_of_a_folder_that_is_not_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.watch.TICK", 0.01)
    events = file_events([str(tmp_path / "nowhere")], debounce=0.1)
    assert [next(events), next(events)] == [set(), set()]


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")
def test_a_process_follows_a_folder_until_it_is_interrupted(notes: Path, home: Path) -> None:
    write(notes, a="Alpha.")
    program = [sys.executable, "-c", "from app.cli import main; main()"]
    subprocess.run([*program, "index", str(notes)], check=True, capture_output=True)
    running = subprocess.Popen(
        [*program, "watch", "--debounce", "0.1"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert running.stderr is not None
    try:
        assert "watching " in running.stderr.readline()
        write(notes, b="Beta.")
        assert running.stderr.readline().startswith("indexed ")
        time.sleep(1.5)  # until events are what it waits for
        (notes / "b.md").rename(notes / "moved.md")
        lines = {running.stderr.readline().split()[0], running.stderr.readline().split()[0]}
        assert lines == {"removed", "indexed"}
        index = subprocess.run([*program, "index"], capture_output=True, text=True)
        assert (index.returncode, "2 unchanged" in index.stderr) == (0, True)  # the lock is free meanwhile
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == 130
    assert err.endswith("btr-assistant: interrupted\n")
    assert "Traceback" not in err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_drops_is_raised_again() -> None:
    class Dropped:
        """What is raised while it is collected goes nowhere, as in the callback of a weak reference."""

        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    before, seen = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), heeding_interrupts() as check:
        for step in "abc":
            check()
            seen.append(step)
            Dropped()
    assert seen == ["a"]
    assert signal.getsignal(signal.SIGINT) is before
