"""Filters: one language, applied before anything is ranked, with a sentence for what is no filter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from app.bundle import Bundle
from app.retriever import Retriever
from app.scope import parse_scope
from store.errors import UsageError
from store.records import NewDocument, NewPassage
from store.scope import Dates, Field, Folder, Not, Tag
from store.tokens import TokenStore
from tests.conftest import new_store, run_index


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("folder:work", [Folder("work")]),
        ('  folder:"My Notes/2025"   tag:#Idea ', [Folder("My Notes/2025"), Tag("#Idea")]),
        ("TAG:idea -tags:private", [Tag("idea"), Not(Tag("private"))]),
        ('author:"Jane Doe" book.title:Emma', [Field("author", "Jane Doe"), Field("book.title", "Emma")]),
        ("time:10:30 url:https://x.org/?a=b", [Field("time", "10:30"), Field("url", "https://x.org/?a=b")]),
        ("date:2025", [Dates("2025-01-01", "2026-01-01")]),
        ("date:2025-12", [Dates("2025-12-01", "2026-01-01")]),
        ("date:2024-2-29", [Dates("2024-02-29", "2024-03-01")]),
        ("date:2025-01..2025-03", [Dates("2025-01-01", "2025-04-01")]),
        ("date:..2025", [Dates(None, "2026-01-01")]),
        ("date:2025-06..", [Dates("2025-06-01", None)]),
    ],
)
def test_filters_are_read_as_they_are_written(text: str, conditions: list[object]) -> None:
    scope = parse_scope(text)
    assert list(scope.conditions) == conditions
    assert scope.text == text.strip()


def test_a_folder_by_its_full_path_is_one_folder(monkeypatch: pytest.MonkeyPatch, notes: Path) -> None:
    monkeypatch.chdir(notes)
    for text in (f'folder:"{notes}"', f'folder:"{notes}/"', "folder:.", "folder:./", 'folder:"../my notes"'):
        assert parse_scope(text).conditions == (Folder(str(notes), absolute=True),)
    assert parse_scope("folder:~/x").conditions == (Folder(os.path.expanduser("~/x"), absolute=True),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the filter is empty: write folder:work"),
        ("boiler", "boiler is no filter: write folder:work, tag:idea"),
        ("tag:a boiler pressure", "boiler is no filter"),
        ("tag: idea", "tag: is no filter"),
        (":idea", ":idea is no filter"),
        ('tag:""', 'tag:"" has no value'),
        ("tag:#", "tag:# has no value"),
        ('author:"Jane', 'author:"Jane is no filter: .* both quotes'),
        ('author:"Jane"Doe', "is no filter"),
        ("date:soon", "date:soon has no date that can be read: write date:2025"),
        ("date:2025-13", "no date that can be read"),
        ("date:2025-02-30", "no date that can be read"),
        ("date:2025...2026", "no date that can be read"),
        ("date:..", "date:.. has no date that can be read"),
        ("date:9999-12-31", "no date that can be read"),
    ],
)
def test_what_is_no_filter_is_one_sentence(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as error:
        parse_scope(text)
    assert "\n" not in str(error.value)


# over notes

FILES = {
    "Work/plan.md": "---\ntags: [Idea, work/travel]\nauthor: Jane Doe\ndate: 2025-02-11\n---\nThe plan.",
    "Work/2025 Q1/report.md": "---\nauthor: [Bob, 'JANE DOE']\ncreated: 2025-03-31\ndraft: true\n---\nReport. #idea",
    "work_log/a.md": "The log of work.",
    "100%/b.md": "A #travel note.",
    "100x/c.md": "Another note.",
    "cafe\u0301/d.md": "---\ndate: 2024\n---\nA menu.",
    "top.txt": "Author: Jane Doe. #idea",
}


@pytest.fixture
def shelf(notes: Path, tmp_path: Path, bundle: Bundle) -> Iterator[TokenStore]:
    """A few notes with folders, tags, fields and dates."""
    for name, text in FILES.items():
        path = notes / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        noon = datetime(2023, 7, 1, 12).timestamp()
        os.utime(path, (noon, noon))
    with new_store(tmp_path / "shelf.db", bundle) as store:
        run_index(store, bundle, notes)
        yield store


def names(store: TokenStore, text: str) -> list[str]:
    """The notes that a filter leaves, by the codes and by the count."""
    scope = parse_scope(text)
    rows = store.rows(scope)
    ids = store.code_index().ids[slice(None) if rows is None else rows].tolist()
    found = sorted({Path(passage.path).name for passage in store.passages(ids)})
    assert store.count_notes(scope) == len(found)
    return found


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("folder:work", ["plan.md", "report.md"]),
        ("folder:WORK/", ["plan.md", "report.md"]),
        ('folder:"work/2025 q1"', ["report.md"]),
        ('folder:"2025 Q1"', ["report.md"]),
        ("folder:wor", []),
        ("folder:work_log", ["a.md"]),
        ("folder:100%", ["b.md"]),
        ("folder:100_", []),
        ("folder:café", ["d.md"]),
        ('folder:"my notes"', ["a.md", "b.md", "c.md", "d.md", "plan.md", "report.md", "top.txt"]),
        ("-folder:work -folder:café", ["a.md", "b.md", "c.md", "top.txt"]),
        ("tag:idea", ["plan.md", "report.md"]),
        ("tag:work", ["plan.md"]),
        ("tag:work/travel", ["plan.md"]),
        ("tag:travel", ["b.md"]),
        ("tag:wor", []),
        ("tag:%", []),
        ('author:"jane doe"', ["plan.md", "report.md"]),
        ("author:jane", []),
        ("Draft:TRUE", ["report.md"]),
        ("nobody:knows", []),
        ('author:"\' OR 1=1 --"', []),
        ("date:2025", ["plan.md", "report.md"]),
        ("date:2025-01..2025-02", ["plan.md"]),
        ("date:2025-03-31", ["report.md"]),
        ("date:2025-03..", ["report.md"]),
        ("date:2024", ["d.md"]),
        ("date:2023-07-01", ["a.md", "b.md", "c.md", "top.txt"]),
        ("date:..2023", ["a.md", "b.md", "c.md", "top.txt"]),
        ("tag:idea date:2025-03 author:bob", ["report.md"]),
        ("tag:idea -author:bob", ["plan.md"]),
        ("-date:2025 folder:café", ["d.md"]),
    ],
)
def test_a_filter_leaves_its_notes(shelf: TokenStore, text: str, left: list[str]) -> None:
    assert names(shelf, text) == left


def test_a_folder_by_its_full_path_is_not_every_folder_of_that_name(shelf: TokenStore, notes: Path) -> None:
    assert names(shelf, f'folder:"{notes}/Work"') == ["plan.md", "report.md"]
    assert names(shelf, f'folder:"{notes}/100%/"') == ["b.md"]
    assert names(shelf, f'folder:"{notes}/wor"') == []


def test_the_words_are_filtered_too(shelf: TokenStore) -> None:
    assert len(shelf.match("note plan report log menu", 10)) == 6
    found = shelf.match("note plan report log menu", 10, parse_scope("folder:work"))
    assert sorted(Path(p.path).name for p in shelf.passages([i for i, _ in found])) == ["plan.md", "report.md"]


def test_a_small_folder_is_found_however_many_better_passages_stand_elsewhere(tmp_path: Path, bundle: Bundle) -> None:
    """A filter behind the top 200 of either ranking would leave nothing of it."""
    bytes_, rng = bundle.manifest.code_bits // 8, np.random.default_rng(0)
    code = rng.standard_normal(8 * bytes_).astype(np.float32)
    near, far = np.packbits(code > 0).tobytes(), np.packbits(code < 0).tobytes()

    def passage(text: str, packed: bytes) -> NewPassage:
        return NewPassage(0, len(text), 1, None, "A", text, 1, packed, b"\0", b"\0\0")

    with new_store(tmp_path / "store.db", bundle) as store:
        source = store.add_source("/notes")
        crowd = [passage("boiler boiler boiler", near) for _ in range(1500)]
        store.put_document(source, NewDocument("/notes/a.md", "h", 1, 1, "A", {}), crowd)
        words = NewDocument("/notes/small/words.md", "h", 1, 1, "A", {})
        store.put_document(source, words, [passage("one boiler among many other words", far)])
        meaning = NewDocument("/notes/small/meaning.md", "h", 1, 1, "A", {})
        store.put_document(source, meaning, [passage("the furnace", far)])
        retriever, scope = Retriever(store), parse_scope("folder:small")
        found = store.passages([hit.passage_id for hit in retriever.retrieve("boiler", code, 20, scope)])
        assert [passage.path for passage in found] == ["/notes/small/words.md", "/notes/small/meaning.md"]
        assert len(retriever.nearest(code, 20, scope)) == 2
        everywhere = store.passages([hit.passage_id for hit in retriever.retrieve("boiler", code, 20)])
        assert {passage.path for passage in everywhere} == {"/notes/a.md"}
