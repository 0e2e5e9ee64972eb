"""What became of the notes: moves cost nothing, deletions can be taken back, and a disk that is away loses nothing."""

from __future__ import annotations

import shutil
import sqlite3
import sys
import unicodedata
from pathlib import Path

import pytest

from app.bundle import Bundle
from app.documents import DocumentError
from app.indexer import Change, Report, index
from app.sync import GUARD_NOTES, Roots, Stored, make_plan
from store.records import StoredDocument
from store.tokens import UNREAD, TokenStore, is_inside
from tests.conftest import contents, new_store, rows, run_index
from tests.test_indexer import CountingBundle, later, names, write
from tests.test_tree import hole


@pytest.fixture
def counting(bundle: Bundle) -> CountingBundle:
    return CountingBundle(bundle)


def again(store: TokenStore, bundle: Bundle, *roots: Path, allow_deletions: bool = False) -> Report:
    """A run over sources that are known, as `index` without a path does it."""
    return index(store, bundle, list(roots), allow_deletions=allow_deletions)


def did(report: Report) -> dict[str, int]:
    """What a run did, without what it did not."""
    kinds = ("indexed", "unchanged", "moved", "restored", "removed")
    return {kind: getattr(report, kind) for kind in kinds if getattr(report, kind)} | (
        {"failed": len(report.failed)} if report.failed else {}
    )


def same_as_new(store: TokenStore, bundle: Bundle, tmp_path: Path, *roots: Path) -> None:
    """What is live in a store is what a new one would hold."""
    with new_store(tmp_path / "fresh.db", bundle) as fresh:
        run_index(fresh, bundle, *roots)
    assert contents(store.path) == contents(tmp_path / "fresh.db")
    (tmp_path / "fresh.db").unlink()


# many sources


@pytest.mark.parametrize(
    "roots", [["/"], ["/a", "/a/b", "/a/b/c.md"], ["/a b", "/a"], ["/a/b/", "/a"], ["/a/b/c", "/a/bc"], []]
)
def test_the_sources_over_a_path_are_those_that_it_is_inside_of(roots: list[str]) -> None:
    over = Roots(roots)
    for path in ("/x.md", "/a/x.md", "/a/b/c.md", "/a/b/c/d.md", "/a/bc/x.md", "/a b/x.md", "/a", "/a//b/x.md"):
        expected = sorted((root for root in roots if is_inside(path, root)), key=len)
        assert [*over.over(path)] == [*over.over(path)] == expected, path


@pytest.mark.parametrize("gone", [False, True])
def test_what_planning_costs_grows_with_the_files_that_are_sources_and_no_faster(tmp_path: Path, gone: bool) -> None:
    """`index ~/notes/*.md` makes each of them one."""

    def calls(count: int) -> int:
        folder = tmp_path / str(count)
        paths = many(folder, count)
        documents = [
            StoredDocument(i, i, str(path), "", path.stat().st_size, path.stat().st_mtime_ns, "", None)
            for i, path in enumerate(paths)
        ]
        if gone:
            shutil.rmtree(folder)
        stored = Stored(documents, {i: str(path) for i, path in enumerate(paths)})
        made = 0

        def count_call(frame: object, event: str, argument: object) -> None:
            nonlocal made
            made += event in ("call", "c_call")

        sys.setprofile(count_call)
        try:
            plan = make_plan(stored, [str(path) for path in paths])
        finally:
            sys.setprofile(None)
        assert (len(plan.owners), len(plan.refused)) == ((0, count) if gone else (count, 0))
        return made

    calls(10)  # what is imported and compiled once
    assert calls(240) < 5 * calls(60)


# renames and moves


