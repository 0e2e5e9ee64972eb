"""
The language of filters, the same on the command line and in the chat.

    folder:work tag:idea author:"Jane Doe" date:2025-01..2025-03 -tag:private

Terms stand between spaces and must all hold; a minus turns one round; quotes keep spaces together. `folder` is a
folder's name or a part of its path at any depth, or one folder by its full path (`/`, `~/`, `./`). `tag` holds the tags
below it. `date` is a day, a month or a year, or two of them with `..` between, the last included; either may be left
out. Any other name is a field of the front matter, and must be equal to it, or to an item of its list. Upper and lower
case are the same.
"""

from __future__ import annotations

import os
import re
from datetime import date, timedelta
from pathlib import Path

from app.formats.base import encodable
from store.errors import UsageError
from store.scope import Dates, Field, Folder, Not, Scope, Tag

EXAMPLE = 'folder:work, tag:idea, author:"Jane Doe" or date:2025-01..2025-03'
MOST_FILTERS = 100
"""SQLite refuses an expression of a thousand."""
_TERM = re.compile(r'(-?)([^\s:"]+):("[^"]*"|[^\s"]+)(?=\s|$)')
_DAY = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2}))?)?")


def parse_scope(text: str) -> Scope:
    """
    Filters as a person writes them -> the scope that they describe.

    Raises:
        UsageError: If there is none, there are too many, or one of them is not of the form name:value.
    """
    text = encodable(text).strip()
    if not text:
        raise UsageError(f"the filter is empty: write {EXAMPLE}")
    conditions: list[Folder | Tag | Field | Dates | Not] = []
    position = 0
    while position < len(text):
        match = _TERM.match(text, position)
        if match is None:
            rest = text[position:]
            wrong = rest if '"' in rest.split()[0] else rest.split()[0]
            raise UsageError(f"{wrong} is no filter: write {EXAMPLE}, with both quotes around what has spaces")
        condition = _condition(match[2], match[3].strip('"').strip(), match[0])
        conditions.append(Not(condition) if match[1] else condition)
        position = match.end() + len(text[match.end() :]) - len(text[match.end() :].lstrip())
        if len(conditions) > MOST_FILTERS:
            raise UsageError(f"there are more than {MOST_FILTERS} filters: leave some out")
    return Scope(tuple(conditions), text)


def _condition(name: str, value: str, term: str) -> Folder | Tag | Field | Dates:
    if not value.strip("#/ ") and value != "/":
        raise UsageError(f"{term} has no value: write {EXAMPLE}")
    match name.casefold():
        case "folder":
            if Path(value).is_absolute() or value.startswith(("~", "./", "../")) or value in (".", ".."):
                return Folder(os.path.abspath(os.path.expanduser(value)), absolute=True)
            return Folder(value.replace("\\", "/"))
        case "tag" | "tags":
            return Tag(value)
        case "date":
            return _dates(value, term)
    return Field(name, value)


def _dates(value: str, term: str) -> Dates:
    first, dots, last = value.partition("..")
    if not dots or not (first or last):
        return Dates(*_days(value, term))
    return Dates(_days(first, term)[0] if first else None, _days(last, term)[1] if last else None)


def _days(text: str, term: str) -> tuple[str, str]:
    """The first day of a day, month or year, and the first one after it."""
    match = _DAY.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        year, month, day = int(match[1]), int(match[2] or 1), int(match[3] or 1)
        first = date(year, month, day)
        if match[3]:
            after = first + timedelta(days=1)
        elif match[2]:
            after = date(year + month // 12, month % 12 + 1, 1)
        else:
            after = date(year + 1, 1, 1)
    except (ValueError, OverflowError):
        example = "date:2025, date:2025-01-31 or date:2025-01..2025-03"
        raise UsageError(f"{term} has no date that can be read: write {example}") from None
    return first.isoformat(), after.isoformat()
