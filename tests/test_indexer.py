"""Indexing: only what changed, one transaction a note, nothing lost, the same bits whatever happens around a note."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.bundle import Bundle, EncodedPassage
from app.formats.base import Content
from app.indexer import Change, Progress, index, writer_lock
from store.errors import StoreError, UsageError
from store.tokens import TokenStore
from tests.conftest import SAMPLE_NOTES, contents, new_store, rows, run_index


class CountingBundle(Bundle):
    """The embedded bundle, counting what it encodes; the graphs are those of the bundle it is made from."""

    def __init__(self, bundle: Bundle, threads: int = 2) -> None:
        super().__init__(bundle.folder, bundle.manifest, bundle.device, threads)
        self._inner = bundle
        self.encoded: list[str] = []

    def encode_passage(self, heading: str, text: str) -> EncodedPassage:
        self.encoded.append(text)
        return self._inner.encode_passage(heading, text)


@pytest.fixture
def counting(bundle: Bundle) -> CountingBundle:
    return CountingBundle(bundle)


def write(folder: Path, **texts: str) -> None:
    """Small notes; with double underscores for folders."""
    for name, text in texts.items():
        path = folder / (name.replace("__", "/") + ".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def later(path: Path) -> None:
    """A file written again a second later, whatever the clock of the file system."""
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))


def names(store: TokenStore) -> list[str]:
    return [
        Path(path).name
        for (path,) in rows(store.path, "SELECT path FROM documents WHERE deleted_at IS NULL ORDER BY path")
    ]


TEXTS = (
    "SELECT p.text FROM passages p JOIN documents d ON d.id = p.document_id WHERE d.deleted_at IS NULL ORDER BY p.id"
)


def texts(store: TokenStore) -> list[str]:
    return [text for (text,) in rows(store.path, TEXTS)]


def test_a_first_run_encodes_every_note(notes: Path, store: TokenStore, counting: CountingBundle) -> None:
    write(notes, a="Alpha.", sub__b="Beta.")
    report = run_index(store, counting, notes)
    assert (report.notes, report.indexed, report.unchanged, report.removed, report.failed) == (2, 2, 0, 0, [])
    assert report.tokens == store.counts().tokens > 0
    assert sorted(counting.encoded) == ["Alpha.", "Beta."]
    assert [source.root for source in store.sources()] == [str(notes)]


def test_an_unchanged_second_run_encodes_nothing_and_opens_nothing(
    notes: Path, store: TokenStore, counting: CountingBundle
) -> None:
    write(notes, a="Alpha.", b="Beta.")
    run_index(store, counting, notes)
    before = contents(store.path)
    stat = (notes / "a.md").stat()
    write(notes, a="Omega.")
    os.utime(notes / "a.md", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # only who opens the file could tell
    report = run_index(store, counting, notes)
    assert (report.indexed, report.unchanged, report.tokens, len(counting.encoded)) == (0, 2, 0, 2)
    assert contents(store.path) == before


def test_an_edit_encodes_only_that_note(notes: Path, store: TokenStore, counting: CountingBundle) -> None:
    write(notes, a="Alpha.", b="Beta.", c="Gamma.")
    run_index(store, counting, notes)
    counting.encoded.clear()
    write(notes, b="Beta, edited.")
    report = run_index(store, counting, notes)
    assert counting.encoded == ["Beta, edited."]
    assert (report.indexed, report.unchanged) == (1, 2)
    assert sorted(texts(store)) == ["Alpha.", "Beta, edited.", "Gamma."]
    assert store.match("edited", 5)
    assert len(store.match("beta", 5)) == 1


def test_an_edit_of_the_same_size_is_noticed_by_its_time(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a="Alpha.")
    run_index(store, bundle, notes)
    write(notes, a="Omega.")
    later(notes / "a.md")
    assert run_index(store, bundle, notes).indexed == 1
    assert texts(store) == ["Omega."]


def test_a_touch_encodes_nothing_and_is_remembered(notes: Path, store: TokenStore, counting: CountingBundle) -> None:
    write(notes, a="Alpha.")
    run_index(store, counting, notes)
    later(notes / "a.md")
    report = run_index(store, counting, notes)
    assert (report.indexed, report.unchanged, len(counting.encoded)) == (0, 1, 1)
    assert rows(store.path, "SELECT mtime_ns FROM documents") == [((notes / "a.md").stat().st_mtime_ns,)]


def test_a_deleted_note_is_removed_everywhere(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a="Alpha.", b="Beta.")
    run_index(store, bundle, notes)
    (notes / "a.md").unlink()
    assert run_index(store, bundle, notes).removed == 1
    assert (names(store), texts(store), store.match("alpha", 5)) == (["b.md"], ["Beta."], [])
    counts = store.counts()
    assert (counts.notes, counts.passages, counts.deleted) == (1, 1, 1)


def test_a_renamed_note_moves(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a="Alpha.", b="Beta.")
    run_index(store, bundle, notes)
    (notes / "a.md").rename(notes / "A.md")
    run_index(store, bundle, notes)
    assert names(store) == ["A.md", "b.md"]


def test_an_emptied_folder_is_refused_and_keeps_what_was_stored(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a="Alpha.")
    run_index(store, bundle, notes)
    (notes / "a.md").unlink()
    with pytest.raises(UsageError, match=r"holds no notes that can be read: .*nothing was changed"):
        run_index(store, bundle, notes)
    assert names(store) == ["a.md"]


def test_one_empty_folder_among_several_stops_before_anything_is_written(
    notes: Path, tmp_path: Path, store: TokenStore, bundle: Bundle
) -> None:
    write(notes, a="Alpha.")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty holds no"):
        run_index(store, bundle, notes, tmp_path / "empty")
    assert (names(store), store.sources()) == ([], [])


def test_an_empty_note_is_a_note_without_passages(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a="", b="---\n***\n")
    report = run_index(store, bundle, notes)
    assert (report.indexed, store.counts().notes, store.counts().passages) == (2, 2, 0)
    assert run_index(store, bundle, notes).unchanged == 2


def test_an_unreadable_file_is_reported_and_its_earlier_content_stays(
    notes: Path, store: TokenStore, bundle: Bundle
) -> None:
    write(notes, a="Alpha.", b="Beta.")
    run_index(store, bundle, notes)
    (notes / "a.md").unlink()
    (notes / "a.md").symlink_to("nothing.md")
    report = run_index(store, bundle, notes)
    assert report.failed == [(str(notes / "a.md"), "is gone, or a link that leads nowhere: restore or remove it")]
    assert report.failed == store.failures()
    assert sorted(texts(store)) == ["Alpha.", "Beta."]
    (notes / "a.md").unlink()
    write(notes, a="Alpha again.")
    assert run_index(store, bundle, notes).failed == store.failures() == []
    assert sorted(texts(store)) == ["Alpha again.", "Beta."]


def test_a_note_that_goes_while_the_run_is_at_work_is_no_failure(
    notes: Path, store: TokenStore, bundle: Bundle
) -> None:
    """Editors and synchronisation make files and take them away within a moment."""
    write(notes, a="Alpha.", b="Beta.", z="Zeta.")
    run_index(store, bundle, notes)
    write(notes, a="Alpha, edited.", b="Beta, edited.", c="Gamma.")
    (notes / "z.md").unlink()
    (notes / "broken.md").symlink_to("nowhere")

    def tell(change: Change) -> None:
        if change.what == "removed":  # which comes after the files were found and before they are read
            (notes / "b.md").unlink()
            (notes / "c.md").unlink()

    report = index(store, bundle, [notes], tell=tell)
    assert [Path(path).name for path, _ in report.failed] == ["broken.md"]
    assert (report.indexed, report.removed, report.notes) == (1, 1, 2)
    assert names(store) == ["a.md", "b.md"]
    assert run_index(store, bundle, notes).removed == 1


def test_a_file_that_turned_binary_keeps_its_text_until_it_is_removed(
    notes: Path, store: TokenStore, bundle: Bundle
) -> None:
    write(notes, a="Alpha.", b="Beta.")
    run_index(store, bundle, notes)
    (notes / "a.md").write_bytes(b"\0\1\2")
    assert len(run_index(store, bundle, notes).failed) == 1
    assert sorted(texts(store)) == ["Alpha.", "Beta."]
    (notes / "a.md").unlink()
    assert run_index(store, bundle, notes).removed == 1
    assert (texts(store), store.failures()) == (["Beta."], [])


def test_notes_of_a_folder_that_cannot_be_listed_stay(
    notes: Path, store: TokenStore, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(notes, a="Alpha.", locked__deep__b="Beta.")
    run_index(store, bundle, notes)
    scandir = os.scandir

    def refuse(path: str) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = run_index(store, bundle, notes)
    assert [path for path, _ in report.failed] == [str(notes / "locked")]
    assert (report.removed, sorted(texts(store))) == (0, ["Alpha.", "Beta."])
    monkeypatch.undo()
    assert run_index(store, bundle, notes).failed == store.failures() == []


def test_a_name_that_is_no_utf8_is_reported_among_the_others(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a="Alpha.")
    try:
        Path(os.fsdecode(os.fsencode(notes) + b"/caf\xe9.md")).write_text("text")
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    report = run_index(store, bundle, notes)
    assert report.failed == [(f"{notes}/caf\ufffd.md", "has a name that is not UTF-8: rename it")]
    assert (names(store), store.failures()) == (["a.md"], report.failed)


def test_front_matter_that_json_cannot_hold_does_not_stop_a_run(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(
        notes,
        circle="---\na: &a [*a]\n---\nAlpha.",
        keys="---\nlog:\n  2024-01-01: x\n  b: y\n---\nBeta.",
        half='---\ntitle: "\\ud800"\n---\nGamma.',
        key=f"---\nmodulus: 0x{'f' * 4000}\n---\nDelta.",
    )
    report = run_index(store, bundle, notes)
    assert (report.indexed, report.failed) == (4, [])
    assert [Path(path).name for path, _ in report.warnings] == ["circle.md", "half.md", "key.md"]


def test_a_parser_that_fails_costs_its_file_and_no_other(
    notes: Path, store: TokenStore, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library met what its authors did not think of: in reading, and where a moved note's title is compared."""

    def fail(data: bytes) -> Content:
        raise ZeroDivisionError("what a note said")

    write(notes, a="Alpha.", z="Zeta.")
    (notes / "m.org").write_text("Mu.")
    run_index(store, bundle, notes)
    (notes / "n.org").write_text("Nu.")
    (notes / "m.org").rename(notes / "moved.org")
    write(notes, z="Zeta, edited.")
    monkeypatch.setattr("app.formats.org.read", fail)
    report = run_index(store, bundle, notes)
    why = "cannot be parsed (ZeroDivisionError), which is a bug of ours: report it, or save the file in another form"
    assert report.failed == store.failures() == [(str(notes / name), why) for name in ("moved.org", "n.org")]
    assert (report.indexed, sorted(texts(store))) == (1, ["Alpha.", "Zeta, edited."])
    monkeypatch.undo()
    assert (run_index(store, bundle, notes).indexed, store.failures()) == (2, [])


