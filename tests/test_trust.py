"""
The promises, checked by the program itself: doctor, verify, backup, restore, forget.

A check that cannot fail is none: each is shown on something broken, too.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from app.bundle import Bundle
from app.doctor import examine
from app.forget import ignore, rule_for
from app.indexer import is_written, writer_lock
from app.offline import prove
from app.places import EMBEDDED_BUNDLE, Places, resolve
from app.tree import scan
from app.verify import reencode
from store import upkeep
from store.bundle import UPPER
from store.residue import found_in, pieces, text_blocks
from store.tokens import SCHEMA_VERSION, TokenStore
from store.upkeep import Finding, search_index
from tests.conftest import Run, contents, rows, run_index
from tests.test_cli import BOILER, QUESTION, execute, refused
from tests.test_tokens import (
    FINGERPRINT,
    MIGRATIONS,
    SCHEMA_1,
    SCHEMA_2,
    SCHEMA_3,
    SCHEMA_4,
    SCHEMA_5,
    old_store,
)

SECRET = "The combination of the grey safe is 7391, and nobody at Quillfeather & Sons knows it."


def digest(path: Path) -> str:
    """What a file holds."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def private(own_sample: Places) -> Places:
    """The sample store as the program itself makes it: for its owner only."""
    own_sample.store.chmod(0o600)
    return own_sample


