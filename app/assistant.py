"""
The engine behind every front end: a store and a bundle, opened once; questions in, answers with sources out.

    with Assistant.open() as assistant:
        print(assistant.ask("when was the boiler serviced?").answer)

It is also the Python interface (docs/python.md): what is public here keeps its names and meaning.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app import SCHEMA_VERSION
from app.bundle import Bundle
from app.calibration import SETTING, in_force
from app.documents import hash_of
from app.formats.base import Anchor, SourceMap, encodable
from app.places import Places, resolve
from app.reader import Span, ignore, never, open_reader
from app.retriever import Retriever, to_read
from app.scope import parse_scope
from app.tree import in_a_cloud
from store.codec import Bits
from store.errors import FormatError, UsageError
from store.records import StoredPassage
from store.scope import EVERYTHING, Scope
from store.tokens import TokenStore

PASSAGES_READ = 20
CANDIDATES = 5
"""Different answers that are told of, the given one included."""
MAX_QUESTION_CHARACTERS = 10_000
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\w\"'(\[`*])|\n\s*\n|\n(?=\s*(?:[-*+#>|]|\d+[.)])\s?)")
_MAX_QUOTE = 400
_HEADING_LINES = re.compile(r"(?:#{1,6}[ \t][^\n]*\n\s*)+")


@dataclass(frozen=True)
class Source:
    """Where an answer stands."""

    path: str
    line: int
    """1-based line of the answer's first character."""
    page: int | None
    """1-based page of the answer, in a format that has pages."""
    heading: str
    quote: str
    """The sentence around the answer, as a person reads it in the file."""
    marked: tuple[int, int]
    """Characters of the quote that are the answer; not part of the JSON."""
    start: int
    """Character offset of the answer in the file's text (the extracted text of a PDF, a page, a message); of the quote,
    where nothing was answered."""
    end: int
    stale: bool
    """The file is gone or has changed since it was indexed."""
    modified: float | None = None
    """When the file was last written before it was indexed, seconds since 1970; not part of the JSON."""


@dataclass(frozen=True)
class Candidate:
    """An answer that was considered."""

    answer: str
    confidence: float
    path: str
    line: int


@dataclass(frozen=True)
class Timings:
    """Milliseconds per stage."""

    retrieve: float
    """Encoding the question, both rankings, fusion."""
    load: float
    """Passages and bits from the store."""
    read: float
    """The graphs over all passages, the second look included."""
    total: float


@dataclass(frozen=True)
class Answer:
    """The outcome of one question."""

    question: str
    answer: str | None
    """None: not in your notes."""
    confidence: float
    """Of the best answer against all others and none, 0..1, whether or not it was given."""
    abstained: bool
    sources: list[Source]
    """Of the answer; the closest passages where there is none."""
    candidates: list[Candidate]
    """Best first, the answer's own included."""
    timings_ms: Timings
    places: Sequence[Source] = ()
    """Where each candidate stands, in their order; not part of the JSON."""

    def to_json(self) -> dict[str, Any]:
        """As `ask --json` prints it."""
        answer = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        del answer["places"]
        for source in answer["sources"]:
            del source["marked"], source["modified"]
        return answer


@dataclass(frozen=True)
class SearchResult:
    """A passage found by `search`."""

    path: str
    line: int
    page: int | None
    heading: str
    text: str
    score: float


@dataclass(frozen=True)
class NotePassage:
    """A part of a note, as it was when it was indexed."""

    line: int
    """1-based line of its first character."""
    page: int | None
    heading: str
    """Heading path, ' > ' between levels."""
    text: str


@dataclass(frozen=True)
class Note:
    """What the store holds of one note."""

    path: str
    stale: bool
    """The file is gone or has changed since it was indexed."""
    passages: list[NotePassage]
    """In the order of the text."""


