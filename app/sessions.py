"""
Sessions as a person has them: answers into turns and back, and sessions as Markdown and JSON.

A saved answer is the whole `Answer`, so that a resumed card shows what the first one did; what the note is now is
looked up when its source is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from app import SCHEMA_VERSION
from app.assistant import Answer, Candidate, Source, Timings
from app.display import many, plain
from store.sessions import NewTurn, Session, Turn


def turn_of(question: str, read_as: str | None, scope: str, answer: Answer, now: float) -> NewTurn:
    """A question and its answer, to be saved."""
    paths = [source.path for source in (*answer.sources, *answer.places)]
    paths.extend(candidate.path for candidate in answer.candidates)
    return NewTurn(now, question, read_as, scope, asdict(answer), dict.fromkeys(paths))


def answer_of(turn: Turn) -> Answer:
    """The answer that a turn keeps."""
    kept = turn.outcome
    return Answer(
        question=kept["question"],
        answer=kept["answer"],
        confidence=kept["confidence"],
        abstained=kept["abstained"],
        sources=[_source(source) for source in kept["sources"]],
        candidates=[Candidate(**candidate) for candidate in kept["candidates"]],
        timings_ms=Timings(**kept["timings_ms"]),
        places=[_source(source) for source in kept["places"]],
    )


def _source(kept: Mapping[str, Any]) -> Source:
    return Source(**{**kept, "marked": tuple(kept["marked"])})


def to_json(session: Session, turns: Sequence[Turn]) -> dict[str, Any]:
    """A session as `sessions export --json` and `sessions show --json` print it."""
    rows = []
    for turn in turns:
        answer = answer_of(turn).to_json()
        del answer["schema_version"]
        rows.append(
            {
                "asked_at": _moment(turn.asked_at),
                "question": turn.question,
                "read_as": turn.read_as,
                "scope": turn.scope,
                "verdict": turn.verdict,
                "correction": turn.correction,
                "outcome": answer,
            }
        )
    return {"schema_version": SCHEMA_VERSION, **summary(session), "turns": rows}


def summary(session: Session) -> dict[str, Any]:
    """A session in a list of them, as JSON."""
    return {
        "id": session.id,
        "name": session.name,
        "questions": session.turns,
        "created_at": _moment(session.created_at),
        "last_at": _moment(session.last_at),
    }


def to_markdown(session: Session, turns: Sequence[Turn]) -> str:
    """A session as a note of its own: a heading a question, the answer, its quote and place."""
    parts = [f"# {plain(session.name)}", f"{_day(session.created_at)}, {many(session.turns, 'question')}"]
    for turn in turns:
        answer = answer_of(turn)
        parts.append(f"## {plain(turn.question)}")
        if turn.read_as:
            parts.append(f"Read as: {plain(turn.read_as)}")
        if turn.scope:
            parts.append(f"In: {plain(turn.scope)}")
        parts.append(f"**{plain(answer.answer)}**" if answer.answer is not None else "Not in your notes.")
        for source in answer.sources:
            parts.append(f"> {plain(source.quote)}")
            parts.append(f"`{plain(place_of(source))}` {plain(source.heading)}".rstrip())
        if turn.verdict:
            correction = f": {plain(turn.correction)}" if turn.correction else ""
            parts.append(f"Marked: {turn.verdict}{correction}")
    return "\n\n".join(parts) + "\n"


def place_of(source: Source) -> str:
    """`path:line`, or the path with its page; the whole path, so that it can be used elsewhere."""
    return f"{source.path}, page {source.page}" if source.page is not None else f"{source.path}:{source.line}"


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