@pytest.mark.parametrize("error", [MemoryError, ImportError, KeyboardInterrupt])
def test_what_is_not_the_files_fault_ends_a_run(
    notes: Path, store: TokenStore, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(data: bytes) -> Content:
        raise error

    (notes / "a.org").write_text("Alpha.")
    monkeypatch.setattr("app.formats.org.read", fail)
    with pytest.raises(error):
        run_index(store, bundle, notes)
    assert store.failures() == []


def test_names_that_are_not_easy_come_back_as_they_are(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    odd = ["# 1.md", "100%_done.md", "a b.md", "cafe\u0301.md", "café.md", 'it\'s "x".md', "new\nline.md", "🐝.md"]
    for name in odd:
        (notes / name).write_text("text")
    run_index(store, bundle, notes)
    assert sorted(names(store)) == sorted(odd)
    assert run_index(store, bundle, notes).unchanged == len(odd)


def test_a_folder_inside_an_indexed_folder_is_not_encoded_again(
    notes: Path, store: TokenStore, counting: CountingBundle
) -> None:
    write(notes, a="Alpha.", sub__b="Beta.")
    run_index(store, counting, notes)
    for roots in ([notes / "sub"], [notes], [notes, notes / "sub"]):
        assert run_index(store, counting, *roots).indexed == 0
    assert len(counting.encoded) == 2
    write(notes, sub__b="Beta, edited.")
    run_index(store, counting, notes / "sub")
    assert sorted(texts(store)) == ["Alpha.", "Beta, edited."]


@pytest.mark.parametrize("order", [("sub", "."), (".", "sub")])
@pytest.mark.parametrize("last", ["sub", "."])
def test_a_note_deleted_from_overlapping_folders_leaves_no_ghost(
    notes: Path, store: TokenStore, bundle: Bundle, order: tuple[str, str], last: str
) -> None:
    write(notes, a="Alpha.", sub__b="Beta.", sub__c="Gamma.")
    for name in order:
        run_index(store, bundle, notes / name)
    (notes / "sub" / "b.md").unlink()
    assert run_index(store, bundle, notes / last).removed == 1
    assert sorted(texts(store)) == ["Alpha.", "Gamma."]


def test_a_folder_whose_name_begins_alike_is_left_alone(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, sub__a="Alpha.", sub2__b="Beta.")
    run_index(store, bundle, notes / "sub", notes / "sub2")
    assert run_index(store, bundle, notes / "sub").removed == 0
    assert len(texts(store)) == 2


def test_progress_counts_every_note_to_the_end(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a="Alpha.", b="Beta.")
    (notes / "c.md").symlink_to("nothing.md")
    seen: list[Progress] = []
    ticks = iter(range(100))
    index(store, bundle, [notes], seen.append, clock=lambda: float(next(ticks)))
    assert [(p.done, p.total, Path(p.path).name) for p in seen] == [(1, 3, "a.md"), (2, 3, "b.md"), (3, 3, "c.md")]
    assert (seen[1].seconds, seen[1].notes_per_second, seen[1].seconds_left) == (2.0, 1.0, 1.0)


def test_an_interruption_keeps_what_was_done_and_a_second_run_finishes_it(
    notes: Path, tmp_path: Path, bundle: Bundle
) -> None:
    write(notes, **{f"note{i}": f"Note number {i}." for i in range(6)})

    def stop_after_two(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    counting = CountingBundle(bundle)
    with new_store(tmp_path / "interrupted.db", bundle) as store:
        with pytest.raises(KeyboardInterrupt):
            index(store, counting, [notes], stop_after_two)
        assert names(store) == ["note0.md", "note1.md"]
        report = run_index(store, counting, notes)
        assert (report.indexed, report.unchanged) == (4, 2)
    with new_store(tmp_path / "undisturbed.db", bundle) as store:
        run_index(store, bundle, notes)
    assert contents(tmp_path / "interrupted.db") == contents(tmp_path / "undisturbed.db")


def test_an_interruption_does_not_wait_for_the_notes_that_were_next(
    notes: Path, store: TokenStore, bundle: Bundle
) -> None:
    write(notes, a="Alpha.", **{f"long{i}": "A sentence of several words. " * 300 for i in range(4)})

    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    counting = CountingBundle(bundle, threads=1)
    with pytest.raises(KeyboardInterrupt):
        index(store, counting, [notes], stop)
    assert len(counting.encoded) < 40
    assert names(store) == ["a.md"]


def test_a_failing_encoder_ends_the_run_and_keeps_what_was_done(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    class Failing(CountingBundle):
        def encode_passage(self, heading: str, text: str) -> EncodedPassage:
            if text == "Beta.":
                raise MemoryError
            return super().encode_passage(heading, text)

    write(notes, a="Alpha.", b="Beta.", c="Gamma.")
    with pytest.raises(MemoryError):
        run_index(store, Failing(bundle), notes)
    assert names(store) == ["a.md"]


def test_bits_do_not_depend_on_threads_or_neighbours(tmp_path: Path, bundle: Bundle) -> None:
    folder = tmp_path / "notes"
    shutil.copytree(SAMPLE_NOTES, folder)
    with new_store(tmp_path / "many.db", bundle) as store:
        run_index(store, CountingBundle(bundle, threads=4), folder)
    with new_store(tmp_path / "one.db", bundle) as store:
        for path in sorted(folder.rglob("*.*"), reverse=True):
            run_index(store, CountingBundle(bundle, threads=1), path)
    assert contents(tmp_path / "many.db") == contents(tmp_path / "one.db")


def test_a_reader_sees_whole_notes_while_a_run_writes(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a="Alpha.", b="Beta.")
    seen: list[int] = []

    def look(_: Progress) -> None:
        with TokenStore.open(store.path, bundle.manifest.fingerprint) as reader:
            seen.append(reader.counts().notes)

    index(store, bundle, [notes], look)
    assert seen == [1, 2]


def test_a_second_writer_is_told_to_wait(tmp_path: Path) -> None:
    with (
        writer_lock(tmp_path / "state" / "a.lock"),
        pytest.raises(StoreError, match="another index run is writing to this store: wait for it to finish"),
        writer_lock(tmp_path / "state" / "a.lock"),
    ):
        pass
    with writer_lock(tmp_path / "state" / "a.lock"):
        pass


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    code = (
        "import os, sys; from pathlib import Path; from app.indexer import writer_lock\n"
        "with writer_lock(Path(sys.argv[1])): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == 9
    with writer_lock(path):
        pass


def test_a_lock_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "a.lock").mkdir()
    for path in (tmp_path / "file" / "a.lock", tmp_path / "a.lock"):
        with pytest.raises(StoreError, match=r"cannot write .*: set BTR_ASSISTANT_HOME"), writer_lock(path):
            pass
