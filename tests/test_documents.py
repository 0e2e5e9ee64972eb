"""Files become documents: which text, where the body begins, and what is refused with a sentence."""

from __future__ import annotations

import hashlib
import json
import os
import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.documents import DocumentError, hash_of, read_document
from app.formats import MAX_BYTES
from app.formats.base import decode, encodable
from app.formats.markdown import MAX_FRONT_MATTER, split_front_matter, top_heading


def write(folder: Path, name: str, data: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain\n", "plain\n"),
        (b"", ""),
        ("\ufeffmarked".encode(), "marked"),
        ("naïve 🐝".encode(), "naïve 🐝"),
        ("\ufeffnaïve 🐝".encode("utf-16-le"), "naïve 🐝"),
        ("\ufeffnaïve 🐝".encode("utf-16-be"), "naïve 🐝"),
        (b"a\r\nb\rc\n", "a\r\nb\rc\n"),
    ],
)
def test_text_is_decoded_as_it_stands_without_its_mark(data: bytes, text: str) -> None:
    assert decode(data) == text


def test_invalid_utf8_is_read_in_its_likeliest_encoding() -> None:
    text = "Das Café öffnet früh, und die Brötchen sind süß. Wir gehen später über die Brücke zurück.\n"
    assert "öffnet früh" in decode(text.encode("cp1252"))


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"text\0", b"\xff\xfea", b"\xfe\xff\xd8\x00"])
def test_what_is_no_text_is_refused_with_what_to_do(data: bytes) -> None:
    with pytest.raises(DocumentError, match=r"rename it if it is no note|save it as UTF-8"):
        decode(data)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_become_text_that_can_be_stored_or_a_sentence(data: bytes) -> None:
    try:
        text = decode(data)
    except DocumentError:
        return
    text.encode()


def test_an_emoji_in_halves_is_joined_and_a_lone_half_replaced() -> None:
    assert encodable("\ud83d\ude00 \ud83d ok \udce9") == "😀 \ufffd ok \ufffd"
    assert encodable("\ufeffmarked") == "\ufeffmarked"


MODULUS = "0x" + "f" * 4_000
"""An integer that Python reads, and refuses to write in decimal."""
FRONT_MATTER = "---\ntitle: Heating\ntags: [house, garden]\n---\n"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("body", ["# Boiler\n\nText.\n", "\nText --- more\n---\nend\n", ""])
def test_the_body_begins_after_the_front_matter(end: str, body: str) -> None:
    text = (FRONT_MATTER + body).replace("\n", end)
    metadata, start, warning = split_front_matter(text)
    assert warning is None
    assert metadata == {"title": "Heating", "tags": ["house", "garden"]}
    assert text[start:].strip() == body.replace("\n", end).strip()
    assert "title" not in text[start:]


@pytest.mark.parametrize(
    "text",
    [
        "no front matter\n",
        "---\nnever closed: yes\n",
        "---\ntitle: [broken\n---\nbody\n",
        "---\n- a list\n---\nbody\n",
        "---\njust prose\n---\nbody\n",
        "---\ndate: 2024-13-45\n---\nbody\n",
        "---\na: !!bool maybe\n---\nbody\n",
        "---\na: !!int ''\n---\nbody\n",
        "---\na: !!python/name:os.system\n---\nbody\n",
        "---\na: &a [*a]\n---\nbody\n",
        "---\na: " + "[" * 3000 + "]" * 3000 + "\n---\nbody\n",
        "---\na: " + "x" * MAX_FRONT_MATTER + "\n---\nbody\n",
        "---\na: " + MODULUS + "\n---\nbody\n",
        "---\ntitle: " + MODULUS + "\n---\nbody\n",
        "---\n" + MODULUS + ": a key\n---\nbody\n",
        "\n---\na: not at the top\n---\nbody\n",
    ],
)
def test_what_is_no_mapping_stays_in_the_body(text: str) -> None:
    metadata, start, _ = split_front_matter(text)
    assert (metadata, start) == ({}, 0)


@pytest.mark.parametrize(("front", "warned"), [("title: [broken", True), ("- a list", False), ("just prose", False)])
def test_only_yaml_that_cannot_be_read_is_warned_of(front: str, warned: bool) -> None:
    _, _, warning = split_front_matter(f"---\n{front}\n---\nbody\n")
    assert (warning is not None) == warned


@pytest.mark.parametrize("text", ["chaudière révisée, déjà réglée", "日本語のノート"])
def test_one_bad_byte_does_not_change_the_encoding(text: str) -> None:
    assert decode(text.encode() + b"\xff") == text + "\ufffd"


