"""Word documents: headings, lists and tables; protected, broken and exploding files get a sentence."""

from __future__ import annotations

import io
import zipfile

import pytest

from app.documents import DocumentError
from app.formats.docx import read
from tests.test_formats import paths, rows

_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def docx(body: str, title: str = "", prologue: str = "") -> bytes:
    """The smallest Word document with a body."""
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"/>',
        "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="r1" '
        f'Type="{_OFFICE}/officeDocument" Target="word/document.xml"/></Relationships>',
        "word/styles.xml": f'<w:styles {_W}><w:style w:type="paragraph" w:styleId="Heading1">'
        '<w:name w:val="heading 1"/></w:style></w:styles>',
        "word/document.xml": f"{prologue}<w:document {_W}><w:body>{body}</w:body></w:document>",
        "docProps/core.xml": f'<p xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title></p>',
    }
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return data.getvalue()


def paragraph(text: str, style: str = "") -> str:
    """A paragraph of a body."""
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


def test_a_document_is_its_headings_paragraphs_and_tables() -> None:
    cells = "".join(f"<w:tc>{paragraph(text)}</w:tc>" for text in ("valve", "30"))
    body = paragraph("Boiler", "Heading1") + paragraph("Hansen &amp; Son.") + f"<w:tbl><w:tr>{cells}</w:tr></w:tbl>"
    content = read(docx(body, "The house"))
    assert content.title == "The house"
    assert rows(content) == [(1, "# Boiler"), (3, "Hansen & Son."), (5, "valve | 30")]
    assert paths(content) == [["Boiler"]]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 and then nothing",
        docx(paragraph("text"))[:-40],
        docx("<w:p>"),
        docx("", prologue="<broken"),
        docx("</w:body>"),
    ],
    ids=["empty", "no zip", "cut off", "no end", "broken prologue", "wrong end"],
)
def test_a_broken_document_is_refused(data: bytes) -> None:
    with pytest.raises(DocumentError, match="is no Word document that can be read"):
        read(data)


def test_a_protected_document_is_refused() -> None:
    with pytest.raises(DocumentError, match=r"is protected by a password, or a \.doc under another name"):
        read(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000))


def test_documents_that_explode_are_refused() -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("word/document.xml", "w") as part:
        for _ in range(201):
            part.write(bytes(1_000_000))
    with pytest.raises(DocumentError, match="unpacks to more than 200 MB: split it"):
        read(data.getvalue())
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 20}">' for n in range(1, 9))
    with pytest.raises(DocumentError, match="is no Word document that can be read"):
        read(docx(paragraph("&a8;"), prologue=f'<!DOCTYPE x [<!ENTITY a0 "{"a" * 50}">{entities}]>'))