def test_renaming_a_folder_of_a_thousand_notes_encodes_nothing(
    notes: Path, store: TokenStore, counting: CountingBundle
) -> None:
    (notes / "old").mkdir()
    for i in range(1000):
        (notes / "old" / f"note {i}.md").write_text(f"{i}." if i % 2 else f"# Note\n\n{i}.")
    write(notes, stays="Stays.")
    run_index(store, counting, notes)
    codes = rows(store.path, "SELECT id, code FROM passages ORDER BY id")
    counting.encoded.clear()
    (notes / "old").rename(notes / "new")
    report = again(store, counting, notes)
    assert (did(report), report.tokens, counting.encoded) == ({"unchanged": 1, "moved": 1000}, 0, [])
    assert rows(store.path, "SELECT id, code FROM passages ORDER BY id") == codes
    assert {Path(document.path).parent.name for document in store.documents()} == {"new", notes.name}
    assert did(again(store, counting, notes)) == {"unchanged": 1001}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Work", "work"),
        ("café", "cafe\u0301"),
        ("a", "# 1"),
        ("a", "with spaces"),
        ("a", "🐝"),
        ("a%b", "a_b"),
        ("a_b", "100%"),
        ("a", "deep/er/still"),
        ("a", "a/a"),
        ("x'y", 'x"y'),
    ],
)
def test_a_folder_may_get_any_name(
    notes: Path, tmp_path: Path, store: TokenStore, counting: CountingBundle, old: str, new: str
) -> None:
    write(notes, keep="Keep.")
    (notes / old).mkdir()
    (notes / old / "1.md").write_text("Alpha.")
    (notes / old / "2.md").write_text("Beta.")
    (notes / "aXb").mkdir()
    (notes / "aXb" / "3.md").write_text("What LIKE would match.")
    run_index(store, counting, notes)
    (notes / old).rename(tmp_path / "between")
    (notes / new).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "between").rename(notes / new)
    counting.encoded.clear()
    assert did(again(store, counting, notes)) == {"unchanged": 2, "moved": 2}
    assert counting.encoded == []
    assert [d.path for d in store.documents()] == sorted(
        str(notes / name) for name in ("keep.md", "aXb/3.md", f"{new}/1.md", f"{new}/2.md")
    )
    same_as_new(store, counting, tmp_path, notes)


def test_a_note_whose_title_stays_is_renamed_for_nothing(
    notes: Path, tmp_path: Path, store: TokenStore, counting: CountingBundle
) -> None:
    write(notes, a="# Title\n\nAlpha.", b="---\ntitle: Front\n---\nBeta.")
    run_index(store, counting, notes)
    counting.encoded.clear()
    (notes / "a.md").rename(notes / "Another name.md")
    (notes / "b.md").rename(notes / "B.md")
    assert did(again(store, counting, notes)) == {"moved": 2}
    assert counting.encoded == []
    same_as_new(store, counting, tmp_path, notes)


@pytest.mark.parametrize("new", ["b.md", "A.md", "a.txt"])
def test_a_note_whose_name_is_encoded_with_it_is_encoded_again(
    notes: Path, tmp_path: Path, store: TokenStore, counting: CountingBundle, new: str
) -> None:
    """Its title is its name, or its suffix says how it is cut: the same bits as in a new store."""
    write(notes, a="Alpha.", c="Gamma.")
    run_index(store, counting, notes)
    counting.encoded.clear()
    (notes / "a.md").rename(notes / new)
    assert did(again(store, counting, notes)) == {"indexed": 1, "unchanged": 1, "removed": 1}
    assert counting.encoded == ["Alpha."]
    same_as_new(store, counting, tmp_path, notes)


def test_notes_that_change_places_are_not_encoded(
    notes: Path, tmp_path: Path, store: TokenStore, counting: CountingBundle
) -> None:
    write(notes, a="# One\n\nAlpha.", b="# Two\n\nBeta, longer.", c="# Three\n\nGamma, the longest.")
    run_index(store, counting, notes)
    counting.encoded.clear()
    (notes / "c.md").rename(notes / "d.md")
    (notes / "b.md").rename(notes / "c.md")
    (notes / "a.md").rename(notes / "b.md")
    (notes / "d.md").rename(notes / "a.md")
    assert did(again(store, counting, notes)) == {"moved": 3}
    assert counting.encoded == []
    same_as_new(store, counting, tmp_path, notes)


def test_a_chain_of_renames_with_a_new_note_at_its_end(
    notes: Path, tmp_path: Path, store: TokenStore, counting: CountingBundle
) -> None:
    write(notes, a="# One\n\nAlpha.", b="# Two\n\nBeta.")
    run_index(store, counting, notes)
    counting.encoded.clear()
    (notes / "b.md").rename(notes / "c.md")
    (notes / "a.md").rename(notes / "b.md")
    write(notes, a="# New\n\nOmega, at last.")
    assert did(again(store, counting, notes)) == {"indexed": 1, "moved": 2}
    assert counting.encoded == ["# New\n\nOmega, at last."]
    same_as_new(store, counting, tmp_path, notes)


def test_a_moved_and_edited_note_is_encoded(notes: Path, store: TokenStore, counting: CountingBundle) -> None:
    write(notes, a="Alpha.", b="Beta.")
    run_index(store, counting, notes)
    (notes / "a.md").unlink()
    write(notes, sub__a="Alpha, edited.")
    assert did(again(store, counting, notes)) == {"indexed": 1, "unchanged": 1, "removed": 1}


