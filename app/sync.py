"""
What became of the notes since they were stored: which are to be encoded, which only moved, which are gone.

Decided here, before anything is written:

- a file whose size and time are as stored is not opened;
- content is told by its hash. A file whose content is stored under a path where it no longer is, or was deleted, takes
  that document over without being encoded. But passages are encoded with the note's title, and cut by its kind: where
  a new name changes either, the note is encoded again, as it would be in a new store;
- a copy is a document of its own;
- a note is gone when its file is, or when it is ignored now. A folder that cannot be listed, and a file that is in a
  cloud, take nothing away;
- the guard: a source that lost all its notes, or more than a third of them and at least five, is left alone, whole,
  unless told otherwise, for a disk that is not mounted looks like that. What is ignored now does not count, and what
  moved is not lost.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from app.documents import DocumentError, hash_of, read_document
from app.formats.base import encodable
from app.tree import File, Tree, scan
from store.records import StoredDocument
from store.tokens import UNREAD, TokenStore, is_inside

GUARD_NOTES = 5
GUARD_SHARE = 3
"""More than one in this many."""


@dataclass(frozen=True)
class Stored:
    """What is known before a run."""

    documents: Sequence[StoredDocument] = ()
    """Tombstones included."""
    sources: Mapping[int, str] = field(default_factory=dict)
    """Id -> root."""

    @classmethod
    def of(cls, store: TokenStore) -> Stored:
        """
        Everything in a store.

        Raises:
            StoreError: If a document belongs to no source.
        """
        documents, sources = store.documents(), {source.id: source.root for source in store.sources()}
        for document in documents:
            if document.source_id not in sources:
                raise store.damaged(f"{document.path} belongs to no source")
        return cls(documents, sources)


@dataclass(frozen=True)
class Move:
    """A document whose content is at a path already, or again: there is nothing to encode."""

    document: StoredDocument
    file: File
    tags: Sequence[str] | None
    """Those in its text, where the store does not have them yet."""

    @property
    def renamed(self) -> bool:
        """It was under another path."""
        return self.document.path != self.file.path


@dataclass
class Plan:
    """What a run has to do."""

    roots: list[str] = field(default_factory=list)
    """Those that the guard lets through."""
    owners: dict[str, str] = field(default_factory=dict)
    """Path of a file that was found -> the source that it belongs to: the outermost one."""
    unchanged: int = 0
    moves: list[Move] = field(default_factory=list)
    encode: list[File] = field(default_factory=list)
    """New and changed ones, in a fixed order."""
    changed: set[str] = field(default_factory=set)
    """Paths of those of them that are stored with other content."""
    gone: list[StoredDocument] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(path, why)."""
    unlisted: dict[str, OSError] = field(default_factory=dict)
    """Folders that cannot be listed."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """(root, the guard's sentence)."""


class Roots:
    """Folders and files, and which of them a path is inside of: what that costs does not grow with their number."""

    def __init__(self, roots: Iterable[str]) -> None:
        self._roots = {root.rstrip(os.sep): root for root in roots}
        self._above: dict[str, tuple[str, ...]] = {}
        """Folder -> those over it."""

    def over(self, path: str) -> tuple[str, ...]:
        """Those that a path is inside of, as `is_inside` has it, the outermost first."""
        folder = path.rpartition(os.sep)[0]
        above = self._above.get(folder)
        if above is None:
            ends = [at for at, sign in enumerate(folder + os.sep) if sign == os.sep]
            above = tuple(self._roots[folder[:end]] for end in ends if folder[:end] in self._roots)
            self._above[folder] = above
        return (*above, self._roots[path]) if path in self._roots else above


def make_plan(
    stored: Stored, roots: Iterable[str], allow_deletions: bool = False, check: Callable[[], None] = lambda: None
) -> Plan:
    """Compare the files under some roots with what is stored; `check` is called often and may raise to stop."""
    trees = []
    for root in dict.fromkeys(roots):
        check()
        trees.append(scan(root))
    files = {file.path: file for tree in trees for file in tree.files}
    at = {document.path: document for document in stored.documents}
    settled, unsettled = _settle_in_place(files.values(), at, check)
    open_paths = {file.path for file, content_hash in unsettled if content_hash}
    sources = Roots([*stored.sources.values(), *(tree.root for tree in trees)])
    looked_at = Roots(tree.root for tree in trees)
    by_root = {tree.root: tree for tree in trees}

    def is_lost(path: str) -> bool:
        return _is_lost(path, [by_root[root] for root in looked_at.over(path)], sources)

    lost = [d for d in at.values() if not d.deleted and d.path not in files and is_lost(d.path)]
    free = [d for d in at.values() if d.path not in settled and (d.deleted or d.path in open_paths)]
    pool = _Pool([*lost, *free])
    plan = Plan()
    for file, content_hash in unsettled:
        check()
        document = pool.take(file, content_hash)
        if document is None:
            plan.encode.append(file)
        else:
            settled[file.path] = document
    taken = {document.id for document in settled.values()}
    plan.gone = [document for document in lost if document.id not in taken]
    plan.changed = {file.path for file in plan.encode if file.path in at and not at[file.path].deleted}
    plan.owners = {path: sources.over(path)[0] for path in files}
    away = [document.path for document in plan.gone if not os.path.lexists(document.path)]
    live = [document.path for document in at.values() if not document.deleted] if away else []
    before, losses = (Counter(root for path in paths for root in looked_at.over(path)) for paths in (live, away))
    plan.refused = [
        (tree.root, why)
        for tree in trees
        if (why := _guard(tree, before[tree.root], losses[tree.root], allow_deletions))
    ]
    refused = {root for root, _ in plan.refused}
    plan.roots = [tree.root for tree in trees if tree.root not in refused]
    for tree in trees:
        if tree.root not in refused:
            plan.skipped.extend(tree.skipped)
            plan.unlisted.update(tree.unlisted)
    plan.skipped = list(dict.fromkeys(plan.skipped))  # those of folders within each other once
    if refused:
        left = Roots(refused)
        plan.owners = {path: owner for path, owner in plan.owners.items() if not left.over(path)}
        plan.encode = [file for file in plan.encode if file.path in plan.owners]
        plan.gone = [document for document in plan.gone if not left.over(document.path)]
    for path, document in settled.items():
        if path in plan.owners:
            _place(plan, document, files[path], stored.sources[document.source_id])
    return plan


def _settle_in_place(
    files: Iterable[File], at: Mapping[str, StoredDocument], check: Callable[[], None]
) -> tuple[dict[str, StoredDocument], list[tuple[File, str | None]]]:
    """The files whose content is stored under their path, and the others, with their hash where it is known."""
    settled: dict[str, StoredDocument] = {}
    unsettled: list[tuple[File, str | None]] = []
    for file in files:
        document = at.get(file.path)
        if document is None:
            unsettled.append((file, None))
            continue
        content_hash: str | None = document.content_hash
        if (document.size, document.mtime_ns) != (file.size, file.mtime_ns):
            check()
            content_hash = hash_of(Path(file.path))
        if content_hash and content_hash == document.content_hash:
            settled[file.path] = document
        else:
            unsettled.append((file, content_hash))
    return settled, unsettled


def _place(plan: Plan, document: StoredDocument, file: File, root: str) -> None:
    """Count a settled file as unchanged, or have its document placed."""
    as_stored = (document.path, document.size, document.mtime_ns, document.deleted, root)
    if as_stored == (file.path, file.size, file.mtime_ns, False, plan.owners[file.path]):
        plan.unchanged += 1
        return
    tags = None
    if document.size == UNREAD:
        try:
            tags = read_document(Path(file.path)).tags
        except DocumentError:
            tags = []
    plan.moves.append(Move(document, file, tags))


class _Pool:
    """Documents whose content is no longer under their path: a file that has it may take them."""

    def __init__(self, documents: Iterable[StoredDocument]) -> None:
        self._by_hash: defaultdict[str, list[StoredDocument]] = defaultdict(list)
        self._sizes: set[int] = set()
        for document in documents:
            self._by_hash[document.content_hash].append(document)
            self._sizes.add(document.size)

    def take(self, file: File, content_hash: str | None) -> StoredDocument | None:
        """The document that a file's content is, if its bits would be the same under this name; then it is taken."""
        path = Path(file.path)
        if not self._sizes & {file.size, UNREAD} or encodable(file.path) != file.path:
            return None
        content_hash = content_hash or hash_of(path)
        candidates = self._by_hash.get(content_hash, []) if content_hash else []
        for document in sorted(candidates, key=lambda d: (Path(d.path).name != path.name, d.deleted, d.path)):
            if _same_bits(document, path):
                candidates.remove(document)
                return document
        return None


def _same_bits(document: StoredDocument, path: Path) -> bool:
    """Whether the same content under another name is cut and titled in the same way."""
    earlier = Path(document.path)
    if earlier.suffix.lower() != path.suffix.lower():
        return False
    try:
        return earlier.stem == path.stem or read_document(path).title == document.title
    except DocumentError:
        return False


def _is_lost(path: str, over: Sequence[Tree], sources: Roots) -> bool:
    """Whether a live document's file, which none of the trees over it holds, is gone or ignored, not out of sight."""
    if not over or any(path in tree.placeholders for tree in over):
        return False
    if any(is_inside(path, folder) for tree in over for folder, _ in tree.unlisted):
        return False
    innermost = sources.over(path)[-1]
    return any(tree.root == innermost for tree in over) or not os.path.lexists(path)


def _guard(tree: Tree, before: int, lost: int, allow_deletions: bool) -> str | None:
    """Why a source that had some notes and lost some is left as it is, if it is: so many that its disk may be away."""
    if tree.missing and not lost:
        return f"{tree.root} does not exist: restore it, or run btr-assistant sources remove {quote(tree.root)}"
    if allow_deletions or not lost or (tree.files and (lost < GUARD_NOTES or GUARD_SHARE * lost <= before)):
        return None
    return (
        f"{lost:,} of {before:,} notes of {tree.root} are gone, so it was left as it is: restore or mount it, "
        f"or if they were deleted, run btr-assistant index --allow-deletions {quote(tree.root)}"
    )
