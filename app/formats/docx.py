"""
Word documents: paragraphs, headings, lists, tables and notes by mammoth, which writes HTML, read as HTML is.

Pictures, comments and headers are left out. A page is not in the file (it is made when the document is shown), so a
place is a line of the extracted text.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from xml.parsers.expat import ExpatError
from xml.sax import SAXException

from app.formats.base import Content, DocumentError
from app.formats.html import extract

MAX_UNPACKED = 200_000_000
"""Bytes of XML; a document of a thousand pages has about a tenth."""
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_BROKEN = "is no Word document that can be read: open it in a word processor and save it again"


def read(data: bytes) -> Content:
    """
    The text of a .docx file.

    Raises:
        DocumentError: If it is broken, protected, in the format of before 2007, or unpacks to too much.
    """
    if data.startswith(_OLE):
        raise DocumentError("is protected by a password, or a .doc under another name: save a copy as plain .docx")
    import mammoth

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
            unpacked = sum(part.file_size for part in parts if part.filename.lower().endswith((".xml", ".rels")))
            if unpacked > MAX_UNPACKED:
                raise DocumentError(f"unpacks to more than {MAX_UNPACKED // 1_000_000} MB: split it")
            title = _title(archive)
        page = mammoth.convert_to_html(
            io.BytesIO(data), convert_image=mammoth.images.img_element(lambda _: {}), include_embedded_style_map=False
        ).value
    except (
        zipfile.BadZipFile,
        zlib.error,
        ExpatError,
        SAXException,
        OSError,
        EOFError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        NotImplementedError,
        RuntimeError,
    ) as error:  # mammoth raises whatever it meets in a file that is not as it expects
        raise DocumentError(_BROKEN) from error
    found = extract(page, first_line=None)
    return Content(found.text, found.kind, title=title, headings=found.headings)


def _title(archive: zipfile.ZipFile) -> str:
    """The title in the document's properties; empty where there is none."""
    from xml.etree import ElementTree

    try:
        properties = ElementTree.fromstring(archive.read("docProps/core.xml"))
    except (KeyError, ElementTree.ParseError):
        return ""
    return properties.findtext("{http://purl.org/dc/elements/1.1/}title") or ""
