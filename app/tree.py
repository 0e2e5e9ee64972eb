"""
Which files of a folder are notes.

- Hidden files and folders are left out, and whatever `.gitignore` and `.btrignore` ignore, with git's rules: a deeper
  file overrides one above it, a later line an earlier one, a folder that is ignored is not looked into. Of the two in
  one folder `.btrignore` has the last word. Files above the root have no say.
- A file is read once. Folders that are links are not walked; a link to a file counts where that file itself is not
  read, and only if it stands inside the root.
- A file whose content is in a cloud and not on this disk is never opened, for that would fetch it.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from app.formats import FORMATS
from app.formats.base import encodable
from store.errors import UsageError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILES = (".gitignore", ".btrignore")
"""The last one of a folder decides."""
IN_A_CLOUD = "is in a cloud and not on this disk: download it, then index again"
LINK_OUT = "is a link out of its folder: add its target with btr-assistant sources add"
LINK_LOOP = "is a link that leads back to itself: remove it"
_STUB = re.compile(r"\.(.+)\.icloud")
_DATALESS = 0x40000000
"""st_flags of macOS."""
_RECALL = 0x00401000
"""st_file_attributes of Windows: offline, or fetched when it is read."""


@dataclass(frozen=True)
class File:
    """A note that is there."""

    path: str
    size: int
    mtime_ns: int


@dataclass
class Tree:
    """What stands under a root."""

    root: str
    files: list[File] = field(default_factory=list)
    """In a fixed order."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(path, why) of what looks like a note and is not read."""
    placeholders: set[str] = field(default_factory=set)
    """Paths of notes that are in a cloud; among those skipped."""
    unlisted: list[tuple[str, OSError]] = field(default_factory=list)
    """Folders that cannot be listed."""
    missing: bool = False
    """There is nothing under this path."""


def is_note(name: str) -> bool:
    """Whether a file of this name can be read."""
    return Path(name).suffix.lower() in FORMATS


def scan(root: Path | str) -> Tree:
    """Everything under a folder (or the file itself)."""
    tree = Tree(str(root))
    links: list[str] = []
    for _ in _walk(tree, links):
        pass
    _follow(tree, links)
    return tree


def check_root(path: Path, may_be_gone: bool = False) -> Path:
    """
    The absolute folder or file to index; one that may be gone is not looked into.

    Raises:
        UsageError: If there is nothing there, a file of a kind that cannot be read, or a folder without a single
            note: an unmounted disk looks like that.
    """
    path = Path(os.path.abspath(os.path.expanduser(path)))
    if encodable(str(path)) != str(path):
        raise UsageError(f"{path} has a name that is not UTF-8: rename it")
    if may_be_gone:
        return path
    if not os.access(path, os.F_OK):
        raise UsageError(
            f"{path} does not exist: give a folder of notes that is there; if it was indexed and is deleted "
            f"now, run btr-assistant index --allow-deletions {quote(str(path))}"
        )
    if path.is_file() and not is_note(path.name):
        raise UsageError(f"{path} is not a note that can be read: give {', '.join(FORMATS)} files or a folder")
    if not _holds_notes(path):
        raise UsageError(
            f"{path} holds no notes that can be read: give a folder of notes, nothing was changed; "
            f"if they were indexed and are deleted now, run btr-assistant index --allow-deletions {quote(str(path))}"
        )
    return path


def _holds_notes(path: Path) -> bool:
    tree, links = Tree(str(path)), list[str]()
    return any(tree.files or tree.skipped or tree.unlisted or links for _ in _walk(tree, links))


def in_a_cloud(path: str, status: os.stat_result) -> bool:
    """Whether a file has a size and no content on this disk."""
    if getattr(status, "st_flags", 0) & _DATALESS or getattr(status, "st_file_attributes", 0) & _RECALL:
        return True
    if status.st_size == 0 or getattr(status, "st_blocks", None) != 0 or not stat.S_ISREG(status.st_mode):
        return False
    return _is_hole(path)  # some file systems count no blocks for any file


def _is_hole(path: str) -> bool:
    seek_data = getattr(os, "SEEK_DATA", None)
    if seek_data is None:
        return True
    try:
        opened = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        os.lseek(opened, 0, seek_data)
    except OSError as error:
        return error.errno == errno.ENXIO
    finally:
        os.close(opened)
    return False