def test_a_copy_is_a_second_note(notes: Path, tmp_path: Path, store: TokenStore, counting: CountingBundle) -> None:
    write(notes, a="Alpha.")
    run_index(store, counting, notes)
    (notes / "sub").mkdir()
    shutil.copy2(notes / "a.md", notes / "sub" / "a.md")
    assert did(again(store, counting, notes)) == {"indexed": 1, "unchanged": 1}
    assert names(store) == ["a.md", "a.md"]
    (notes / "a.md").unlink()
    assert did(again(store, counting, notes)) == {"unchanged": 1, "removed": 1}
    same_as_new(store, counting, tmp_path, notes)


def test_of_equal_notes_each_goes_where_its_name_goes(notes: Path, store: TokenStore, counting: CountingBundle) -> None:
    write(notes, old__a="Same.", old__b="Same.", old__c="Same.")
    run_index(store, counting, notes)
    ids = {Path(d.path).name: d.id for d in store.documents()}
    (notes / "old").rename(notes / "new")
    assert did(again(store, counting, notes)) == {"moved": 3}
    assert {Path(d.path).name: d.id for d in store.documents()} == ids


def test_a_note_moved_to_another_source_goes_over(tmp_path: Path, store: TokenStore, counting: CountingBundle) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write(one, a="Alpha.", b="Beta.")
    write(two, c="Gamma.")
    run_index(store, counting, one, two)
    counting.encoded.clear()
    (one / "a.md").rename(two / "a.md")
    assert did(again(store, counting, one, two)) == {"unchanged": 2, "moved": 1}
    assert [source.notes for source in store.sources()] == [1, 2]
    (one / "b.md").rename(two / "b.md")
    write(one, d="# Delta")
    assert did(again(store, counting, one)) == {"indexed": 1, "removed": 1}
    assert did(again(store, counting, two)) == {"unchanged": 2, "restored": 1}
    assert counting.encoded == ["# Delta"]


def test_a_note_belongs_to_the_outermost_source(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a="Alpha.", sub__b="Beta.")
    run_index(store, bundle, notes / "sub")
    run_index(store, bundle, notes)
    assert [(Path(s.root).name, s.notes) for s in store.sources()] == [(notes.name, 2), ("sub", 0)]
    later(notes / "sub" / "b.md")
    assert did(again(store, bundle, notes / "sub")) == {"unchanged": 1}
    assert [s.notes for s in store.sources()] == [2, 0]
    folders = [folder for (folder,) in rows(store.path, "SELECT folder FROM documents ORDER BY path")]
    assert folders == ["/my notes/", "/my notes/sub/"]


# deletions


def test_a_note_that_comes_back_is_not_encoded_again(
    notes: Path, tmp_path: Path, store: TokenStore, counting: CountingBundle
) -> None:
    write(notes, a="Alpha.", b="Beta.")
    run_index(store, counting, notes)
    text = (notes / "a.md").read_text()
    (notes / "a.md").unlink()
    assert did(again(store, counting, notes)) == {"unchanged": 1, "removed": 1}
    assert (names(store), store.match("alpha", 5), store.counts().deleted) == (["b.md"], [], 1)
    assert did(again(store, counting, notes)) == {"unchanged": 1}
    (notes / "a.md").write_text(text)
    later(notes / "a.md")
    counting.encoded.clear()
    assert did(again(store, counting, notes)) == {"unchanged": 1, "restored": 1}
    assert (counting.encoded, store.counts().deleted, len(store.match("alpha", 5))) == ([], 0, 1)
    same_as_new(store, counting, tmp_path, notes)


def test_a_deleted_note_may_come_back_elsewhere(notes: Path, store: TokenStore, counting: CountingBundle) -> None:
    write(notes, a="Alpha.", b="Beta.")
    run_index(store, counting, notes)
    (notes / "a.md").unlink()
    again(store, counting, notes)
    counting.encoded.clear()
    write(notes, sub__a="Alpha.")
    assert did(again(store, counting, notes)) == {"unchanged": 1, "restored": 1}
    assert (counting.encoded, store.counts().deleted) == ([], 0)


def test_another_note_in_the_place_of_a_deleted_one_replaces_it(
    notes: Path, tmp_path: Path, store: TokenStore, bundle: Bundle
) -> None:
    write(notes, a="Alpha.", b="Beta.")
    run_index(store, bundle, notes)
    (notes / "a.md").unlink()
    again(store, bundle, notes)
    write(notes, a="Something else.")
    assert did(again(store, bundle, notes)) == {"indexed": 1, "unchanged": 1}
    assert store.counts().deleted == 0
    same_as_new(store, bundle, tmp_path, notes)


