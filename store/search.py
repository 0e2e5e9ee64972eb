"""
Ranking by words: BM25 over the FTS5 index, at a bounded cost.

Scoring a passage costs SQLite a microsecond and a common word stands in every tenth of them, so that a question over a
million passages would take a second. Where a question's words stand in more than `SCORED` passages

- words that stand in more than one in `COMMON` say next to nothing and are left out, if there are others;
- of what is left, the rarest words, as many as stand in `SCORED` passages together, choose what is scored; all words
  count for its score. Only where these are too few do others choose the rest, those left out too: else a passage with
  common words alone is not found by them, which is what passage codes are for;
- of a question whose rarest word stands in more than `SCORED`, that word's newest are scored.

Measured on 990 questions over the 353,611 passages of Simple Wikipedia, with a fiftieth of them scored at most: an
answer stands among the first 20 passages 49.3 % of the time and among the first 200 60.8 %, where all are scored 49.2
and 60.7 %. Up to `SCORED` nothing is left out.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SCORED = 20_000
COMMON = 8
MOST_WORDS = 64

_WORD = re.compile(r"\w+")
STOPWORDS = frozenset(
    "a an and are as at be been but by can could did do does for from had has have how i if in into is it its me my of "
    "on or our should so than that the their them then there these they this to us was we were what when where which "
    "who whom whose why will with would you your".split()
)
_SCORE = "bm25(passages_fts, 2.0, 1.0)"
"""Headings count double."""


def query_words(text: str) -> list[str]:
    """Any text -> its different words, quoted for FTS5; those that carry nothing only if there is nothing else."""
    words = list(dict.fromkeys(word.lower() for word in _WORD.findall(text)))
    content = [word for word in words if word not in STOPWORDS] or words
    return [f'"{word}"' for word in content[:MOST_WORDS]]


def fts_query(text: str) -> str:
    """Any text -> an FTS5 query for any of its words that cannot be a syntax error."""
    return any_of(query_words(text))


def any_of(words: Sequence[str]) -> str:
    """The FTS5 query for passages with any of some quoted words."""
    return " OR ".join(words)


def _best_first(item: tuple[int, float]) -> tuple[float, int]:
    return -item[1], item[0]


@dataclass(frozen=True)
class Chosen:
    """The passages that may be found."""

    count: int
    first: int
    """Smallest id."""
    last: int
    """Largest id."""
    holds: Callable[[int], int] | None
    """Whether an id from the first to the last one is among them; None: all are."""


class Search:
    """Ranks by words over one connection, of so many passages in all those that are chosen."""

    def __init__(self, connection: sqlite3.Connection, passages: int, chosen: Chosen) -> None:
        self._connection, self._passages, self._chosen, self._filter = connection, passages, chosen, ""
        self._scored = SCORED * passages // max(chosen.count, 1)
        """Passages with a word, chosen or not, of which about `SCORED` are chosen."""
        if chosen.holds is not None:
            connection.create_function("is_chosen", 1, chosen.holds)
            self._filter = " AND is_chosen(rowid)"

    def best(self, words: Sequence[str], limit: int) -> list[tuple[int, float]]:
        """(passage id, score) of the best passages for some quoted words; large is near."""
        if not words:
            return []
        if self._passages <= self._scored:
            return self._score(any_of(words), limit)
        most = max(self._scored, self._passages // COMMON) + 1
        counts = {word: self._count(word, most) for word in words}
        if sum(counts.values()) <= self._scored:
            return self._score(any_of(words), limit)
        said = sorted((word for word in words if counts[word]), key=counts.__getitem__)
        telling = [word for word in said if counts[word] * COMMON <= self._passages]
        found = self._bounded(telling, counts, limit) if telling else []
        return self._filled(found, said[len(telling) :], counts, limit)

    def _bounded(self, words: Sequence[str], counts: dict[str, int], limit: int) -> list[tuple[int, float]]:
        """The best passages for words, rarest first, of those that the rarest ones choose."""
        rare, common = self._divide(words, counts)
        if counts[rare[0]] > self._scored:
            return self._divided(rare, common, limit, self._newest(rare[0]))
        return self._filled(self._divided(rare, common, limit, 0), common, counts, limit)

    def _divided(self, rare: Sequence[str], common: Sequence[str], limit: int, first: int) -> list[tuple[int, float]]:
        """The best passages from an id on with any of the rare words; the common ones count too."""
        if not common:
            return self._score(any_of(rare), limit, first)
        found = self._score(f"({any_of(rare)}) AND ({any_of(common)})", limit, first)
        found += self._score(f"({any_of(rare)}) NOT ({any_of(common)})", limit, first)
        return sorted(found, key=_best_first)[:limit]

    def _filled(
        self, found: list[tuple[int, float]], words: Sequence[str], counts: dict[str, int], limit: int
    ) -> list[tuple[int, float]]:
        """What was found and, where that is less than was asked for, what other words find."""
        if len(found) >= limit or not words:
            return found
        known = {passage_id for passage_id, _ in found}
        others = [item for item in self._bounded(words, counts, limit) if item[0] not in known]
        return sorted([*found, *others], key=_best_first)[:limit]

    def _divide(self, words: Sequence[str], counts: dict[str, int]) -> tuple[Sequence[str], Sequence[str]]:
        """Words, rarest first -> those that choose, one at least, and the others."""
        total, rare = counts[words[0]], 1
        while rare < len(words) and total + counts[words[rare]] <= self._scored:
            total += counts[words[rare]]
            rare += 1
        return words[:rare], words[rare:]

    def _count(self, word: str, most: int) -> int:
        """How many passages have a word, `most` of them at most."""
        sql = "SELECT COUNT(*) FROM (SELECT 1 FROM passages_fts WHERE passages_fts MATCH ? LIMIT ?)"
        return int(self._connection.execute(sql, (word, most)).fetchone()[0])

    def _newest(self, word: str) -> int:
        """The id with which as many of a word's newest passages begin as are scored."""
        sql = "SELECT rowid FROM passages_fts WHERE passages_fts MATCH ? ORDER BY rowid DESC LIMIT 1 OFFSET ?"
        return int(self._connection.execute(sql, (word, self._scored - 1)).fetchone()[0])

    def _score(self, query: str, limit: int, first: int = 0) -> list[tuple[int, float]]:
        sql = (
            f"SELECT rowid, -{_SCORE} FROM passages_fts WHERE passages_fts MATCH ? AND rowid BETWEEN ? AND ?"
            f"{self._filter} ORDER BY {_SCORE}, rowid LIMIT ?"
        )
        parameters = (query, max(first, self._chosen.first), self._chosen.last, limit)
        return [(int(row[0]), float(row[1])) for row in self._connection.execute(sql, parameters)]
