"""Org: headlines, tags and keywords; drawers, comments and addresses out."""

from __future__ import annotations

import pytest

from app.formats.org import read
from store.fields import date_of
from tests.test_formats import check_places, paths, rows

TEXT = """#+TITLE: The house
#+FILETAGS: :home:
# a comment
* TODO [#A] Service the [[id:1][boiler]] :heating:urgent:
SCHEDULED: <2024-03-14>
:PROPERTIES:
:ID: 1
:END:
Call [[https://example.com][Hansen & Son]] or see [[file:log.org]].
** Valve
#+BEGIN_SRC sh
[[ -f x ]] # not a comment
#+END_SRC
#+BEGIN_COMMENT
hidden
#+END_COMMENT
:a line of its own:
* Garden
pears
"""


def test_an_org_file_is_its_words_at_their_lines() -> None:
    content = read(TEXT.encode())
    check_places(content, TEXT)
    assert rows(content) == [
        (4, "* TODO [#A] Service the boiler"),
        (5, "SCHEDULED: <2024-03-14>"),
        (9, "Call Hansen & Son or see file:log.org."),
        (10, "** Valve"),
        (12, "[[ -f x ]] # not a comment"),
        (17, ":a line of its own:"),
        (18, "* Garden"),
        (19, "pears"),
    ]
    assert paths(content) == [["Service the boiler"], ["Service the boiler", "Valve"], ["Garden"]]
    assert content.title == "The house"
    assert content.metadata == {"title": "The house", "tags": ["home", "heating", "urgent"]}


@pytest.mark.parametrize("stamp", ["<2024-03-14 Thu>", "[2024-03-14 Thu 10:00]", "2024-03-14"])
def test_a_date_in_org_s_own_form_is_the_notes_date(stamp: str) -> None:
    assert date_of(read(f"#+DATE: {stamp}\ntext\n".encode()).metadata) == "2024-03-14"


def test_a_drawer_that_does_not_end_before_the_next_headline_is_text() -> None:
    assert read(b":DRAWER:\nwords\n* Next\n:END:\n").text == ":DRAWER:\nwords\n* Next\n:END:\n"
