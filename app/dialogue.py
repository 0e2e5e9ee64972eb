"""
Follow-up questions: which ones lean on the question before, and what is read in their place.

    How much did it rain in 2022?   and in 2023?              -> How much did it rain in 2023?
    When was the boiler serviced?   and the next one?         -> When is the next one? boiler serviced
    Who repaired the fence?         how much did he charge?   -> how much did he charge? repaired fence

Decided by words alone, in English. A piece of a question takes the place of its like in the one before (a year for a
year, a name for a name). A question that points back gets the content words of the one before, never the whole of it:
a reader that sees two questions answers the first. A question is taken as it is when in doubt, and what is read in its
place is for a person to see.
"""

from __future__ import annotations

import re

_WH = frozenset("who whom whose what when where which why how".split())
_AUXILIARY = frozenset(
    "am is are was were be been do does did has have had can could will would shall should may might must "
    "isn't aren't wasn't weren't don't doesn't didn't hasn't haven't hadn't can't couldn't won't wouldn't".split()
)
_PREPOSITIONS = frozenset(
    "about after at before between by during for from in into near of on over since to under until with without".split()
)
_DETERMINERS = frozenset("a an the my our your".split())
_PERSONAL = frozenset("he him his she her hers they them their theirs it its itself himself herself".split())
_POINTING = frozenset("that this these those".split())
_OTHER = frozenset(
    "i we you me us and but or so then also plus not no yes exactly much many long often old far else ever there here "
    "one ones same other another if as than too very just again up out off".split()
)
_FUNCTION = _WH | _AUXILIARY | _PREPOSITIONS | _DETERMINERS | _PERSONAL | _POINTING | _OTHER
_WORD = re.compile(r"\w+(?:['’.&-]\w+)*")
_LEAD = re.compile(r"\s*(?:(?:and|but|or|so|then|also|plus)\b[\s,]*)?(?:(?:what|how)\s+about\b\s*)?", re.IGNORECASE)
_THE_ONE = re.compile(r"the (?:one|ones)\s+(?=\w)", re.IGNORECASE)
_ONE = re.compile(
    r"\b(?:that|this|which|the (?:other|same|first|second|third|last|next|previous)) ones?\b", re.IGNORECASE
)
_PRESENT = {"was": "is", "were": "are", "did": "does"}
_PAST = re.compile(rf"\b(?:{'|'.join(_PRESENT)})\b", re.IGNORECASE)
_EXISTS = re.compile(
    r"\b(?:is|are|was|were|be|been|will|would|can|has|have|had) there\b|\bthere (?:is|are|was)\b", re.IGNORECASE
)
_YEAR = re.compile(r"\b(?:1[5-9]|20)\d\d\b")
_MONTH = re.compile(
    r"\b(?:January|February|March|April|May|June|July|August|September|October|November|December)\b"
    r"(?: (?:1[5-9]|20)\d\d)?"
)
_NAME = re.compile(r"\b[A-Z][\w'’&-]*(?: (?:& )?[A-Z][\w'’&-]*)*")
_END = rf"(?=\s+(?:{'|'.join(sorted(_PREPOSITIONS))})\b|\s*[?.!,]|\s*$)"
_NOUN_PHRASE = re.compile(rf"\b(?:{'|'.join(sorted(_DETERMINERS))})\s+\w[^?.!,]*?{_END}", re.IGNORECASE)
_LONGEST_PIECE = 6
_LONGEST_BARE = 4
"""Words of "why?", "by whom?", "on which port?"."""
_MOST_TOPIC_WORDS = 12


def follow_up(question: str, earlier: str | None) -> str | None:
    """What is to be read for a question that leans on an earlier one; None where it stands by itself."""
    if not earlier:
        return None
    lead = _LEAD.match(question)
    rest = question[lead.end() :] if lead else question
    led = rest != question.lstrip()
    rest = _THE_ONE.sub("", rest, count=1)
    words = [word if word == "May" else word.casefold() for word in _WORD.findall(rest)]
    if not words:
        return _with_topic(question, earlier) if led else None
    if _is_piece(words, led):
        read = _exchanged(rest.strip(" ?!."), earlier)
        one = _ONE.search(rest)
        if one and " next " in one.group().casefold():  # it is still to come
            read = _PAST.sub(lambda past: _PRESENT[past.group().casefold()], read, count=1)
        return _with_topic(read, earlier) if one else read  # "the next one" says nothing of what it is
    thin = len(_content(words)) <= 1
    bare = thin and len(words) <= _LONGEST_BARE and not _WH.isdisjoint(words) and _AUXILIARY.isdisjoint(words)
    if bare or (led and thin) or _points_back(rest):
        return _with_topic(question, earlier)
    return None


def _is_piece(words: list[str], led: bool) -> bool:
    """A few words without a verb that a question begins with: "and in 2023", "for Berlin"."""
    if len(words) > _LONGEST_PIECE or not (_WH | _AUXILIARY).isdisjoint(words) or not _PERSONAL.isdisjoint(words):
        return False
    dated = len(words) == 1 and _YEAR.fullmatch(words[0]) is not None
    return (led or dated or words[0] in _PREPOSITIONS) and bool(_content(words))


def _points_back(text: str) -> bool:
    """Whether a pronoun, "there" or "that one" has nothing before it in the same question that it could mean."""
    if _ONE.search(text):
        return True
    text = _EXISTS.sub(" ", text)
    found = list(_WORD.finditer(text))
    content = 0
    for at, match in enumerate(found):
        word = match.group().casefold()
        before = found[at - 1].group().casefold() if at else ""
        if word in _POINTING:
            last = at == len(found) - 1
            if last or (before in _AUXILIARY | _PREPOSITIONS and found[at + 1].group().casefold() not in _DETERMINERS):
                return True
        elif word in _PERSONAL or (word == "there" and at):
            return True
        elif word in _DETERMINERS or (at and match.group()[0].isupper() and word not in _FUNCTION):
            return False  # whatever comes after may mean this
        elif word not in _FUNCTION:
            content += 1
            if content > 1:
                return False
    return False


def _exchanged(piece: str, earlier: str) -> str:
    """The earlier question with a piece of it replaced by its like, or added to it."""
    question = earlier.strip().rstrip("?!. ")
    first, _, value = piece.partition(" ")
    preposition = first if first.casefold() in _PREPOSITIONS and value else ""
    value = value if preposition else piece
    for like in (_MONTH, _YEAR, _NAME, _NOUN_PHRASE):
        if like.match(value) is None:
            continue
        places = [match for match in like.finditer(question) if match.start() or like is not _NAME]
        if like is _MONTH and not places:
            places = list(_YEAR.finditer(question))
        if preposition:
            after = re.compile(rf"\b{re.escape(preposition)}\s+$", re.IGNORECASE)
            places = [match for match in places if after.search(question[: match.start()])] or (
                places if like in (_MONTH, _YEAR) else []
            )
        if places:
            place = places[-1]
            return f"{question[: place.start()]}{value}{question[place.end() :]}?"
    return f"{question} {piece}?"


def _with_topic(question: str, earlier: str) -> str:
    """A question with the content words of the earlier one that it lacks."""
    own = {word.casefold() for word in _WORD.findall(question)}
    topic = [word for word in _content(_WORD.findall(earlier)) if word.casefold() not in own]
    return " ".join([question.strip(), *dict.fromkeys(topic[-_MOST_TOPIC_WORDS:])])


def _content(words: list[str]) -> list[str]:
    return [word for word in words if word.casefold() not in _FUNCTION]
