"""Anything at all as input: some thousand cases of every target, and what they found."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.calibration import in_force
from app.documents import DocumentError
from app.formats.notebook import read as read_notebook
from app.places import Places
from app.scope import MOST_FILTERS, parse_scope
from store.bundle import MANIFEST, read_manifest
from store.errors import ModelError, StoreError, UsageError
from store.tokens import TokenStore
from tests.conftest import Run
from tests.fuzz import Fuzz, Hang, limit
from tests.test_cli import QUESTION, execute, refused

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such timers there")

TARGETS = {
    **dict.fromkeys(["markdown", "text", "rst", "org", "html", "pdf", "docx", "notebook", "mail", "front matter"], 150),
    **dict.fromkeys(["questions", "filters", "scopes", "manifests", "calibrations"], 150),
    **dict.fromkeys(["question files", "configuration", "ignore rules"], 100),
    "stores": 300,
}
"""Name -> cases in the suite; the command draws more."""


@pytest.fixture(scope="module")
def bench(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzz]:
    opened = Fuzz(tmp_path_factory.mktemp("fuzz"), tiny)
    yield opened
    opened.close()


@pytest.mark.parametrize("target", TARGETS)
def test_only_errors_of_our_own_come_out(bench: Fuzz, target: str) -> None:
    @settings(
        max_examples=TARGETS[target],
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(bench.targets[target][0])
    def run(case: Any) -> None:
        bench.check(target, case)

    run()


def test_every_target_is_in_the_suite(bench: Fuzz) -> None:
    assert set(TARGETS) == set(bench.targets)


def test_a_bug_and_a_hang_come_out_of_a_draw(bench: Fuzz, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(case: int) -> None:
        if case:
            raise KeyError(case)

    monkeypatch.setitem(bench.targets, "broken", (st.integers(0, 9), broken))
    outcomes = bench.draw("broken", "0/0", 10)
    assert any(error is None for _, error in outcomes)
    assert {type(error) for _, error in outcomes} == {type(None), KeyError}
    assert [case for case, _ in outcomes] == [case for case, _ in bench.draw("broken", "0/0", 10)]
    monkeypatch.setattr("tests.fuzz.SECONDS", 0.05)
    with pytest.raises(Hang), limit():
        time.sleep(5)
    with pytest.raises(Hang), limit():
        while True:
            pass


# what it found


def test_more_filters_than_sqlite_takes_are_refused() -> None:
    assert len(parse_scope(" ".join(["tag:a"] * MOST_FILTERS)).conditions) == MOST_FILTERS
    with pytest.raises(UsageError, match="there are more than 100 filters: leave some out"):
        parse_scope(" ".join(["tag:a"] * 2000))


def test_half_a_character_in_a_filter_matches_nothing(run: Run, own_sample: Places) -> None:
    outcome = run("search", "boiler", "--in", "tag:\udcff")
    assert outcome.code == 1
    assert "No notes match" in outcome.err


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"null_logit": 1' + "0" * 400 + ', "temperature": 1, "threshold": 0, "reader": ""}']
)
def test_settings_that_nest_too_deep_or_are_too_large_are_damaged(bench: Fuzz, text: str) -> None:
    with pytest.raises(StoreError, match=r"calibration is damaged .*: run btr-assistant calibrate --reset"):
        in_force(text, bench.bundle.manifest)


@pytest.mark.parametrize("change", [{"null_logit": 10**400}, {"threshold": -(10**400)}])
def test_a_manifest_with_a_number_that_no_float_can_be_is_refused(
    bench: Fuzz, tmp_path: Path, change: dict[str, int]
) -> None:
    data = json.loads((bench.bundle.folder / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps(data | change))
    with pytest.raises(ModelError, match="which is no number: export the bundle again"):
        read_manifest(tmp_path)


def test_a_manifest_that_nests_too_deep_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(ModelError, match="cannot be read"):
        read_manifest(tmp_path)


def test_a_number_of_five_thousand_digits_is_no_notebook() -> None:
    with pytest.raises(DocumentError, match="is no notebook that can be read"):
        read_notebook(b'{"cells": [], "x": ' + b"9" * 5000 + b"}")


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE passages_fts_config",
        "DELETE FROM passages_fts_config",
        "DROP TABLE documents",
        "DROP TABLE settings",
        "UPDATE passages SET text = x'ff00'",
        "UPDATE passages SET text = text || ' boiler'",
        "UPDATE passages SET anchors = '[[1]]'",
        "UPDATE passages SET anchors = 'x'",
        "UPDATE passages SET code = substr(code, 1, 3) WHERE id = 2",
        "UPDATE passages SET code = 'text'",
        "UPDATE passages SET code = substr(code, 1, 3)",
        "UPDATE passages SET tokens = 'many'",
        "UPDATE token_bits SET bits = 'text'",
        "UPDATE token_bits SET bits = substr(bits, 1, length(scale))",
        "DELETE FROM token_bits",
        "UPDATE documents SET path = CAST(x'ff' AS TEXT) || id",
        "ALTER TABLE passages RENAME COLUMN heading TO other",
    ],
)
def test_a_store_whose_rows_are_not_what_was_stored_is_refused(run: Run, own_sample: Places, sql: str) -> None:
    execute(sql, own_sample.store)
    refused(run("ask", QUESTION), 3, "is not a readable store", "restore BACKUP")


@pytest.mark.parametrize("sql", ["UPDATE passages SET code = -9", "UPDATE passages SET document_id = -5 WHERE id = 2"])
def test_passages_from_which_no_code_block_can_be_made_are_named(run: Run, own_sample: Places, sql: str) -> None:
    execute(sql, own_sample.store)
    outcome = run("verify")
    assert outcome.code == 3
    assert "cannot be made from its passages" in outcome.out


def test_a_note_of_no_source_is_damage_and_not_looked_for(run: Run, own_sample: Places) -> None:
    execute("UPDATE documents SET source_id = 7 WHERE id = 2", own_sample.store)
    refused(run("index"), 3, "is not a readable store", "belongs to no source", "restore BACKUP")


def test_a_bug_in_our_own_sql_is_not_called_damage(own_sample: Places) -> None:
    with TokenStore.open(own_sample.store) as store, pytest.raises(sqlite3.OperationalError, match="syntax error"):
        store._rows("SELECT FROM WHERE")


def test_rows_that_belong_to_nothing_stop_a_migration_with_a_sentence(
    run: Run, own_sample: Places, notes: Path
) -> None:
    execute("UPDATE documents SET metadata = '{'", own_sample.store)
    execute("UPDATE documents SET size = -1", own_sample.store)
    refused(run("index"), 3, "is not a readable store", "restore BACKUP")
