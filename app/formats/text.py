"""Plain text: the file as it stands, without headings."""

from __future__ import annotations

from app.formats.base import Content, decode


def read(data: bytes) -> Content:
    """
    Decode a text file.

    Raises:
        DocumentError: If it is no text.
    """
    return Content(decode(data))