def test_front_matter_is_kept_as_json_has_it() -> None:
    text = '---\ndue: 2024-05-01\nlog:\n  2024-01-02: a\n  b: [1, 2.5, yes, ~]\n1: "x"\n---\n'
    metadata, _, _ = split_front_matter(text)
    assert metadata == {"due": "2024-05-01", "log": {"2024-01-02": "a", "b": [1, 2.5, True, None]}, "1": "x"}
    json.dumps(metadata, sort_keys=True)


@pytest.mark.parametrize(
    ("body", "heading"),
    [
        ("# Garden\n\ntext", "Garden"),
        ("\r\n\r\n#  Pear   tree #\r\ntext", "Pear tree"),
        ("Garden\n======\ntext", "Garden"),
        ("## Second level\n", ""),
        ("text\n\n# Later\n", ""),
        ("```\n# in a fence\n```\n", ""),
        ("    # in a code block\n", ""),
        ("> # in a quote\n", ""),
        ("#hashtag\n", ""),
        ("", ""),
    ],
)
def test_the_heading_at_the_top_of_the_body_is_told_from_all_else(body: str, heading: str) -> None:
    assert top_heading(body) == heading


@pytest.mark.parametrize(
    ("name", "text", "title"),
    [
        ("a.md", "---\ntitle: Given\n---\n# Heading\n", "Given"),
        ("a.md", "---\ntitle: ' two\n  lines '\n---\n", "two lines"),
        ("a.md", "---\ntitle: '  '\n---\ntext", "a"),
        ("a.md", "---\ntitle: 2024\n---\n", "2024"),
        ("a.md", "---\ntags: x\n---\n\n# Heading\n", "Heading"),
        ("a.md", "# Heading\n", "Heading"),
        ("my note.md", "text\n", "my note"),
        ("a.txt", "# no Markdown\n", "a"),
    ],
)
def test_the_title_is_given_or_the_first_heading_or_the_name(notes: Path, name: str, text: str, title: str) -> None:
    assert read_document(write(notes, name, text)).title == title


def test_a_document_has_the_text_of_its_file(notes: Path) -> None:
    data = b"\xef\xbb\xbf" + (FRONT_MATTER + "# Boiler\n\nServiced. 🐝\n").replace("\n", "\r\n").encode()
    document = read_document(write(notes, "a.md", data))
    assert document.text == data.decode("utf-8-sig")
    assert document.text[document.body_start :].strip().startswith("# Boiler")
    assert document.content_hash == hashlib.sha256(data).hexdigest()
    assert (document.kind, document.metadata["tags"]) == ("markdown", ["house", "garden"])


def test_front_matter_of_a_text_file_is_text(notes: Path) -> None:
    document = read_document(write(notes, "a.txt", FRONT_MATTER))
    assert (document.body_start, document.metadata) == (0, {})


def test_a_binary_named_as_a_note_is_refused(notes: Path) -> None:
    path = write(notes, "picture.md", random.Random(0).randbytes(5000))
    with pytest.raises(DocumentError, match="rename it if it is no note"):
        read_document(path)


def test_a_file_that_is_too_large_is_refused_unread(notes: Path) -> None:
    path = notes / "large.txt"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DocumentError, match="holds 20 MB, at most 20 MB are read: split it"):
        read_document(path)


def test_a_link_that_leads_nowhere_or_round_is_refused(notes: Path) -> None:
    (notes / "loop.md").symlink_to("loop.md")
    with pytest.raises(DocumentError, match="cannot be read"):
        read_document(notes / "loop.md")
    (notes / "gone.md").symlink_to(notes / "nothing.md")
    with pytest.raises(DocumentError, match="leads nowhere: restore or remove it"):
        read_document(notes / "gone.md")


def test_a_folder_is_no_note(notes: Path) -> None:
    (notes / "folder.md").mkdir()
    with pytest.raises(DocumentError, match="cannot be listed: check its permissions"):
        read_document(notes / "folder.md")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_refused_and_never_waited_for(notes: Path) -> None:
    os.mkfifo(notes / "pipe.md")
    with pytest.raises(DocumentError, match="is not a file that can be read"):
        read_document(notes / "pipe.md")


def test_a_name_that_is_no_utf8_is_refused(notes: Path) -> None:
    try:
        path = Path(os.fsdecode(os.fsencode(notes) + b"/caf\xe9.md"))
        path.write_text("text")
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    with pytest.raises(DocumentError, match="a name that is not UTF-8: rename it"):
        read_document(path)


def test_a_hash_is_of_all_bytes_and_holds_few_of_them(tmp_path: Path) -> None:
    data = bytes(range(256)) * 32_768
    (tmp_path / "a.mbox").write_bytes(data)
    tracemalloc.start()
    try:
        assert hash_of(tmp_path / "a.mbox") == hashlib.sha256(data).hexdigest()
        assert tracemalloc.get_traced_memory()[1] < len(data) / 8
    finally:
        tracemalloc.stop()
    assert hash_of(tmp_path) is None
    assert hash_of(tmp_path / "none.mbox") is None