class Assistant:
    """An open store with its reader. One question at a time; calls from several threads wait for each other."""

    def __init__(self, store: TokenStore, bundle: Bundle) -> None:
        self.store, self.bundle = store, bundle
        self._retriever = Retriever(store)
        self._calibration = in_force(store.setting(SETTING), bundle.manifest)
        self._reader = open_reader(bundle, calibration=self._calibration)
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        where: Places | Path | str | None = None,
        *,
        bundle: Path | str | None = None,
        device: str | None = None,
    ) -> Assistant:
        """
        Open a store and the bundle that it was made with; close it, or use it as a context manager.

        `where` is the file of a store. Without it, and without a bundle or device, those of environment, configuration
        file and defaults are taken, as the command line does.

        Raises:
            StoreError: If there is no usable store.
            ModelError: If the bundle cannot be used.
            UsageError: If the device is not present.
        """
        if isinstance(where, Places):
            places = where
        else:
            places = resolve(*(None if given is None else str(given) for given in (where, bundle, device)))
        opened = Bundle.open(places.bundle, places.device)
        store = TokenStore.open(places.store, opened.manifest.fingerprint)
        return cls(store, opened)

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def __enter__(self) -> Assistant:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def ask(
        self,
        question: str,
        passages: int = PASSAGES_READ,
        cancelled: Callable[[], bool] = never,
        scope: Scope | str = EVERYTHING,
        told: Callable[[str], None] = ignore,
    ) -> Answer:
        """
        Answer a question from the notes of a scope, or abstain; `told` gets the answer so far of a reader that writes.

        `passages` are read, 1 to 100. `scope` may be text, as after `--in`: "folder:work -tag:private".

        Raises:
            UsageError: If the question is empty or longer than 10,000 characters, or the scope is no filter.
            Cancelled: If `cancelled` became true meanwhile.
        """
        question, scope = check_question(question), _scope(scope)
        with self._lock:
            began = time.perf_counter()
            encoded = self.bundle.encode_question(question)
            with self.store.snapshot():
                hits = self._retriever.retrieve(question, encoded.code, passages, scope)
                retrieved = time.perf_counter()
                found = self.store.passages([hit.passage_id for hit in hits])
                bits = self.store.token_bits([passage.id for passage in found])
            self._check_bits(found, bits)
            inputs = to_read(hits, found, bits)
            loaded = time.perf_counter()
            try:
                spans = self._reader.read(encoded, inputs, cancelled, told)
            except FormatError as error:
                raise self.store.damaged(str(error)) from error
            read = time.perf_counter()
        stale: dict[str, bool] = {}
        candidates, places = self._candidates(found, spans, stale)
        answered = bool(candidates) and candidates[0].confidence >= self._calibration.threshold
        sources = places[:1] if answered else [_closest(passage, stale) for passage in found[:3]]
        ms = [1000 * t for t in (retrieved - began, loaded - retrieved, read - loaded, time.perf_counter() - began)]
        return Answer(
            question=question,
            answer=candidates[0].answer if answered else None,
            confidence=candidates[0].confidence if candidates else 0.0,
            abstained=not answered,
            sources=sources,
            candidates=candidates,
            timings_ms=Timings(*(round(t, 1) for t in ms)),
            places=places,
        )

    def _check_bits(
        self, found: Sequence[StoredPassage], bits: Mapping[int, tuple[Bits, npt.NDArray[np.float16]]]
    ) -> None:
        """
        Refuse what the graphs cannot read.

        Raises:
            StoreError: If a passage has no bits, or too few or too many.
        """
        for passage in found:
            if passage.id not in bits or 8 * bits[passage.id][0].shape[1] != self.bundle.manifest.bits:
                raise self.store.damaged(f"passage {passage.id} of {passage.path} has lost its bits")

    def warm(self) -> None:
        """Load the graphs and the code matrix, so that the first question does not wait for them."""
        self.ask("ready?", passages=1)

    def size(self) -> tuple[int, int]:
        """How many notes and passages the store holds now, told at once."""
        with self._lock:
            return self.store.size()

    def count_notes(self, scope: Scope | str = EVERYTHING) -> int:
        """How many notes a scope holds now."""
        with self._lock:
            return self.store.count_notes(_scope(scope))

    def note(self, path: str | Path, scope: Scope | str = EVERYTHING) -> Note:
        """
        What the store holds of a note, by its full path; the file itself is only looked at to see whether it changed.

        Raises:
            UsageError: If the scope has no note of this path.
        """
        with self._lock, self.store.snapshot():
            found = self.store.note(encodable(str(path)), _scope(scope))
        if found is None:
            raise UsageError(f"{path} is no note that can be read here: give a path that search or ask printed")
        passages = [NotePassage(p.line, p.page, p.heading, p.text) for p in found]
        return Note(str(path), bool(found) and is_stale(found[0]), passages)

    def search(self, query: str, limit: int = 10, scope: Scope | str = EVERYTHING) -> list[SearchResult]:
        """
        The best passages of a scope for a query, without reading them.

        Raises:
            UsageError: If the query is empty or longer than 10,000 characters, or the scope is no filter.
        """
        query, scope = check_question(query), _scope(scope)
        code = self.bundle.encode_question(query).code
        with self._lock, self.store.snapshot():
            hits = self._retriever.retrieve(query, code, limit, scope)
            scores = {hit.passage_id: hit.score for hit in hits}
            found = self.store.passages(list(scores))
        return [SearchResult(p.path, p.line, p.page, p.heading, p.text, round(scores[p.id], 6)) for p in found]

    def _candidates(
        self, found: Sequence[StoredPassage], spans: Sequence[Span], stale: dict[str, bool]
    ) -> tuple[list[Candidate], list[Source]]:
        """The best spans, one for each different answer with the probability of all its spans, and their places."""
        answers = [span.answer(found[span.passage].text) for span in spans]
        confidences = self._calibration.confidences(answers, [span.score for span in spans])
        first: dict[str, tuple[str, Span]] = {}
        for span, answer in zip(spans, answers, strict=True):
            first.setdefault(answer.casefold(), (answer, span))
        candidates, places = [], []
        for key, (answer, span) in list(first.items())[:CANDIDATES]:
            place = _source(found[span.passage], span, stale)
            candidates.append(Candidate(answer, round(confidences[key], 4), place.path, place.line))
            places.append(place)
        return candidates, places


