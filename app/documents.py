"""
A file becomes a document: how its bytes are read, and what of them is kept.

The text of a document is what a person reads in it. Its anchors lead back: to characters of the decoded file (a byte
order mark not counted, line ends untouched) where the text is the file's, to lines and pages everywhere. What each
format does is in `app.formats`.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.formats import FORMATS, max_bytes, read
from app.formats.base import Anchor, Content, DocumentError, Heading, encodable

__all__ = ["Document", "DocumentError", "ParserError", "hash_of", "read_bytes", "read_document", "unreadable"]


class ParserError(DocumentError):
    """One file on which a parser failed as it should not; the cause is what it raised."""


@dataclass(frozen=True)
class Document:
    """A readable file."""

    path: Path
    kind: str
    """How it is cut: markdown or text."""
    text: str
    body_start: int
    """First character after the front matter."""
    title: str
    """As the file gives it, else the level-1 heading that the body opens with, else the file's name."""
    metadata: Mapping[str, Any]
    """As JSON has it: text keys, dates as text."""
    content_hash: str
    """sha256 of the file's bytes."""
    warning: str | None = None
    """What a person should know of it, though it was read."""
    headings: Sequence[Heading] = ()
    anchors: Sequence[Anchor] = ()
    """Where stretches of the text stand in the file; without one the text is the file's."""
    tags: Sequence[str] = ()
    """Those in the text."""


def read_document(path: Path) -> Document:
    """
    Read one note, whatever its format.

    Raises:
        DocumentError: If it cannot be read, is too large, or is not what its name says.
    """
    if encodable(str(path)) != str(path):
        raise DocumentError("has a name that is not UTF-8: rename it")
    data = read_bytes(path)
    content = _parse(path.suffix, data)
    return Document(
        path=path,
        kind=content.kind,
        text=content.text,
        body_start=content.body_start,
        title=" ".join(content.title.split()) or path.stem,
        metadata=content.metadata,
        content_hash=hashlib.sha256(data).hexdigest(),
        warning=content.warning,
        tags=content.tags,
        headings=content.headings,
        anchors=content.anchors,
    )


def _parse(suffix: str, data: bytes) -> Content:
    """
    A file's content, whatever its parser raises: one file never ends a run.

    Raises:
        DocumentError: If it cannot be read, or its parser fails.
    """
    if suffix.lower() not in FORMATS:
        raise DocumentError("is not a note that can be read")
    try:
        return read(suffix, data)
    except (DocumentError, ImportError, MemoryError):  # what is not the file's fault is not said of the file
        raise
    except Exception as error:
        raise ParserError(
            f"cannot be parsed ({type(error).__name__}), which is a bug of ours: "
            "report it, or save the file in another form"
        ) from error


def read_bytes(path: Path) -> bytes:
    """
    The bytes of one note.

    Raises:
        DocumentError: If it cannot be read, is no regular file, or is too large.
    """
    try:
        _check_status(path)
        return path.read_bytes()
    except OSError as error:
        raise unreadable(error) from error


def hash_of(path: Path) -> str | None:
    """What a file's content is told by, as the store keeps it, read in blocks; None where it cannot be read."""
    try:
        _check_status(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (DocumentError, OSError):
        return None


def _check_status(path: Path) -> None:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise DocumentError("cannot be listed: check its permissions, its notes stay as they were indexed")
    if not stat.S_ISREG(status.st_mode):
        raise DocumentError("is not a file that can be read: rename it if it is no note")
    limit = max_bytes(path.suffix)
    if status.st_size > limit:
        size = f"{status.st_size / 1e6:,.0f} MB"
        raise DocumentError(f"holds {size}, at most {limit // 1_000_000} MB are read: split it into smaller notes")


def unreadable(error: OSError) -> DocumentError:
    """The sentence for a file that the operating system refuses."""
    if isinstance(error, FileNotFoundError):
        return DocumentError("is gone, or a link that leads nowhere: restore or remove it")
    return DocumentError(f"cannot be read ({error.strerror}): check its permissions")
