"""
Formats: which files are read, and which module reads them.

A format is one module of this package with one function, `read(data) -> Content`; this table is all that the rest of
the program knows of them. Libraries are imported by the function that needs them.
"""

from __future__ import annotations

from importlib import import_module

from app.formats.base import Content

FORMATS = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".text": "text",
    ".rst": "rst",
    ".org": "org",
    ".html": "html",
    ".htm": "html",
    ".pdf": "pdf",
    ".docx": "docx",
    ".ipynb": "notebook",
    ".eml": "mail",
    ".mbox": "mail",
}
"""Suffix in lower case -> module."""
MAX_BYTES = 20_000_000
"""Of a file of text: 20 MB is some three million words, twenty minutes of encoding on two cores."""
MAX_CONTAINER_BYTES = 100_000_000
"""Of a file that holds pictures and attachments besides its text; the text in it has a limit of its own."""
_CONTAINERS = {".pdf", ".docx", ".ipynb", ".eml", ".mbox"}


def max_bytes(suffix: str) -> int:
    """The largest file of a suffix that is read."""
    return MAX_CONTAINER_BYTES if suffix.lower() in _CONTAINERS else MAX_BYTES


def read(suffix: str, data: bytes) -> Content:
    """
    The text, headings and places of a file's bytes.

    Raises:
        DocumentError: If they cannot be read; the sentence says what to do.
    """
    content: Content = import_module(f"app.formats.{FORMATS[suffix.lower()]}").read(data)
    return content
