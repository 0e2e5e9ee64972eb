"""
Which notes a question may be answered from: conditions on documents, as SQL with `?` parameters.

All conditions of a scope hold together. The SQL speaks of a document `d`; it is applied before anything is ranked.
Values are folded here (`store.fields`), so that who builds a condition need not know how it is stored.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from store.fields import TAG, fold

Sql = tuple[str, tuple[str | int, ...]]
"""A condition, and its parameters in order."""


@dataclass(frozen=True)
class Folder:
    """In a folder of this name or path, at any depth of a source; an absolute path is one folder alone."""

    path: str
    absolute: bool = False

    def sql(self) -> Sql:
        if self.absolute:
            inside = self.path.rstrip(os.sep) + os.sep
            return "substr(d.path, 1, ?) = ?", (len(inside), inside)
        return "instr(d.folder, ?) > 0", (f"/{fold(self.path).strip('/')}/",)


@dataclass(frozen=True)
class Tag:
    """Tagged with this, or with a tag below it: `work` holds `work/travel`."""

    name: str

    def sql(self) -> Sql:
        name = fold(self.name).strip("#/ ")
        condition = "d.id IN (SELECT document_id FROM fields WHERE name = ? AND (value = ? OR substr(value, 1, ?) = ?))"
        return condition, (TAG, name, len(name) + 1, name + "/")


@dataclass(frozen=True)
class Field:
    """With this front matter value, or a list that holds it."""

    name: str
    value: str

    def sql(self) -> Sql:
        condition = "d.id IN (SELECT document_id FROM fields WHERE name = ? AND value = ?)"
        return condition, (fold(self.name), fold(self.value))


@dataclass(frozen=True)
class Dates:
    """Of these days: from the first on, before the last; YYYY-MM-DD, None where it is open."""

    first: str | None
    before: str | None

    def sql(self) -> Sql:
        day = "COALESCE(d.date, date(d.mtime_ns / 1000000000, 'unixepoch', 'localtime'))"
        bounds = [(f"{day} >= ?", self.first), (f"{day} < ?", self.before)]
        given = [(condition, bound) for condition, bound in bounds if bound is not None]
        return " AND ".join(condition for condition, _ in given), tuple(bound for _, bound in given)


@dataclass(frozen=True)
class Not:
    """All but these."""

    condition: Folder | Tag | Field | Dates

    def sql(self) -> Sql:
        condition, parameters = self.condition.sql()
        return f"NOT ({condition})", parameters


@dataclass(frozen=True)
class Scope:
    """Notes for which every condition holds."""

    conditions: tuple[Folder | Tag | Field | Dates | Not, ...] = ()
    text: str = ""
    """As a person writes it."""

    def __bool__(self) -> bool:
        return bool(self.conditions)

    def sql(self) -> Sql:
        """Of the notes that are there, those of this scope."""
        parts = [("d.deleted_at IS NULL", ()), *(condition.sql() for condition in self.conditions)]
        return " AND ".join(f"({sql})" for sql, _ in parts), tuple(value for _, values in parts for value in values)


EVERYTHING = Scope()
