"""
A file becomes a document: its text as it stands, its metadata, where its body begins.

Offsets are characters of the decoded file, a byte order mark not counted, line ends untouched: an answer's offsets
point into exactly this text. Front matter stays in the text, but the body begins after it.
"""

from __future__ import annotations

import hashlib
import re
import stat
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.errors import BtrError

SUFFIXES = {".md": "markdown", ".markdown": "markdown", ".txt": "text"}
MAX_BYTES = 20_000_000
MAX_FRONT_MATTER = 16_000
"""Characters; what is longer is prose between two rules, and no work for a YAML parser."""
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")


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
    """From the front matter, else the level-1 heading that the body opens with, else the file's name."""
    metadata: Mapping[str, Any]
    """The front matter as JSON has it: text keys, dates as text."""
    content_hash: str
    """sha256 of the file's bytes."""
    warning: str | None = None
    """What a person should know of it, though it was read."""


class LineMap:
    """Character offset -> 1-based line."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in re.finditer(r"\r\n|\r|\n", text))]

    def line(self, offset: int) -> int:
        """The line that holds a character."""
        return bisect_right(self._starts, offset)


def read_document(path: Path) -> Document:
    """
    Read and decode one note.

    Raises:
        DocumentError: If it cannot be read, is too large, or is no text.
    """
    if encodable(str(path)) != str(path):
        raise DocumentError("has a name that is not UTF-8: rename it")
    data = read_bytes(path)
    text = decode(data)
    kind = SUFFIXES[path.suffix.lower()]
    metadata, body_start, warning = split_front_matter(text) if kind == "markdown" else ({}, 0, None)
    title = metadata.get("title") or (top_heading(text[body_start:]) if kind == "markdown" else "")
    return Document(
        path=path,
        kind=kind,
        text=text,
        body_start=body_start,
        title=" ".join(str(title).split()) or path.stem,
        metadata=metadata,
        content_hash=hashlib.sha256(data).hexdigest(),
        warning=warning,
    )


def read_bytes(path: Path) -> bytes:
    """
    The bytes of one note.

    Raises:
        DocumentError: If it cannot be read, is no regular file, or is too large.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DocumentError("cannot be listed: check its permissions, its notes stay as they were indexed")
        if not stat.S_ISREG(status.st_mode):
            raise DocumentError("is not a file that can be read: rename it if it is no note")
        if status.st_size > MAX_BYTES:
            raise DocumentError(f"is larger than {MAX_BYTES // 1_000_000} MB: split it into smaller notes")
        return path.read_bytes()
    except OSError as error:
        raise unreadable(error) from error


def unreadable(error: OSError) -> DocumentError:
    """The sentence for a file that the operating system refuses."""
    if isinstance(error, FileNotFoundError):
        return DocumentError("is gone, or a link that leads nowhere: restore or remove it")
    return DocumentError(f"cannot be read ({error.strerror}): check its permissions")


def decode(data: bytes) -> str:
    """
    Bytes of a note -> its text: UTF-8, a marked UTF-16, or the likeliest other encoding.

    UTF-8 with a few bad bytes stays UTF-8: it says more against another encoding than they say for it.

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
        text = data.decode("utf-8-sig", errors="replace")
        if 4 * text.count("\ufffd") <= sum(not character.isascii() for character in text):
            return text
        from charset_normalizer import from_bytes

        best = from_bytes(data).best()
        if best is None:
            raise DocumentError("has an encoding that cannot be told: save it as UTF-8") from None
        return data.decode(best.encoding, errors="replace")


def split_front_matter(text: str) -> tuple[dict[str, Any], int, str | None]:
    """
    YAML front matter, the offset of the body after it, and a warning; ({}, 0, None) where there is none.

    What stands between the rules but is no YAML mapping that JSON could hold is prose and stays in the body.
    """
    import yaml
    from frontmatter.default_handlers import YAMLHandler

    handler = YAMLHandler()
    if not handler.detect(text):
        return {}, 0, None
    try:
        front, body = handler.split(text)
    except ValueError:  # one rule alone
        return {}, 0, None
    try:
        metadata = _plain(handler.load(front)) if len(front) <= MAX_FRONT_MATTER else None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, yaml.YAMLError):
        # PyYAML lets through whatever its constructors raise
        return {}, 0, "has front matter that is no valid YAML: correct it, until then it is indexed as text"
    if not isinstance(metadata, dict):
        return {}, 0, None
    return metadata, len(text) - len(body), None


def top_heading(body: str) -> str:
    """The level-1 heading that a Markdown body opens with, on one line; empty where it opens with anything else."""
    from markdown_it import MarkdownIt

    opening = MarkdownIt("commonmark").parse(_BLANK_LINE.split(body.lstrip("\r\n"), maxsplit=1)[0])
    return " ".join(opening[1].content.split()) if opening and opening[0].tag == "h1" else ""


def encodable(text: str) -> str:
    """Text that can be stored and shown: a surrogate without its partner becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _plain(value: Any) -> Any:
    """YAML's values as JSON has them."""
    if isinstance(value, dict):
        return {encodable(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | set | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else encodable(str(value))