def test_a_purged_note_is_encoded_when_it_comes_back(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a="Alpha.", b="Beta.")
    run_index(store, bundle, notes)
    (notes / "a.md").unlink()
    again(store, bundle, notes)
    store.purge()
    assert len(store.documents()) == 1
    write(notes, a="Alpha.")
    assert did(again(store, bundle, notes)) == {"indexed": 1, "unchanged": 1}


def test_what_happens_is_told(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a="Alpha.", b="Beta.", old__c="Gamma.")
    run_index(store, bundle, notes)
    (notes / "a.md").unlink()
    (notes / "old").rename(notes / "new")
    write(notes, b="Beta, edited.")
    (notes / "bad.md").write_bytes(b"\0")
    told: list[Change] = []
    index(store, bundle, [notes], tell=told.append)
    assert [(change.what, Path(change.path).name) for change in told] == [
        ("moved", "c.md"),
        ("removed", "a.md"),
        ("indexed", "b.md"),
        ("failed", "bad.md"),
    ]
    assert told[0].detail == f"from {notes}/old/c.md"


# ignored notes, links, clouds


def test_a_note_that_is_ignored_now_is_no_longer_answered_from(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a="Alpha.", **{f"drafts__{i}": f"Draft {i}." for i in range(9)})
    run_index(store, bundle, notes)
    (notes / ".btrignore").write_text("drafts/\n")
    assert did(again(store, bundle, notes)) == {"unchanged": 1, "removed": 9}  # the guard is for what vanished
    (notes / ".btrignore").unlink()
    assert did(again(store, bundle, notes)) == {"unchanged": 1, "restored": 9}


def test_a_source_inside_a_folder_that_ignores_it_keeps_its_notes(
    notes: Path, store: TokenStore, bundle: Bundle
) -> None:
    write(notes, a="Alpha.", **{".private__b": "Beta."})
    (notes / ".gitignore").write_text("a.md\n")
    write(notes, c="Gamma.")
    run_index(store, bundle, notes, notes / ".private", notes / "a.md")
    for roots in ([notes], [notes / ".private"], [notes, notes / "a.md"]):
        again(store, bundle, *roots)
        assert names(store) == ["b.md", "a.md", "c.md"]
    (notes / ".private" / "b.md").unlink()
    assert again(store, bundle, notes).removed == 1


def test_a_linked_note_is_one_note(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a="Alpha.")
    (notes / "b.md").symlink_to("a.md")
    run_index(store, bundle, notes)
    assert names(store) == ["a.md"]


def test_a_note_that_went_to_a_cloud_stays_as_it_was(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a="Alpha.", b="Beta.", c="Gamma.")
    run_index(store, bundle, notes)
    hole(notes / "a.md", size=7)
    (notes / "b.md").rename(notes / ".b.md.icloud")
    report = again(store, bundle, notes)
    assert (did(report), len(report.skipped), report.failed) == ({"unchanged": 1}, 2, [])
    assert len(store.match("alpha beta", 5)) == 2


# the guard


