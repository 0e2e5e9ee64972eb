"""The smallest PDFs that a test needs, written by hand: pages of lines, bookmarks, a picture, a password."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import md5

_PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
_ID = bytes(range(16))


def pdf(
    pages: Sequence[Sequence[str] | None],
    info: str = "",
    bookmarks: Sequence[tuple[str, int]] = (),
    password: bytes | None = None,
) -> bytes:
    """
    A PDF with one page for each sequence of lines (an empty line is a gap) and a picture for each None.

    `bookmarks` are (title, page from 0); with a password the whole of it is encrypted (RC4, 40 bits).
    """
    key = _key(password) if password is not None else None
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
    picture = b"<< /Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray /BitsPerComponent 8 "
    objects = {3: font, 4: _stream(4, picture, b"\x80", key), 5: f"<< {info} >>".encode("latin-1")}
    kids = []
    for number, lines in enumerate(pages):
        page, content = 10 + 2 * number, 11 + 2 * number
        kids.append(f"{page} 0 R")
        resources = "/Resources << /Font << /F 3 0 R >> /XObject << /I 4 0 R >> >>"
        objects[page] = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {content} 0 R {resources} >>".encode()
        )
        objects[content] = _stream(content, b"<< ", _drawing(lines), key)
    objects[2] = f"<< /Type /Pages /Count {len(pages)} /Kids [{' '.join(kids)}] >>".encode()
    first = 10 + 2 * len(pages)
    for number, (title, page) in enumerate(bookmarks):
        near = f"/Prev {first + number - 1} 0 R " if number else ""
        near += f"/Next {first + number + 1} 0 R " if number + 1 < len(bookmarks) else ""
        dest = f"/Dest [{10 + 2 * page} 0 R /Fit]"
        objects[first + number] = f"<< /Title ({title}) /Parent 6 0 R {near}{dest} >>".encode("latin-1")
    outlines = ""
    if bookmarks:
        outlines = "/Outlines 6 0 R"
        objects[6] = f"<< /First {first} 0 R /Last {first + len(bookmarks) - 1} 0 R /Count {len(bookmarks)} >>".encode()
    objects[1] = f"<< /Type /Catalog /Pages 2 0 R {outlines} >>".encode()
    encrypted = ""
    if password is not None:
        key = _key(password)
        owner, user = _rc4(md5(_padded(password)).digest()[:5], _padded(password)), _rc4(key, _PADDING)
        objects[7] = f"<< /Filter /Standard /V 1 /R 2 /P -4 /O <{owner.hex()}> /U <{user.hex()}> >>".encode()
        encrypted = f"/Encrypt 7 0 R /ID [<{_ID.hex()}> <{_ID.hex()}>]"
    data, places = bytearray(b"%PDF-1.4\n"), {}
    for number, body in sorted(objects.items()):
        places[number] = len(data)
        data += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = len(data)
    size = max(objects) + 1
    data += f"xref\n0 {size}\n0000000000 65535 f \n".encode()
    for number in range(1, size):
        data += f"{places[number]:010} 00000 n \n".encode() if number in places else b"0000000000 65535 f \n"
    data += f"trailer\n<< /Size {size} /Root 1 0 R /Info 5 0 R {encrypted} >>\nstartxref\n{table}\n%%EOF\n".encode()
    return bytes(data)


def _drawing(lines: Sequence[str] | None) -> bytes:
    """What draws a page: 12 point lines, 15 points apart; a line that begins with two # is larger."""
    if lines is None:
        return b"q 400 0 0 400 50 50 cm /I Do Q"
    drawn, y = [], 780
    for line in lines:
        size = 18 if line.startswith("## ") else 12
        text = line.removeprefix("## ").replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
        drawn.append(f"BT /F {size} Tf 72 {y} Td ({text}) Tj ET" if text else "")
        y -= 15
    return "\n".join(drawn).encode("cp1252")


def _stream(number: int, dictionary: bytes, body: bytes, key: bytes | None) -> bytes:
    if key is not None:
        body = _rc4(md5(key + number.to_bytes(3, "little") + b"\0\0").digest()[:10], body)
    return dictionary + f"/Length {len(body)} >>\nstream\n".encode() + body + b"\nendstream"


def _padded(password: bytes) -> bytes:
    return (password + _PADDING)[:32]


def _key(password: bytes) -> bytes:
    """Algorithm 2 of the PDF reference, revision 2; the owner's password is the user's."""
    owner = _rc4(md5(_padded(password)).digest()[:5], _padded(password))
    return md5(_padded(password) + owner + (-4 & 0xFFFFFFFF).to_bytes(4, "little") + _ID).digest()[:5]


def _rc4(key: bytes, data: bytes) -> bytes:
    state, j = list(range(256)), 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)
