"""What goes wrong around the store: two writers, a full disk, a read-only folder, a torn page, a clock."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.assistant import Assistant
from app.bundle import Bundle
from app.indexer import index
from app.places import EMBEDDED_BUNDLE, Places
from store.errors import StoreError
from store.tokens import TokenStore
from store.upkeep import UNFINISHED
from tests.conftest import Run, contents, new_store, rows, run_index
from tests.test_cli import PROGRAM, QUESTION, refused

ROOT = os.name == "posix" and os.geteuid() == 0


def write(notes: Path, count: int, words: str = "The boiler was serviced by hansen.") -> None:
    for number in range(count):
        (notes / f"{number:03}.md").write_text(f"# Note {number}\n\n{words} Number {number}.\n")


# two writers, and readers meanwhile


def test_of_two_writers_one_indexes_and_the_other_is_told_to_wait(tiny: Path, notes: Path, home: Path) -> None:
    write(notes, 150)
    command = [*PROGRAM, "--bundle", str(tiny), "index", str(notes)]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [running.communicate(timeout=120)[1] for running in runs]
    codes = [running.returncode for running in runs]
    assert set(codes) <= {0, 3} and 0 in codes
    for code, text in zip(codes, said, strict=True):
        assert "Traceback" not in text
        assert code == 0 or "another index run is writing to this store: wait for it to finish" in text
    assert rows(home / "store.db", "SELECT COUNT(*), COUNT(DISTINCT path) FROM documents") == [(150, 150)]
    assert rows(home / "store.db", "PRAGMA integrity_check") == [("ok",)]


def test_two_writers_past_the_lock_still_leave_every_note_once(notes: Path, tmp_path: Path, tiny: Path) -> None:
    """The lock may be lost, on a network drive for one; SQLite's own then keeps them apart."""
    write(notes, 40)
    bundle, failed = Bundle.open(tiny, threads=1), []

    def run() -> None:
        try:
            with new_store(tmp_path / "own.db", bundle) as store:
                index(store, bundle, [notes], threads=1)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(isinstance(error, StoreError) for error in failed), failed
    assert rows(tmp_path / "own.db", "SELECT COUNT(*), COUNT(DISTINCT path) FROM documents") == [(40, 40)]
    assert rows(tmp_path / "own.db", "PRAGMA foreign_key_check") == []


def test_readers_see_whole_notes_only_while_they_are_indexed(notes: Path, tmp_path: Path, tiny: Path) -> None:
    """Each version of a note has a first and a last passage that say the same word."""
    bundle = Bundle.open(tiny, threads=1)
    fill = "the garden and the pear tree of the house. " * 12

    def edit(version: int) -> None:
        for number in range(6):
            (notes / f"{number}.md").write_text(f"version{version} {fill}\n\n{fill}\n\nversion{version} {fill}\n")

    edit(0)
    path, done, wrong, asked = tmp_path / "own.db", threading.Event(), [], 0
    with new_store(path, bundle) as store:
        run_index(store, bundle, notes)
    whole = rows(path, "SELECT document_id, COUNT(*) FROM passages GROUP BY 1")[0][1]

    def write_on() -> None:
        try:
            with new_store(path, bundle) as store:
                for version in range(1, 8):
                    edit(version)
                    run_index(store, bundle, notes)
        except Exception as error:
            wrong.append(error)
        finally:
            done.set()

    writer = threading.Thread(target=write_on)
    with Assistant.open(Places(path, tiny, "cpu", tmp_path)) as assistant:
        writer.start()
        while not done.is_set() or not asked:
            asked += 1
            assert assistant.ask("who planted the pear tree in the garden?", 5).timings_ms
            by_path: dict[str, list[str]] = {}
            for result in assistant.search("garden", 1000):
                by_path.setdefault(result.path, []).append(result.text)
            assert len(by_path) == 6
            for texts in by_path.values():
                versions = {word for text in texts for word in text.split() if word.startswith("version")}
                assert (len(texts), len(versions)) == (whole, 1)
        writer.join()
    assert not wrong
    assert asked


# the disk


def test_a_disk_that_fills_up_keeps_what_was_indexed_and_the_rest_comes_later(
    notes: Path, tmp_path: Path, bundle: Bundle
) -> None:
    path = tmp_path / "own.db"
    write(notes, 60, words="The boiler was serviced by hansen. " * 60)
    with new_store(path, bundle) as store:
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages + 12}")
        with pytest.raises(StoreError, match=r"the disk of .* is full: make room, then index again, nothing was lost"):
            run_index(store, bundle, notes)
    kept = rows(path, "SELECT COUNT(*) FROM documents")[0][0]
    assert 0 < kept < 60
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    with new_store(path, bundle) as store:
        report = run_index(store, bundle, notes)
    assert (report.unchanged, report.indexed) == (kept, 60 - kept)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes, where the test may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if sys.platform != "linux" or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_every_command_on_a_full_disk_ends_with_a_sentence(run: Run, notes: Path, small_disk: Path) -> None:
    store = small_disk / "store.db"
    write(notes, 60, words="The boiler was serviced by hansen. " * 60)
    outcome = run("--store", store, "index", notes)
    refused(outcome, 3, "is full: make room, then index again, nothing was lost")
    kept = rows(store, "SELECT COUNT(*) FROM documents")[0][0]
    assert 0 < kept < 60
    for command in (["cleanup"], ["forget", notes / "000.md", "--yes"], ["backup", small_disk / "b.db"]):
        outcome = run("--store", store, *command)
        assert outcome.code in (0, 3), (command, outcome)
    assert not [path.name for path in small_disk.iterdir() if UNFINISHED in path.name]
    assert run("--store", store, "ask", QUESTION).code in (0, 1)
    assert run("--store", store, "verify").code == 0
    for path in list(notes.iterdir())[3:]:
        path.unlink()
    assert run("--store", store, "index", notes, "--allow-deletions").code in (0, 3)
    assert run("--store", store, "verify").code == 0


