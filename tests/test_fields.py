"""What a note can be filtered by: folded once, here, for what is stored and for what is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from store.fields import LONGEST, date_of, fields_of, fold, folder_of


@pytest.mark.parametrize(
    ("one", "other"), [("CAFE\u0301", "café"), ("Straße", "STRASSE"), ("  Work ", "work"), ("İstanbul", "i̇stanbul")]
)
def test_text_that_reads_alike_is_folded_alike(one: str, other: str) -> None:
    assert fold(one) == fold(other)
    assert fold(fold(one)) == fold(one)


@pytest.mark.parametrize(
    ("root", "path", "folder"),
    [
        ("/home/me/Notes", "/home/me/Notes/a.md", "/notes/"),
        ("/home/me/Notes", "/home/me/Notes/Work/2025 Q1/a.md", "/notes/work/2025 q1/"),
        ("/home/me/notes/a.md", "/home/me/notes/a.md", "/notes/"),
        ("/", "/a.md", "/"),
        ("/", "/b/a.md", "/b/"),
        ("/notes", "/notes/100%_#/a.md", "/notes/100%_#/"),
        ("C:\\Notes", "C:\\Notes\\Work\\a.md", "/notes/work/"),
    ],
)
def test_a_folder_is_named_from_its_source_down(root: str, path: str, folder: str) -> None:
    assert folder_of(root, path) == folder


@pytest.mark.parametrize(
    ("metadata", "fields"),
    [
        ({"tags": ["Idea", "#Work/Travel", 7, None]}, [("tag", "7"), ("tag", "idea"), ("tag", "work/travel")]),
        ({"Tags": "one, two #three"}, [("tag", "one"), ("tag", "three"), ("tag", "two")]),
        ({"tag": "one", "tags": None}, [("tag", "one")]),
        ({"author": "Jane", "rating": 4.5, "draft": True}, [("author", "jane"), ("draft", "true"), ("rating", "4.5")]),
        ({"author": ["Jane", ["Bob"]], "none": None}, [("author", "bob"), ("author", "jane")]),
        ({"book": {"Title": "Emma", "by": {"name": "Jane"}}}, [("book.by.name", "jane"), ("book.title", "emma")]),
        ({"abstract": "x" * (LONGEST + 1), "": "x", "empty": " "}, []),
    ],
)
def test_front_matter_becomes_tags_and_fields(metadata: dict[str, Any], fields: list[tuple[str, str]]) -> None:
    assert fields_of(metadata) == fields


def test_a_tag_in_front_matter_and_in_the_text_is_one() -> None:
    assert fields_of({"tags": ["Idea"]}, ["idea", "later"]) == [("tag", "idea"), ("tag", "later")]


@pytest.mark.parametrize(
    ("metadata", "day"),
    [
        ({"date": "2025-02-11"}, "2025-02-11"),
        ({"Date": "2025-02-11 10:00:00+00:00", "created": "2020-01-01"}, "2025-02-11"),
        ({"created": "2025/2/1"}, "2025-02-01"),
        ({"date": "soon", "created": "2025-02"}, "2025-02-01"),
        ({"date": 2025}, "2025-01-01"),
        ({"date": 20250211}, "2025-02-11"),
        ({"date": "2025-02-30"}, None),
        ({"date": True}, None),
        ({"date": None}, None),
        ({"date": "11.2.2025"}, None),
        ({"modified": "2025-02-11"}, None),
        ({"date": "<2025-02-11 Tue>"}, "2025-02-11"),
        ({"date": "[2025-02-11 Tue 10:00]--[2025-02-12 Wed]"}, "2025-02-11"),
        ({"created": "[[2025-02-11]]"}, "2025-02-11"),
        ({"created": "[[ 2025-02-11|yesterday]]"}, "2025-02-11"),
        ({"created": [["2025-02-11"]]}, "2025-02-11"),
        ({"date": [], "created": ["2025-02-11", "soon"]}, "2025-02-11"),
        ({"date": {"2025-02-11": "x"}}, None),
        ({"date": "<soon>"}, None),
        ({"date": [["soon", "2025-02-11"]], "created": [True]}, None),
    ],
)
def test_the_first_usable_date_counts(metadata: dict[str, Any], day: str | None) -> None:
    assert date_of(metadata) == day
