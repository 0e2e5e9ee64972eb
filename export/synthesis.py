"""
Questions made from text: what an article's first sentence says its subject is, when it was born, where it lies.

Question sets ask of a subject what a paragraph says about it; a person asks notes what a thing is. Encyclopedias say
that in one form, "X (...) is a ...", which a few patterns find:

    A politician (from Classical Greek ...) is a person active in party politics, or ...
    what is a politician?    a person active in party politics

Each question has a hard negative. Where the article goes on, it is a later paragraph that speaks of the subject without
saying what it is, as most notes do; else the text of another article, whose subject is not the one asked for.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.data import read_texts

LONGEST = 110
"""Words of a context."""
SAYS_SOMETHING = 20
"""Words of a paragraph that is worth reading."""
SHORT, LONG = 14, 18
"""Words of a clause that answers as a whole, and of an answer."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"])")
_SAID = re.compile(r"(?P<aside>\s*\([^)]*\))?,?(?: [^.()]{0,40},)? (?P<verb>is|are|was|were|means) ")
_DATE = r"(?:[A-Z][a-z]+\s\d{1,2},\s\d{4}|\d{1,2}\s[A-Z][a-z]+\s\d{4}|\d{4})"
_BORN = re.compile(rf"\bborn\s(?:[^()\d]*?\s)?({_DATE})")
_LIVED = re.compile(rf"({_DATE})[^()–—-]{{0,40}}[–—-]\s?[^()\d–—-]{{0,20}}?({_DATE})")
_STOP = re.compile(r"[,;:](?=\s)|[(\[]|(?<!\b[A-Z])[.!?](?=\s|$)")
_DETAIL = re.compile(
    r"(?:\s(?:in|of|to|for|by|at|from|on|with))?"
    r"\s(?:that|which|who|whose|where|when|while|because|but|located|and (?:is|was|has|the))\b"
)
_PLACE = re.compile(
    r"(?:an?|the) (?:[\w-]+ ){0,4}?(?:city|town|village|municipality|commune|county|district|river|lake|mountain|island"
    r"|country|university|school|museum|airport|stadium|church|castle|bridge|park|region|neighbou?rhood)\b"
    r"(?:[^.;,]|,(?=\d))*? (?:in|near|on) ((?:the )?[A-Z][^.;(]*)"
)
_WHAT = ("what {verb} {subject}?", "what {verb} {subject}", "define {subject}", "{subject} definition")
_MEANS = ("what does {name} mean?", "what is meant by {name}?")
_WANTED = {"who": 0.2, "where": 0.4}
"""Share of the articles on people and on places that are asked of: an encyclopedia has too many of them."""


@dataclass(frozen=True)
class Made:
    """A question with the place of its answer in a context."""

    title: str
    context: str
    question: str
    start: int
    end: int


def questions_of(title: str, text: str, chance: random.Random) -> Iterator[Made]:
    """Questions that the first sentences of an article answer."""
    name = _name(title)
    context = _context(text)
    subject = re.match(rf"(?:(?P<article>The|An?) )?{re.escape(name)}\b", context, re.IGNORECASE)
    if not name or not subject:
        return
    found = _SAID.match(context, subject.end())
    if not found:
        return
    asked = f"{subject['article'].lower()} {name}" if subject["article"] else name
    if subject["article"] in ("A", "An") or found["verb"] == "are":
        asked = asked.lower() if name[1:].islower() else asked
    aside, verb, at = found["aside"] or "", found["verb"], found.end()
    born, lived = _BORN.search(aside), _LIVED.search(aside)
    place = _PLACE.match(context, at)
    kind = "who" if born or lived else "where" if place else "what"
    if chance.random() >= _WANTED.get(kind, 1.0):
        return
    what = _definition(context, at, whole=kind == "what")
    if what:
        ask = ("who {verb} {subject}?",) if kind == "who" else _WHAT + (_MEANS if asked == asked.lower() else ())
        question = chance.choice(_MEANS if verb == "means" else ask).format(verb=verb, subject=asked, name=name)
        yield Made(title, context, question, at, at + len(what))
    offset = found.start("aside")
    if born:
        yield Made(title, context, f"when was {asked} born?", offset + born.start(1), offset + born.end(1))
    elif lived:
        question, group = chance.choice([(f"when was {asked} born?", 1), (f"when did {asked} die?", 2)])
        yield Made(title, context, question, offset + lived.start(group), offset + lived.end(group))
    if place and len(place[1].split()) <= 8:
        yield Made(title, context, f"where {'are' if verb in ('are', 'were') else 'is'} {asked}?", *place.span(1))


def mention(title: str, text: str) -> str:
    """The first sentences of a later paragraph that speaks of an article's subject without saying what it is, or ""."""
    name = re.escape(_name(title))
    if not name:
        return ""
    for paragraph in text.split("\n")[1:]:
        said = _context(paragraph)
        speaks = len(said.split()) >= SAYS_SOMETHING and re.search(rf"\b{name}\b", said, re.IGNORECASE)
        if speaks and not re.search(rf"\b{name}{_SAID.pattern}", said, re.IGNORECASE):
            return said
    return ""


def _name(title: str) -> str:
    """A title without what tells it from its likes."""
    return re.sub(r"\s*\(.*\)$", "", title).strip()


def _context(text: str) -> str:
    """The first sentences of a text's first paragraph."""
    words, kept = 0, []
    for sentence in _SENTENCE.split(text.partition("\n")[0]):
        words += len(sentence.split())
        if kept and words > LONGEST:
            break
        kept.append(sentence)
    return " ".join(kept)


def _definition(context: str, at: int, whole: bool) -> str:
    """What stands behind "X is": the `whole` clause if it is short, else up to where it is told in more detail."""
    if not re.match(r"(?:an?|the|one of|any|some|when|something|someone)\b", context[at:]):
        return ""
    end = _STOP.search(context, at)
    what = context[at : end.start()].rstrip() if end else ""
    if not whole or len(what.split()) > SHORT:
        what = _DETAIL.split(what)[0]
    return what if 3 <= len(what.split()) <= LONG else ""


def rows(files: Sequence[Path], count: int, seed: int) -> list[dict[str, Any]]:
    """About `count` rows of questions, of articles drawn by `seed`, each with its hard negatives."""
    chance = random.Random(seed)
    articles = list(read_texts(files))
    chance.shuffle(articles)
    made: list[tuple[list[Made], str]] = []
    while articles and count > 0:
        title, text = articles.pop()
        found = list(questions_of(title, text, chance))
        if found:
            made.append((found, mention(title, text)))
            count -= len(found)
    found_rows = []
    for (group, mentioned), ((other, *_), _) in zip(made, made[1:] + made[:1], strict=True):
        for one in group:
            answer = {"text": one.context[one.start : one.end], "answer_start": one.start}
            negatives = [{"title": one.title, "text": mentioned}] if mentioned else []
            negatives += [{"title": other.title, "text": other.context}] if other.title != one.title else []
            found_rows.append(
                {"title": one.title, "context": one.context, "question": one.question, "answers": [answer]}
                | {"hard_negatives": negatives}
            )
    return found_rows


def write_questions(files: Sequence[Path], out: Path, count: int, seed: int) -> int:
    """Write them as JSONL; how many there are."""
    found = rows(files, count, seed)
    with out.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    return len(found)