def tear(path: Path) -> None:
    """Overwrite a page in the middle of a store."""
    with path.open("r+b") as file:
        file.seek(16384 * (path.stat().st_size // 16384 // 2))
        file.write(b"\xff" * 16384)


def test_a_backup_of_nothing_says_what_to_do(run: Run, tmp_path: Path) -> None:
    outcome = run("backup", tmp_path / "b.db")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (3, "", 1)
    assert "there is nothing to back up" in outcome.err and "run btr-assistant index FOLDER first" in outcome.err


def test_help_says_what_each_command_is_for(run: Run) -> None:
    for command in ("doctor", "verify", "backup", "restore", "forget"):
        outcome = run(command, "-h")
        assert (outcome.code, outcome.err) == (0, "")
        assert f"Example: btr-assistant {command}" in outcome.out


# doctor


def failed(places: Places) -> dict[str, str]:
    """The checks that fail, each with the command that fixes it."""
    return {check.name: check.fix for check in examine(places) if not check.ok}


def test_doctor_finds_nothing_wrong_in_a_sound_store_and_changes_nothing(run: Run, private: Places, home: Path) -> None:
    before = digest(private.store)
    outcome = run("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert {line.split()[0] for line in lines} == {"ok"}
    assert [line.split()[1] for line in lines] == [
        "sqlite", "bundle", "providers", "permissions", "disk", "locks", "store", "schema", "fingerprint", "bits",
        "sources",
    ]  # fmt: skip
    assert "5 encoded again, to the same bits" in outcome.out
    assert digest(private.store) == before
    assert not home.exists()


def test_doctor_without_a_store_says_how_to_make_one(run: Run, home: Path) -> None:
    outcome = run("doctor")
    assert outcome.code == 3
    assert outcome.out.splitlines()[-1].endswith("store.db does not exist: btr-assistant index FOLDER")
    assert not home.exists()


def test_doctor_json_has_its_shape(run: Run, private: Places) -> None:
    outcome = run("doctor", "--json")
    found = json.loads(outcome.out)
    assert (outcome.code, found["schema_version"], found["ok"], found["offline"]) == (0, 1, True, None)
    assert all(list(check) == ["name", "ok", "detail", "fix"] for check in found["checks"])


@pytest.mark.skipif(os.name != "posix", reason="no such modes there")
def test_doctor_names_files_and_folders_that_others_can_open(private: Places, tmp_path: Path) -> None:
    private.store.chmod(0o644)
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    places = Places(private.store, private.bundle, "cpu", state)
    fixes = [check.fix for check in examine(places) if not check.ok]
    assert fixes == [f"chmod 600 {private.store}", f"chmod 700 {state}"]


@pytest.mark.parametrize(
    ("sql", "name", "fix"),
    [
        ("PRAGMA user_version = 99", "schema", "pip install --upgrade btr-assistant"),
        ("PRAGMA user_version = 2", "schema", "btr-assistant index"),
        ("UPDATE settings SET value = 'feed' WHERE key = 'fingerprint'", "fingerprint", "--bundle"),
        ("UPDATE token_bits SET bits = x'00'", "bits", "btr-assistant restore BACKUP"),
        ("UPDATE token_bits SET bits = zeroblob(LENGTH(bits))", "bits", "btr-assistant restore BACKUP"),
        ("UPDATE sources SET root = '/gone'", "sources", "btr-assistant sources remove /gone"),
        ("PRAGMA application_id = 7", "store", "btr-assistant index FOLDER"),
    ],
    ids=["newer", "older", "other bundle", "short bits", "other bits", "folder away", "not ours"],
)
def test_doctor_says_what_is_wrong_with_a_store_and_what_fixes_it(
    private: Places, sql: str, name: str, fix: str
) -> None:
    execute(sql, private.store)
    found = failed(private)
    assert list(found) == [name]
    assert fix in found[name]


def test_doctor_goes_on_over_a_torn_page_and_a_file_that_is_no_store(run: Run, private: Places) -> None:
    tear(private.store)
    outcome = run("doctor")
    assert outcome.code == 3
    assert outcome.out.splitlines()[-1].startswith("failed store")
    private.store.write_text("not SQLite at all\n" * 100)
    assert list(failed(private)) == ["store"]


def test_doctor_names_a_damaged_bundle_and_an_absent_device(private: Places, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(EMBEDDED_BUNDLE, tmp_path / "bundle"))
    (copy / UPPER).write_bytes(b"torn")
    assert "--bundle" in failed(Places(private.store, copy, "cpu", private.state))["bundle"]
    assert list(failed(Places(private.store, private.bundle, "warp", private.state))) == ["providers"]


def test_doctor_tells_a_running_index_from_a_store_that_another_program_locks(private: Places) -> None:
    with writer_lock(private.lock):
        assert "an index run is at work" in [check.detail for check in examine(private)]
    other = sqlite3.connect(private.store, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert list(failed(private)) == ["locks"]
    other.close()


# the proof that nothing leaves the machine


def test_index_ask_and_search_run_with_every_socket_refused_and_attempt_none(run: Run, private: Places) -> None:
    outcome = run("doctor", "--offline-proof")
    assert outcome.code == 0
    line = outcome.out.splitlines()[-1]
    assert line.startswith("ok     offline      0 sockets attempted, 0 processes attempted")
    assert "ran index (exit code 0), ask (exit code 0), search (exit code 0)" in line


PHONES_HOME = """
import sys

def hook(event, arguments):
    if event == "sqlite3.connect":
        import socket
        try:
            socket.create_connection(("127.0.0.1", 9))
        except OSError:
            pass  # as a library that only wants to count its users does

sys.addaudithook(hook)
"""


def test_a_library_that_phones_home_quietly_fails_the_proof(
    run: Run, private: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.offline.LINGER", 0.0)
    (tmp_path / "sitecustomize.py").write_text(PHONES_HOME)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    outcome = run("doctor", "--offline-proof", "--json")
    offline = json.loads(outcome.out)["offline"]
    assert (outcome.code, offline["ok"], offline["failed"]) == (3, False, None)
    assert set(offline["sockets"]) <= {"socket.getaddrinfo", "socket.__new__", "socket.connect"}
    assert len(offline["sockets"]) >= 3


GUARDED = """
import sys
from app.offline import Evidence, Guard
evidence = Evidence()
open_before = {before}
guard = Guard(evidence)
guard.install()
import os, socket, subprocess
for attempt in (socket.socket, lambda: socket.getaddrinfo("localhost", 80), lambda: subprocess.run(["true"])):
    try:
        attempt()
    except PermissionError:
        continue
    sys.exit("not refused")
guard.look()
print(evidence.sockets, evidence.processes, evidence.open_sockets, evidence.holds)
"""


def guarded(before: str) -> str:
    """What a guarded process says of its attempts."""
    code = GUARDED.format(before=before)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_sockets_and_processes_are_refused_and_counted_in_a_guarded_process() -> None:
    said = guarded("None")
    assert said.startswith("['socket.__new__', 'socket.getaddrinfo'] ['subprocess.Popen'] ")
    assert said.endswith(" False\n")


PHONES_HOME_UNSEEN = """
import sys

def hook(event, arguments):
    if event == "sqlite3.connect":
        import ctypes
        ctypes.CDLL(None).socket(2, 2, 0)

sys.addaudithook(hook)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no such filter there")
def test_machine_code_that_opens_a_socket_past_python_fails_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.offline.LINGER", 0.0)
    (tmp_path / "sitecustomize.py").write_text(PHONES_HOME_UNSEEN)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    evidence = prove(EMBEDDED_BUNDLE, "cpu")
    if not evidence.kernel:
        pytest.skip("the kernel takes no filter here")
    assert not evidence.holds
    assert evidence.failed == "machine code of a library opened a socket, the kernel ended the process"


@pytest.mark.parametrize("package", ["app", "export"])
def test_onnx_runtime_is_told_to_send_nothing_whatever_the_environment_says(package: str) -> None:
    code = f"import {package}, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = os.environ | {"ORT_DISABLE_TELEMETRY": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not tell")
def test_a_socket_that_was_opened_past_the_guard_is_seen_among_the_open_files() -> None:
    assert " 1 False" in guarded("__import__('socket').socket()")


def test_a_proof_that_cannot_run_is_none(tmp_path: Path) -> None:
    evidence = prove(tmp_path, "cpu")
    assert not evidence.holds
    assert evidence.failed is not None
    assert "is not a bundle" in evidence.failed


# verify


def test_verify_finds_a_sound_store_sound_and_its_bits_the_same(run: Run, private: Places) -> None:
    before = digest(private.store)
    outcome = run("verify", "--reencode", "4")
    assert outcome.code == 0
    names = ["pages", "references", "search index", "bits", "bundle", "same bits"]
    assert outcome.out == "".join(f"ok     {name:<12} as it should be\n" for name in names)
    assert outcome.err == "4 passages of unchanged notes were encoded again\n"
    assert digest(private.store) == before


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("DELETE FROM token_bits WHERE passage_id = 1", "bits"),
        ("UPDATE token_bits SET scale = zeroblob(3) WHERE passage_id = 2", "bits"),
        ("UPDATE passages SET code = x'00' WHERE id = 3", "search index, bits"),
        ("DELETE FROM documents WHERE id = 1", "references"),
        ("INSERT INTO passages_fts (passages_fts) VALUES ('delete-all')", "search index"),
    ],
)
def test_verify_names_what_is_wrong_and_says_so_in_its_exit_code(
    run: Run, private: Places, sql: str, name: str
) -> None:
    execute(sql, private.store)
    outcome = run("verify", "--json")
    found = json.loads(outcome.out)
    assert (outcome.code, found["ok"]) == (3, False)
    assert ", ".join(check["name"] for check in found["checks"] if not check["ok"]) == name
    assert run("verify").out.count("failed") >= 1


def test_verify_waits_its_turn_and_keeps_whoever_writes_out_of_its_way(
    run: Run, private: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = resolve().lock
    with writer_lock(lock):
        refused(run("verify"), 3, "another index run is writing to this store: wait for it to finish")
    seen = []

    def watched(path: Path) -> Finding:
        seen.append(is_written(lock))
        return search_index(path)

    monkeypatch.setattr("app.verify.search_index", watched)
    assert run("verify").code == 0
    assert (seen, is_written(lock)) == ([True], False)


def test_verify_sees_a_torn_page_and_a_damaged_bundle(run: Run, private: Places, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(EMBEDDED_BUNDLE, tmp_path / "bundle"))
    (copy / UPPER).write_bytes(b"torn")
    outcome = run("--bundle", copy, "verify")
    assert outcome.code == 3
    assert "upper.onnx is damaged, its hash differs" in outcome.out
    tear(private.store)
    outcome = run("verify")
    assert outcome.code == 3
    assert "failed" in outcome.out + outcome.err or "not a readable store" in outcome.err


def test_a_search_index_that_lost_words_is_made_anew_without_encoding(run: Run, private: Places) -> None:
    before = contents(private.store)
    execute("INSERT INTO passages_fts (passages_fts) VALUES ('delete-all')", private.store)
    assert "btr-assistant verify --rebuild-search" in run("verify").out
    assert run("verify", "--rebuild-search").code == 0
    assert contents(private.store) == before
    assert run("search", "boiler").code == 0


def test_one_flipped_bit_is_found_by_encoding_again(private: Places, bundle: Bundle) -> None:
    ((bits,),) = rows(private.store, "SELECT bits FROM token_bits WHERE passage_id = 1")
    flipped = bytes([bits[0] ^ 1]) + bits[1:]
    execute(f"UPDATE token_bits SET bits = x'{flipped.hex()}' WHERE passage_id = 1", private.store)
    with TokenStore.open(private.store) as store:
        count, finding = reencode(store, bundle, 100)
    assert count == len(rows(private.store, "SELECT id FROM passages"))
    assert len(finding.problems) == 1
    assert "passage 1 of " in finding.problems[0]


def test_notes_that_changed_are_not_encoded_again(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    (notes / "a.md").write_text(BOILER)
    (notes / "b.md").write_text("Bread.")
    run_index(store, bundle, notes)
    (notes / "a.md").write_text("Changed.")
    assert reencode(store, bundle, 10) == (1, upkeep.Finding("same bits", ()))
    (notes / "b.md").unlink()
    assert reencode(store, bundle, 10)[0] == 0


def test_passages_of_notes_that_are_away_are_not_even_read(
    notes: Path, store: TokenStore, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query for each of a million passages is more than a minute of doctor, for nothing."""
    (notes / "a.md").write_text(BOILER)
    for number in range(5):
        (notes / f"{number}.md").write_text(f"Bread number {number}.")
    run_index(store, bundle, notes)
    for number in range(5):
        (notes / f"{number}.md").unlink()
    read: list[int] = []
    passages = store.passages
    monkeypatch.setattr(store, "passages", lambda ids: read.extend(ids) or passages(ids))
    assert reencode(store, bundle, 10) == (1, upkeep.Finding("same bits", ()))
    assert len(read) == 1


# backup and restore


def test_a_backup_is_one_private_file_that_holds_everything(run: Run, private: Places, tmp_path: Path) -> None:
    target = tmp_path / "sub folder" / "b'ackup 🔥.db"
    target.parent.mkdir()
    outcome = run("backup", target)
    assert (outcome.code, outcome.out) == (0, "")
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert contents(target) == contents(private.store)
    assert os.name != "posix" or target.stat().st_mode & 0o777 == 0o600
    before = digest(target)
    refused(run("backup", target), 2, "exists and is not overwritten")
    assert digest(target) == before


def test_a_backup_of_what_is_no_store_leaves_no_file(run: Run, private: Places, tmp_path: Path) -> None:
    target = tmp_path / "b.db"
    refused(run("backup", tmp_path / "nowhere" / "b.db"), 2, "cannot write to")
    tear(private.store)
    assert run("backup", target).code == 3
    private.store.write_text("not SQLite at all\n" * 100)
    refused(run("backup", target), 3, "is not a readable store")
    private.store.unlink()
    refused(run("backup", target), 3, "does not exist")
    assert not [path for path in tmp_path.iterdir() if "b.db" in path.name]


def test_a_backup_in_the_middle_of_a_writing_transaction_is_what_was_committed(
    run: Run, private: Places, tmp_path: Path
) -> None:
    before = contents(private.store)
    writer = sqlite3.connect(private.store, isolation_level=None)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE documents SET title = 'half'")
    with writer_lock(private.lock):
        assert run("backup", tmp_path / "b.db").code == 0
    writer.execute("ROLLBACK")
    writer.close()
    assert contents(tmp_path / "b.db") == before
    assert upkeep.pages(tmp_path / "b.db").problems == ()


def test_a_backup_clears_away_what_killed_ones_left_and_nothing_else(run: Run, private: Places, tmp_path: Path) -> None:
    abandoned, held, other = (tmp_path / f"{name}.db{upkeep.UNFINISHED}" for name in ("a", "b", "c"))
    for path in (abandoned, held):
        shutil.copy(private.store, path)
    upkeep.beside(abandoned, "-journal").write_bytes(b"")
    other.write_text("not SQLite at all\n" * 100)
    with sqlite3.connect(held, isolation_level=None) as running:
        running.execute("BEGIN EXCLUSIVE")
        refused(run("backup", tmp_path / "b.db"), 3, "another backup is writing", "wait for it to finish")
        assert run("backup", tmp_path / "today.db").code == 0
        running.execute("ROLLBACK")
    running.close()
    assert {path for path in tmp_path.iterdir() if upkeep.UNFINISHED in path.name} == {held, other}
    assert run("backup", tmp_path / "b.db").code == 0
    assert not held.exists()


def test_a_backup_is_locked_while_it_is_written(
    private: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, unwatched = [], upkeep._problems

    def check(connection: sqlite3.Connection, quick: bool) -> list[str]:
        locked.append(upkeep.is_locked(tmp_path / f"b.db{upkeep.UNFINISHED}"))
        return unwatched(connection, quick)

    monkeypatch.setattr(upkeep, "_problems", check)
    upkeep.back_up(private.store, tmp_path / "b.db")
    assert locked == [True]
    assert not upkeep.is_locked(tmp_path / "b.db")


def test_what_is_restored_answers_and_what_was_there_is_kept(run: Run, notes: Path, home: Path, tmp_path: Path) -> None:
    (notes / "a.md").write_text(BOILER)
    run("index", notes)
    run("backup", tmp_path / "b.db")
    before = contents(home / "store.db")
    (notes / "a.md").write_text("Gone.")
    run("index", notes)
    later = contents(home / "store.db")
    refused(run("restore", tmp_path / "b.db"), 2, "would take the place of", "add --yes")
    assert contents(home / "store.db") == later
    outcome = run("restore", tmp_path / "b.db", "--yes")
    assert outcome.code == 0
    assert "is kept as" in outcome.err
    assert contents(home / "store.db") == before
    assert contents(home / "store.db.before-restore") == later
    assert run("ask", QUESTION).code == 0
    assert rows(home / "store.db", "PRAGMA journal_mode") == [("wal",)]
    assert os.name != "posix" or (home / "store.db").stat().st_mode & 0o777 == 0o600
    assert not [path for path in home.iterdir() if "restoring" in path.name]


def test_a_backup_goes_where_there_is_no_store_yet_and_over_one_that_is_torn(
    run: Run, private: Places, home: Path, tmp_path: Path
) -> None:
    shutil.copy(private.store, tmp_path / "b.db")
    other = tmp_path / "other" / "store.db"
    assert run("--store", other, "restore", tmp_path / "b.db").code == 0
    assert contents(other) == contents(tmp_path / "b.db")
    other.write_text("not SQLite at all\n" * 100)
    upkeep.beside(other, "-wal").write_text("a log that must not be replayed into another store")
    assert run("--store", other, "restore", tmp_path / "b.db", "--yes").code == 0
    assert contents(other) == contents(tmp_path / "b.db")
    assert upkeep.beside(other, upkeep.KEPT).read_text().startswith("not SQLite")


@pytest.mark.parametrize("kind", ["text", "other database", "newer", "other bundle", "torn", "missing", "itself"])
def test_a_file_that_cannot_be_restored_is_refused_and_the_store_kept(
    run: Run, private: Places, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "b.db"
    shutil.copy(private.store, path)
    code, says = 3, "is not a store of btr-assistant"
    if kind == "text":
        path.write_text("not SQLite at all\n" * 100)
        says = "is not a store of btr-assistant: give another file"
    elif kind == "other database":
        path.unlink()
        execute("CREATE TABLE theirs (x)", path)
    elif kind == "newer":
        execute("PRAGMA user_version = 99", path)
        says = "has schema 99"
    elif kind == "other bundle":
        execute("UPDATE settings SET value = 'feed' WHERE key = 'fingerprint'", path)
        says = "was made with bundle feed"
    elif kind == "torn":
        tear(path)
        says = "b.db"
    elif kind == "missing":
        path.unlink()
        says = "does not exist"
    else:
        path, code, says = private.store, 2, "is the store itself"
    before = contents(private.store)
    refused(run("restore", path, "--yes"), code, says)
    assert contents(private.store) == before
    assert not upkeep.beside(private.store, upkeep.KEPT).exists()


def test_restore_waits_for_nobody_but_refuses_a_store_in_use(run: Run, private: Places, tmp_path: Path) -> None:
    run("backup", tmp_path / "b.db")
    lock = resolve().lock
    with writer_lock(lock):
        refused(run("restore", tmp_path / "b.db", "--yes"), 3, "another index run is writing")
    with TokenStore.open(private.store) as chat:
        execute("PRAGMA journal_mode = WAL", private.store)
        chat.size()
        refused(run("restore", tmp_path / "b.db", "--yes"), 3, "is in use: close the chat")
        assert chat.size()[0] == 6
    assert run("restore", tmp_path / "b.db", "--yes").code == 0


def test_an_older_backup_is_migrated_and_its_bits_kept(tmp_path: Path) -> None:
    old_store(tmp_path / "old.db")
    before = rows(tmp_path / "old.db", "SELECT bits, scale FROM token_bits")
    assert upkeep.restore(tmp_path / "old.db", tmp_path / "store.db", FINGERPRINT, "tiny") is None
    assert rows(tmp_path / "store.db", "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert rows(tmp_path / "old.db", "PRAGMA user_version") == [(1,)]
    assert rows(tmp_path / "store.db", "SELECT bits, scale FROM token_bits") == before


# forget

HARD_NAMES = [
    "it's 100%_sure 🔥.md",
    'say "hi" [x] #1!.md',
    "back\\slash*?.md",
    "two  spaces .md",
    "line\nend.md",
    "é.md",
]


@pytest.mark.parametrize("name", HARD_NAMES)
def test_a_note_is_forgotten_whatever_its_name_and_no_byte_of_it_is_left(
    run: Run, notes: Path, home: Path, name: str
) -> None:
    (notes / name).write_text(f"---\nauthor: Quentin Featherstonehaugh\n---\n# Grey safe\n\n{SECRET} #topsecretsafe\n")
    (notes / "a.md").write_text(BOILER)
    run("index", notes)
    outcome = run("forget", notes / name, "--yes", "--ignore")
    assert outcome.code == 0
    assert outcome.out.startswith("forgot 1 note: 0 of ")
    assert " snippets found in the file" in outcome.out
    for path in home.iterdir():
        data = path.read_bytes().lower()
        for word in (b"quillfeather", b"featherston", b"7391", b"grey safe", b"topsecret", b"combination"):
            assert word not in data
    assert (notes / name).exists()
    assert run("ask", QUESTION).code == 0
    assert "1 note: 0 indexed, 1 unchanged" in run("index").err


def test_forget_says_how_a_note_that_stays_on_disk_is_kept_out(run: Run, notes: Path) -> None:
    (notes / "diary").mkdir()
    (notes / "diary" / "a.md").write_text(SECRET)
    (notes / "b.md").write_text(BOILER)
    run("index", notes)
    outcome = run("forget", notes / "diary", "--yes")
    assert f"add the line /diary to {notes / '.btrignore'}" in outcome.err
    assert not (notes / ".btrignore").exists()
    assert "1 indexed" in run("index").err
    (notes / ".btrignore").write_text("*.tmp")
    run("forget", notes / "diary", "--yes", "--ignore")
    assert (notes / ".btrignore").read_text() == "*.tmp\n/diary\n"
    assert "0 indexed" in run("index").err


def test_a_rule_that_is_overruled_is_said_to_be(run: Run, notes: Path) -> None:
    (notes / "diary").mkdir()
    (notes / "diary" / "a.md").write_text(SECRET)
    (notes / "diary" / ".btrignore").write_text("!a.md\n")
    run("index", notes)
    outcome = run("forget", notes / "diary" / "a.md", "--yes", "--ignore")
    assert "another rule has the last word" in outcome.err


def test_forget_asks_and_a_dry_run_only_lists(run: Run, notes: Path, home: Path) -> None:
    (notes / "a.md").write_text(SECRET)
    run("index", notes)
    before = contents(home / "store.db")
    refused_ = run("forget", notes)
    assert refused_.code == 2
    assert "is a source: run btr-assistant sources remove" in refused_.err
    outcome = run("forget", notes / "a.md")
    assert outcome.code == 2
    assert "1 note would be forgotten: add --yes" in outcome.err
    outcome = run("forget", "--dry-run", notes / "a.md")
    assert (outcome.code, outcome.out) == (0, f"{notes / 'a.md'}\n")
    refused(run("forget", notes / "b.md", "--yes"), 2, "is not in the store, nothing was changed")
    refused(run("forget", notes / "a.md", notes / "b.md", "--yes"), 2, "is not in the store, nothing was changed")
    assert contents(home / "store.db") == before


def test_forget_and_restore_that_are_answered_no_change_nothing(
    run: Run, notes: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (notes / "a.md").write_text(SECRET)
    run("index", notes)
    run("backup", tmp_path / "b.db")
    (notes / "a.md").write_text(SECRET + " Still.")
    run("index", notes)
    before = contents(home / "store.db")
    monkeypatch.setattr("app.cli_base.on_terminal", lambda: True)
    for arguments, asks in (
        (["forget", "--ignore", notes / "a.md"], "Forget 1 note? The files stay."),
        (["restore", tmp_path / "b.db"], "Replace "),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
        outcome = run(*arguments)
        assert (outcome.code, outcome.out) == (130, "")
        assert asks in outcome.err
    assert contents(home / "store.db") == before
    assert not (notes / ".btrignore").exists()


def test_a_rule_that_cannot_be_written_stops_before_anything_is_forgotten(run: Run, notes: Path, home: Path) -> None:
    (notes / "a.md").write_text(SECRET)
    run("index", notes)
    (notes / ".btrignore").mkdir()
    before = contents(home / "store.db")
    refused(run("forget", notes / "a.md", "--yes", "--ignore"), 2, ".btrignore", "nothing was forgotten")
    assert contents(home / "store.db") == before


def test_a_rule_is_written_once(notes: Path) -> None:
    for _ in range(2):
        assert ignore(str(notes / "a.md"), notes / ".btrignore", "/a.md")
    assert (notes / ".btrignore").read_text() == "/a.md\n"


def test_deleted_notes_and_failures_are_forgotten_too(run: Run, notes: Path, home: Path) -> None:
    (notes / "sub").mkdir()
    (notes / "sub" / "a.md").write_text(SECRET)
    (notes / "sub" / "safe-of-quillfeather.md").write_bytes(b"\x00\x01\x02" * 99)
    for i in range(5):
        (notes / f"{i}.md").write_text(f"Number {i}.")
    run("index", notes)
    (notes / "sub" / "a.md").unlink()
    run("index", notes)
    assert rows(home / "store.db", "SELECT COUNT(*) FROM documents WHERE deleted_at IS NOT NULL") == [(1,)]
    outcome = run("forget", notes / "sub", "--yes")
    assert outcome.code == 0
    assert rows(home / "store.db", "SELECT COUNT(*) FROM failures") == [(0,)]
    assert b"uillfeather" not in (home / "store.db").read_bytes()
    assert "sub" not in run("search", "safe combination").out


def test_a_text_that_another_note_has_too_proves_nothing_and_is_said(run: Run, notes: Path) -> None:
    (notes / "a.md").write_text(SECRET)
    (notes / "b.md").write_text(SECRET.upper() + "\n\n" + SECRET)
    run("index", notes)
    outcome = run("forget", notes / "a.md", "--yes", "--json")
    found = json.loads(outcome.out)
    assert (outcome.code, found["notes"], found["left"]) == (0, 1, 0)
    assert found["shared"] >= 3
    assert run("search", "quillfeather").code == 0


def test_what_is_left_behind_is_found_and_fails(run: Run, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that was not compacted: rows are gone, their bytes are not."""
    (notes / "a.md").write_text(SECRET)
    run("index", notes)
    path = resolve().store
    execute("CREATE TABLE hidden (x BLOB)", path)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("INSERT INTO hidden VALUES (?)", (SECRET.encode(),))
    connection.close()
    outcome = run("forget", notes / "a.md", "--yes")
    assert outcome.code == 3
    assert not outcome.out.startswith("forgot 1 note: 0 of")
    assert "run btr-assistant cleanup" in outcome.err


def test_a_copy_that_restore_kept_is_named(run: Run, notes: Path, home: Path, tmp_path: Path) -> None:
    (notes / "a.md").write_text(SECRET)
    run("index", notes)
    run("backup", tmp_path / "b.db")
    run("restore", tmp_path / "b.db", "--yes")
    outcome = run("forget", notes / "a.md", "--yes")
    assert outcome.code == 0
    assert "store.db.before-restore was kept by restore and may still hold them: remove it" in outcome.err


def test_a_rule_stands_in_the_innermost_folder_that_is_looked_at(notes: Path, store: TokenStore) -> None:
    inner = notes / "inner"
    inner.mkdir()
    for root in (notes, inner):
        store.add_source(str(root))
    assert rule_for(str(inner / "a.md"), store) == (inner / ".btrignore", "/a.md")
    for name in HARD_NAMES:
        (inner / name).write_text("x")
        (inner / ".btrignore").write_text(rule_for(str(inner / name), store)[1] + "\n")
        assert str(inner / name) not in [file.path for file in scan(notes).files]
        (inner / name).unlink()


# looking for what is left


def test_every_byte_of_a_long_enough_text_is_in_a_piece() -> None:
    text = "".join(chr(97 + (i * i + i // 7) % 26) for i in range(100))
    found = pieces([text])
    assert found == {text[i : i + 24].encode() for i in (0, 24, 48, 72, 76)}
    assert pieces(["too short", " " * 50, "a" * 50]) == set()


@pytest.mark.parametrize("size", [1, 7, 24, 1000])
@pytest.mark.parametrize("before", range(9))
def test_pieces_are_found_at_every_offset_and_across_blocks(size: int, before: int) -> None:
    wanted = pieces([SECRET, "Something that is not there at all."])
    data = b"x" * before + SECRET.encode() + b"y" * 5
    blocks = [data[i : i + size] for i in range(0, len(data), size)]
    assert found_in(wanted, blocks) == pieces([SECRET])
    assert found_in([], blocks) == found_in(wanted, []) == set()


def test_what_is_kept_counts_as_it_is_and_as_the_search_index_folds_it() -> None:
    kept = ["Überraschungspaket für Donaudampfschifffahrt"]
    wanted = pieces([kept[0], "uberraschungspaket fur donaudampfschifffahrt"])
    assert found_in(wanted, text_blocks(kept)) == wanted


# migrations


def as_it_was(sample: Path, path: Path, version: int) -> None:
    """The store that an earlier version would have made of the sample notes."""
    connection = sqlite3.connect(path)
    connection.executescript("".join((SCHEMA_1, SCHEMA_2, SCHEMA_3, SCHEMA_4, SCHEMA_5)[:version]))
    added = ", d.deleted_at, d.folder, d.date" if version >= 2 else ""
    anchors = ", d.anchors" if version >= 3 else ""
    connection.execute("ATTACH ? AS new", (str(sample),))
    with connection:
        for table, columns in {
            "settings": "d.key, d.value",
            "sources": "d.id, d.root",
            "documents": f"d.id, d.source_id, d.path, d.content_hash, d.size, d.mtime_ns, d.title, d.metadata{added}",
            "passages": 'd.id, d.document_id, d."start", d."end", d.line, d.page, d.heading, d.text, d.tokens, d.code'
            + anchors,
            "token_bits": "d.passage_id, d.bits, d.scale",
            **({"fields": "d.name, d.value, d.document_id"} if version >= 2 else {}),
        }.items():
            connection.execute(f"INSERT INTO main.{table} SELECT {columns} FROM new.{table} d")
        applied = [("btr_assistant", name, "2026-11-01T00:00:00+00:00") for name in MIGRATIONS[:version]]
        sql = "INSERT INTO main._sqlite_migrations (migration_set, name, applied_at) VALUES (?, ?, ?)"
        connection.executemany(sql, applied)
    connection.close()


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_a_store_of_every_earlier_schema_answers_after_a_migration_that_encodes_nothing(
    run: Run, uncompressed: Places, tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BTR_ASSISTANT_BUNDLE", str(uncompressed.bundle))
    path = tmp_path / "old.db"
    as_it_was(uncompressed.store, path, version)
    path.chmod(0o600)
    assert rows(path, "PRAGMA user_version") == [(version,)]
    refused(run("--store", path, "ask", QUESTION), 3, f"has schema {version}, this version needs {SCHEMA_VERSION}")
    assert "btr-assistant index" in run("--store", path, "doctor").out.splitlines()[-2]
    outcome = run("--store", path, "index")
    assert "6 notes: 0 indexed, 6 unchanged" in outcome.err
    assert contents(path) == contents(uncompressed.store)
    assert run("--store", path, "ask", QUESTION).out.startswith("14 March 2024")
    assert run("--store", path, "verify").code == 0


@pytest.mark.parametrize("command", [["status"], ["ask", QUESTION], ["verify"], ["compact"]])
def test_a_folder_is_no_store(run: Run, notes: Path, command: list[str]) -> None:
    refused(run("--store", notes, *command), 3, f"{notes} is a folder: give the store's file with --store")
