"""E-mail: who, when, what about and the words, one message or a mailbox of them; lines those of the file."""

from __future__ import annotations

import base64
from email.message import Message

import pytest

from app.bundle import Bundle
from app.documents import Document, DocumentError
from app.formats import mail
from app.formats.mail import read
from app.passages import PassageSplitter
from tests.test_formats import paths, rows

MESSAGE = b"""From: =?utf-8?q?J=C3=BCrgen_Hansen?= <hansen@example.com>
To: me@example.com
Date: Thu, 14 Mar 2024 10:00:00 +0100
Subject: The boiler
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=M

--M
Content-Type: multipart/alternative; boundary=A

--A
Content-Type: text/plain; charset=utf-8

Serviced today.

> when do you come?
--\x20
Hansen & Son
--A
Content-Type: text/html; charset=utf-8

<p>Serviced <b>today</b>.</p>
--A--
--M
Content-Type: text/plain
Content-Disposition: attachment; filename=a.txt

not read
--M--
"""
QUOTED = b"""Subject: Pears
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

Sch=F6ne Gr=FC=DFe
aus dem Garten
"""


def test_a_message_is_its_headers_and_its_plain_body() -> None:
    content = read(MESSAGE)
    assert content.title == "The boiler"
    assert content.metadata == {
        "from": "Jürgen Hansen <hansen@example.com>",
        "to": "me@example.com",
        "date": "2024-03-14T10:00:00+01:00",
    }
    assert [row for _, row in rows(content)] == [
        "From: Jürgen Hansen <hansen@example.com>",
        "To: me@example.com",
        "Date: Thu, 14 Mar 2024 10:00:00 +0100",
        "Subject: The boiler",
        "Serviced today.",
        "> when do you come?",
    ]
    lines = MESSAGE.decode().split("\n")
    assert [(line, row) for line, row in rows(content)[4:]] == [
        (lines.index("Serviced today.") + 1, "Serviced today."),
        (lines.index("> when do you come?") + 1, "> when do you come?"),
    ]


def test_a_mailbox_is_its_messages_each_under_its_subject(bundle: Bundle) -> None:
    separator = b"From hansen@example.com Thu Mar 14 10:00:00 2024\n"
    data = separator + MESSAGE + b"\n" + separator + QUOTED + b"\nFrom here on 2024 is the year.\n"
    content = read(data)
    assert paths(content) == [["The boiler"], ["Pears"]]
    assert content.metadata == {"messages": 2}
    second = data.decode("latin-1").split("\n").index("Subject: Pears") + 1
    assert [row for row in rows(content) if row[0] >= second] == [
        (second, "Subject: Pears"),
        (second, "Schöne Grüße"),
        (second, "aus dem Garten"),
        (second, "From here on 2024 is the year."),
    ]
    document = Document(
        __file__, content.kind, content.text, 0, "box", {}, "h", None, content.headings, content.anchors
    )  # type: ignore[arg-type]
    passages = PassageSplitter(bundle.tokenizer, bundle.manifest.passage_tokens).split(document)
    assert [(passage.heading, passage.line) for passage in passages] == [
        ("box > The boiler", 2),
        ("box > Pears", second),
    ]


def test_of_an_html_body_the_words_are_read_at_their_lines() -> None:
    content = read(b"Subject: s\nContent-Type: text/html\n\n<html>\n<body>\n<h1>Head</h1>\n<p>words</p>\n")
    assert rows(content) == [(1, "Subject: s"), (6, "# Head"), (7, "words")]


@pytest.mark.parametrize(
    ("head", "body", "text"),
    [
        (b"Content-Type: text/plain; charset=no-such", "süß".encode(), "süß"),
        (b"Content-Type: text/plain; charset=utf-8", "süß, nicht süss".encode("latin-1"), "süß, nicht süss"),
        (b"Content-Transfer-Encoding: base64", base64.b64encode(b"words"), "words"),
        (b"Content-Transfer-Encoding: base64", b"!!!!", ""),
        (b"Content-Type: multipart/mixed", b"no boundary", "From: a@example.com"),
        (b"Content-Type: image/png", b"\x89PNG", "From: a@example.com"),
        (b"Subject: =?x?y?z?=", b"words", "words"),
        (b"Date: yesterday", b"words", "words"),
        (b"Content-Type: text/plain\nContent-Transfer-Encoding: nonsense", b"words", "words"),
    ],
)
def test_a_message_that_breaks_the_rules_is_read_as_far_as_it_goes(head: bytes, body: bytes, text: str) -> None:
    found = read(head + b"\nFrom: a@example.com\n\n" + body + b"\n").text
    assert found.split("\n\n", 1)[-1].strip() == text


def test_what_has_no_header_is_refused() -> None:
    with pytest.raises(DocumentError, match="is no e-mail, it has no header: rename it"):
        read(b"\njust words\n")


def test_messages_within_messages_end_somewhere() -> None:
    deep = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(3000))
    try:
        read(b"Subject: s\n" + deep + b"\nwords\n")
    except DocumentError as error:
        assert "is no e-mail that can be read" in str(error)


def test_a_damaged_message_of_a_mailbox_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = mail.message_from_bytes

    def refuse(raw: bytes) -> Message:
        if b"damaged" in raw:
            raise RecursionError
        return parse(raw)

    monkeypatch.setattr(mail, "message_from_bytes", refuse)
    separator = b"From hansen@example.com Thu Mar 14 10:00:00 2024\n"
    content = read(separator + b"Subject: damaged\n\nx\n\n" + separator + b"Subject: fine\n\nx\n")
    assert paths(content) == [["fine"]]
    assert content.warning == "was read in part, 1 of 2 messages are damaged: save them again"


def test_a_line_without_an_end_takes_no_cube_of_its_length() -> None:
    """It would be hours."""
    with pytest.raises(DocumentError, match="no header"):
        read(b"From a Mon Jan 1 00:00:00 2024" * 20_000)
    with pytest.raises(DocumentError, match="no header"):
        read(b"From a Mon " * 100_000 + b"\n")


def test_of_a_header_without_an_end_the_beginning_is_read() -> None:
    """To decode all of it would be minutes."""
    content = read(b"Subject: The boiler " + b"=?utf-8?b?Subject: " * 20_000 + b"\n\nIt hums.\n")
    assert content.title.startswith("The boiler")
    assert len(content.title) <= 10_000
    assert "It hums." in content.text