def _scope(scope: Scope | str) -> Scope:
    if isinstance(scope, Scope):
        return scope
    return parse_scope(scope) if scope.strip() else EVERYTHING


def _source(passage: StoredPassage, span: Span, stale: dict[str, bool]) -> Source:
    """Where an answer stands, with the sentence around it; of one that stands nowhere, where its passage begins."""
    if span.start == span.end:
        return replace(_closest(passage, stale), marked=(0, 0))
    quote = quote_around(passage.text, span.start, span.end)
    return _place(passage, quote, (span.start, span.end), stale)


def _closest(passage: StoredPassage, stale: dict[str, bool]) -> Source:
    """Where a passage that answers nothing stands, with its first sentence below its headings."""
    below = _HEADING_LINES.match(passage.text)
    content = below.end() if below and below.end() < len(passage.text) else 0
    quote = quote_around(passage.text, content, content + 1)
    return _place(passage, quote, quote, stale)


def _place(passage: StoredPassage, quote: tuple[int, int], span: tuple[int, int], stale: dict[str, bool]) -> Source:
    """
    A source from two character ranges of a passage's text.

    `stale` remembers what was found of each path, so that a file is read once a question, in however many places it is.
    """
    if passage.path not in stale:
        stale[passage.path] = is_stale(passage)
    places = _places(passage)
    first = places.at(span[0])
    return Source(
        path=passage.path,
        line=first.line,
        page=first.page,
        heading=passage.heading,
        quote=passage.text[slice(*quote)],
        marked=(span[0] - quote[0], span[1] - quote[0]),
        start=first.start,
        end=places.at(span[1] - 1).start + 1 if span[1] > span[0] else first.start,
        stale=stale[passage.path],
        modified=passage.mtime_ns / 1e9,
    )


def _places(passage: StoredPassage) -> SourceMap:
    """Where the characters of a passage's text stand in its file."""
    first = Anchor(0, passage.start, passage.line, passage.page)
    return SourceMap(passage.text, [first, *(Anchor(*anchor) for anchor in passage.anchors)])


def check_question(question: str) -> str:
    """
    A question without surrounding space and without half characters.

    Raises:
        UsageError: If it is empty or longer than 10,000 characters.
    """
    question = encodable(question).strip()
    if not question:
        raise UsageError("the question is empty: type what you want to know")
    if len(question) > MAX_QUESTION_CHARACTERS:
        raise UsageError(
            f"the question has {len(question):,} characters, at most {MAX_QUESTION_CHARACTERS:,} can be read: "
            "ask a shorter one"
        )
    return question


def quote_around(text: str, start: int, end: int) -> tuple[int, int]:
    """The sentence, list item or line around a character range; at most 400 characters, the range always inside."""
    cuts = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    first = max(cut for cut in cuts if cut <= start)
    last = min((cut for cut in cuts if cut >= end), default=len(text))
    first = max(first, min(start, end - _MAX_QUOTE))
    last = min(last, max(end, first + _MAX_QUOTE))
    while last > end and text[last - 1].isspace():
        last -= 1
    while first < start and text[first].isspace():
        first += 1
    return first, last


def is_stale(passage: StoredPassage) -> bool:
    """Whether the file of a passage is gone, or holds other bytes than those indexed; in a cloud, by its size alone."""
    try:
        status = Path(passage.path).stat()
        if in_a_cloud(passage.path, status):
            return status.st_size != passage.size
    except (OSError, ValueError):
        return True
    return hash_of(Path(passage.path)) != passage.content_hash
