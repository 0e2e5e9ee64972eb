"""
A file becomes a document: its text as it stands, its metadata, where its body begins.

Offsets are characters of the decoded file, a byte order mark not counted, line ends untouched: an answer's offsets
point into exactly this text. Front matter stays in the text, but the body begins after it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.errors import BtrError, UsageError

SUFFIXES = {".md": "markdown", ".markdown": "markdown", ".txt": "text"}
MAX_BYTES = 20_000_000


class DocumentError(BtrError):
    """One file that cannot be indexed; reported, never fatal."""


@dataclass(frozen=True)
class Document:
    """A readable file."""

    path: Path
    kind: str
    """markdown or text."""
    text: str
    body_start: int
    """First character after the front matter."""
    title: str
    metadata: Mapping[str, Any]
    content_hash: str
    """sha256 of the file's bytes."""


def find_files(root: Path) -> Iterator[Path]:
    """
    Every note under a folder (or the file itself), in a fixed order.

    Hidden files and folders, other suffixes, and links that lead out of the folder are left out.
    """
    if root.is_file():
        yield root
        return
    inside = root.resolve()
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                continue
            yield path


def check_root(path: Path) -> Path:
    """
    The absolute folder or file to index.

    Raises:
        UsageError: If there is nothing there, or a file of a kind that cannot be read.
    """
    path = Path(os.path.abspath(path.expanduser()))
    if not path.exists():
        raise UsageError(f"{path} does not exist: give a folder of notes")
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} is not a note that can be read: give {', '.join(SUFFIXES)} files or a folder")
    return path


def read_document(path: Path) -> Document:
    """
    Read and decode one note.

    Raises:
        DocumentError: If it cannot be read, is too large, or is no text.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DocumentError(f"is larger than {MAX_BYTES // 1_000_000} MB: split it into smaller notes")
        data = path.read_bytes()
    except OSError as error:
        raise DocumentError(f"cannot be read ({error.strerror}): check its permissions") from error
    text = decode(data)
    kind = SUFFIXES[path.suffix.lower()]
    metadata, body_start = split_front_matter(text) if kind == "markdown" else ({}, 0)
    title = metadata.get("title")
    return Document(
        path=path,
        kind=kind,
        text=text,
        body_start=body_start,
        title=str(title).strip() if title else path.stem,
        metadata=metadata,
        content_hash=hashlib.sha256(data).hexdigest(),
    )


def decode(data: bytes) -> str:
    """
    Bytes of a note -> its text: UTF-8, a marked UTF-16, or the likeliest other encoding.

    Raises:
        DocumentError: If the bytes are no text.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise DocumentError("has an encoding that cannot be told: save it as UTF-8") from error
    if b"\0" in data:
        raise DocumentError("is not text, it holds zero bytes: rename it if it is no note")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        from charset_normalizer import from_bytes

        best = from_bytes(data[:200_000]).best()
        if best is None:
            raise DocumentError("has an encoding that cannot be told: save it as UTF-8") from None
        return data.decode(best.encoding, errors="replace")


def split_front_matter(text: str) -> tuple[dict[str, Any], int]:
    """
    YAML front matter and the offset of the body after it; ({}, 0) where there is none.

    What stands between the rules but is no YAML mapping is prose and stays in the body.
    """
    import yaml
    from frontmatter.default_handlers import YAMLHandler

    handler = YAMLHandler()
    if not handler.detect(text):
        return {}, 0
    try:
        front, body = handler.split(text)
        metadata = handler.load(front)
    except (ValueError, yaml.YAMLError):
        return {}, 0
    if not isinstance(metadata, dict):
        return {}, 0
    return {str(key): value for key, value in metadata.items()}, len(text) - len(body)
