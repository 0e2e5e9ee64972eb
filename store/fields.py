"""
What a note can be filtered by, in the one form in which it is stored and asked for.

- Text is compared folded: NFC, case folded, without the spaces around it.
- A folder is "/notes/work/2025/": the folders above a note from its source's own folder down, folded.
- Front matter `tags` and `tag` are tags, without "#": the items of a list, or the words of a text.
- Every other front matter value is a field: of a list each item, of a mapping each `outer.inner`.
- The date is the first of `date` and `created` that can be read as one, also between the brackets of Org's times and
  of Obsidian's links, and of a list the first; without any, a note has its file's time.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Any

TAG = "tag"
TAG_FIELDS = ("tags", TAG)
DATE_FIELDS = ("date", "created")
LONGEST = 200
"""Characters of a value that can be asked for; longer ones are prose."""
_DATE = re.compile(r"(\d{4})(?:[-/.](\d{1,2})(?:[-/.](\d{1,2}))?)?(?!\d)")
_DIGITS = re.compile(r"(\d{4})(\d{2})(\d{2})(?!\d)")


def fold(text: str) -> str:
    """Text in the form in which it is compared."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).strip()


def folder_of(root: str, path: str) -> str:
    """The folders of a file below the folder that holds its source's own folder, folded, with slashes around each."""
    root, path = root.replace("\\", "/").rstrip("/"), path.replace("\\", "/")
    above = root.rpartition("/")[0]
    start = above.rpartition("/")[0] if root == path else above
    return fold(path[len(start) :].rpartition("/")[0] + "/")


def fields_of(metadata: Mapping[str, Any], tags: Iterable[str] = ()) -> list[tuple[str, str]]:
    """(name, value) of every tag and field of a note, folded, each once, from its front matter and its other tags."""
    found: set[tuple[str, str]] = {(TAG, _tag(tag)) for tag in tags}
    for name, value in metadata.items():
        if fold(str(name)) in TAG_FIELDS:
            found.update((TAG, _tag(tag)) for tag in _tags(value))
        else:
            found.update(_values(fold(str(name)), value))
    return sorted((name, value) for name, value in found if name and value and len(value) <= LONGEST)


def date_of(metadata: Mapping[str, Any]) -> str | None:
    """The day that a note's front matter gives it, as YYYY-MM-DD; the first of its month or year if it says no more."""
    folded = {fold(str(name)): value for name, value in metadata.items()}
    for name in DATE_FIELDS:
        value = folded.get(name)
        while isinstance(value, list):  # YAML's reading of a link without quotes
            value = value[0] if value else None
        text = "" if isinstance(value, bool) else str(value).strip().lstrip("<[ \t")
        match = _DIGITS.match(text) or _DATE.match(text)
        if match:
            try:
                return date(int(match[1]), int(match[2] or 1), int(match[3] or 1)).isoformat()
            except ValueError:
                continue
    return None


def _tag(tag: str) -> str:
    return fold(tag).strip("#/ ")


def _tags(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from re.split(r"[,\s]+", value)
    elif isinstance(value, list):
        yield from (str(item) for item in value if item is not None)
    elif value is not None and not isinstance(value, dict):
        yield str(value)


def _values(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from _values(f"{name}.{fold(str(inner))}", item)
    elif isinstance(value, list):
        for item in value:
            yield from _values(name, item)
    elif isinstance(value, bool):
        yield name, str(value).lower()
    elif value is not None:
        yield name, fold(str(value))
