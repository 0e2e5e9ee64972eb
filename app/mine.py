"""
A person's own evaluation set: what was marked right or wrong in the chat, asked again as it was asked then.

What is expected of a question: the answer that was marked right, else the one that was given in place of a wrong one,
else only another answer than the wrong one. A wrong source is another place than that one, with the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app import SCHEMA_VERSION
from app.assistant import Answer, Assistant
from app.evaluation import RIGHT as RIGHT_F1
from app.evaluation import best, exact, f1
from app.scope import parse_scope
from app.sessions import answer_of
from store.scope import EVERYTHING
from store.sessions import RIGHT, WRONG_ANSWER, WRONG_SOURCE, Turn


@dataclass(frozen=True)
class Replayed:
    """A marked question, asked again."""

    turn: Turn
    expected: tuple[str, ...] | None
    """None of them: it is not in the notes; None: only the wrong answer is known."""
    answer: Answer
    right: bool | None
    """None: another answer than the wrong one, which may be right."""


def expected_of(turn: Turn) -> tuple[str, ...] | None:
    """The answers that are right for a marked turn: none of them if the notes do not hold one, None if not known."""
    if turn.verdict == WRONG_ANSWER:
        return None if turn.correction is None else tuple(filter(None, [turn.correction]))
    answer = turn.outcome["answer"]
    return (answer,) if answer is not None else ()


def rows(turns: Sequence[Turn]) -> Iterator[dict[str, Any]]:
    """The marked turns whose right answer is known, as `eval` and `calibrate` read questions."""
    for turn in turns:
        expected = expected_of(turn)
        if expected is not None:
            yield {"question": turn.read_as or turn.question, "answers": list(expected)}


def replay(
    assistant: Assistant, turns: Sequence[Turn], progress: Callable[[int, int], None] = lambda *_: None
) -> list[Replayed]:
    """
    Ask every marked turn again, in its scope.

    Raises:
        UsageError: If a turn has a scope that cannot be read.
    """
    found = []
    for done, turn in enumerate(turns, start=1):
        scope = parse_scope(turn.scope) if turn.scope else EVERYTHING
        answer = assistant.ask(turn.read_as or turn.question, scope=scope)
        found.append(Replayed(turn, expected_of(turn), answer, _right(turn, answer)))
        progress(done, len(turns))
    return found


def _right(turn: Turn, answer: Answer) -> bool | None:
    expected, then = expected_of(turn), answer_of(turn)
    if expected is None:
        return False if answer.answer == then.answer else None
    if not expected or answer.answer is None:
        return not expected and answer.answer is None
    same_place = [(s.path, s.start) for s in answer.sources] == [(s.path, s.start) for s in then.sources]
    return best(f1, answer.answer, expected) >= RIGHT_F1 and not (turn.verdict == WRONG_SOURCE and same_place)


def summary(found: Sequence[Replayed]) -> dict[str, Any]:
    """As `eval --mine --json` prints it."""
    known = [(row.answer.answer or "", row.expected) for row in found if row.expected]
    ms = [row.answer.timings_ms.total for row in found]
    return {
        "schema_version": SCHEMA_VERSION,
        "questions": len(found),
        "right": sum(row.right is True for row in found),
        "wrong": sum(row.right is False for row in found),
        "changed": sum(row.right is None for row in found),
        "lost": sum(row.right is False and row.turn.verdict == RIGHT for row in found),
        "mended": sum(row.right is True and row.turn.verdict != RIGHT for row in found),
        "em": _percent([best(exact, answer, expected) for answer, expected in known if expected]),
        "f1": _percent([best(f1, answer, expected) for answer, expected in known if expected]),
        "ms_per_question": {f"p{q}": round(float(np.percentile(ms, q)), 1) for q in (50, 95)},
        "rows": [
            {
                "question": row.turn.read_as or row.turn.question,
                "scope": row.turn.scope,
                "verdict": row.turn.verdict,
                "expected": None if row.expected is None else list(row.expected),
                "answer": row.answer.answer,
                "right": row.right,
            }
            for row in found
        ],
    }


def _percent(scores: Sequence[float]) -> float | None:
    return round(100 * float(np.mean(scores)), 2) if scores else None
