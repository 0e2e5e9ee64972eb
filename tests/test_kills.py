"""Kills: twenty at random moments in the suite, more by `python -m tests.kills`; and a harness that can fail."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

from app.bundle import Bundle
from store.errors import StoreError
from store.tokens import SCHEMA_VERSION, TokenStore
from tests.conftest import Run
from tests.kills import SCENARIOS, SECRET, Fault, Harness, Scenario, differences, state_of
from tests.test_cli import BOILER, QUESTION, execute, refused

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")

KILLS = 20
SEED = 20


@pytest.fixture(scope="module")
def harness(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Harness:
    return Harness(tmp_path_factory.mktemp("kills"), tiny, SEED)


def test_a_program_that_is_killed_loses_nothing_and_finishes_as_if_it_had_not_been(harness: Harness) -> None:
    case, killed, played = 0, 0, set()
    while killed < KILLS or len(played) < len(SCENARIOS):
        killed += len(list(harness.play(case, max(1, KILLS - killed))))
        played.add(harness.name(case))
        case += 1


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("DELETE FROM documents WHERE id = (SELECT MAX(id) FROM documents)", "were there and shall be there"),
        ("UPDATE documents SET deleted_at = 1 WHERE id = 3", "were there and shall be there"),
        ("UPDATE token_bits SET bits = randomblob(LENGTH(bits)) WHERE passage_id = 3", "verify|neither"),
        ("DELETE FROM passages WHERE id = 3", "neither as it was nor as it shall be"),
        ("UPDATE passages SET code = randomblob(4) WHERE id = 3", "neither as it was nor as it shall be|verify"),
        ("DELETE FROM passages_fts WHERE rowid = 3", "verify: .*search index"),
        ("DELETE FROM token_bits WHERE passage_id = 3", "bits: passage 3|verify"),
        ("DELETE FROM settings", "cannot be opened"),
        ("PRAGMA journal_mode = DELETE", "readers of the store would wait"),
        (
            "INSERT INTO documents (source_id, path, content_hash, size, mtime_ns, title, metadata) "
            "SELECT source_id, path || '2', content_hash, size, mtime_ns, title, metadata FROM documents WHERE id = 3",
            "neither as it was nor as it shall be",
        ),
        ("PRAGMA user_version = 2", "cannot be opened"),
    ],
)
def test_the_harness_sees_a_note_that_is_lost_half_there_or_doubled(harness: Harness, sql: str, says: str) -> None:
    scenario = harness.scenario("edits")
    scenario.reset()
    scenario.check()
    connection = sqlite3.connect(scenario.stage.store, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(sql)
    connection.close()
    with pytest.raises(Fault, match=says):
        scenario.check()


def test_the_harness_sees_every_difference_of_two_stores_that_is_not_one_of_order(harness: Harness) -> None:
    scenario = harness.scenario("deletions")
    scenario.reset()
    before = state_of(scenario.stage.store)
    execute("UPDATE documents SET id = id + 100", scenario.stage.store)
    for table in ("passages", "fields"):
        execute(f"UPDATE {table} SET document_id = document_id + 100", scenario.stage.store)
    execute("UPDATE documents SET deleted_at = deleted_at + 1", scenario.stage.store)
    assert differences(state_of(scenario.stage.store), before) == []
    for sql in (
        "UPDATE documents SET deleted_at = 1 WHERE deleted_at IS NULL",
        "DELETE FROM failures",
        "DELETE FROM fields",
        "UPDATE sources SET root = root || '/'",
    ):
        execute(sql, scenario.stage.store)
        found = state_of(scenario.stage.store)
        assert differences(found, before)
        before = found


def test_the_harness_sees_what_forgetting_left_behind(harness: Harness) -> None:
    scenario: Scenario = harness.scenario("forget")
    scenario.reset()
    scenario.finish()
    scenario.check_residue()
    (scenario.stage.home / "copy").write_text(SECRET.upper())
    with pytest.raises(Fault, match="still holds what was forgotten"):
        scenario.check_residue()


# what it found


@pytest.mark.parametrize("cut", ["before anything", "before the schema", "after the list", "before the settings"])
def test_a_first_run_that_was_killed_has_indexed_nothing_yet_whatever_is_asked_of_it(
    run: Run, home: Path, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Bundle, cut: str
) -> None:
    home.mkdir(mode=0o700)
    store = home / "store.db"
    store.touch(0o600)
    if cut == "before the schema":
        execute("PRAGMA journal_mode = WAL", store)
    elif cut == "after the list":
        columns = "id INTEGER PRIMARY KEY, migration_set TEXT, name TEXT, applied_at TEXT"
        execute(f"CREATE TABLE _sqlite_migrations ({columns})", store)
    elif cut == "before the settings":
        TokenStore.create(store, bundle.manifest.fingerprint, "x").close()
        execute("DELETE FROM settings", store)
    assert (store.stat().st_size > 0) == (cut != "before anything")
    (notes / "a.md").write_text(BOILER)
    refused(run("ask", QUESTION), 3, "no notes are indexed yet", "run btr-assistant index FOLDER first")
    refused(run("backup", tmp_path / "b.db"), 3, "nothing to back up", "run btr-assistant index FOLDER first")
    refused(run("restore", store.rename(tmp_path / "c.db"), "--yes"), 3, "holds no notes: give another file")
    (tmp_path / "c.db").rename(store)
    checks = [check for check in json.loads(run("doctor", "--json").out)["checks"] if not check["ok"]]
    assert [(check["name"], check["fix"]) for check in checks] == [("store", "btr-assistant index FOLDER")]
    assert json.loads(run("model", "use", "embedded", "--json").out)["store_problem"] is None
    assert json.loads(run("index", "--dry-run", "--json", notes).out)["new"] == 1
    typed = f"when?\n/index {notes}\n{QUESTION}\n".encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed)))
    outcome = run("chat", "--plain")
    assert outcome.code == 0
    assert "no notes are indexed yet: give their folder with /index FOLDER" in outcome.err
    assert "Answer: 14 March 2024" in outcome.out


def test_a_first_run_that_was_killed_before_its_settings_has_indexed_nothing_yet(
    tmp_path: Path, bundle: Bundle
) -> None:
    fingerprint, path = bundle.manifest.fingerprint, tmp_path / "a.db"
    TokenStore.create(path, fingerprint, "x").close()
    execute("DELETE FROM settings", path)
    for version in (SCHEMA_VERSION - 2, SCHEMA_VERSION):  # between two migrations, or after them
        execute(f"PRAGMA user_version = {version}", path)
        with pytest.raises(StoreError, match="no notes are indexed yet"):
            TokenStore.open(path, fingerprint)
    TokenStore.create(path, fingerprint, "x").close()
    TokenStore.open(path, fingerprint).close()


def test_a_store_that_a_killed_restore_left_with_another_journal_gets_its_own_back(
    tmp_path: Path, bundle: Bundle
) -> None:
    path = tmp_path / "a.db"
    for _ in range(2):
        TokenStore.create(path, bundle.manifest.fingerprint, "x").close()
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.close()


def test_what_a_killed_restore_left_beside_the_store_is_gone_when_a_note_is_forgotten(
    run: Run, home: Path, notes: Path
) -> None:
    (notes / "a.md").write_text(f"The {SECRET} is in here, and it is a long sentence.")
    run("index", notes)
    for ending in (".restoring", ".restoring-wal"):
        shutil.copy(home / "store.db", home / f"store.db{ending}")
    assert run("forget", notes / "a.md", "--yes").code == 0
    assert not [path.name for path in home.iterdir() if SECRET.encode() in path.read_bytes()]
