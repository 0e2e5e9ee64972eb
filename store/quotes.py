"""
What a saved answer holds of which note, so that it moves with the note, and goes with it.

An outcome is an `Answer` as JSON has it: its `sources`, `candidates` and `places` each name a note by its `path`. The
answer itself is of its sources; what else stands there was thought of, or is the closest where nothing was answered.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

_PLACED = ("sources", "candidates", "places")


def paths_in(outcome: Mapping[str, Any]) -> set[str]:
    """The paths of all notes that an outcome holds something of."""
    return {item["path"] for name in _PLACED for item in outcome.get(name, ())}


def moved(outcome: Mapping[str, Any], paths: Mapping[str, str]) -> dict[str, Any]:
    """An outcome after notes moved from a path to another; they may have changed places."""
    return dict(outcome) | {
        name: [item | {"path": paths.get(item["path"], item["path"])} for item in outcome[name]]
        for name in _PLACED
        if name in outcome
    }


def without(
    outcome: Mapping[str, Any], correction: str | None, gone: Collection[str]
) -> tuple[dict[str, Any], str | None] | None:
    """
    An outcome and its correction without what is of some notes; None where the answer itself is.

    A correction that says what is taken away goes with it.
    """
    if outcome.get("answer") is not None and any(source["path"] in gone for source in outcome.get("sources", ())):
        return None
    kept, taken = dict(outcome), []
    for name in _PLACED:
        if name in outcome:
            kept[name] = [item for item in outcome[name] if item["path"] not in gone]
            taken += [item for item in outcome[name] if item["path"] in gone]
    said = [item.get("quote", item.get("answer", "")) for item in taken]
    answers = [item["answer"] for item in taken if "answer" in item]
    if correction and (
        any(_stands_in(correction, text) for text in said) or any(_stands_in(a, correction) for a in answers)
    ):
        correction = None
    return kept, correction


def strings(value: Any) -> Iterator[str]:
    """Every text in what JSON can hold."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def _stands_in(part: str, text: str) -> bool:
    """Whether a text has another in it, in whole words."""
    return re.search(rf"(?<!\w){re.escape(part.casefold())}(?!\w)", text.casefold()) is not None