def many(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{i:02d}.md" for i in range(count)]
    folder.mkdir(exist_ok=True)
    for path in paths:
        path.write_text(f"Note {path.stem}.")
    return paths


@pytest.mark.parametrize(("count", "lost", "refused"), [(15, 5, False), (15, 6, True), (11, 4, False), (14, 5, True)])
def test_more_than_a_third_and_at_least_five_are_too_many(
    notes: Path, store: TokenStore, bundle: Bundle, count: int, lost: int, refused: bool
) -> None:
    assert GUARD_NOTES == 5
    paths = many(notes, count)
    run_index(store, bundle, notes)
    before = contents(store.path)
    for path in paths[:lost]:
        path.unlink()
    write(notes, new="New.")
    report = again(store, bundle, notes)
    if not refused:
        assert (report.removed, report.indexed, report.refused) == (lost, 1, [])
        return
    assert (did(report), contents(store.path)) == ({}, before)
    ((root, sentence),) = report.refused
    assert root == str(notes)
    assert sentence.startswith(
        f"{lost} of {count} notes of {notes} are gone, so it was left as it is: restore or mount"
    )
    assert f"run btr-assistant index --allow-deletions '{notes}'" in sentence
    allowed = again(store, bundle, notes, allow_deletions=True)
    assert did(allowed) == {"indexed": 1, "unchanged": count - lost, "removed": lost}


def test_a_disk_that_is_away_loses_nothing(notes: Path, tmp_path: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a="Alpha.")
    run_index(store, bundle, notes)
    before = contents(store.path)
    notes.rename(tmp_path / "away")
    for _ in range(2):  # not there, and an empty mount point
        report = again(store, bundle, notes)
        assert (did(report), contents(store.path)) == ({}, before)
        assert report.refused[0][1].startswith(f"1 of 1 notes of {notes} are gone, so it was left as it is")
        notes.mkdir(exist_ok=True)
    notes.rmdir()
    (tmp_path / "away").rename(notes)
    assert did(again(store, bundle, notes)) == {"unchanged": 1}


def test_a_source_that_lost_too_much_does_not_stop_the_others(
    notes: Path, tmp_path: Path, store: TokenStore, bundle: Bundle
) -> None:
    write(notes, a="Alpha.")
    other = tmp_path / "other"
    many(other, 6)
    run_index(store, bundle, notes, other)
    shutil.rmtree(other)
    write(notes, b="Beta.")
    report = again(store, bundle, notes, other)
    assert (did(report), [root for root, _ in report.refused]) == ({"indexed": 1, "unchanged": 1}, [str(other)])
    assert store.counts().notes == 8


def test_what_moved_is_not_lost(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    many(notes / "old", 20)
    run_index(store, bundle, notes)
    (notes / "old").rename(notes / "new")
    report = again(store, bundle, notes)
    assert (did(report), report.refused) == ({"moved": 20}, [])


def test_a_source_whose_notes_are_deleted_on_purpose_can_be_removed_or_left(
    notes: Path, store: TokenStore, bundle: Bundle
) -> None:
    write(notes, a="Alpha.")
    run_index(store, bundle, notes)
    shutil.rmtree(notes)
    assert did(again(store, bundle, notes, allow_deletions=True)) == {"removed": 1}
    ((_, sentence),) = again(store, bundle, notes, allow_deletions=True).refused
    assert sentence == f"{notes} does not exist: restore it, or run btr-assistant sources remove '{notes}'"


# what is odd


def test_a_note_that_cannot_be_read_is_no_ones_content(
    notes: Path, store: TokenStore, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(notes, a="Alpha.", b="Beta.")
    run_index(store, bundle, notes)
    before = contents(store.path)
    later(notes / "a.md")

    def refuse(path: Path) -> None:
        raise DocumentError("cannot be read")

    monkeypatch.setattr("app.documents._check_status", refuse)
    assert did(again(store, bundle, notes)) == {"unchanged": 1, "failed": 1}
    assert contents(store.path) == before


def test_a_store_of_schema_1_reads_every_note_once_more_and_encodes_none(
    notes: Path, tmp_path: Path, store: TokenStore, counting: CountingBundle
) -> None:
    """Its notes have no tags of their text yet, wherever they are by now."""
    write(notes, a="Alpha #one.", old__b="Beta #two.", c="Gamma.")
    run_index(store, counting, notes)
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE documents SET size = ?", (UNREAD,))
        connection.execute("DELETE FROM fields")
    counting.encoded.clear()
    (notes / "old").rename(notes / "new")
    assert did(again(store, counting, notes)) == {"unchanged": 2, "moved": 1}
    assert counting.encoded == []
    same_as_new(store, counting, tmp_path, notes)


def test_a_note_of_unknown_content_is_encoded_and_one_that_cannot_be_read_is_not_taken_for_it(
    notes: Path, store: TokenStore, bundle: Bundle
) -> None:
    """A migration that changes what is encoded forgets the hashes."""
    write(notes, a="Alpha.", b="Beta.")
    run_index(store, bundle, notes)
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE documents SET size = ?, content_hash = ''", (UNREAD,))
    (notes / "b.md").unlink()
    (notes / "b.md").symlink_to("nothing.md")
    (notes / "c.md").symlink_to("nowhere.md")
    assert did(again(store, bundle, notes)) == {"indexed": 1, "failed": 2}
    assert names(store) == ["a.md", "b.md"]


def test_a_run_that_is_told_to_stop_stops(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a="Alpha.", b="Beta.")

    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    with pytest.raises(StopError):
        index(store, bundle, [notes], check=stop)
    assert names(store) == []


def test_names_in_both_normal_forms_are_two_notes(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    for form in ("NFC", "NFD"):
        (notes / unicodedata.normalize(form, "é.md")).write_text(f"Text in {form}.")
    if len(list(notes.iterdir())) == 1:
        pytest.skip("one name on this file system")
    run_index(store, bundle, notes)
    assert did(again(store, bundle, notes)) == {"unchanged": 2}
    assert len(set(names(store))) == 2