def _walk(tree: Tree, links: list[str]) -> Iterator[None]:
    """Fill a tree, but for the links to files, whose paths are collected; yields after each folder."""
    try:
        status = Path(tree.root).stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            tree.unlisted.append((tree.root, error))
        tree.missing = not tree.unlisted
        return
    if not stat.S_ISDIR(status.st_mode):
        _add(tree, tree.root, status)
        yield
        return
    inside = os.path.realpath(tree.root)
    waiting: list[tuple[str, list[tuple[str, GitIgnoreSpec]]]] = [(tree.root, [])]
    while waiting:
        folder, rules = waiting.pop()
        try:
            with os.scandir(folder) as opened:
                entries = sorted(opened, key=lambda entry: entry.name)
        except OSError as error:
            tree.unlisted.append((folder, error))
            yield
            continue
        rules = [*rules, *_rules(folder, {entry.name for entry in entries})]
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                stub = _STUB.fullmatch(entry.name)
                note = str(Path(folder, stub[1])) if stub and is_note(stub[1]) else None
                if note and not _ignored(note, rules):
                    _skip_cloud(tree, note)
            elif entry.is_dir(follow_symlinks=False):
                if not _ignored(entry.path + os.sep, rules):
                    folders.append(entry.path)
            elif entry.is_symlink():
                if (is_note(entry.name) or entry.is_dir()) and not _ignored(entry.path, rules):
                    _sort_link(tree, inside, entry.path, links)
            elif is_note(entry.name) and not _ignored(entry.path, rules):
                _add_entry(tree, entry)
        waiting.extend((path, rules) for path in reversed(folders))
        yield


def _add_entry(tree: Tree, entry: os.DirEntry[str]) -> None:
    try:
        _add(tree, entry.path, entry.stat())
    except OSError:  # gone meanwhile, or not to be looked at: reading it will say so
        tree.files.append(File(entry.path, 0, 0))


def _add(tree: Tree, path: str, status: os.stat_result) -> None:
    if in_a_cloud(path, status):
        _skip_cloud(tree, path)
    else:
        tree.files.append(File(path, status.st_size, status.st_mtime_ns))


def _skip_cloud(tree: Tree, path: str) -> None:
    tree.placeholders.add(path)
    tree.skipped.append((path, IN_A_CLOUD))


def _sort_link(tree: Tree, inside: str, path: str, links: list[str]) -> None:
    """A link to a file inside the root is followed later; one that leads out, or round in a circle, is reported."""
    target = os.path.realpath(path)
    try:
        is_folder = stat.S_ISDIR(Path(path).stat().st_mode)
    except OSError as error:
        is_folder = False
        if error.errno == errno.ELOOP:
            tree.skipped.append((path, LINK_LOOP))
            return
    if not Path(target).is_relative_to(inside):
        tree.skipped.append((path, LINK_OUT))
    elif not is_folder:
        links.append(path)


def _follow(tree: Tree, links: Sequence[str]) -> None:
    """Add the files that only links lead to, each once."""
    if not links:
        return
    inside = os.path.realpath(tree.root)
    read = {inside + file.path[len(tree.root.rstrip(os.sep)) :] for file in tree.files}
    for path in links:
        target = os.path.realpath(path)
        if target in read:
            continue
        read.add(target)
        try:
            _add(tree, path, Path(path).stat())
        except OSError:  # leads nowhere: reading it will say so
            tree.files.append(File(path, 0, 0))


def _rules(folder: str, names: set[str]) -> list[tuple[str, GitIgnoreSpec]]:
    """The ignore rules that stand in a folder, weakest first."""
    found = [str(Path(folder, name)) for name in IGNORE_FILES if name in names]
    return [(folder.rstrip(os.sep) + os.sep, _read_rules(path)) for path in found]


def _read_rules(path: str) -> GitIgnoreSpec:
    """The rules of one file; lines that are none are passed over, as git does."""
    from pathspec import GitIgnoreSpec

    try:
        lines = Path(path).read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError:
        lines = []
    usable = []
    for line in lines:
        try:
            GitIgnoreSpec.from_lines([line])
        except (ValueError, re.error):
            continue
        usable.append(line)
    return GitIgnoreSpec.from_lines(usable)


def _ignored(path: str, rules: Sequence[tuple[str, GitIgnoreSpec]]) -> bool:
    """Whether the strongest rule that speaks of a path ignores it; a folder's path ends with a slash."""
    for folder, spec in reversed(rules):
        verdict = spec.check_file(path[len(folder) :]).include
        if verdict is not None:
            return verdict
    return False