@pytest.mark.skipif(os.name != "posix", reason="no such modes there")
@pytest.mark.parametrize("kept_log", [False, True], ids=["closed", "with its log"])
def test_a_store_on_a_read_only_folder_answers_or_says_why_not(
    run: Run, own_sample: Places, tmp_path: Path, kept_log: bool
) -> None:
    folder = tmp_path / "read only"
    folder.mkdir()
    store = folder / "store.db"
    connection = sqlite3.connect(own_sample.store)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("INSERT INTO settings VALUES ('x', 'y')")
    connection.commit()
    if not kept_log:
        connection.close()
    for file in own_sample.store.parent.glob("copy.db*"):
        if not file.name.endswith("-shm"):
            shutil.copy(file, folder / file.name.replace("copy", "store"))
    connection.close()
    assert (folder / "store.db-wal").exists() == kept_log
    with _read_only(folder):
        commands = [["ask", QUESTION], ["search", "boiler"], ["status"], ["verify"], ["doctor"], ["index"], ["cleanup"]]
        for command in commands:
            outcome = run("--store", store, *command)
            assert outcome.code in (0, 3), (command, outcome)
            if outcome.code == 3 and command != ["doctor"] and command != ["verify"]:
                assert outcome.err.count("\n") == 1
                assert "check its permissions" in outcome.err or "cannot write" in outcome.err
        refused(run("--store", store, "index"), 3, "store.db")
    assert run("--store", store, "ask", QUESTION).code == 0


class _read_only:  # noqa: N801
    """A folder that nobody can write to in a block; root only by a mount."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        if not ROOT:
            self._folder.chmod(0o500)
            return
        for command in (["mount", "--bind"], ["mount", "-o", "remount,ro,bind"]):
            done = subprocess.run([*command, self._folder, self._folder], capture_output=True)
            if done.returncode:
                pytest.skip("root can write everywhere, and nothing can be mounted here")

    def __exit__(self, *exception: object) -> None:
        if ROOT:
            subprocess.run(["umount", self._folder], check=True)
        else:
            self._folder.chmod(0o700)


# a torn page


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bytes_in_a_page_are_a_sentence_with_what_to_do(run: Run, own_sample: Places, seed: int) -> None:
    """Wherever the page is: a command answers as before, or says that the store is damaged; verify always tells."""
    rng, data = random.Random(seed), bytearray(own_sample.store.read_bytes())
    pages = len(data) // 16384
    page = 16384 * rng.randrange(pages)
    for at in range(page + (100 if page == 0 else 0), page + 16384):
        data[at] ^= rng.randrange(256)
    own_sample.store.write_bytes(bytes(data))
    for command in (["ask", QUESTION], ["search", "boiler"], ["status"], ["index"], ["cleanup"]):
        outcome = run(*command)
        assert outcome.code in (0, 1, 3), (command, outcome)
        if outcome.code == 3:
            assert outcome.err.count("\n") == 1
            assert "is not a readable store" in outcome.err and "restore BACKUP, or move it away" in outcome.err
    outcome = run("verify")
    assert outcome.code == 3
    assert "restore BACKUP, or move" in outcome.err + outcome.out


# the clock


def test_a_clock_that_goes_backwards_changes_nothing(
    notes: Path, store: TokenStore, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(notes, 7)
    times = iter(range(10**6, 0, -1))
    report = index(store, bundle, [notes], clock=lambda: float(next(times)))
    assert (report.indexed, report.failed) == (7, [])
    before = contents(store.path)
    past = 10**9
    for path in notes.iterdir():
        os.utime(path, ns=(past, past))
    assert run_index(store, bundle, notes).indexed == 0
    assert contents(store.path) == before
    (notes / "000.md").write_text("Edited while the clock stood in 1970.")
    os.utime(notes / "000.md", ns=(0, 0))
    assert run_index(store, bundle, notes).indexed == 1
    os.utime(notes / "000.md", ns=(-(10**18), -(10**18)))
    (notes / "001.md").unlink()
    monkeypatch.setattr(time, "time", lambda: -5.0)
    report = run_index(store, bundle, notes)
    assert (report.indexed, report.removed) == (0, 1)
    (gone,) = [document for document in store.documents() if document.deleted]
    assert gone.path.endswith("001.md")
    assert store.match("boiler", 50)
    (notes / "001.md").write_text("# Note 1\n\nThe boiler was serviced by hansen. Number 1.\n")
    assert run_index(store, bundle, notes).restored == 1
    assert Places(store.path, EMBEDDED_BUNDLE, "cpu", notes).lock
