"""
Notes forgotten on purpose, deleted ones too, with the proof that nothing of them is left in the store's file.

The note's own file stays where it is and the next index run would take it in again: so there is the line that keeps it
out, for the `.btrignore` of the innermost folder that is looked at. Questions of saved sessions go with the notes that
answered them. The others lose what they hold of these notes, and go if their text is left in them all the same.

What the proof speaks of is the store's file and the files that SQLite keeps beside it; copies made earlier, and what a
disk keeps of overwritten blocks, are elsewhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from app.formats.base import encodable
from app.tree import IGNORE_FILES, scan
from store.errors import StoreError, UsageError
from store.records import StoredDocument
from store.residue import file_blocks, found_in, pieces, text_blocks
from store.tokens import TokenStore, is_inside
from store.upkeep import LOGS, beside, search_index

_SPECIAL = re.compile(r"[\\*?\[\]!#]")


@dataclass(frozen=True)
class Chosen:
    """What the store holds under some paths."""

    paths: Sequence[str]
    """As given, absolute."""
    documents: Sequence[StoredDocument]
    """Deleted ones included."""
    failed: Sequence[str]
    """Paths that could not be indexed."""


@dataclass(frozen=True)
class Proof:
    """What a search of the store's files found of what was forgotten."""

    searched: int
    """Pieces of text that were looked for."""
    shared: int
    """Pieces that were not, for other notes have them too."""
    left: int
    """Pieces that were found: 0, or something is wrong."""
    file_bytes: int
    """Bytes that were searched."""
    questions: int
    """Saved questions that went with the notes."""


def choose(store: TokenStore, paths: Iterable[str]) -> Chosen:
    """
    Everything under some notes or folders.

    Raises:
        UsageError: If the store holds nothing under one of them, or it is a source.
    """
    documents, failures = store.documents(), [path for path, _ in store.failures()]
    chosen: dict[int, StoredDocument] = {}
    failed: dict[str, None] = {}
    roots = [encodable(os.path.abspath(os.path.expanduser(path))) for path in paths]
    for root in roots:
        for source in store.sources():
            if is_inside(source.root, root):
                raise UsageError(f"{source.root} is a source: run btr-assistant sources remove {quote(source.root)}")
        found = {document.id: document for document in documents if is_inside(document.path, root)}
        broken = [path for path in failures if is_inside(path, root)]
        if not found and not broken:
            raise UsageError(
                f"{root} is not in the store, nothing was changed: if forgetting it was interrupted, "
                "btr-assistant cleanup wipes what is left"
            )
        chosen |= found
        failed |= dict.fromkeys(broken)
    return Chosen(roots, list(chosen.values()), list(failed))


def forget(store: TokenStore, chosen: Chosen) -> Proof:
    """
    Remove notes with their passages, search entries, bits and fields, and look for what is left of them.

    Raises:
        StoreError: If the search index is not what is left; `vacuum` then has not done its work.
    """
    wanted = _pieces(store, chosen)
    turns, names = _quoting(store, chosen, wanted)
    questions = store.forget([document.id for document in chosen.documents], chosen.failed, turns, names)
    store.vacuum()
    problems = search_index(store.path).problems
    if problems:
        raise StoreError(f"the search index still differs ({problems[0]}): run btr-assistant verify --rebuild-search")
    shared = found_in(wanted, text_blocks(store.texts()))
    files = [store.path, *(beside(store.path, ending) for ending in LOGS)]
    left: set[bytes] = set()
    for file in files:
        left |= found_in(wanted - shared, file_blocks(file))
    searched = sum(file.stat().st_size for file in files if file.exists())
    return Proof(len(wanted) - len(shared), len(shared), len(left), searched, questions)


def questions_of(store: TokenStore, chosen: Chosen) -> int:
    """How many saved questions would go with chosen notes."""
    turns, _ = _quoting(store, chosen, _pieces(store, chosen))
    return len({*turns, *store.lost_turns(document.path for document in chosen.documents)})


def _pieces(store: TokenStore, chosen: Chosen) -> set[bytes]:
    """What is looked for of chosen notes."""
    texts = [text for document in chosen.documents for text in store.texts_of(document.id)]
    return pieces([*texts, *chosen.failed])


def _quoting(store: TokenStore, chosen: Chosen, wanted: set[bytes]) -> tuple[list[int], list[int]]:
    """
    The ids of turns, and of sessions by their names, that have text of chosen notes which no other note has, and would
    have it still without what they are known to quote of these notes.
    """
    said = [store.turn_texts(document.path for document in chosen.documents), store.session_names()]
    if not any(said):
        return [], []
    gone = {document.id for document in chosen.documents}
    kept = (text for document in store.documents() if document.id not in gone for text in store.texts_of(document.id))
    own = wanted - found_in(wanted, text_blocks(kept))
    turns, names = ([i for i, text in texts if found_in(own, text_blocks([text]))] for texts in said)
    return turns, names


def rule_for(path: str, store: TokenStore) -> tuple[Path, str]:
    """The `.btrignore` that can keep a note or folder out, and the line that does."""
    root = max((source.root for source in store.sources() if is_inside(path, source.root)), key=len)
    name = os.path.relpath(path, root).replace(os.sep, "/")
    name = _SPECIAL.sub(r"\\\g<0>", name)
    name = "".join("?" if len(f"a{c}a".splitlines()) > 1 else c for c in name)  # a line end cannot stand in a line
    if name.endswith(" "):
        name = name[:-1] + "\\ "
    return Path(root, IGNORE_FILES[-1]), f"/{name}"


def ignore(path: str, file: Path, line: str) -> bool:
    """
    Add a line to a `.btrignore` that lacks it; whether a note or folder is left out from now on.

    Raises:
        UsageError: If it cannot be written.
    """
    added = line.encode()
    try:
        before = file.read_bytes() if file.exists() else b""
        if added not in before.splitlines():
            with file.open("ab") as opened:
                opened.write((b"" if not before or before.endswith(b"\n") else b"\n") + added + b"\n")
    except OSError as error:
        raise UsageError(
            f"cannot write {file} ({error.strerror}), nothing was forgotten: try without --ignore"
        ) from error
    return not any(is_inside(found.path, path) for found in scan(file.parent).files)
