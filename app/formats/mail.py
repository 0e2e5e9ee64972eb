"""
E-mail, one message (.eml) or a mailbox of them (.mbox): who wrote to whom, when, about what, and the words.

Each message's subject is a heading. Of alternative bodies the plain one is read, else the HTML one; attachments and
what stands below a signature's rule are left out, quoted lines stay. A line is that of the file: exact where a body
stands in the file as it is read, else the first line of its message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email import message_from_bytes
from email.errors import HeaderParseError, MessageError
from email.header import decode_header, make_header
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any

from app.formats.base import Content, DocumentError, SourceMap, Writer, encodable
from app.formats.html import extract

_FROM = re.compile(rb"(?:\A|(?<=\n\n)|(?<=\n\r\n))From \S[^\r\n]{0,300}\r?\n")
_DATED = re.compile(rb"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? .*\d{4}")
"""Together the line before each message of a mailbox; a longer line is none, and would take its square to search."""
_SIGNATURE = re.compile(r"^-- ?\n", re.MULTILINE)
_LONGEST_HEADER = 10_000
"""Characters of a header that are read: to decode it takes the square of them."""
_SHOWN = ("From", "To", "Cc", "Date", "Subject")
_AS_IT_STANDS = {"", "7bit", "8bit", "binary"}


def read(data: bytes) -> Content:
    """
    The messages of a file.

    Raises:
        DocumentError: If there is no message in it, or too much text.
    """
    starts = [line for line in _FROM.finditer(data) if _DATED.search(line[0])]
    out = Writer()
    if not starts:
        message = _parse(data)
        if not message.keys():
            raise DocumentError("is no e-mail, it has no header: rename it if it is no message")
        _write(out, message, data, 1)
        metadata = {name.lower(): value for name in _SHOWN[:4] if (value := _header(message, name))}
        if when := _iso_date(message):
            metadata["date"] = when
        return out.content("text", title=_subject(message), metadata=metadata)
    line, at, broken = 1, 0, 0
    for index, start in enumerate(starts):
        end = starts[index + 1].start() if index + 1 < len(starts) else len(data)
        line += data.count(b"\n", at, start.end())
        at = start.end()
        raw = data[at:end]
        try:
            message = _parse(raw)
        except DocumentError:
            broken += 1
            continue
        _write(out, message, raw, line)
    warning = (
        f"was read in part, {broken:,} of {len(starts):,} messages are damaged: save them again" if broken else None
    )
    return out.content("text", metadata={"messages": len(starts)}, warning=warning)


def _parse(raw: bytes) -> Message:
    try:
        return message_from_bytes(raw)
    except (MessageError, RecursionError, ValueError, LookupError, TypeError) as error:
        raise DocumentError("is no e-mail that can be read: save the message again from the mail program") from error


def _write(out: Writer, message: Message, raw: bytes, line: int) -> None:
    """One message: its headers, then its bodies."""
    out.block()
    out.heading(1, _subject(message))
    for name in _SHOWN:
        if value := _header(message, name):
            out.add(f"{name}: {value}\n", line)
    at = 0
    for part in _bodies(message, 0):
        payload = part.get_payload(decode=True)
        text = _text(part, payload) if isinstance(payload, bytes) else ""
        place, found = None, -1
        if str(part.get("Content-Transfer-Encoding", "")).strip().lower() in _AS_IT_STANDS and payload:
            found = raw.find(payload, at) if isinstance(payload, bytes) else -1
        if found >= 0:
            place = line + raw.count(b"\n", 0, found)
            at = found + 1
        html = part.get_content_type() == "text/html"
        page = extract(text, 1) if html else Content(text)
        body = page.text
        if cut := _SIGNATURE.search(body):
            body = body[: cut.start()]
        out.block()
        source, offset = SourceMap(body, [anchor for anchor in page.anchors if anchor.offset < len(body)]), 0
        for row in body.split("\n"):
            out.add(row + "\n", line if place is None else place + source.at(offset).line - 1)
            offset += len(row) + 1


def _bodies(part: Message, depth: int) -> Iterator[Message]:
    """The parts that are read, in order; of alternatives the plain one, else the last that is text."""
    if depth > 20:
        return
    if part.is_multipart():
        children = [child for child in part.get_payload() if isinstance(child, Message)]
        bodies = [list(_bodies(child, depth + 1)) for child in children]
        if part.get_content_type() == "multipart/alternative":
            plain = [body for body in bodies if body and all(leaf.get_content_type() == "text/plain" for leaf in body)]
            bodies = (plain or [body for body in bodies if body])[-1:]
        for body in bodies:
            yield from body
    elif part.get_content_type() in ("text/plain", "text/html") and part.get_content_disposition() != "attachment":
        yield part


def _text(part: Message, payload: bytes) -> str:
    """A body in the encoding that it says it has, else in the one that most mail without a right one has."""
    for charset in (part.get_content_charset(), "utf-8"):
        try:
            text = payload.decode(charset or "utf-8")
            break
        except (LookupError, ValueError):
            continue
    else:
        text = payload.decode("cp1252", "replace")
    return encodable(text).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def _header(message: Message, name: str) -> str:
    """A header as a person reads it, on one line."""
    value: Any = message.get(name)
    if isinstance(value, str):
        value = value[:_LONGEST_HEADER]
    try:
        text = str(make_header(decode_header(value))) if value is not None else ""
    except (HeaderParseError, LookupError, ValueError, TypeError):
        text = str(value)
    return " ".join(encodable(text).replace("\0", "").split())


def _subject(message: Message) -> str:
    return _header(message, "Subject")


def _iso_date(message: Message) -> str:
    try:
        return parsedate_to_datetime(str(message.get("Date", ""))).isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return ""
