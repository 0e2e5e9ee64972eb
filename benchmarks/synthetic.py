"""
Made-up notes and stores of any size, the same for the same seed, no two notes or passages alike.

A store can also be filled from a real one: its passages, then these again with other words. Made-up words are those of
the embedded bundle's vocabulary, which stands in the order of their frequency: drawn by Zipf's law, so that common
words are as common, and rare ones as rare, as in real text.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.bundle import Bundle
from app.compaction import SETTING as RATIOS
from app.compaction import Compressor, own_ratios
from app.indexer import encode
from app.passages import Passage
from app.places import EMBEDDED_BUNDLE
from store.bundle import TOKENIZER
from store.codec import Bits, pack
from store.errors import UsageError
from store.records import NewDocument, NewPassage
from store.tokens import TokenStore

SEED = 20261121
PASSAGES_PER_NOTE = 25
"""Of a made-up store."""
_AUTHORS = ("Jane Doe", "Ada Hansen", "Tom Reyes", "Mia Okafor")
_IGNORE = {".gitignore": "*.log\nbuild/\n/private/**\n!keep.log\n", ".btrignore": "drafts/\n*.tmp.md\n"}
_FOLDERS = 400
_BASE = 400
"""Passages that are truly encoded for a made-up store."""
_CHANGED_WORDS, _CHANGED_BITS = 0.5, 0.15
"""Shares of a base passage's words and code bits that each of its variants changes."""
_READ = 256
"""Passages that are read from another store at a time."""
_WORD = re.compile(r"\b[A-Za-z]+\b")


class Words:
    """Draws words by Zipf's law."""

    def __init__(self, seed: int) -> None:
        vocabulary = json.loads((EMBEDDED_BUNDLE / TOKENIZER).read_text())["model"]["vocab"]
        ordered = sorted(vocabulary, key=vocabulary.__getitem__)
        self.words = np.array([word for word in ordered if word.isalpha() and word.isascii() and len(word) > 1])
        weights = 1 / (np.arange(len(self.words)) + 2.7)
        self._cumulative = np.cumsum(weights / weights.sum())
        self.random = np.random.default_rng(seed)

    def draw(self, count: int) -> npt.NDArray[np.str_]:
        """Words (count,)."""
        at = np.searchsorted(self._cumulative, self.random.random(count))
        return self.words[np.minimum(at, len(self.words) - 1)]

    def phrase(self, count: int) -> str:
        """Some words of which none is among the 300 most common."""
        return " ".join(self.words[self.random.integers(300, len(self.words), count)])

    def sentence(self) -> str:
        """5 to 18 words."""
        return " ".join(self.draw(int(self.random.integers(5, 19)))).capitalize() + "."


def write_notes(folder: Path, count: int, seed: int = SEED) -> None:
    """Markdown notes in two levels of folders, with front matter, tags, headings and lists, and ignore files."""
    words = Words(seed)
    random = words.random
    folders = [folder / f"area {i % 20:02d}" / f"topic {i:03d}" for i in range(min(_FOLDERS, 1 + count // 100))]
    for number, place in enumerate(folders):
        place.mkdir(parents=True)
        if number % 40 == 0:
            for name, rules in _IGNORE.items():
                (place / name).write_text(rules)
            (place / "drafts").mkdir()
            (place / "drafts" / "left out.md").write_text(words.sentence())
    for number in range(count):
        title = f"{words.phrase(2)} {number}"
        day = f"{random.integers(2015, 2027)}-{random.integers(1, 13):02d}-{random.integers(1, 29):02d}"
        lines = []
        if random.random() < 0.6:
            tags = ", ".join(words.words[400 + random.integers(0, 60, 2)])
            lines += ["---", f"date: {day}", f"author: {random.choice(_AUTHORS)}", f"tags: [{tags}]", "---", ""]
        lines += [
            f"# {title.capitalize()}",
            "",
            f"The {words.phrase(2)} was checked on {day} by {words.phrase(1)}.",
            "",
        ]
        length = int(np.clip(random.lognormal(5.2, 0.8), 30, 3000))
        while length > 0:
            if random.random() < 0.3:
                lines += [f"## {words.phrase(2).capitalize()}", ""]
            if random.random() < 0.2:
                lines += [f"- {words.phrase(4)}" for _ in range(4)] + [""]
                length -= 16
            sentences = [words.sentence() for _ in range(random.integers(2, 6))]
            lines += [" ".join(sentences), ""]
            length -= sum(sentence.count(" ") + 1 for sentence in sentences)
        (folders[number % len(folders)] / f"{title}.md").write_text("\n".join(lines))


def fill(store: TokenStore, bundle: Bundle, count: int, seed: int = SEED) -> None:
    """
    Add that many passages to a store through its own interface, without encoding each.

    A few hundred passages are encoded, and kept as the bundle's own stores keep theirs; every other one is a variant of
    one of these: half of its words are others, as many as before, so that text and bits still have the same tokens, and
    some bits of its code are turned over. Bits and scales are the base passage's. So sizes, search index and the work
    of a question are those of real notes; what is answered means nothing.
    """
    words = Words(seed)
    compressor = Compressor(bundle, own_ratios(bundle.manifest))
    base = [_Base(bundle, compressor, words) for _ in range(min(_BASE, count))]
    _put(store, words, _variants(words, base), count)


def fill_from(store: TokenStore, bundle: Bundle, base: TokenStore, count: int, seed: int = SEED) -> None:
    """
    The same from the passages of another store of this bundle, in their order: first as they are, then as variants.

    Only words that are one token are changed, into such; a text that has another number of tokens then stays as it was.

    Raises:
        UsageError: If the other store holds no passage.
    """
    words = Words(seed)
    if not len(base.codes()[0]):
        raise UsageError(f"{base.path} holds no passage: give another store")
    store.put_setting(RATIOS, base.setting(RATIOS))
    _put(store, words, _repeated(words, bundle, base), count)


def _put(store: TokenStore, words: Words, made: Iterator[NewPassage], count: int) -> None:
    """Some of the passages, in notes of equal length."""
    source = store.add_source("/made-up")
    for number in range(-(-count // PASSAGES_PER_NOTE)):
        passages = list(itertools.islice(made, min(PASSAGES_PER_NOTE, count - number * PASSAGES_PER_NOTE)))
        day = f"{2015 + number % 12}-{1 + number % 11:02d}-{1 + number % 27:02d}"
        metadata = {"date": day, "author": _AUTHORS[number % 4], "tags": [str(words.words[400 + number % 60])]}
        path = f"/made-up/area {number % 20:02d}/topic {number % _FOLDERS:03d}/note {number}.md"
        store.put_document(source, NewDocument(path, f"{number:064x}", 1, 1, f"note {number}", metadata), passages)


class _Base:
    """A passage that was encoded, as words with the places where its sentences end."""

    def __init__(self, bundle: Bundle, compressor: Compressor, words: Words) -> None:
        length = int(np.clip(words.random.lognormal(4.4, 0.5), 12, 120))
        self.words = words.draw(length)
        self.ends = np.zeros(length, dtype=bool)
        self.ends[np.cumsum(words.random.integers(6, 16, length // 6 + 1)).clip(max=length) - 1] = True
        passage = Passage(0, 0, 1, f"{words.phrase(2)} > {words.phrase(2)}", self.text(self.words))
        self.encoded = encode(bundle, passage, compressor)
        assert self.encoded.tokens == length + self.ends.sum(), "a word of the vocabulary is not one token"

    def text(self, words: npt.NDArray[np.str_]) -> str:
        """Words (length,) as text."""
        return " ".join(f"{word}." if end else str(word) for word, end in zip(words, self.ends, strict=True))


def _repeated(words: Words, bundle: Bundle, base: TokenStore) -> Iterator[NewPassage]:
    known = frozenset(words.words.tolist())
    ids, codes = base.codes()

    def other(match: re.Match[str]) -> str:
        word = match.group()
        return str(words.draw(1)[0]) if word in known and words.random.random() < _CHANGED_WORDS else word

    for turn in itertools.count():
        for at in range(0, len(ids), _READ):
            for passage, code in zip(base.passages(ids[at : at + _READ].tolist()), codes[at : at + _READ], strict=True):
                encoded = base.stored_bytes(passage.id)
                assert encoded is not None
                bits, scale, runs = encoded
                text = _WORD.sub(other, passage.text) if turn else passage.text
                if turn and len(bundle.tokenize(text).ids) != passage.tokens:
                    text = passage.text
                yield NewPassage(
                    *(passage.start, passage.start + len(text), passage.line, passage.page, passage.heading, text),
                    *(passage.tokens, (_turned(words, code) if turn else code).tobytes(), bits, scale),
                    runs=runs,
                )


def _turned(words: Words, code: Bits) -> Bits:
    """A code (c / 8,) with some of its bits turned over."""
    return code ^ pack(_CHANGED_BITS - words.random.random(8 * len(code), dtype=np.float32))


def _variants(words: Words, base: list[_Base]) -> Iterator[NewPassage]:
    at = 0
    while True:
        for passage in base:
            changed = words.random.random(len(passage.words)) < _CHANGED_WORDS
            text = passage.text(np.where(changed, words.draw(len(passage.words)), passage.words))
            code = _turned(words, np.frombuffer(passage.encoded.code, dtype=np.uint8)).tobytes()
            yield replace(passage.encoded, start=at, end=at + len(text), line=1 + at // 80, text=text, code=code)
            at += len(text) + 2


def questions(count: int, seed: int = SEED) -> list[str]:
    """Questions of 3 to 6 words as common as those of the text, and every fifth of the commonest words alone."""
    words = Words(seed + 1)
    made = []
    for number in range(count):
        length = int(words.random.integers(3, 7))
        chosen = words.words[30 + words.random.integers(0, 70, 3)] if number % 5 == 4 else words.draw(length)
        made.append(f"what is the {' '.join(chosen)}?")
    return made
